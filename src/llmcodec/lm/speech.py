"""`llmcodec lm sample` and `lm export`: speech out of a token LM, and the LM handed over.

    llmcodec lm sample runs/lm_small --prompt question.wav --seconds 6 -o out
    llmcodec lm sample runs/lm_tts --text "_ p l i: z _" --language en --speaker ast_en_allison -o said
    llmcodec lm export runs/lm_small handover

Test: tests/cli/test_lm.py.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

from llmcodec.io import audio
from llmcodec.io.atomic import write_text

if TYPE_CHECKING:
    from torch import Tensor

    from llmcodec.io.token_file import TokenProvenance
    from llmcodec.lm.sampling import Prompt, SamplingConfig
    from llmcodec.lm.token_lm import TokenLM
    from llmcodec.runtime.base import Runtime

STREAM_SECONDS = 0.4
"""Of sound that are decoded together while streaming; a causal codec that keeps its state goes frame by frame."""


def sample(
    lm: str,
    prompt: list[str] | None = None,
    text: list[str] | None = None,
    output: str = "samples",
    seconds: float = 6.0,
    min_seconds: float = 0.0,
    prompt_seconds: float | None = None,
    count: int = 1,
    speaker: str = "",
    language: str = "",
    temperature: float = 0.9,
    top_k: int = 0,
    top_p: float = 0.98,
    repetition_penalty: float = 1.0,
    seed: int = 0,
    codec: str | None = None,
    stream: Literal["no", "pcm", "wav"] = "no",
    dtype: Literal["fp32", "bf16"] = "fp32",
    device: str = "cpu",
) -> None:
    """Let a token LM speak: go on from a spoken prompt, read a text, or start from nothing.

    Writes OUTPUT/NAME.wav per clip (a continuation holds its prompt) and OUTPUT/tokens.txt. Everything asked for is
    drawn in one batch. With --stream the sound goes to standard output while it is made.

    Args:
        lm: folder of `llmcodec lm train` or `lm export`, or a hub id.
        prompt: audio file to go on from; may be repeated.
        text: text to read; phonemes with spaces between them for models trained on tts_aligned; may be repeated.
        output: folder for the results.
        seconds: longest new audio of a clip; it may end before.
        min_seconds: no end before this much new audio.
        prompt_seconds: use only the first part of a prompt.
        count: clips per prompt or text.
        speaker: for models that read one before the text.
        language: for models that read one before the text.
        temperature: below 1 sharper, above 1 flatter, 0 always the likeliest code.
        top_k: draw among this many likeliest codes; 0 among all.
        top_p: draw among the likeliest codes that together hold this share.
        repetition_penalty: divide the odds of recent codes by this; 1 does nothing.
        seed: same seed, same clips.
        codec: codec of the LM where it was moved; default: the name in the LM's card.
        stream: pcm (16-bit little-endian) or wav to standard output, one clip.
        dtype: precision of the LM.
        device: cpu or cuda.
    """
    from llmcodec.lm.sampling import SamplingConfig
    from llmcodec.lm.token_lm import load_token_lm

    loaded = load_token_lm(lm, device, dtype)
    runtime = codec_of(loaded, codec, device)
    rate = runtime.identity.frame_rate * runtime.identity.num_codebooks
    whole = runtime.identity.num_codebooks
    config = SamplingConfig(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition_penalty,
        max_codes=max(whole, round(seconds * rate) // whole * whole),
        min_codes=round(min_seconds * rate) // whole * whole,
        seed=seed,
    )
    asked = prompts_of(loaded, runtime, prompt or [], text or [], prompt_seconds, speaker, language)
    if stream != "no":
        if len(asked) * count != 1:
            raise ValueError("--stream takes one clip: one --prompt, one --text, or none")
        if sys.stdout.isatty():
            raise ValueError("standard output is a terminal: pipe the sound on, for example into aplay")
        play(loaded, runtime, asked[0], config, sys.stdout.buffer, stream == "wav")
        return
    for line in write_samples(loaded, runtime, [one for one in asked for _ in range(count)], config, Path(output)):
        print(line)


class Asked:
    """One thing to speak: a name, the ids that the LM reads, and the codes of a spoken prompt."""

    def __init__(self, name: str, ids: Prompt, codes: Tensor | None = None):
        self.name, self.ids, self.codes = name, ids, codes


def prompts_of(
    lm: TokenLM,
    runtime: Runtime,
    prompts: Sequence[str],
    texts: Sequence[str],
    prompt_seconds: float | None = None,
    speaker: str = "",
    language: str = "",
) -> list[Asked]:
    """Audio files and texts as LM inputs; nothing at all asks for speech out of nothing."""
    from llmcodec.lm.sampling import speech_prompt, text_prompt

    asked = []
    for path in prompts:
        rate = runtime.identity.sample_rate
        length = None if prompt_seconds is None else max(1, round(prompt_seconds * rate))
        codes = encode_flat(runtime, [audio.load(path, rate, 0, length)])[0]
        asked.append(Asked(Path(path).stem, speech_prompt(lm, codes), codes))
    for number, text in enumerate(texts):
        asked.append(Asked(f"text{number}", text_prompt(lm, text, speaker, language)))
    return asked or [Asked("unconditional", speech_prompt(lm))]


def write_samples(
    lm: TokenLM, runtime: Runtime, asked: Sequence[Asked], config: SamplingConfig, folder: Path
) -> Iterator[str]:
    """Draw all clips in one batch, decode and write them; one line per clip."""
    import torch

    from llmcodec.io.token_text import codes_to_text
    from llmcodec.lm.sampling import sample as draw_clips

    folder.mkdir(parents=True, exist_ok=True)
    drawn = draw_clips(lm, [one.ids for one in asked], config)
    lines = []
    for number, (one, codes) in enumerate(zip(asked, drawn, strict=True)):
        path = folder / f"{one.name}-{number}.wav"
        whole = codes if one.codes is None else torch.cat([one.codes, codes])
        whole = whole[: len(whole) // runtime.identity.num_codebooks * runtime.identity.num_codebooks]
        if len(whole) == 0:
            yield f"{path}: not written, the LM ended at once; try another seed or --min-seconds 1"
            continue
        wav = runtime.decode_batch([frames_of(whole, runtime)])[0]
        with audio.AudioWriter(path, runtime.identity.sample_rate) as file:
            file.write(wav)
        lines.append(f"{path.name}\t{codes_to_text(codes.tolist(), markers=True)}\n")
        ended = "ended by itself" if len(codes) < config.max_codes else "stopped at --seconds"
        new = len(codes) / runtime.identity.frame_rate / runtime.identity.num_codebooks
        yield f"{path}: {new:.2f} s of new audio, {ended}"
    write_text(folder / "tokens.txt", "".join(lines))


def play(lm: TokenLM, runtime: Runtime, asked: Asked, config: SamplingConfig, out: BinaryIO, with_header: bool) -> None:
    """Sound while it is made: codes are drawn, decoded in pieces and written as 16-bit samples at once.

    A piece is written when the frames behind it that the codec looks at are drawn, so that the sound is that of a file.
    """
    from llmcodec.lm.sampling import sample_steps

    def drawn() -> Iterator[np.ndarray]:
        if asked.codes is not None:
            yield frames_of(asked.codes, runtime)
        frame: list[int] = []
        for codes_B in sample_steps(lm, [asked.ids], config):
            if codes_B[0] < 0:
                continue  # it only read
            frame.append(int(codes_B[0]))
            if len(frame) == runtime.identity.num_codebooks:
                yield frames_of(frame, runtime)
                frame = []

    if with_header:
        out.write(wav_header(runtime.identity.sample_rate))
    for block in runtime.decode_stream(drawn(), chunk_seconds=STREAM_SECONDS):
        out.write(pcm16(block))
        out.flush()


def wav_header(sample_rate: int) -> bytes:
    """Header of a mono 16-bit WAV whose length is not known yet, as streaming players expect it."""
    unknown = 0xFFFFFFFF
    head = struct.pack(
        "<4sI4s4sIHHIIHH", b"RIFF", unknown, b"WAVE", b"fmt ", 16, 1, 1, sample_rate, 2 * sample_rate, 2, 16
    )
    return head + struct.pack("<4sI", b"data", unknown)


def pcm16(wav: np.ndarray) -> bytes:
    """Samples in [-1, 1] -> 16-bit little-endian."""
    return (np.clip(wav, -1.0, 1.0) * 32767.0).round().astype("<i2").tobytes()


def export(lm: str, output: str, dtype: Literal["fp32", "bf16"] = "bf16") -> None:
    """Write a token LM as a plain Hugging Face folder: weights merged, tokenizer, README; nothing of ours is needed.

    Args:
        lm: folder of `llmcodec lm train`, or a hub id.
        output: new folder.
        dtype: precision of the written weights.
    """
    from llmcodec.lm.export import check_layout, export_token_lm

    folder = export_token_lm(lm, output, dtype)
    facts = check_layout(folder)
    tied = "tied" if facts["tied"] else "untied"
    print(f"{folder}: {facts['architecture']}, {facts['vocab_size']} tokens, {tied} rows, {facts['tensors']} tensors")


def codec_of(lm: TokenLM, codec: str | None, device: str = "cpu") -> Runtime:
    """The codec that an LM speaks, by its card or as named.

    Raises:
        ValueError: no name anywhere, or a codec with other weights than the LM was trained with.
    """
    from llmcodec.runtime.opening import open_runtime

    card = lm.card.codec
    if codec is None and card is None:
        raise ValueError("this LM does not say which codec it speaks: name it with --codec")
    runtime = open_runtime(codec or card.codec, device=device)  # type: ignore[union-attr]
    check_codec(lm, runtime.identity.provenance(), codec or runtime.identity.name)
    return runtime


def check_codec(lm: TokenLM, provenance: TokenProvenance, where: str) -> None:
    """Refuse tokens of another codec than the LM's."""
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
    import torch

    shift = np.arange(runtime.identity.num_codebooks)[:, None] * runtime.identity.codebook_size
    return [torch.from_numpy((codes + shift).T.reshape(-1)) for codes in runtime.encode_batch(wavs)]


def frames_of(codes: Tensor | Sequence[int], runtime: Runtime) -> np.ndarray:
    """Flattened codes -> (Q, T) int64."""
    from llmcodec.io.token_text import frames

    row = [int(code) for code in codes]
    return np.asarray(frames(row, runtime.identity.num_codebooks, runtime.identity.codebook_size), dtype=np.int64)
