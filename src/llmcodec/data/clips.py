"""Clips as batches of waveforms, read by seek: whole utterances or crops, zero-padded to the longest of the batch.

Shapes: B batch, S samples (of the longest clip). Tests: `pytest tests/data/test_clips.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from llmcodec.data.manifest import Clip
from llmcodec.data.sampler import clip_seed
from llmcodec.io import audio


@dataclass
class ClipBatch:
    """What one step of training reads."""

    wav_BS: Tensor
    """float32, zero behind each clip's end."""
    lengths_B: Tensor
    """int64, samples of each clip."""
    texts: list[str]
    """Transcripts, empty where unknown. They belong to the whole utterance, also where `wav_BS` is a crop."""
    ids: list[str]
    speakers: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same batch with its tensors on `device`."""
        return replace(self, wav_BS=self.wav_BS.to(device), lengths_B=self.lengths_B.to(device))


class ClipDataset:
    """Reads clips of a manifest at a codec's sample rate.

    clips: what `read_manifest` gave. sample_rate: of the codec; other rates are resampled.
    crop_seconds: length of a crop, or None for whole utterances; shorter clips are taken whole.
    crop: `random` places the crop by (seed, step, clip id), `start` at the beginning, `middle` in the middle.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        sample_rate: int,
        *,
        crop_seconds: float | None = None,
        crop: Literal["random", "start", "middle"] = "random",
        seed: int = 0,
    ) -> None:
        if crop not in ("random", "start", "middle"):
            raise ValueError(f"crop must be random, start or middle, not {crop!r}")
        if crop_seconds is not None and crop_seconds * sample_rate < 1:
            raise ValueError(f"crop_seconds={crop_seconds:g} is less than one sample")
        self.clips, self.sample_rate, self.seed = list(clips), sample_rate, seed
        self.crop_samples = None if crop_seconds is None else round(crop_seconds * sample_rate)
        self.crop = crop

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def durations(self) -> list[float]:
        """Seconds that each clip contributes to a batch; what the sampler buckets by."""
        limit = float("inf") if self.crop_samples is None else self.crop_samples / self.sample_rate
        return [min(clip.duration, limit) for clip in self.clips]

    def read(self, index: int, step: int = 0) -> np.ndarray:
        """float32 (S,) of one clip; `step` matters for random crops only. Raises ValueError naming a broken file."""
        clip = self.clips[index]
        if self.crop_samples is None:
            return audio.load(clip.path, self.sample_rate)
        header = audio.info(clip.path)
        spare = audio.num_resampled(header.num_frames, header.sample_rate, self.sample_rate) - self.crop_samples
        if spare <= 0:
            return audio.load(clip.path, self.sample_rate)
        if self.crop == "random":
            start = clip_seed(self.seed, step, clip.id, "crop") % (spare + 1)
        else:
            start = 0 if self.crop == "start" else spare // 2
        return audio.load(clip.path, self.sample_rate, start, self.crop_samples)

    def batch(self, indices: Sequence[int], step: int = 0) -> ClipBatch:
        """Read and collate the clips `indices`."""
        return collate([self.read(index, step) for index in indices], [self.clips[index] for index in indices])


def collate(wavs: Sequence[np.ndarray], clips: Sequence[Clip]) -> ClipBatch:
    """Zero-pad waveforms (S,) to the longest."""
    assert len(wavs) == len(clips) > 0
    wav_BS = torch.zeros(len(wavs), max(len(wav_S) for wav_S in wavs), dtype=torch.float32)
    for row_S, wav_S in zip(wav_BS, wavs, strict=True):
        row_S[: len(wav_S)] = torch.from_numpy(np.ascontiguousarray(wav_S, dtype=np.float32))
    return ClipBatch(
        wav_BS=wav_BS,
        lengths_B=torch.tensor([len(wav_S) for wav_S in wavs], dtype=torch.int64),
        texts=[clip.text for clip in clips],
        ids=[clip.id for clip in clips],
        speakers=[clip.speaker for clip in clips],
        languages=[clip.language for clip in clips],
    )
