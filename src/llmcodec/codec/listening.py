"""One line in Python: encode a file, hear what the codec keeps of it, see its tokens.

    codec = llmcodec.load("bundled")
    tokens = codec.encode_file("speech.flac")         # CodedAudio: codes (Q, T), what was coded
    heard = codec.reconstruct("speech.flac")          # CodedAudio with the decoded samples; players in a notebook
    heard.save("again.wav")

Every codec of the package has these methods. Shapes: Q codebooks, T frames, S samples.
Test: tests/codec/test_listening.py.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from numbers import Real
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmcodec.codec.coded_audio import CodedAudio
from llmcodec.codec.token_prior import codebook_hash
from llmcodec.io import audio
from llmcodec.io.progress import ProgressBar
from llmcodec.io.waveform import check_waveform, on_cpu

MOST_CHANNELS = 16
LONG_SECONDS = 60.0  # longer recordings are coded piece by piece, as `llmcodec encode` does


class Listening:
    """`encode_file` and `reconstruct` of a codec, by its `encode` and `decode`."""

    def encode_file(self, path: str | os.PathLike[str]) -> CodedAudio:
        """Tokens of a recording, mixed to mono and resampled to the codec's rate.

        More than a minute is coded piece by piece, with a progress bar on a terminal and in a notebook; with bounded
        attention the tokens are those of the whole (docs/longform.md).

        Args:
            path: an audio file of any kind that llmcodec reads.

        Raises:
            ValueError: missing, unreadable or empty audio.
        """
        if not isinstance(path, (str, os.PathLike)):
            raise ValueError(
                "encode_file takes the path of a recording; samples: codec.reconstruct(samples, sample_rate), or "
                "codec.encode(samples[None, None]) at the codec's rate"
            )
        return self._coded(self._load(path), Path(path).name, decodes=False)

    def reconstruct(
        self, recording: str | os.PathLike[str] | np.ndarray | Tensor, sample_rate: int | None = None
    ) -> CodedAudio:
        """Encode and decode: what the codec keeps of a recording, at the codec's rate.

        Args:
            recording: an audio file, or samples (S,) or (1, S), floats in [-1, 1] or int16, int32, uint8.
            sample_rate: of samples, in Hz; None: the codec's. A file knows its own.

        Raises:
            ValueError: as `encode_file`; samples of another shape or type, NaN or infinite; a codec that only encodes.
        """
        if isinstance(recording, (str, os.PathLike)):
            if sample_rate is not None:
                raise ValueError(f"reconstruct: {recording} knows its own sample rate; leave sample_rate out")
            return self._coded(self._load(recording), Path(recording).name, decodes=True)
        wav_S = check_waveform(_one_clip(on_cpu(recording)), "reconstruct: samples")
        if not len(wav_S):
            raise ValueError("reconstruct: no samples")
        if sample_rate is not None:
            known = isinstance(sample_rate, Real) and audio.MIN_SAMPLE_RATE <= sample_rate <= audio.MAX_SAMPLE_RATE
            if not known:
                raise ValueError(
                    f"reconstruct: sample_rate {sample_rate} Hz cannot be right; give a number such as 44100"
                )
            wav_S = audio.resample(wav_S, sample_rate, _self(self).sample_rate)
        return self._coded(wav_S, "samples", decodes=True)

    def _load(self, path: str | os.PathLike[str]) -> np.ndarray:
        return audio.load(path, _self(self).sample_rate)

    def _coded(self, wav_S: np.ndarray, name: str, decodes: bool) -> CodedAudio:
        codec, samples = _self(self), len(wav_S)
        if getattr(codec, "training", False):
            raise ValueError("this codec is in training mode: call codec.eval() first")
        seconds = samples / codec.sample_rate
        decoded_S = None
        with (
            torch.inference_mode(),
            ProgressBar(name, total=seconds * (2 if decodes else 1), enabled=seconds > LONG_SECONDS) as bar,
        ):
            if seconds > LONG_SECONDS:
                codes_QT, decoded_S = self._by_blocks(wav_S, bar, decodes)
            else:
                codes = codec.encode(torch.from_numpy(wav_S)[None, None].to(codec.device)).audio_codes
                codes_QT = codes[0].cpu().numpy()
                if decodes:
                    decoded_S = codec.decode(codes, length=samples).audio_values[0, 0].float().cpu().numpy()
        rate, size = codec.sample_rate, codec.codebook_size
        return CodedAudio(codes_QT, wav_S, rate, size, decoded_S, name, codebook_of(codec))

    def _by_blocks(self, wav_S: np.ndarray, bar: ProgressBar, decodes: bool) -> tuple[np.ndarray, np.ndarray | None]:
        from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks

        codec, done = _self(self), 0.0

        def watched(parts: Iterable[Tensor], per_second: float) -> Iterator[Tensor]:
            nonlocal done
            for part in parts:
                done += part.shape[-1] / per_second
                bar.update(done)
                yield part.cpu()

        pieces = np.array_split(wav_S, max(1, len(wav_S) // (10 * codec.sample_rate)))
        codes_QT = torch.cat([*watched(encode_blocks(codec, pieces), codec.frame_rate)], dim=-1)
        if not decodes:
            return codes_QT.numpy(), None
        parts = decode_blocks(codec, [codes_QT], len(wav_S))
        return codes_QT.numpy(), torch.cat([*watched(parts, codec.sample_rate)]).float().numpy()


def _one_clip(samples: Any) -> np.ndarray:
    """Samples of one clip as (S,): also those in which all axes but one have length 1, as torchaudio gives them."""
    try:
        given = np.asarray(samples)
    except ValueError as error:  # lists of different lengths
        raise ValueError("reconstruct takes one clip of samples; call it for each") from error
    if given.ndim < 2 or given.size in given.shape:
        return given.reshape(-1) if given.ndim else given
    way = "call it for each clip"
    if given.ndim == 2 and min(given.shape) <= MOST_CHANNELS:
        way = f"mix channels first, samples.mean({int(np.argmin(given.shape))}); {way}"
    raise ValueError(f"reconstruct: samples have shape {given.shape}, not that of one mono clip (samples,); {way}")


def _self(codec: Any) -> Any:
    """A codec of `protocol.Codec`, which the classes that have these methods are."""
    return codec


def codebook_of(codec: Any) -> str:
    """Digest of the code vectors of a codec of llmcodec, also below a search; empty for other codecs."""
    plain = getattr(codec, "plain", codec)
    return codebook_hash(plain) if hasattr(plain, "codebook_VC") else ""
