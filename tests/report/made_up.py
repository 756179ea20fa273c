"""Made-up results with known numbers, for the tests of tables, words and pages."""

from __future__ import annotations

import numpy as np
import torch

from llmcodec.evaluation.consistency import Change, ConsistencyResult, ConsistencyRow
from llmcodec.evaluation.predictability import ClipBits, CurvePoint, LikelihoodConfig, PredictabilityResult
from llmcodec.evaluation.probe import ProbeConfig, ProbeQuantizer, ProbeResult
from llmcodec.evaluation.reconstruction import ReconstructionResult
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.wer import WordRow
from llmcodec.evaluation.workers import ClipRow
from llmcodec.metrics.base import Measured
from llmcodec.metrics.token_statistics import code_statistics
from llmcodec.salmon.score import PairScore, PartScore, SalmonResult

NUM = 12


def made_up_row(name: str, bits: float = 300.0, mel: float = 0.7, num_codes: int = 64, fail: bool = False) -> SystemRow:
    """Twelve clips of 2 s; clip i costs `bits` +- 2 % per second, and has Mel distance `mel` +- 2 %."""
    rng = np.random.default_rng(0)
    own = np.random.default_rng(abs(hash((round(bits), round(mel * 100)))) % 1000)
    wobble = 1 + 0.3 * rng.standard_normal(NUM)
    noise = 1 + 0.004 * own.standard_normal((2, NUM))
    rows, clips = [], []
    for i in range(NUM):
        metrics = {
            "mel": Measured(mel * wobble[i] * noise[0, i]),
            "pesq": Measured(None, "No utterances detected") if fail and i < 2 else Measured(2.0 + 0.1 * wobble[i]),
        }
        codes = tuple(np.random.default_rng(i).integers(0, num_codes, 100).tolist())
        rows.append(ClipRow(f"c{i}", 2.0, metrics, codes))
        clips.append(ClipBits(f"c{i}", 2.0, 100, 2 * bits * wobble[i] * noise[1, i], 900.0, 15.0))
    points = [CurvePoint(s, 100.0 * k, 9.0 - 0.1 * k, 9.0 + 0.2 * s - 0.1 * k) for s in (0, 1) for k in range(4)]
    lm = PredictabilityResult(clips, points, {0: bits, 1: bits * 1.002}, 50.0, 1024, LikelihoodConfig(seeds=(0, 1)))
    return SystemRow(
        name=name,
        nominal_bits_per_second=500.0,
        reconstruction=ReconstructionResult(rows),
        predictability=lm,
        codes=code_statistics([torch.tensor(row.codes) for row in rows], 1024),
        consistency=ConsistencyResult([ConsistencyRow(f"c{i}", Change("slice", 0.5), 20, 25) for i in range(NUM)]),
        words=[WordRow(f"c{i}", 8, i % 3, "a b", "a c") for i in range(NUM)],
        probe=ProbeResult(lm, made_up_quantizer(), ProbeConfig(num_codes=4), 50.0),
        salmon=SalmonResult(
            {"speaker_consistency": PartScore([PairScore(i, -9.0 - i % 2, -9.5, 5, 5) for i in range(8)])}
        ),
    )


def made_up_quantizer() -> ProbeQuantizer:
    return ProbeQuantizer(torch.zeros(2), torch.ones(2), torch.zeros(4, 2), 0.5, 4)
