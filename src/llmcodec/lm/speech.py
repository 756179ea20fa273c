"""Speech from a token LM: its codec, the requests, and audio files or a live stream.

    runtime = codec_of(lm)
    sampled = write_speech(lm, runtime, requests_for(lm, runtime, ["question.wav"]), SamplingConfig(), Path("out"))

Test: tests/cli/test_lm.py.
"""

from __future__ import annotations

import math
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from torch import Tensor

from llmcodec.adapters.load import local_name
from llmcodec.io import audio
from llmcodec.io.atomic import write_text
from llmcodec.io.lm_card import CARD
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_text import codes_to_text, frames
from llmcodec.lm import sampling
from llmcodec.lm.decoding.speculative import DraftCounts, speculative_steps
from llmcodec.lm.sampling import Prompt, SamplingConfig, speech_prompt, text_prompt
from llmcodec.lm.token_lm import TokenLM
from llmcodec.metrics.token_statistics import flatten_codes
from llmcodec.runtime.base import Runtime
from llmcodec.runtime.opening import open_runtime

STREAM_SECONDS = 0.4
"""Seconds decoded at once while streaming; a causal codec with state decodes frame by frame."""

SILENT = 1e-3
"""Level (root mean square, -60 dB) below which a recording holds no voice."""


@dataclass(frozen=True)
class SpeechRequest:
    """One clip to generate: a name, the LM's prompt, and the codes of a spoken prompt."""

    name: str
    prompt: Prompt
    codes: Tensor | None = None


@dataclass(frozen=True)
class Spoken:
    """A generated clip."""

    path: Path
    written: bool
    """False if there was no prompt and the LM ended at once."""
    seconds: float
    """Of new audio."""
    ended: bool
    """Whether the LM ended the clip itself."""


@dataclass(frozen=True)
class Sampled:
    """All clips of a call, and how fast their codes were drawn."""

    clips: list[Spoken]
    codes: int
    """New codes of all clips."""
    wall_seconds: float
    """To sample them; decoding is not in it."""

    def in_words(self) -> str:
        """Codes, seconds, codes a second."""
        rate = self.codes / max(self.wall_seconds, 1e-9)
        return f"{self.codes:,} codes in {self.wall_seconds:.2f} s, {rate:,.0f} a second"


def requests_for(
    lm: TokenLM,
    runtime: Runtime,
    prompts: Sequence[str] = (),
    texts: Sequence[str] = (),
    prompt_seconds: float | None = None,
    speaker: str = "",
    language: str = "",
) -> list[SpeechRequest]:
    """Requests for audio files to continue and texts to read; without either, for speech from nothing.

    Args:
        prompt_seconds: use only the first part of an audio file.
        speaker, language: for LMs that read one before the text.

    An LM that was trained with voice prompts speaks every text in the voice of every audio file.

    Raises:
        ValueError: `prompt_seconds` that are not above 0, without an audio file, or not those of an LM's voice prompts;
            a speaker or a language that the LM does not read, or without a text.
    """
    for name, value in (("speaker", speaker), ("language", language)):
        if value and f"{{{name}}}" not in lm.card.text_template:
            raise ValueError(f"sampling: this LM reads no {name}; leave {value!r} out")
        if value and not texts:
            raise ValueError(f"sampling: a {name} is read before a text; give one, or leave {value!r} out")
    if prompt_seconds is not None and not prompts:
        raise ValueError(
            f"sampling: prompt_seconds {prompt_seconds:g} are of an audio prompt; give one, or leave them out"
        )
    rate, voice_seconds = runtime.identity.sample_rate, lm.card.voice_seconds if texts else None
    if prompt_seconds is not None and not 0 < prompt_seconds < math.inf:
        raise ValueError(f"sampling: prompt_seconds must be above 0, got {prompt_seconds}")
    if prompt_seconds is not None and voice_seconds and prompt_seconds != voice_seconds:
        raise ValueError(f"sampling: this LM takes a voice from {voice_seconds:g} s, not from {prompt_seconds:g} s")
    length = None if prompt_seconds is None else max(1, round(prompt_seconds * rate))
    if voice_seconds:
        voices: list[tuple[str, Tensor | None]] = [(Path(path).stem, load_voice(lm, runtime, path)) for path in prompts]
        return [
            SpeechRequest(f"{name}-text{number}", text_prompt(lm, text, speaker, language, voice_T))
            for name, voice_T in voices or [("", None)]
            for number, text in enumerate(texts)
        ]
    requests = []
    for path in prompts:
        codes = encode_flat(runtime, [audio.load(path, rate, 0, length)])[0]
        requests.append(SpeechRequest(Path(path).stem, speech_prompt(lm, codes), codes))
    for number, text in enumerate(texts):
        requests.append(SpeechRequest(f"text{number}", text_prompt(lm, text, speaker, language)))
    return requests or [SpeechRequest("unconditional", speech_prompt(lm))]


def load_voice(lm: TokenLM, runtime: Runtime, path: str) -> Tensor:
    """Codes of the first seconds of a recording, as a voice prompt of this LM.

    Raises:
        ValueError: a recording that is shorter than the LM's voice prompts, or silent.
    """
    identity, seconds = runtime.identity, lm.card.voice_seconds
    assert seconds is not None, "an LM without voice prompts"
    samples = round(seconds * identity.frame_rate) * identity.hop_samples
    wav_S = audio.load(path, identity.sample_rate, 0, samples)
    if len(wav_S) < samples:
        lasts = len(wav_S) / identity.sample_rate
        raise ValueError(f"{path}: lasts {lasts:.2f} s, but this LM takes its voice from {seconds:g} s of speech")
    if float(np.sqrt(np.square(wav_S, dtype=np.float64).mean())) < SILENT:
        raise ValueError(f"{path}: its first {seconds:g} s are silent, there is no voice to speak in")
    return encode_flat(runtime, [wav_S])[0]


