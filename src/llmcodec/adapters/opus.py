"""Opus, the codec of telephony and the web, as a reference that everybody has: `opus:6` is 6 kbit/s.

It runs through soundfile (libsndfile, libopus), needs no weights and no network. It has packets and no tokens: what is
measured is its sound, and the bytes of its packets, without the pages of the Ogg file around them.
Source: RFC 6716, RFC 7845, RFC 3533. Shapes: S samples. Test: tests/adapters/test_opus.py.
"""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import soundfile as sf
import torch
from torch import Tensor

SAMPLE_RATE = 16_000
"""What it hears: at these bitrates Opus sends no more than 8 kHz of speech."""
KBITS = (6, 9, 12)
"""The rows of reconstruction tables."""
LOWEST, HIGHEST = 6, 256
"""kbit/s that libsndfile sets."""
HEADERS = 2
"""The first pages of an Ogg file hold the codec's description and the tags."""


class OpusCodec:
    """Mono Opus at a bitrate; meets `protocol.WaveformCodec`.

    Args:
        kbits: kbit/s asked for; the encoder varies around it.

    Raises:
        ValueError: a bitrate that libsndfile cannot set.
    """

    has_tokens = False
    sample_rate, hop_samples, frame_rate = SAMPLE_RATE, 320, 50.0
    num_codebooks, codebook_size = 1, 256  # a packet's bytes; nothing takes them for tokens

    def __init__(self, kbits: int):
        if not LOWEST <= kbits <= HIGHEST:
            raise ValueError(f"codec opus:{kbits}: Opus here has {LOWEST} to {HIGHEST} kbit/s")
        self.kbits = kbits
        self.bitrate = 1000.0 * kbits

    def __repr__(self) -> str:
        return f"OpusCodec({SAMPLE_RATE:,} Hz, {self.kbits} kbit/s, no tokens)"

    def code_waveform(self, wav_S: np.ndarray) -> tuple[np.ndarray, bytes]:
        """Samples at 16 kHz -> as many samples, and the bytes of all packets."""
        file, share = io.BytesIO(), (HIGHEST - self.kbits) / (HIGHEST - LOWEST)
        options: dict[str, Any] = {"format": "OGG", "subtype": "OPUS", "compression_level": share}
        sf.write(file, np.asarray(wav_S, np.float32), SAMPLE_RATE, **options)
        packets = packet_bytes(file.getvalue())
        file.seek(0)
        again_S, _ = sf.read(file, dtype="float32")
        return np.pad(again_S, (0, max(0, len(wav_S) - len(again_S))))[: len(wav_S)], packets

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Any:
        raise ValueError(self._refusal())

    def decode(self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None) -> Any:
        raise ValueError(self._refusal())

    def state_dict(self) -> dict[str, Tensor]:
        """What decides its sound, to look up earlier results by."""
        return {"kbits": torch.tensor(self.kbits)}

    def _refusal(self) -> str:
        return (
            f"codec opus:{self.kbits}: Opus has packets and no tokens; `evaluate reconstruction` and `compare` measure "
            "its sound"
        )


def packet_bytes(ogg: bytes) -> bytes:
    """What the pages of an Ogg file carry, without the headers. Raises ValueError for another file."""
    found, place, page = [], 0, 0
    while place < len(ogg):
        if ogg[place : place + 4] != b"OggS":
            raise ValueError("opus: libsndfile wrote something that is no Ogg file")
        body = place + 27 + ogg[place + 26]
        end = body + sum(ogg[place + 27 : body])
        if page >= HEADERS:
            found.append(ogg[body:end])
        place, page = end, page + 1
    return b"".join(found)
