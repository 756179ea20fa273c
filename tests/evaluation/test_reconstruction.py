"""Rows, means and named failures of a codec over recordings."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
from torch import Tensor

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.reconstruction import ReconstructionResult, compare_reconstruction, measure_reconstruction
from llmcodec.metrics.registry import FAST

from ..fake_codec import LoudnessCodec


def measured(codec: LoudnessCodec, clips: list[Clip], **more: Any) -> ReconstructionResult:
    with EncodedCorpus(codec) as encoded:
        return measure_reconstruction(encoded, clips, **more)


def test_rows_hold_metrics_and_codes(clips: list[Clip]) -> None:
    shares: list[float] = []
    result = measured(LoudnessCodec(), clips, num_workers=0, on_progress=shares.append)
    assert [row.id for row in result.rows] == [clip.id for clip in clips]
    assert [row.seconds for row in result.rows] == [1.0, 1.5, 2.0, 2.5]
    assert set(result.metric_names) == {"mel", "stft", "sdr", "pesq", "stoi", "f0corr"}
    assert [len(row.codes) for row in result.rows] == [50, 75, 100, 125]
    assert list(result.rows[1].codes) == EncodedCorpus(LoudnessCodec()).tokens(clips[1:2])[0].tolist()
    mean = result.mean("mel")
    assert mean.num == 4 and mean.low < mean.value < mean.high
    assert mean.value == pytest.approx(np.mean(result.values("mel")))
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_workers_give_the_same_rows(clips: list[Clip]) -> None:
    here = measured(LoudnessCodec(), clips[:2], num_workers=0)
    there = measured(LoudnessCodec(), clips[:2], num_workers=1)
    assert [row.metrics for row in here.rows] == [row.metrics for row in there.rows]


def test_failures_are_counted_and_left_out(clips: list[Clip], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.flac", 0.1 * np.ones(1600, np.float32), 16_000)
    soundfile.write(tmp_path / "silent.flac", np.zeros(16_000, np.float32), 16_000)
    odd = [Clip(id=name, audio=f"{name}.flac", duration=1.0, folder=str(tmp_path)) for name in ("short", "silent")]
    result = measured(LoudnessCodec(), [*clips, *odd], num_workers=0)
    assert result.mean("pesq").num == 4
    assert sum(result.failures("pesq").values()) == 2
    assert result.failures("pesq")["reference is digital silence"] == 1
    assert result.failed_ids("stoi") == ["short", "silent"]


def test_comparison_is_paired_and_knows_its_files(clips: list[Clip]) -> None:
    a = measured(LoudnessCodec(), clips, metrics=FAST)
    b = measured(LoudnessCodec(context=3), clips, metrics=FAST)
    assert a.metric_names == ["mel", "stft", "sdr"]
    comparison = compare_reconstruction(a, b, "mel")
    assert comparison.num == 4
    assert comparison.mean_b - comparison.mean_a == pytest.approx(comparison.difference.value)
    with pytest.raises(ValueError, match="different files"):
        compare_reconstruction(a, measured(LoudnessCodec(), clips[:3], metrics=FAST), "mel")


def test_lengths_that_are_no_multiple_of_the_hop(tmp_path: Path) -> None:
    wav_S = np.random.default_rng(0).standard_normal(1001).astype(np.float32)
    soundfile.write(tmp_path / "odd.wav", 0.1 * wav_S, 16_000)
    row = measured(LoudnessCodec(), [Clip("odd", "odd.wav", 0.06, folder=str(tmp_path))], metrics=("sdr",)).rows[0]
    assert row.seconds == 1001 / 16_000 and len(row.codes) == 4 and row.metrics["sdr"].ok


def test_a_codec_that_decodes_too_little_is_refused(clips: list[Clip]) -> None:
    class Short(LoudnessCodec):
        def decode(
            self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None
        ) -> SimpleNamespace:
            return super().decode(audio_codes[..., :-1])

    with pytest.raises(ValueError, match="decoded 39680 samples where length=40000 was asked for"):
        measured(Short(), clips, metrics=FAST, num_workers=0)


def test_no_clips_is_an_error() -> None:
    with pytest.raises(ValueError, match="no clips"):
        measured(LoudnessCodec(), [])
