"""Distance of mel spectrograms, frame by frame of the codec: what search hears (search.py).

    distance = MelDistance(16_000, 320, device)
    wanted = distance.reference(wav_1S)
    distance(wav_XS, wanted)                 # (X, T)

Of two windows, each logarithmic plus linear. The logarithm hears pauses as well as vowels; the linear part, relative to
the clip's mean, hears the vowels, which intelligibility hangs on. The same two parts as Codec-SUPERB's Mel, there
without the mean. On a CPU with our own kernels (fast/mel_distance.c) it costs a sixth of what PyTorch's operators take.

Shapes: X versions of a clip, S samples, T frames of the codec, F analysis frames, M bands, N window.
Test: tests/codec/test_mel_distance.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.codec.fast.cpu_kernels import LANES, MelBands, library

FLOOR = 1e-5
MEL_BANDS = {512: 80, 2048: 150}
"""Window in samples -> mel bands of the distance: those of Codec-SUPERB's Mel; hops of a half and a whole frame."""


@dataclass(frozen=True)
class Wanted:
    """One window's mel spectrum of what was recorded."""

    mel_MF: Tensor
    linear: float
    """What the linear part is multiplied by: 1 / mean."""

    @cached_property
    def logarithm_MF(self) -> Tensor:
        """log2."""
        return self.mel_MF.clamp_min(FLOOR).log2()

    @cached_property
    def in_lanes(self) -> tuple[Tensor, Tensor]:
        """Spectrum and logarithm with whole registers of frames, for the kernel."""
        extra = -self.mel_MF.shape[1] % LANES
        return F.pad(self.mel_MF, (0, extra)).contiguous(), F.pad(self.logarithm_MF, (0, extra)).contiguous()


class MelDistance:
    """Measures versions of a clip against what was recorded.

    Args:
        sample_rate, hop_samples: of the codec.
        device: where the samples are.
    """

    def __init__(self, sample_rate: int, hop_samples: int, device: torch.device):
        from transformers.audio_utils import mel_filter_bank

        self.windows: list[tuple[Tensor, int, int, Tensor]] = []
        for (size, bands), hop in zip(MEL_BANDS.items(), (max(1, hop_samples // 2), hop_samples), strict=True):
            filters_NM = mel_filter_bank(
                size // 2 + 1, bands, 0.0, sample_rate / 2, sample_rate, norm="slaney", mel_scale="slaney"
            )
            filters_MN = torch.from_numpy(filters_NM.T).float().contiguous().to(device)
            self.windows.append((torch.hann_window(size, device=device), hop, hop_samples // hop, filters_MN))
        self.kernels = library() if device.type == "cpu" else None
        self.bands = [MelBands(window_N, hop, filters_MN) for window_N, hop, _, filters_MN in self.windows]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"kernels": self.kernels is not None}  # a loaded library is not copied

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, kernels=library() if state["kernels"] else None)

    def spectra(self, wav_XS: Tensor) -> list[Tensor]:
        """Samples (X, S) -> mel magnitudes (X, M, F) of each window."""
        found = []
        for window_N, hop, _, filters_MN in self.windows:
            spectrum = torch.stft(
                wav_XS, len(window_N), hop, window=window_N, pad_mode="constant", return_complex=True
            ).abs()
            found.append(filters_MN @ spectrum)
        return found

    def reference(self, wav_1S: Tensor) -> list[Wanted]:
        """What versions of these samples (1, S) are compared with."""
        if self.kernels is not None and wav_1S.dtype == torch.float32:
            mels = [self.kernels.mel_spectrum(wav_1S, bands) for bands in self.bands]
        else:
            mels = [mel_1MF[0] for mel_1MF in self.spectra(wav_1S)]
        return [Wanted(mel_MF, 1 / float(mel_MF.mean().clamp_min(FLOOR))) for mel_MF in mels]

    def __call__(self, wav_XS: Tensor, reference: Sequence[Wanted]) -> Tensor:
        """Distance (X, T) of samples to a `reference`, S = T * hop_samples."""
        if self.kernels is not None and wav_XS.dtype == torch.float32:
            parts = [
                self.kernels.mel_distance(wav_XS, bands, wanted.in_lanes, wanted.linear, FLOOR)
                for bands, wanted in zip(self.bands, reference, strict=True)
            ]
        else:
            parts = [
                (mel_XMF.clamp_min(FLOOR).log2() - wanted.logarithm_MF).abs().mean(1) * (2 * math.log10(2))
                + (mel_XMF - wanted.mel_MF).abs().mean(1) * wanted.linear
                for mel_XMF, wanted in zip(self.spectra(wav_XS), reference, strict=True)
            ]
        # A codec frame is heard by the analysis frames centred on its ends and between them.
        steps = [steps for _, _, steps, _ in self.windows]
        pooled = [F.avg_pool1d(part[:, None], n + 1, n)[:, 0] for part, n in zip(parts, steps, strict=True)]
        return torch.stack(pooled).sum(0)
