"""Kaldi's filter banks against a plain transcription of its formulas, and lengths."""

import math

import numpy as np
import pytest
import torch

from llmcodec.adapters.networks.kaldi_fbank import kaldi_fbank

from .tiny_codecs import noise


def by_the_book(wav: np.ndarray) -> np.ndarray:
    """One frame at a time, one triangle at a time, from the formulas in Kaldi's documentation."""

    def mel(hertz: float) -> float:
        return 1127.0 * math.log(1 + hertz / 700)

    edges = np.linspace(mel(20.0), mel(8000.0), 82)
    bins = [mel(k * 16_000 / 512) for k in range(257)]
    triangles = np.zeros((80, 257))
    for m, (left, centre, right) in enumerate(zip(edges, edges[1:], edges[2:], strict=False)):
        for k, at in enumerate(bins):
            if left < at < right:
                triangles[m, k] = (at - left) / (centre - left) if at <= centre else (right - at) / (right - centre)
    window = np.array([(0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) ** 0.85 for n in range(400)])
    rows = []
    for start in range(0, len(wav) - 399, 160):
        frame = wav[start : start + 400] - wav[start : start + 400].mean()
        sharp = np.array([frame[n] - 0.97 * frame[max(n - 1, 0)] for n in range(400)])
        power = np.abs(np.fft.rfft(sharp * window, 512)) ** 2
        rows.append(np.log(np.maximum(triangles @ power, np.finfo(np.float32).eps)))
    return np.array(rows)


def test_equal_to_the_formulas():
    wav = noise(2000) * 2**15
    got = kaldi_fbank(wav)
    expected = by_the_book(wav.double().numpy())
    assert got.shape == (11, 80) and got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-3)


def test_silence_lies_on_the_floor_and_less_than_a_window_is_refused():
    assert torch.equal(kaldi_fbank(torch.zeros(400)), torch.full((1, 80), math.log(2**-23)))
    with pytest.raises(ValueError, match="filter banks need 400 samples; got 399"):
        kaldi_fbank(torch.zeros(399))
