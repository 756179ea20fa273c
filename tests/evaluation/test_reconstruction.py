"""Rows, means and named failures of a codec over recordings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.reconstruction import compare_reconstruction, encode_clip, evaluate_reconstruction, reconstruct

from ..fake_codec import LoudnessCodec


def test_rows_hold_metrics_and_codes(clips: list[Clip]) -> None:
    shares: list[float] = []
    result = evaluate_reconstruction(LoudnessCodec(), clips, num_workers=0, on_progress=shares.append)
    assert [row.id for row in result.rows] == [clip.id for clip in clips]
    assert [row.seconds for row in result.rows] == [1.0, 1.5, 2.0, 2.5]
    assert set(result.metric_names) == {"mel", "stft", "sdr", "pesq", "stoi", "f0corr"}
    codes = [row.codes for row in result.rows if row.codes is not None]
    assert [clip.numel() for clip in codes] == [50, 75, 100, 125]
    assert codes[1].equal(encode_clip(LoudnessCodec(), clips[1]))
    mean = result.mean("mel")
    assert mean.num == 4 and mean.low < mean.value < mean.high
    assert mean.value == pytest.approx(np.mean(result.values("mel")))
    assert shares == [0.25, 0.5, 0.75, 1.0]


def test_workers_give_the_same_rows(clips: list[Clip]) -> None:
    here = evaluate_reconstruction(LoudnessCodec(), clips[:2], num_workers=0)
    there = evaluate_reconstruction(LoudnessCodec(), clips[:2], num_workers=1)
    assert [row.metrics for row in here.rows] == [row.metrics for row in there.rows]


def test_failures_are_counted_and_left_out(clips: list[Clip], tmp_path: Path) -> None:
    soundfile.write(tmp_path / "short.flac", 0.1 * np.ones(1600, np.float32), 16_000)
    soundfile.write(tmp_path / "silent.flac", np.zeros(16_000, np.float32), 16_000)
    odd = [Clip(id=name, audio=f"{name}.flac", duration=1.0, folder=str(tmp_path)) for name in ("short", "silent")]
    result = evaluate_reconstruction(LoudnessCodec(), [*clips, *odd], num_workers=0)
    assert result.mean("pesq").num == 4
    assert sum(result.failures("pesq").values()) == 2
    assert result.failures("pesq")["reference is digital silence"] == 1
    assert result.failed_ids("stoi") == ["short", "silent"]


def test_comparison_is_paired_and_knows_its_files(clips: list[Clip]) -> None:
    a = evaluate_reconstruction(LoudnessCodec(), clips, slow_metrics=False)
    b = evaluate_reconstruction(LoudnessCodec(context=3), clips, slow_metrics=False)
    assert a.metric_names == ["mel", "stft", "sdr"]
    comparison = compare_reconstruction(a, b, "mel")
    assert comparison.num == 4
    assert comparison.mean_b - comparison.mean_a == pytest.approx(comparison.difference.value)
    with pytest.raises(ValueError, match="different files"):
        compare_reconstruction(a, evaluate_reconstruction(LoudnessCodec(), clips[:3], slow_metrics=False), "mel")


def test_lengths_that_are_no_multiple_of_the_hop() -> None:
    wav_S = np.random.default_rng(0).standard_normal(1001).astype(np.float32)
    decoded_S, codes_QT = reconstruct(LoudnessCodec(), wav_S)
    assert decoded_S.shape == (1001,) and codes_QT.shape == (1, 4)


def test_no_clips_is_an_error() -> None:
    with pytest.raises(ValueError, match="no clips"):
        evaluate_reconstruction(LoudnessCodec(), [])
