"""The kernel of the mel distance against PyTorch's operators in float64, at every edge; by librosa: test_search.py."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from llmcodec.codec.fast import cpu_kernels
from llmcodec.codec.mel_distance import FLOOR, MelDistance, Wanted

needs_kernels = pytest.mark.skipif(cpu_kernels.library() is None, reason=cpu_kernels.why_not())


def in_float64(distance: MelDistance, wav_XS: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """(X, T), straight from the definition: numpy's transform, dense filters, no pooling by convolution."""
    total = 0.0
    for window_N, hop, steps, filters_MN in distance.windows:
        size, filters = len(window_N), filters_MN.double().numpy()

        def mel(wav_S, size=size, hop=hop, window_N=window_N, filters=filters):
            padded = np.pad(wav_S.double().numpy(), size // 2)
            frames = np.lib.stride_tricks.sliding_window_view(padded, size)[::hop] * window_N.double().numpy()
            return filters @ np.abs(np.fft.rfft(frames)).T

        wanted, rows = mel(reference), []
        for wav_S in wav_XS:
            heard = mel(wav_S)
            logs = 2 * np.abs(np.log10(np.maximum(heard, FLOOR)) - np.log10(np.maximum(wanted, FLOOR)))
            error_F = logs.mean(0) + np.abs(heard - wanted).mean(0) / max(wanted.mean(), FLOOR)
            rows.append([error_F[steps * t : steps * t + steps + 1].mean() for t in range(len(wav_S) // 320)])
        total = total + np.array(rows)
    return torch.from_numpy(total)


@pytest.mark.parametrize("native", [False, pytest.param(True, marks=needs_kernels)])
@pytest.mark.parametrize("frames", [1, 2, 7, 8, 9, 16, 33, 100])
def test_every_version_at_every_frame(frames, native):
    distance = MelDistance(16_000, 320, torch.device("cpu"))
    distance.kernels = distance.kernels if native else None
    torch.manual_seed(frames)
    reference_S = torch.randn(320 * frames) * torch.linspace(0, 0.3, 320 * frames)
    versions_XS = reference_S + torch.randn(3, 320 * frames) * torch.tensor([[0.0], [1e-3], [0.3]])
    versions_XS[2, : 160 * frames] = 0.0  # below the floor
    found_XT = distance(versions_XS, distance.reference(reference_S[None]))
    wanted_XT = in_float64(distance, versions_XS, reference_S)
    assert found_XT.shape == (3, frames)
    np.testing.assert_allclose(found_XT, wanted_XT, rtol=2e-5, atol=2e-5)


@needs_kernels
def test_no_version_and_no_thread_changes_another():
    distance = MelDistance(16_000, 320, torch.device("cpu"))
    torch.manual_seed(0)
    wav_XS = 0.1 * torch.randn(5, 320 * 70)
    wanted = distance.reference(wav_XS[:1])
    together = distance(wav_XS, wanted)
    assert torch.equal(together, torch.cat([distance(row[None], wanted) for row in wav_XS]))
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        assert torch.equal(distance(wav_XS, wanted), together)
    finally:
        torch.set_num_threads(threads)
    strided = torch.stack((wav_XS, wav_XS), -1)[..., 0]
    assert torch.equal(distance(strided, wanted), together)


def test_a_reference_of_silence_divides_by_the_floor():
    wanted = MelDistance(16_000, 320, torch.device("cpu")).reference(torch.zeros(1, 640))
    assert all(isinstance(one, Wanted) and math.isclose(one.linear, 1 / FLOOR, rel_tol=1e-6) for one in wanted)
