"""`OnnxRuntime`: a codec exported by `llmcodec export --format onnx`, run by ONNX Runtime. No torch, no transformers.

    runtime = OnnxRuntime("folder")
    codes = runtime.encode_batch([wav_a, wav_b])

The folder contains encoder.onnx, decoder.onnx (codec/interop/onnx_export.py) and llmcodec_onnx.json, and where the
export was asked for it encoder.int8.onnx and decoder.int8.onnx, which multiply in int8. Padding and
reflection at the ends of a clip happen here. Streams are cut on the grid of `codec/streaming`: 30 s chunks with all the
context that a frame sees, or 5 s of it where attention has no bound.
Shapes: S samples, T frames, P samples with the reflected ends. Test: tests/runtime/test_onnx.py,
tests/runtime/test_onnx_int8.py.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.io.onnx_file import find_zero_matrices
from llmcodec.io.tensor_check import check_tensors
from llmcodec.io.waveform import check_waveform
from llmcodec.precision import AUTO, SIDES, Precision, Side, graph_file
from llmcodec.runtime.base import fit, length_batches, one_coder
from llmcodec.runtime.onnx_config import CONFIG, DECODER, ENCODER, OnnxConfig

CHUNK_SECONDS = 30.0  # as codec/streaming/latency.py
GLOBAL_CONTEXT_SECONDS = 5.0  # as codec/streaming/latency.py
BATCH_SECONDS = 64.0
PROBE_FRAMES = 50


class OnnxRuntime:
    """Implements `runtime.base.Runtime`.

    Args:
        folder: made by `llmcodec export --format onnx`.
        threads: of ONNX Runtime; None: OMP_NUM_THREADS where it is set, else all cores.
        precision: `auto` is `precision.AUTO["onnx"]` as far as the folder has these graphs, else fp32; `fp32`; `int8`.
        only: the side that will be used, so that a folder need not have int8 for the other one.

    Raises:
        ValueError: the folder is not an exported codec, or has no graph of this precision. Missing onnxruntime and
            damaged graphs (`check_tensors`) show at the first use.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        threads: int | None = None,
        precision: Precision = "auto",
        only: Side | None = None,
    ) -> None:
        self.folder = Path(folder)
        self.config = OnnxConfig.load(folder)
        self.identity = self.config.identity
        outermost = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # OpenMP takes a list of levels
        self.threads = threads if threads is not None else int(outermost) if outermost.isdigit() else 0
        rate, hop = self.identity.sample_rate, self.identity.hop_samples
        self.chunk_frames = self._frames_in(CHUNK_SECONDS)
        self.batch_samples = int(BATCH_SECONDS * rate)
        self.default_context = math.ceil(GLOBAL_CONTEXT_SECONDS * rate / hop)
        for name in (ENCODER, DECODER):
            if not (self.folder / name).is_file():
                raise ValueError(f"{self.folder / name}: missing; export the codec again")
        self.precisions = {side: self._chosen(side, precision, side == (only or side)) for side in SIDES}
        rounded = [side for side in SIDES if self.precisions[side] == "int8" and side == (only or side)]
        self.ran_by = "by ONNX Runtime" + (f", {' and '.join(rounded)} in int8" if rounded else "")

    def _chosen(self, side: Side, precision: Precision, used: bool) -> Precision:
        """Precision of one side. Raises ValueError if this folder does not have it."""
        if precision not in ("auto", "fp32", "int8"):
            raise ValueError(f"ONNX Runtime has no precision {precision!r}: choose auto, fp32 or int8")
        wanted = AUTO["onnx"][side] if precision == "auto" else precision
        if (self.folder / graph_file(side, wanted)).is_file():
            return wanted
        if precision == "int8" and used:
            raise ValueError(
                f"{self.folder}: no {graph_file(side, 'int8')}; `llmcodec export CODEC --format onnx --precision int8` "
                "writes it"
            )
        return "fp32"

    @cached_property
    def encoder(self) -> Any:
        """Session of the encoder, opened when the first clip is encoded."""
        return self._session("encoder")

    @cached_property
    def decoder(self) -> Any:
        """Session of the decoder, opened when the first codes are decoded."""
        return self._session("decoder")

    coders = staticmethod(one_coder)  # ONNX Runtime has threads of its own

    def encode_batch(self, wavs: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Clips (S,) -> int64 codes (1, T) each, the same in a batch as alone.

        Raises:
            ValueError: a clip that is empty, not mono, not finite, of a type whose full scale is not known, or
                too short for a codec that floors its frames.
        """
        clips = [check_waveform(wav, f"encode: clip {index}") for index, wav in enumerate(wavs)]
        if not all(map(len, clips)):
            raise ValueError("encode: a clip is empty; every clip needs at least one sample")
        longest = self._longest(self.config.encoder_context, self.identity.hop_samples)
        return self._each_batch(
            [len(clip) for clip in clips],
            longest,
            lambda indices: self._encode([clips[i] for i in indices]),
            lambda i: np.concatenate(list(self.encode_stream([clips[i]])), axis=1),
        )

    def decode_batch(
        self, codes: Sequence[np.ndarray], lengths: Sequence[int | None] | None = None
    ) -> list[np.ndarray]:
        """Codes (1, T) each -> float32 (S,); `lengths` in samples, None: all of T * hop_samples.

        Raises:
            ValueError: codes of another shape or outside the codebook, or a length that they do not cover.
        """
        wanted = list(lengths) if lengths is not None else [None] * len(codes)
        for codes_QT, length in zip(codes, wanted, strict=True):
            self.identity.check_codes(codes_QT, "decode")
            self._check_length(length, codes_QT.shape[1])
        hop = self.identity.hop_samples
        wavs = self._each_batch(
            [one.shape[1] * hop for one in codes],
            self._longest(self.config.decoder_context, hop),
            lambda indices: self._decode([codes[i] for i in indices]),
            lambda i: np.concatenate(list(self.decode_stream([codes[i]], wanted[i]))),
        )
        return [fit(wav_S, length) for wav_S, length in zip(wavs, wanted, strict=True)]

    def encode_stream(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """One long clip as blocks (S,) of any size -> codes (1, t) piece by piece, in bounded memory."""
        hop = self.identity.hop_samples
        left, right = self._context(self.config.encoder_context)

        def checked() -> Iterator[np.ndarray]:
            given = 0
            for block in blocks:
                yield check_waveform(block, "stream", given)
                given += len(block)

        yield from self._chunked(
            checked(),
            hop,
            self.chunk_frames,
            left,
            right,
            lambda wav, skip, stop: self._encode([wav])[0][:, skip:stop],
        )

    def decode_stream(
        self, codes: Iterable[np.ndarray], length: int | None = None, chunk_seconds: float | None = None
    ) -> Iterator[np.ndarray]:
        """Codes (1, t) piece by piece -> float32 blocks (S,), `length` samples together, in bounded memory.

        chunk_seconds: decoded at once; None: CHUNK_SECONDS.
        """
        hop = self.identity.hop_samples
        chunk = self.chunk_frames if chunk_seconds is None else self._frames_in(chunk_seconds)
        left, right = self._context(self.config.decoder_context)
        given = made = 0

        def checked() -> Iterator[np.ndarray]:
            nonlocal given
            for codes_QT in codes:
                self.identity.check_codes(codes_QT, "decode")
                given += codes_QT.shape[1]
                yield codes_QT

        def one(piece: np.ndarray, skip: int, stop: int | None) -> np.ndarray:
            return self._decode([piece])[0][skip * hop : None if stop is None else stop * hop]

        held = np.empty(0, np.float32)  # the last piece waits until it is known whether the length is covered
        for wav in self._chunked(checked(), 1, chunk, left, right, one):
            if length is not None:
                wav = wav[: max(0, length - made)]
            if len(held):
                yield held
            held, made = wav, made + len(wav)
        self._check_length(length, given)
        if length is not None and made < length:
            held = np.pad(held, (0, length - made))
        if len(held):
            yield held

    def _frames_in(self, seconds: float) -> int:
        return max(1, round(seconds * self.identity.frame_rate))

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip: ceil(S / hop), or AUV's floor under its flag."""
        hop = self.identity.hop_samples
        return num_samples // hop if self.config.auv_floor_frames else -(-num_samples // hop)

    def _chunked(
        self, pieces: Iterable[np.ndarray], unit: int, chunk: int, left: int, right: int, code: Any
    ) -> Iterator[np.ndarray]:
        """Pieces along the last axis, `unit` samples or codes per frame -> what `code` gives per chunk, in order.

        chunk, left, right: frames coded at once, and frames of context before and after them.

        `code(window, skip, stop)`: `window` begins with `skip` frames of context; its result is needed from there to
        frame `stop` of the window (None: to its end).
        """
        parts: list[np.ndarray] = []  # joined only when a chunk is ready, so that tiny pieces stay cheap
        held = first = skip = 0  # elements in `parts`; frame of the signal where they begin; context among them, frames
        for piece in pieces:
            parts.append(piece)
            held += piece.shape[-1]
            while held >= (skip + chunk + right) * unit:
                tail = np.concatenate(parts, axis=-1)
                stop = skip + chunk
                yield code(tail[..., : (stop + right) * unit], skip, stop)
                skip = min(left, first + stop)
                first += stop - skip
                parts = [tail[..., (stop - skip) * unit :].copy()]
                held = parts[0].shape[-1]
        if first == held == 0:
            raise ValueError("the stream is empty: nothing came before its end")
        if held > skip * unit:
            last = code(np.concatenate(parts, axis=-1), skip, None)
            if last.shape[-1]:
                yield last

    def _each_batch(
        self,
        lengths: Sequence[int],
        longest: float,
        many: Callable[[list[int]], list[np.ndarray]],
        one: Callable[[int], np.ndarray],
    ) -> list[np.ndarray]:
        """Results in order: clips up to `longest` by `many` in batches, the others one by one."""
        results = {i: one(i) for i, length in enumerate(lengths) if length > longest}
        short = [i for i in range(len(lengths)) if i not in results]
        for batch in length_batches([lengths[i] for i in short], self.batch_samples):
            indices = [short[place] for place in batch]
            results.update(zip(indices, many(indices), strict=True))
        return [results[i] for i in range(len(lengths))]

    def _encode(self, clips: Sequence[np.ndarray]) -> list[np.ndarray]:
        frames = [self.num_frames(len(clip)) for clip in clips]
        padded = np.stack([self._reflected(clip, max(frames)) for clip in clips])
        codes = self.encoder.run(None, {"padded_audio": padded, "num_frames": np.array(frames, np.int64)})[0]
        return [codes_QT[:, :count].copy() for codes_QT, count in zip(codes, frames, strict=True)]

    def _decode(self, codes: Sequence[np.ndarray]) -> list[np.ndarray]:
        frames = [codes_QT.shape[1] for codes_QT in codes]
        padded = np.zeros((len(codes), 1, max(frames)), np.int64)
        for row_QT, codes_QT in zip(padded, codes, strict=True):
            row_QT[:, : codes_QT.shape[1]] = codes_QT
        wavs = self.decoder.run(None, {"audio_codes": padded, "num_frames": np.array(frames, np.int64)})[0]
        return [wav[0, : count * self.identity.hop_samples] for wav, count in zip(wavs, frames, strict=True)]

    def _reflected(self, wav: np.ndarray, frames: int) -> np.ndarray:
        return reflect_padded(wav, self.identity.hop_samples, self.config.n_fft, frames, self.config.auv_floor_frames)

    def _context(self, context: tuple[int, int] | None) -> tuple[int, int]:
        return (self.default_context, self.default_context) if context is None else context

    def _longest(self, context: tuple[int, int] | None, unit: int) -> float:
        """Length above which a clip is cut into chunks, if attention is bounded, so that the codes stay the same."""
        return math.inf if context is None else (self.chunk_frames + context[1]) * unit

    def _check_length(self, length: int | None, frames: int) -> None:
        if length is not None and (length < 1 or self.num_frames(length) > frames):
            raise ValueError(
                f"decode: {frames} frames of {self.identity.hop_samples} samples cannot give {length} samples"
            )

    def _session(self, side: Side) -> Any:
        try:
            import onnxruntime
        except ImportError:
            raise ValueError("ONNX Runtime is not installed: pip install 'llmcodec[onnx]'") from None
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        path = self.folder / graph_file(side, self.precisions[side])
        failures = onnxruntime.capi.onnxruntime_pybind11_state
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (
            failures.Fail,
            failures.InvalidProtobuf,
            failures.InvalidGraph,
            failures.NoSuchFile,
            failures.NotImplemented,
            failures.InvalidArgument,
            failures.RuntimeException,
        ) as error:
            raise ValueError(
                f"{path}: ONNX Runtime cannot load it ({str(error).splitlines()[0]}); export again"
            ) from None
        made_of = session.get_modelmeta().custom_metadata_map.get("weights_sha256")
        if made_of != self.identity.weights_sha256:
            raise ValueError(f"{path}: its weights are not those of {CONFIG} in this folder; export the codec again")
        if zeros := find_zero_matrices(check_tensors(path)):
            self._probe(session, side, f"{path}: {zeros[0]}")
        return session

    def _probe(self, session: Any, side: Side, zero: str) -> None:
        """Check that the graph distinguishes frames: with a matrix of zeros it would not, and a graph cannot raise
        errors."""
        frames = np.array([PROBE_FRAMES], np.int64)
        random = np.random.default_rng(0)
        if side == "encoder":
            noise = 0.1 * random.standard_normal(PROBE_FRAMES * self.identity.hop_samples).astype(np.float32)
            given = {"padded_audio": self._reflected(noise, PROBE_FRAMES)[None], "num_frames": frames}
        else:
            codes = random.integers(self.identity.codebook_size, size=(1, 1, PROBE_FRAMES))
            given = {"audio_codes": codes, "num_frames": frames}
        if not session.run(None, given)[0].any():
            made = "code 0 for noise" if side == "encoder" else "silence for any codes"
            raise ValueError(f"{zero} is 0 throughout, and the graph gives {made}; export again")


def reflect_padded(wav: np.ndarray, hop: int, n_fft: int, frames: int, floor_frames: bool = False) -> np.ndarray:
    """A clip (S,) -> (P,) with P = (frames - 1) hop + n_fft, reflected at its own two ends, zero beyond.

    Before it is reflected, the clip is zero-padded to whole hops, at least two; with `floor_frames`, as AUV, it is not.
    """
    pad = (n_fft - hop) // 2
    if floor_frames:
        extent = len(wav)
        if extent <= pad:
            raise ValueError(f"auv_floor_frames needs clips of more than {pad} samples, got {extent}")
    else:
        extent = max(-(-len(wav) // hop) * hop, 2 * hop, pad + 1)
        wav = np.pad(wav, (0, extent - len(wav)))
    out = np.zeros((frames - 1) * hop + n_fft, np.float32)
    mirrored = np.pad(wav, pad, mode="reflect")[: len(out)]
    out[: len(mirrored)] = mirrored
    return out
