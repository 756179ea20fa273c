"""`llmcodec encode`, `decode`, `reconstruct`: files, folders or standard input through a codec.

Nothing here imports torch before a torch codec is opened, so `--runtime onnx` never does.
Test: tests/transcode/test_command.py, tests/transcode/test_bad_input.py.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from llmcodec.io.audio import MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from llmcodec.io.token_file import TokenProvenance, read_token_facts
from llmcodec.io.token_shards import SHARD_ENDINGS, ShardFormat, TokenRow, TokenShardWriter, open_token_shards
from llmcodec.io.token_text import frames, parse_codec_text
from llmcodec.runtime.base import CodecIdentity
from llmcodec.runtime.opening import Precision, RuntimeName
from llmcodec.transcode.inputs import AUDIO_ENDINGS, STANDARD_STREAM, TOKEN_ENDINGS, Found, Problem, find_inputs
from llmcodec.transcode.outputs import plan_outputs
from llmcodec.transcode.pipeline import Item, Report
from llmcodec.transcode.session import Options, run_work
from llmcodec.transcode.standard_streams import StandardStreams
from llmcodec.transcode.work import DecodeWork, EncodeWork, ReconstructWork

WAVE_ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
TOKEN_FILE = ".safetensors"

Channels = Literal["mix", "split"]
AudioFormat = Literal["wav", "flac", "ogg", "opus", "mp3"]


def encode(
    inputs: list[str],
    output: str | None = None,
    codec: str = "bundled",
    channels: Channels = "mix",
    format: Literal["safetensors", "arrow", "parquet"] = "safetensors",
    runtime: RuntimeName = "torch",
    device: str = "auto",
    precision: Precision = "auto",
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    batch_seconds: float = 64.0,
    long_seconds: float = 60.0,
) -> None:
    """Audio to tokens: wav, flac, ogg, opus, mp3 and more, any sample rate, any length.

    Example: llmcodec encode speech/ -o tokens/

    Args:
        inputs: files, folders (their tree is kept), or - for standard input.
        output: folder, file (.safetensors), or - for standard output; one file alone may do without.
        codec: bundled, a folder, or a Hugging Face hub id.
        channels: mix codes the mean of all channels, split codes every channel by itself.
        format: safetensors makes one file per clip, arrow and parquet a folder of shards for a corpus (need pyarrow).
        runtime: torch, or onnx for a folder that `llmcodec export --format onnx` wrote.
        device: auto takes a GPU where there is one; or cpu, cuda, cuda:1, mps.
        precision: auto takes the fastest that keeps the tokens; fp32 is exact.
        resume: keep finished results and do the rest.
        overwrite: replace results that are there.
        workers: threads that read and write files; 0 takes the number of cores, at most 8.
        batch_seconds: padded seconds of audio in one batch; less needs less memory.
        long_seconds: longer files are coded piece by piece in constant memory.
    """
    options = Options(codec, runtime, device, precision, resume, overwrite, workers, batch_seconds, long_seconds)
    with StandardStreams(inputs, output, TOKEN_FILE) as streams:
        found, problems = find_inputs(streams.inputs, AUDIO_ENDINGS, streams.folder)
        report = Report(failed=problems)
        if format != "safetensors":
            _encode_corpus(found, report, channels, format, options, streams)
            return
        items = _items(found, plan_outputs(found, streams.output, (TOKEN_FILE,)))
        options.pending(items, Report())  # refuses before the codec is loaded
        opened = options.open("encoder")
        pending = options.pending(items, report, lambda item: _same_codec(item, opened.identity))
        run_work(EncodeWork(opened, channels == "split"), pending, report, options, streams, ("encoding", "encoded"))


def decode(
    inputs: list[str] | None = None,
    output: str | None = None,
    text: str | None = None,
    codec: str = "bundled",
    sample_rate: int | None = None,
    format: AudioFormat | None = None,
    runtime: RuntimeName = "torch",
    device: str = "auto",
    precision: Precision = "auto",
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    batch_seconds: float = 64.0,
    long_seconds: float = 60.0,
) -> None:
    """Tokens back to audio, at the sample rate and length of the recording that was encoded.

    Example: llmcodec decode tokens/ -o again/

    Args:
        inputs: token files (.safetensors), shards (.arrow, .parquet), folders of them, or - for standard input.
        output: folder, file (.wav, .flac, .ogg, .opus, .mp3), or - for standard output; one file alone may do without.
        text: instead of inputs, tokens as text, <CODEC_17><CODEC_4>..., as a language model prints them; - reads them
            from standard input. Other text is left out, stretches of tokens are joined.
        codec: bundled, a folder, or a Hugging Face hub id; must be the one that made the tokens.
        sample_rate: of the result in Hz; default: that of the recording, and for text that of the codec.
        format: of the result; default: wav, or what the ending of the output says.
        runtime: torch, or onnx for a folder that `llmcodec export --format onnx` wrote.
        device: auto takes a GPU where there is one; or cpu, cuda, cuda:1, mps.
        precision: auto takes the fastest that keeps the sound; fp32 is exact.
        resume: keep finished results and do the rest.
        overwrite: replace results that are there.
        workers: threads that read and write files; 0 takes the number of cores, at most 8.
        batch_seconds: padded seconds of audio in one batch; less needs less memory.
        long_seconds: longer clips are decoded piece by piece in constant memory.
    """
    options = Options(codec, runtime, device, precision, resume, overwrite, workers, batch_seconds, long_seconds)
    _check_rate(sample_rate)
    if (text is None) == (not inputs):
        raise ValueError("name token files to decode, or give --text, one of the two")
    with StandardStreams(inputs or [], output, f".{format or 'wav'}") as streams:
        report, ending = Report(), f".{format}" if format else None
        if text is not None:
            if streams.output is None:
                raise ValueError("--text needs --output: a file, or - for standard output")
            found = [Found(Path("text"), Path("text"))]
        else:
            found, report.failed = find_inputs(streams.inputs, TOKEN_ENDINGS, streams.folder)
        found, rows = _with_rows(found, report.failed)
        items = _items(found, plan_outputs(found, streams.output, WAVE_ENDINGS, ending, ".decoded"))
        options.pending(items, Report())
        opened = options.open("decoder")
        if text is not None:
            text = sys.stdin.read() if text == STANDARD_STREAM else text
            rows = [(_row_of_text(text, opened.identity), opened.identity.provenance())]
        for item, row in zip(items, rows, strict=True):
            item.header = row
        pending = options.pending(items, report)
        run_work(DecodeWork(opened, sample_rate), pending, report, options, streams, ("decoding", "decoded"))


def reconstruct(
    inputs: list[str],
    output: str | None = None,
    codec: str = "bundled",
    channels: Channels = "mix",
    sample_rate: int | None = None,
    format: AudioFormat | None = None,
    runtime: RuntimeName = "torch",
    device: str = "auto",
    precision: Precision = "auto",
    resume: bool = False,
    overwrite: bool = False,
    workers: int = 0,
    batch_seconds: float = 64.0,
    long_seconds: float = 60.0,
) -> None:
    """Audio through the codec and back, to hear what it keeps.

    Example: llmcodec reconstruct speech.flac -o again.wav --codec facebook/encodec_24khz

    Args:
        inputs: files, folders (their tree is kept), or - for standard input.
        output: folder, file (.wav, .flac, .ogg, .opus, .mp3), or - for standard output; one file alone may do without.
        codec: bundled, a folder, or a Hugging Face hub id.
        channels: mix codes the mean of all channels, split codes every channel by itself.
        sample_rate: of the result in Hz; default: that of the recording.
        format: of the result; default: wav, or what the ending of the output says.
        runtime: torch, or onnx for a folder that `llmcodec export --format onnx` wrote.
        device: auto takes a GPU where there is one; or cpu, cuda, cuda:1, mps.
        precision: auto takes the fastest that keeps the tokens; fp32 is exact.
        resume: keep finished results and do the rest.
        overwrite: replace results that are there.
        workers: threads that read and write files; 0 takes the number of cores, at most 8.
        batch_seconds: padded seconds of audio in one batch; less needs less memory.
        long_seconds: longer files are coded piece by piece in constant memory.
    """
    options = Options(codec, runtime, device, precision, resume, overwrite, workers, batch_seconds, long_seconds)
    _check_rate(sample_rate)
    with StandardStreams(inputs, output, f".{format or 'wav'}") as streams:
        found, problems = find_inputs(streams.inputs, AUDIO_ENDINGS, streams.folder)
        report, ending = Report(failed=problems), f".{format}" if format else None
        items = _items(found, plan_outputs(found, streams.output, WAVE_ENDINGS, ending, ".reconstructed"))
        options.pending(items, Report())
        opened = options.open()
        pending = options.pending(items, report)
        work = ReconstructWork(opened, channels == "split", sample_rate)
        run_work(work, pending, report, options, streams, ("reconstructing", "reconstructed"))


def _encode_corpus(
    found: Sequence[Found],
    report: Report,
    channels: Channels,
    format: ShardFormat,
    options: Options,
    streams: StandardStreams,
) -> None:
    """All inputs into one folder of shards, named by their paths."""
    if streams.output is None or streams.writes_output:
        raise ValueError(f"--format {format} writes a folder of shards; name it with --output")
    if options.overwrite:
        raise ValueError(
            f"--format {format} adds to a folder or starts a new one; delete the folder instead of --overwrite"
        )
    items = _items(found, [None] * len(found))
    first: dict[str, Item] = {}
    for item in items:
        if (other := first.setdefault(item.name, item)) is not item:
            raise ValueError(f"{other.label} and {item.label} would both have the id {item.name!r}; name their folder")
    opened = options.open("encoder")
    provenance = opened.identity.provenance()
    with TokenShardWriter(streams.output, provenance, resume=options.resume, format=format) as shards:
        pending = [item for item in items if item.name not in shards.done]
        report.skipped = len(items) - len(pending)
        work = EncodeWork(opened, channels == "split", shards)
        run_work(work, pending, report, options, streams, ("encoding", "encoded"))


def _items(found: Sequence[Found], targets: Sequence[Path | None]) -> list[Item]:
    return [
        Item(one.source, target, str(one.source), one.relative.with_suffix("").as_posix())
        for one, target in zip(found, targets, strict=True)
    ]


def _with_rows(
    found: Sequence[Found], problems: list[Problem]
) -> tuple[list[Found], list[tuple[TokenRow, TokenProvenance] | None]]:
    """Every row of a shard as an input of its own, with the shard's provenance; everything else as it is."""
    inputs: list[Found] = []
    rows: list[tuple[TokenRow, TokenProvenance] | None] = []
    for one in found:
        if one.source.suffix.lower() not in SHARD_ENDINGS:
            inputs.append(one)
            rows.append(None)
            continue
        try:
            provenance, clips = open_token_shards(one.source)
            for row in clips:
                inputs.append(Found(one.source, Path(f"{row.id}{one.source.suffix}"), from_folder=True))
                rows.append((row, provenance))
        except ValueError as error:
            problems.append(Problem(str(one.source), str(error)))
    return inputs, rows


def _row_of_text(text: str, identity: CodecIdentity) -> TokenRow:
    """Tokens as text -> one clip, stretches joined."""
    stretches = parse_codec_text(text, identity.num_codebooks * identity.codebook_size)
    codes = [np.array(frames(one, identity.num_codebooks, identity.codebook_size)) for one in stretches]
    codes_QT = np.concatenate(codes, axis=1)
    return TokenRow(codes_QT[None], num_samples=codes_QT.shape[1] * identity.hop_samples, id="text")


def _same_codec(item: Item, identity: CodecIdentity) -> None:
    """A result that is kept must be of the codec that makes the others."""
    assert item.target is not None
    identity.refuse_others(read_token_facts(item.target)[1], item.target)


def _check_rate(sample_rate: int | None) -> None:
    if sample_rate is not None and not MIN_SAMPLE_RATE <= sample_rate <= MAX_SAMPLE_RATE:
        raise ValueError(f"--sample_rate {sample_rate} Hz cannot be right; 8000 to 192000 are usual")
