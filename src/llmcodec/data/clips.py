"""Clips as batches of waveforms, read by seek: whole utterances or crops, zero-padded to the longest of the batch.

Shapes: B batch, S samples (of the longest clip). Tests: `pytest tests/data/test_clips.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from llmcodec.data.augmentation import Augmentation, augment, speed_of
from llmcodec.data.clip_table import ClipTable
from llmcodec.data.manifest import Clip, durations_of
from llmcodec.data.sampler import clip_seed
from llmcodec.io.bad_rows import BadRows

T = TypeVar("T")


@dataclass
class ClipBatch:
    """What one step of training reads."""

    wav_BS: Tensor
    """float32, zero behind each clip's end."""
    lengths_B: Tensor
    """int64, samples of each clip; on the CPU wherever the audio is, since all sizes follow from it."""
    texts: list[str]
    """Transcripts, empty where unknown. They belong to the whole utterance, also where `wav_BS` is a crop."""
    ids: list[str]
    target_BS: Tensor | None = None
    """What the decoder shall rebuild where that differs from `wav_BS` (augmentation with a clean target)."""
    speakers: list[str] = field(default_factory=list)
    languages: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.ids)

    def to(self, device: torch.device | str) -> ClipBatch:
        """The same batch with its audio on `device`; a GPU's copies run beside what it is doing."""
        on_gpu = torch.device(device).type == "cuda"

        def move(tensor: Tensor) -> Tensor:
            return (tensor.pin_memory() if on_gpu and not tensor.is_cuda else tensor).to(device, non_blocking=on_gpu)

        target_BS = None if self.target_BS is None else move(self.target_BS)
        return replace(self, wav_BS=move(self.wav_BS), target_BS=target_BS)


class ClipDataset:
    """Reads clips of a manifest at a codec's sample rate.

    clips: what `read_manifest` gave. sample_rate: of the codec; other rates are resampled.
    crop_seconds: length of a crop, whose place (seed, step, clip id) decide; None for whole utterances. Shorter clips
        are taken whole.
    augmentation: changes to every clip that `batch` gives; `read` gives clips as they are.
    bad: takes clips that cannot be read; another stands in for each (`stand_ins`). None allows none.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        sample_rate: int,
        *,
        crop_seconds: float | None = None,
        seed: int = 0,
        augmentation: Augmentation | None = None,
        bad: BadRows | None = None,
    ) -> None:
        if crop_seconds is not None and crop_seconds * sample_rate < 1:
            raise ValueError(f"crop_seconds={crop_seconds:g} is less than one sample")
        self.clips = clips if isinstance(clips, ClipTable) else list(clips)
        self.sample_rate, self.seed = sample_rate, seed
        self.crop_samples = None if crop_seconds is None else round(crop_seconds * sample_rate)
        self.bad = BadRows(total=len(self.clips)) if bad is None else bad
        self.augmentation = augmentation if augmentation is not None and augmentation.on else None
        if self.augmentation is not None:
            self.augmentation.check_rate(sample_rate)

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def durations(self) -> np.ndarray:
        """Seconds (float64) that each clip contributes to a batch; what the sampler buckets by."""
        limit = float("inf") if self.crop_samples is None else self.crop_samples / self.sample_rate
        seconds: np.ndarray = np.minimum(durations_of(self.clips), limit)
        return seconds

    def read(self, index: int, step: int = 0, speed: float = 1.0) -> np.ndarray:
        """float32 (S,) of one clip; `step` matters for crops only. Raises ValueError naming a broken file.

        A clip is played faster or slower (`speed`) by reading it at another sample rate.
        """
        clip = self.clips[index]
        rate = round(self.sample_rate / speed / 100) * 100 if speed != 1.0 else self.sample_rate
        if self.crop_samples is None:
            return clip.load(rate)
        spare = clip.num_samples(rate) - self.crop_samples
        if spare <= 0:
            return clip.load(rate)
        start = clip_seed(self.seed, step, clip.id, "crop") % (spare + 1)
        return clip.load(rate, start, self.crop_samples)

    def batch(self, indices: Sequence[int], step: int = 0) -> ClipBatch:
        """Read, augment and collate the clips `indices`, or those that stand in for them."""
        clips, heard, wanted = zip(*(self._with_stand_in(index, step) for index in indices), strict=True)
        batch = collate(heard, clips)
        if any(a is not b for a, b in zip(heard, wanted, strict=True)):
            batch.target_BS = collate(wanted, clips).wav_BS
        return batch

    def stand_ins(self, index: int) -> Iterator[int]:
        """The clip itself, then those that may take its place: the next shorter ones, then the next longer ones.

        Their order depends on the manifest alone and a batch on what can be read now, on nothing that was read before:
        so a resumed run reads what an uninterrupted one reads, and so do several processes.
        """
        yield index
        place = int(np.flatnonzero(self._by_length == index)[0])
        yield from map(int, self._by_length[:place][::-1])
        yield from map(int, self._by_length[place + 1 :])

    @cached_property
    def _by_length(self) -> np.ndarray:
        return np.argsort(durations_of(self.clips), kind="stable")

    def _with_stand_in(self, index: int, step: int) -> tuple[Clip, np.ndarray, np.ndarray]:
        """A clip that can be read, what the codec hears of it, and what it shall rebuild."""
        place, (heard_S, wanted_S) = self._first_readable(index, lambda place: self._augmented(place, step))
        return self.clips[place], heard_S, wanted_S

    def read_or_stand_in(self, index: int) -> np.ndarray:
        """`read`, of the clip that stands in for one that cannot be read."""
        return self._first_readable(index, self.read)[1]

    def _first_readable(self, index: int, read: Callable[[int], T]) -> tuple[int, T]:
        """Place of the first of `stand_ins` that can be read, and what `read` makes of it."""
        for place in self.stand_ins(index):
            try:
                return place, read(place)
            except (ValueError, OSError) as error:
                self.bad.add(self.clips[place].id, error)
        raise ValueError(f"none of {len(self.clips)} clips can be read: {'; '.join(self.bad.lines()[1:])}")

    def _augmented(self, index: int, step: int) -> tuple[np.ndarray, np.ndarray]:
        if self.augmentation is None:
            wav_S = self.read(index, step)
            return wav_S, wav_S
        key = (self.seed, step, self.clips[index].id)
        wav_S = self.read(index, step, speed_of(self.augmentation, *key))
        return augment(wav_S, self.sample_rate, self.augmentation, *key)


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
