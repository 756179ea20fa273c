"""Recognising a recording that was seen before, whole or in part, without keeping it.

    known = find_landmarks(wav_S)                       # about one digest a second
    np.isin(find_landmarks(wav_S[5000:]), known).any()  # True

A landmark is the loudest sample of about a second; its digest covers a few milliseconds around it. Both stay as they
are when the recording begins or ends elsewhere. Samples are compared as 16-bit PCM: other levels, and other resamplers,
are other recordings. Digital silence has no landmarks.
Shapes: S samples, L landmarks. Test: tests/codec/test_landmarks.py.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F

from llmcodec.io.digests import digest

SPAN = 1 << 14
"""Samples in which a landmark is the loudest, itself in their middle."""
REACH = 200
"""Samples on either side of it that its digest covers."""


def find_landmarks(wav_S: np.ndarray) -> np.ndarray:
    """Float samples (S,) -> sorted digests (L,) int64, each once."""
    loud_S = torch.from_numpy(np.abs(wav_S))
    highest = F.pad(loud_S, (SPAN // 2, SPAN // 2 - 1))[None]
    for doubling in range(SPAN.bit_length() - 1):
        highest = F.max_pool1d(highest, 2, 1, dilation=1 << doubling)
    peaks_L = ((loud_S == highest[0]) & (loud_S > 0)).nonzero()[:, 0].numpy()
    pcm_S = np.pad(np.rint(wav_S * 32768.0).clip(-32768, 32767).astype("<i2"), REACH)
    found = {int(digest(pcm_S[peak : peak + 2 * REACH + 1]), 16) for peak in peaks_L}
    return np.sort(np.array([*found], np.uint64).view(np.int64))
