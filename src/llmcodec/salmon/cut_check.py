"""Does the cut itself give the answer away? A classifier that hears only 100 ms around the joint of a suite's pairs.

It is trained on the pairs of one fold and tested on those of the other (no clip is in both folds), both ways round, so
that every pair is tested once. On a suite with both sides spliced alike it must be at chance; on the two that are
spoiled on purpose it must not be, or the check could not detect a cue at all. Only voice parts are checked: where
background or room change, the change itself lies at the joint. Shapes: N windows, W samples, F features.
Test: tests/salmon/test_cut_check.py.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.data.backgrounds import SAMPLE_RATE
from llmcodec.io import audio
from llmcodec.io.bad_rows import MaxBad
from llmcodec.io.progress import OnProgress
from llmcodec.io.structured import read_object
from llmcodec.metrics.statistics import Interval, wilson_interval
from llmcodec.salmon.build import GENDER, SPEAKER, SuiteSettings, build_suite
from llmcodec.salmon.pairs import Splice

WINDOW = 1_600
"""100 ms, the joint in the middle."""
MIN_PAIRS = 400
MIN_SPOILED = 0.8
_ENSEMBLE = 3
_STEPS = 300


@dataclass(frozen=True)
class CutCheck:
    """Share of pairs whose positive the classifier recognises, by kind of splice."""

    part: str
    accuracy: dict[str, Interval]

    @property
    def passed(self) -> bool:
        """At chance on the suite, and well above it on at least one suite that is spliced on one side."""
        spoiled = [value.value for splice, value in self.accuracy.items() if splice != "both"]
        return not self.accuracy["both"].excludes(0.5) and max(spoiled) > MIN_SPOILED

    def __str__(self) -> str:
        words = {
            "both": "both sides spliced (this suite)",
            "negative": "spliced on one side only",
            "negative_hard": "cut hard on one side only",
        }
        lines = [f"Classifier on 100 ms around the joint, {self.part}, unseen clips:"]
        for splice, value in self.accuracy.items():
            lines.append(f"  {words[splice]}: {value.format()} of {value.num} pairs right")
        verdict = "the cut gives nothing away" if self.passed else "NOT passed: do not trust this suite"
        return "\n".join([*lines, f"  {verdict}"])


def check_cut(
    manifests: Sequence[str],
    settings: SuiteSettings,
    *,
    speakers: str | None = None,
    pairs: int = MIN_PAIRS,
    part: str = SPEAKER,
    max_bad: MaxBad = 0,
    on_progress: OnProgress | None = None,
) -> CutCheck:
    """Build the voice part of a suite three times (as it is, and spoiled in two ways) and test the classifier on each.

    All splits of the manifests are used. part: `speaker_consistency` or `gender_consistency`. max_bad: as in
    `build_suite`.

    Raises:
        ValueError: another part, or a corpus too small for `pairs` pairs.
    """
    if part not in (SPEAKER, GENDER):
        raise ValueError(f"{part}: the change itself lies at the joint, so there is nothing to check")
    accuracy = {}
    for splice in get_args(Splice):
        with tempfile.TemporaryDirectory() as scratch:
            wanted = replace(settings, pairs=pairs, parts=(part,), splits=("test", "valid", "train"), splice=splice)
            summary = build_suite(
                manifests,
                Path(scratch) / "suite",
                wanted,
                speakers=speakers,
                max_bad=max_bad,
                on_progress=on_progress,
            )
            if len(summary.pairs[part]) < pairs and splice == "both":
                raise ValueError(f"{part}: {len(summary.pairs[part])} pairs but the check of the splices needs {pairs}")
            accuracy[splice] = suite_cut_accuracy(Path(scratch) / "suite", part)
    return CutCheck(part, accuracy)


def suite_cut_accuracy(suite: str | Path, part: str) -> Interval:
    """Share of a part's pairs that the classifier gets right, with its 95 % Wilson interval; ties count 0.5.

    Raises:
        ValueError: not a suite that `build_suite` made, or no pairs in one of its folds.
    """
    folder = Path(suite)
    try:
        rows = read_object(folder / "suite.json")["parts"][part]
    except (OSError, KeyError, ValueError) as error:
        raise ValueError(f"{folder}: no suite.json with the joints of {part}") from error
    features = torch.stack([_pair_features(folder / part, row) for row in rows])  # (pairs, 2, F)
    folds = torch.tensor([row["fold"] for row in rows])
    if len(folds.unique()) < 2:
        raise ValueError(f"{folder}: {part} has pairs of one fold only; testing on unseen clips takes more clips")
    right = 0.0
    for fold in (0, 1):
        scores = _train_and_score(features[folds != fold], features[folds == fold])
        right += float((scores[:, 0] > scores[:, 1]).sum()) + 0.5 * float((scores[:, 0] == scores[:, 1]).sum())
    return wilson_interval(right, len(rows))


def _pair_features(folder: Path, row: dict[str, Any]) -> Tensor:
    """(2, F): positive and negative."""
    start = round(row["joint_seconds"] * SAMPLE_RATE) - WINDOW // 2
    sides = [audio.load(folder / f"sample_{row['index']}_{side}.wav", SAMPLE_RATE, start, WINDOW) for side in (0, 1)]
    return torch.stack([window_features(side) for side in sides])


def window_features(wav_W: np.ndarray) -> Tensor:
    """Features that may reveal a splice: log-mel frames (8 ms, hop 4 ms), clicks (second differences), waveform."""
    wave = torch.as_tensor(wav_W, dtype=torch.float32)
    frames = wave.unfold(0, 128, 64) * torch.hann_window(128)
    power = torch.fft.rfft(frames, 256).abs() ** 2
    bands = power @ _mel_filters()
    jerk = (wave[2:] - 2 * wave[1:-1] + wave[:-2]).abs()
    clicks = jerk[: len(jerk) // 40 * 40].reshape(-1, 40).amax(-1)
    middle = wave[len(wave) // 2 - 200 : len(wave) // 2 + 200]
    shape = middle / middle.abs().max().clamp(min=1e-6)
    return torch.cat([(bands + 1e-8).log().flatten(), (clicks + 1e-6).log(), shape])


@lru_cache
def _mel_filters() -> Tensor:
    from transformers.audio_utils import mel_filter_bank

    bank = mel_filter_bank(129, 24, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    return torch.as_tensor(bank, dtype=torch.float32)


def _train_and_score(train_P2F: Tensor, test_P2F: Tensor) -> Tensor:
    """Logits (P, 2) of the test windows, averaged over an ensemble; inputs are scaled by the training windows."""
    flat = train_P2F.flatten(0, 1)
    centre, spread = flat.mean(0), flat.std(0).clamp(min=1e-4)
    train, test = (flat - centre) / spread, (test_P2F - centre) / spread
    labels = torch.tensor([1.0, 0.0]).repeat(len(train_P2F))
    total = torch.zeros(test.shape[:2])
    for seed in range(_ENSEMBLE):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = nn.Sequential(nn.Linear(train.shape[1], 48), nn.GELU(), nn.Dropout(0.3), nn.Linear(48, 1))
            optimizer = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.1)
            for _ in range(_STEPS):
                picks = torch.randint(0, len(train), (64,))
                loss = F.binary_cross_entropy_with_logits(net(train[picks])[:, 0], labels[picks])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        net.eval()
        with torch.no_grad():
            total += net(test)[..., 0]
    return total / _ENSEMBLE
