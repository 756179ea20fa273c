"""`TorchRuntime`: any `protocol.Codec` behind the numpy protocol of base.py.

    runtime = TorchRuntime(load_codec("bundled"), "bundled")
    codes = runtime.encode_batch([wav_a, wav_b])     # batched by length, padding masked

Shapes: B batch, S samples, Q codebooks, T frames. Test: tests/runtime/test_torch_runtime.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from llmcodec.codec.fast.engine import InferenceCodec
from llmcodec.codec.inputs import ClipError
from llmcodec.codec.search import SearchingCodec
from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks
from llmcodec.codec.streaming.latency import CHUNK_SECONDS, make_plan
from llmcodec.io.digests import digest_all
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.waveform import check_waveform
from llmcodec.protocol import Codec, HasFeatures, device_of
from llmcodec.runtime.base import Coders, fit, length_batches

SHORTEST_SHARE_SECONDS = 8  # a batch of less audio is not worth a core of its own
BATCH_SECONDS = 64.0  # padded audio in one call: more gains nothing on a CPU and costs memory


class TorchRuntime:
    """A torch codec, in inference mode.

    Args:
        codec: meets `protocol.Codec`.
        name: for display and for token files.
        identity: taken before, if `codec` was already changed for speed.
        batch_seconds: padded seconds of audio in one call of the codec.
        chunk_seconds: seconds of a stream that are coded at once.
    """

    def __init__(
        self,
        codec: Codec,
        name: str,
        identity: TokenProvenance | None = None,
        batch_seconds: float = BATCH_SECONDS,
        chunk_seconds: float = CHUNK_SECONDS,
    ) -> None:
        self.codec, self.chunk_seconds = codec, chunk_seconds
        self.identity = identity or identity_of(codec, name)
        self.device = device_of(codec)
        self.ran_by = f"by PyTorch on {self.device}"
        self.batch_samples = int(batch_seconds * codec.sample_rate)

    def encode_batch(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Clips (S,) -> codes (Q, T) int64 each.

        Raises:
            ValueError: a clip that is empty, not mono, not finite, or of a type whose full scale is not known.
        """
        wavs = [check_waveform(wav, f"encode: clip {index}") for index, wav in enumerate(wavs)]

        def encode(indices: Sequence[int]) -> list[np.ndarray]:
            encoded = self.codec.encode(*self._padded([wavs[i] for i in indices]))
            lengths = [len(wavs[i]) for i in indices]
            frames = self._frames(encoded.audio_codes, encoded.audio_codes_mask, lengths)
            codes_BQT = encoded.audio_codes.to("cpu", torch.int64).numpy()
            return [codes_QT[:, :count].copy() for codes_QT, count in zip(codes_BQT, frames, strict=True)]

        return self._each_batch(encode, [len(wav) for wav in wavs])

    def encode_features(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Clips (S,) -> latents before the quantiser (T, D) float32 each.

        Raises:
            ValueError: the codec does not expose its latents; a clip that `encode_batch` rejects.
        """
        codec = self.codec
        wavs = [check_waveform(wav, f"encode: clip {index}") for index, wav in enumerate(wavs)]
        if not isinstance(codec, HasFeatures):
            raise ValueError(
                f"{type(codec).__name__} does not expose its latents: the codec needs encode_features "
                "(protocol.HasFeatures)"
            )

        def encode(indices: Sequence[int]) -> list[np.ndarray]:
            latent_BTD = codec.encode_features(*self._padded([wavs[i] for i in indices])).to("cpu", torch.float32)
            frames = [self._num_frames(len(wavs[i])) for i in indices]
            return [latent_TD[:count].copy() for latent_TD, count in zip(latent_BTD.numpy(), frames, strict=True)]

        return self._each_batch(encode, [len(wav) for wav in wavs])

    def decode_batch(
        self, codes: Sequence[np.ndarray], lengths: Sequence[int | None] | None = None
    ) -> list[np.ndarray]:
        """Codes (Q, T) each -> float32 (S,) each. Raises ValueError for codes or lengths that do not fit."""
        hop = self.identity.hop_samples
        wanted = list(lengths) if lengths is not None else [None] * len(codes)
        for codes_QT, length in zip(codes, wanted, strict=True):
            self.identity.check_codes(codes_QT, "decode")
            if length is not None and (length < 1 or self._num_frames(length) > codes_QT.shape[1]):
                raise ValueError(f"decode: {codes_QT.shape[1]} frames of {hop} samples cannot give {length} samples")

        def decode(indices: Sequence[int]) -> list[np.ndarray]:
            frames = [codes[i].shape[1] for i in indices]
            codes_BQT = torch.zeros(len(indices), self.identity.num_codebooks, max(frames), dtype=torch.int64)
            for row_QT, i in zip(codes_BQT, indices, strict=True):
                row_QT[:, : codes[i].shape[1]] = torch.from_numpy(codes[i].astype(np.int64))
            mask_BS = torch.arange(max(frames) * hop) < torch.tensor(frames)[:, None] * hop
            decoded = self.codec.decode(
                codes_BQT.to(self.device), mask_BS.to(self.device), length=max(frames) * hop
            ).audio_values
            wav_BS = decoded.reshape(len(indices), -1).to("cpu", torch.float32).numpy()
            if wav_BS.shape[1] != max(frames) * hop:
                raise ValueError(
                    f"the codec decoded {wav_BS.shape[1]} samples where length={max(frames) * hop} was asked for"
                )
            return [
                fit(wav_S[: count * hop], wanted[i]) for wav_S, count, i in zip(wav_BS, frames, indices, strict=True)
            ]

        return self._each_batch(decode, [one.shape[1] * hop for one in codes])

    def encode_stream(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Blocks (S,) of one clip, any sizes -> codes (Q, t) piece by piece, in bounded memory."""
        # No inference_mode around a generator: it would stay on in the caller between two pieces.
        for codes_QT in encode_blocks(self.codec, blocks, self.chunk_seconds):
            yield codes_QT.numpy()

    def decode_stream(
        self, codes: Iterable[np.ndarray], length: int | None = None, chunk_seconds: float | None = None
    ) -> Iterator[np.ndarray]:
        """Codes (Q, t) piece by piece -> blocks (S,), `length` samples together, in bounded memory.

        chunk_seconds: decoded at once, when the later frames that the codec looks at are there as well; one frame where
            a causal codec keeps its state. None: the runtime's own.
        """
        if chunk_seconds is None:
            chunk_seconds = self.chunk_seconds
        elif make_plan(self.codec, "decoder", chunk_seconds, None).stateful:
            chunk_seconds = 1 / self.identity.frame_rate
        for wav_S in decode_blocks(self.codec, self._checked(codes), length, chunk_seconds):
            yield wav_S.to("cpu", torch.float32).numpy()

    def _checked(self, codes: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for codes_QT in codes:
            self.identity.check_codes(codes_QT, "decode")
            yield codes_QT

    @contextmanager
    def coders(self) -> Iterator[Coders]:
        """On the CPU our packed codec takes one batch per core, each on one thread; else all cores share a batch.

        Short clips leave little to parallelise inside a batch, and threads that do not wait for each other lose nothing
        on a busy machine.
        """
        threads = torch.get_num_threads()
        apart = self.device.type == "cpu" and isinstance(self.codec, InferenceCodec | SearchingCodec)
        number = threads if apart else 1
        try:
            with ThreadPoolExecutor(number, "coding", torch.set_num_threads, (threads // number,)) as pool:
                yield pool, number
        finally:
            torch.set_num_threads(threads)

    def _each_batch(
        self, code: Callable[[Sequence[int]], list[np.ndarray]], lengths: Sequence[int]
    ) -> list[np.ndarray]:
        """Results in order: `code` is called with the indices of every batch, by the `coders` if there are several."""
        results: dict[int, np.ndarray] = {}

        def run(indices: Sequence[int]) -> None:
            try:
                with torch.inference_mode():
                    results.update(zip(indices, code(indices), strict=True))
            except ClipError as error:  # its place among clips of like lengths
                raise ClipError.of(indices[error.clip], error.what) from error

        with self.coders() as (pool, number):
            share = max(-(-sum(lengths) // number), SHORTEST_SHARE_SECONDS * self.identity.sample_rate)
            most = min(self.batch_samples, share) if number > 1 else self.batch_samples
            batches = length_batches(lengths, most)
            if number == 1 or len(batches) == 1:
                for indices in batches:
                    run(indices)
            else:
                list(pool.map(run, batches))
        return [results[i] for i in range(len(lengths))]

    def _padded(self, wavs: Sequence[np.ndarray]) -> tuple[Tensor, Tensor]:
        """Clips (S,) -> (B, 1, S) with zeros after each, and the mask of real samples, on the codec's device."""
        lengths_B = torch.tensor([len(wav_S) for wav_S in wavs])
        if int(lengths_B.min()) < 1:
            raise ValueError("encode: a clip is empty; every clip needs at least one sample")
        wav_BS = pad_sequence([torch.from_numpy(np.array(wav_S)) for wav_S in wavs], batch_first=True)
        mask_BS = torch.arange(wav_BS.shape[1]) < lengths_B[:, None]
        return wav_BS[:, None].to(self.device), mask_BS.to(self.device)

    def _num_frames(self, num_samples: int) -> int:
        """Frames of a clip: as the codec counts them, else ceil(S / hop)."""
        counted = getattr(self.codec, "num_frames", None)
        return int(counted(num_samples)) if counted is not None else -(-num_samples // self.identity.hop_samples)

    def _frames(self, codes_BQT: Tensor, mask: Tensor | None, lengths: Sequence[int]) -> list[int]:
        """Real frames of every clip: by the codec's mask, else by its length."""
        most = codes_BQT.shape[-1]
        if mask is None:
            return [min(most, self._num_frames(length)) for length in lengths]
        return [int(row.sum()) for row in mask.reshape(mask.shape[0], -1, most)[:, 0].bool()]


def identity_of(codec: Codec, name: str) -> TokenProvenance:
    """The identity that goes into token files. Take it before weights are folded, cast or quantised for speed."""
    return TokenProvenance(
        codec=name,
        weights_sha256=weights_sha256(codec),
        sample_rate=int(codec.sample_rate),
        hop_samples=int(codec.hop_samples),
        num_codebooks=int(codec.num_codebooks),
        codebook_size=int(codec.codebook_size),
    )


def weights_sha256(codec: Any) -> str:
    """Hash over names, shapes and float32 values: equal for the same weights in fp16 on disk and fp32 in memory.

    Of a codec without weights: over its class and its rates and sizes.
    """
    tensors = sorted(named_tensors(codec))
    contents = _contents(tensors) if tensors else [repr((type(codec).__qualname__, _rates(codec)))]
    return digest_all(contents, algorithm="sha256")


def _rates(codec: Any) -> list[int]:
    return [codec.sample_rate, codec.hop_samples, codec.num_codebooks, codec.codebook_size]


def fingerprint(codec: Any) -> str | None:
    """24 hex digits of everything that decides a codec's tokens and sound, to look up earlier results by.

    None if the weights are not accessible, because they are packed for speed or because there are none.
    """
    state = codec.state_dict() if hasattr(codec, "state_dict") else dict(named_tensors(codec))
    if not state:
        return None
    facts = [*_rates(codec), *sorted({str(tensor.dtype) for tensor in state.values()})]
    described = repr((type(codec).__qualname__, facts, getattr(codec, "config", None)))
    return digest_all(chain([described], _contents(state.items())), size=12)


def _contents(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[Any]:
    """Name, shape and float32 values of every tensor, to be hashed."""
    for name, tensor in tensors:
        value = tensor.detach().to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype)
        yield f"{name}:{tuple(value.shape)}:"
        yield np.ascontiguousarray(value.numpy())


def named_tensors(codec: Any) -> list[tuple[str, Tensor]]:
    """Parameters and buffers of a codec that is a module, or of the modules that an adapter holds."""
    if isinstance(codec, SearchingCodec):
        codec = codec.plain  # the search changes no weight: its tokens are those of the plain codec
    if isinstance(codec, nn.Module):
        return [(name, value) for name, value in codec.state_dict().items() if isinstance(value, Tensor)]
    held = {name: value for name, value in getattr(codec, "__dict__", {}).items() if isinstance(value, nn.Module)}
    return [(f"{name}.{inner}", value) for name, module in held.items() for inner, value in named_tensors(module)]
