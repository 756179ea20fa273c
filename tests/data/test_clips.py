"""data/clips.py: crops, padding, resampling, and that a crop depends on seed, step and clip alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmcodec.assets import speech_manifest
from llmcodec.data.clips import ClipDataset, collate
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io import audio


@pytest.fixture
def clips(tmp_path):
    rng = np.random.default_rng(0)
    made = []
    for name, rate, seconds, channels in (
        ("a", 16000, 3.0, 1),
        ("b", 8000, 1.0, 1),
        ("ç ñ", 48000, 2.0, 2),
        ("d", 16000, 0.01, 1),
    ):
        wav = 0.1 * rng.standard_normal((round(rate * seconds), channels)).astype(np.float32)
        audio.write(tmp_path / f"{name}.flac", wav, rate)
        made.append(
            Clip(name, f"{name}.flac", seconds, text=f"text {name}", speaker="s", language="en", folder=str(tmp_path))
        )
    return made


def test_whole_utterances_are_padded_with_zeros(clips):
    batch = ClipDataset(clips, 16000).batch([0, 1, 2, 3])
    assert batch.wav_BS.shape == (4, 48000) and batch.wav_BS.dtype == torch.float32
    assert batch.lengths_B.tolist() == [48000, 16000, 32000, 160] and batch.lengths_B.dtype == torch.int64
    assert batch.ids == ["a", "b", "ç ñ", "d"] and batch.texts[2] == "text ç ñ"
    assert batch.speakers == ["s"] * 4 and batch.languages == ["en"] * 4 and len(batch) == 4
    for row, length, clip in zip(batch.wav_BS, batch.lengths_B, clips, strict=True):
        np.testing.assert_array_equal(row[:length].numpy(), audio.load(clip.path, 16000))
        assert not row[length:].any() and row[:length].any()
    assert batch.to("cpu").ids == batch.ids


@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_crop_is_a_slice_of_the_whole(clips, index):
    whole = audio.load(clips[index].path, 16000)
    dataset = ClipDataset(clips, 16000, crop_seconds=0.5, seed=7)
    starts = set()
    for step in range(6):
        crop = dataset.read(index, step)
        assert len(crop) == 8000
        windows = np.lib.stride_tricks.sliding_window_view(whole, 50)
        start = int(np.abs(windows - crop[:50]).max(axis=1).argmin())
        np.testing.assert_allclose(crop, whole[start : start + 8000], atol=2e-6)
        starts.add(start)
        np.testing.assert_array_equal(crop, ClipDataset(clips[index:], 16000, crop_seconds=0.5, seed=7).read(0, step))
    assert len(starts) == 6, "every step has its own crop"
    other = ClipDataset(clips, 16000, crop_seconds=0.5, seed=8).read(index, 0)
    assert not np.array_equal(other, dataset.read(index, 0))


def test_short_clips_are_whole(clips):
    cropped = ClipDataset(clips, 16000, crop_seconds=1.0)
    assert len(cropped.read(3)) == 160, "shorter than the crop: whole"
    assert cropped.batch([0, 3]).lengths_B.tolist() == [16000, 160]
    assert cropped.durations.tolist() == [1.0, 1.0, 1.0, 0.01]
    assert ClipDataset(clips, 16000).durations.tolist() == [3.0, 1.0, 2.0, 0.01]


def test_random_crops_reach_both_ends(clips):
    dataset = ClipDataset(clips[:1], 16000, crop_seconds=3.0 - 2 / 16000)
    whole = audio.load(clips[0].path, 16000)
    starts = {next(s for s in range(3) if dataset.read(0, step)[0] == whole[s]) for step in range(40)}
    assert starts == {0, 1, 2}


def test_bad_settings_and_broken_files_are_named(clips, tmp_path):
    with pytest.raises(ValueError, match="less than one sample"):
        ClipDataset(clips, 16000, crop_seconds=0.0)
    (tmp_path / "b.flac").write_text("not audio")
    for seconds in (None, 0.5):
        with pytest.raises(ValueError, match=r"b\.flac"):
            ClipDataset(clips, 16000, crop_seconds=seconds).batch([0, 1])


def test_collate_of_one():
    batch = collate([np.ones(3, np.float32)], [Clip("x", "x.wav", 1.0)])
    assert batch.wav_BS.tolist() == [[1.0, 1.0, 1.0]] and batch.texts == [""]


def test_the_bundled_speech_reads_at_other_rates():
    clips = read_manifest(speech_manifest("test"))[:3]
    for rate in (16000, 24000):
        batch = ClipDataset(clips, rate).batch([0, 1, 2])
        seconds = batch.lengths_B / rate
        assert torch.allclose(seconds, torch.tensor([clip.duration for clip in clips]), atol=2e-3)
        assert 0.05 < batch.wav_BS.abs().max() <= 1.1
