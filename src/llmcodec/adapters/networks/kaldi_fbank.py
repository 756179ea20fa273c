"""Log filter banks as Kaldi computes them (25 ms povey windows every 10 ms, 80 bins), which speech encoders of the
wav2vec2-BERT kind read. torchaudio has them too, but its wheels do not import beside every PyTorch.

Source: Kaldi, feat/feature-fbank.cc with its defaults, no dither, no energy. Test: tests/adapters/test_kaldi_fbank.py.
"""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor

SAMPLE_RATE = 16_000
FRAME_SAMPLES = 400
SHIFT_SAMPLES = 160
N_FFT = 512
NUM_MELS = 80
PREEMPHASIS = 0.97
FLOOR = torch.finfo(torch.float32).eps


def kaldi_fbank(wav_S: Tensor) -> Tensor:
    """16 kHz samples on the scale of 16-bit integers -> (T, 80) float32, T = (S - 400) // 160 + 1.

    Errors: ValueError below one window.
    """
    if wav_S.shape[0] < FRAME_SAMPLES:
        raise ValueError(f"filter banks need {FRAME_SAMPLES} samples; got {wav_S.shape[0]}")
    frames_TW = wav_S.double().unfold(0, FRAME_SAMPLES, SHIFT_SAMPLES)
    frames_TW = frames_TW - frames_TW.mean(-1, keepdim=True)
    before_TW = F.pad(frames_TW[None], (1, 0), mode="replicate")[0, :, :-1]
    window_W, mels_FM = _window(wav_S.device), _mels(wav_S.device)
    power_TF = torch.fft.rfft((frames_TW - PREEMPHASIS * before_TW) * window_W, N_FFT).abs().square()
    return (power_TF @ mels_FM).clamp(min=FLOOR).log().float()


@lru_cache(maxsize=4)
def _window(device: torch.device) -> Tensor:
    return torch.hann_window(FRAME_SAMPLES, periodic=False, dtype=torch.float64, device=device) ** 0.85


@lru_cache(maxsize=4)
def _mels(device: torch.device) -> Tensor:
    """(257, 80): triangles in Kaldi's mel scale between 20 Hz and the Nyquist frequency."""
    from transformers.audio_utils import mel_filter_bank

    filters = mel_filter_bank(
        num_frequency_bins=N_FFT // 2 + 1,
        num_mel_filters=NUM_MELS,
        min_frequency=20.0,
        max_frequency=SAMPLE_RATE / 2,
        sampling_rate=SAMPLE_RATE,
        norm=None,
        mel_scale="kaldi",
        triangularize_in_mel_space=True,
    )
    return torch.from_numpy(filters).to(device, torch.float64)