def write_speech(
    lm: TokenLM,
    runtime: Runtime,
    requests: Sequence[SpeechRequest],
    config: SamplingConfig,
    folder: Path,
    counts: DraftCounts | None = None,
) -> Sampled:
    """Sample all clips in one batch; write FOLDER/NAME-NUMBER.wav (with the spoken prompt) and FOLDER/tokens.txt.

    With `counts` the draft heads sample, and their drafts are counted there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    prompts = [one.prompt for one in requests]
    started = time.perf_counter()
    if counts is None:
        drawn = sampling.sample(lm, prompts, config)
    else:
        drawn = sampling.clips_of(speculative_steps(lm, prompts, config, counts), len(prompts))
    taken = time.perf_counter() - started
    lines, spoken = [], []
    num_codebooks = runtime.identity.num_codebooks
    for number, (one, codes) in enumerate(zip(requests, drawn, strict=True)):
        path = folder / f"{one.name}-{number}.wav"
        whole = codes if one.codes is None else torch.cat([one.codes, codes])
        whole = whole[: len(whole) // num_codebooks * num_codebooks]
        seconds = len(codes) / runtime.identity.frame_rate / num_codebooks
        spoken.append(Spoken(path, len(whole) > 0, seconds, len(codes) < config.max_codes))
        if len(whole):
            with audio.AudioWriter(path, runtime.identity.sample_rate) as file:
                file.write(runtime.decode_batch([frames_of(whole, runtime)])[0])
            lines.append(f"{path.name}\t{codes_to_text(codes.tolist(), markers=True)}\n")
    write_text(folder / "tokens.txt", "".join(lines))
    return Sampled(spoken, sum(map(len, drawn)), taken)


def stream_speech(
    lm: TokenLM, runtime: Runtime, request: SpeechRequest, config: SamplingConfig, out: BinaryIO, with_header: bool
) -> None:
    """Stream audio while it is generated: codes are sampled, decoded in pieces and written at once as 16-bit samples.

    A piece is written when the later frames that the codec looks at are sampled, so that the audio equals that of a
    file.
    """

    def drawn() -> Iterator[np.ndarray]:
        if request.codes is not None:
            yield frames_of(request.codes, runtime)
        frame: list[int] = []
        for codes_B in sampling.sample_steps(lm, [request.prompt], config):
            if codes_B[0] < 0:
                continue  # it only read
            frame.append(int(codes_B[0]))
            if len(frame) == runtime.identity.num_codebooks:
                yield frames_of(frame, runtime)
                frame = []

    if with_header:
        out.write(wav_header(runtime.identity.sample_rate))
    for block in runtime.decode_stream(drawn(), chunk_seconds=STREAM_SECONDS):
        out.write((np.clip(block, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes())
        out.flush()


def wav_header(sample_rate: int) -> bytes:
    """Header of a mono 16-bit WAV whose length is not known yet, as streaming players expect it."""
    unknown = 0xFFFFFFFF
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", unknown, b"WAVE", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16
    )
    return head + struct.pack("<4sI", b"data", unknown)


def codec_of(lm: TokenLM, codec: str | None = None, device: str = "cpu") -> Runtime:
    """The codec of an LM, from its card or as named.

    Raises:
        ValueError: no name given or in the card, or a codec with other weights than the LM was trained with.
    """
    name = codec or own_codec(lm)
    runtime = open_runtime(name, device=device)
    check_codec(lm, runtime.identity, name)
    return runtime


def own_codec(lm: TokenLM) -> str:
    """Name of the codec that an LM speaks: the folder where it was, or what its card calls it, on this machine alone.

    Raises:
        ValueError: the card names no codec, or one that is not here: a name in a file is never fetched from the hub.
    """
    card = lm.card
    if card.codec is None:
        raise ValueError("this LM does not say which codec it speaks: name it with --codec")
    if card.codec_path and Path(card.codec_path).is_dir():
        return card.codec_path
    try:
        return local_name(card.codec.codec, CARD)
    except ValueError as error:
        was = f" (it was in {card.codec_path})" if card.codec_path else ""
        raise ValueError(f"{error}; or name it with --codec{was}") from error


def check_codec(lm: TokenLM, provenance: TokenProvenance, where: str) -> None:
    """Raise ValueError for tokens of another codec than the LM's."""
    card = lm.card.codec
    if card is not None and card.weights_sha256 != provenance.weights_sha256:
        raise ValueError(
            f"{where}: codec {provenance.codec!r} ({provenance.weights_sha256[:12]}), but this LM speaks the tokens of "
            f"{card.codec!r} ({card.weights_sha256[:12]})"
        )
    if provenance.num_codebooks * provenance.codebook_size != lm.num_codes:
        raise ValueError(
            f"{where}: {provenance.num_codebooks} x {provenance.codebook_size} codes, but this LM has {lm.num_codes}"
        )


def encode_flat(runtime: Runtime, wavs: Sequence[np.ndarray]) -> list[Tensor]:
    """Waveforms -> flattened codes, 1-D int64 each."""
    size = runtime.identity.codebook_size
    return [flatten_codes(torch.from_numpy(codes_QT), size) for codes_QT in runtime.encode_batch(wavs)]


def frames_of(codes: Tensor | np.ndarray | Sequence[int], runtime: Runtime) -> np.ndarray:
    """Flattened codes -> (Q, T) int64."""
    identity = runtime.identity
    row = [int(code) for code in codes]
    return np.asarray(frames(row, identity.num_codebooks, identity.codebook_size), dtype=np.int64)
