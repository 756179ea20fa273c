"""`llmcodec encode`, `decode`, `reconstruct`: files, folders or standard input through a codec.

Nothing here imports torch before a torch codec is opened, so a codec that runs by ONNX never does.
Test: tests/cli/test_transcode.py, tests/cli/test_bad_input.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Literal

from llmcodec.cli.options import CodecOptions, OptionGroup, ResumeOptions
from llmcodec.cli.standard_streams import STANDARD_STREAM, Streams, read_text, standard_streams
from llmcodec.cli.summary import FilesBar, summarise
from llmcodec.io.bad_rows import MaxBad, TooManyBad
from llmcodec.io.remote import StoreError
from llmcodec.io.run_guard import Stopped, stopped_in_order
from llmcodec.precision import Side
from llmcodec.runtime.base import Runtime
from llmcodec.transcode.files import TOKEN_FILE, AudioFormat, Channels, Transcoder
from llmcodec.transcode.inputs import Problem
from llmcodec.transcode.pipeline import Report
from llmcodec.transcode.sharding import Shard


@dataclass(frozen=True)
class CodingOptions(OptionGroup):
    """How commands process many files."""

    workers: int = 0
    """Threads that read and write files; 0 takes the number of cores, at most 8."""
    batch_seconds: float = 64.0
    """Padded seconds of audio in one batch; less needs less memory."""
    long_seconds: float = 60.0
    """Longer files are coded piece by piece in constant memory."""
    max_bad: MaxBad = "100%"
    """Limit of failing files, e.g. 20 or 1%; one more stops the run. Any failed file gives exit code 1."""


def encode(
    inputs: list[str],
    output: ResumeOptions = ResumeOptions(),
    codec: CodecOptions = CodecOptions(),
    coding: CodingOptions = CodingOptions(),
    channels: Channels = "mix",
    format: Literal["safetensors", "arrow", "parquet"] = "safetensors",
    shard: str | None = None,
) -> None:
    """Audio to tokens: wav, flac, ogg, opus, mp3 and more, any sample rate, any length.

      llmcodec encode speech/ -o tokens/

    With --shard, several machines share the work, balanced by duration; `llmcodec tokens merge OUTPUT` puts the parts
    together.

    Args:
        inputs: files, folders (their tree is kept), manifests (.jsonl), Parquet, Arrow, tars or folders of these, whose
            clips are named by their ids, here or at a URL (s3://, gs://, hf://), or - for standard input.
        output: folder, file (.safetensors), or - for standard output; optional for one file.
        codec: bundled, a folder, or a Hugging Face hub id.
        coding: how files are processed.
        channels: mix codes the mean of all channels, split codes every channel by itself.
        format: safetensors makes one file per clip, arrow and parquet a folder of shards for a corpus (need pyarrow).
        shard: take part I/N of the files, counted from 0 (0/8 to 7/8); the same command again goes on with it.
    """
    part = None if shard is None else Shard.read(shard)
    if part is not None and (STANDARD_STREAM in inputs or output.output == STANDARD_STREAM):
        raise ValueError("--shard takes a part of files and folders, not of standard input or output")
    own = {"channels": channels, "shard": part}
    with transcoding("encoding", inputs, TOKEN_FILE, output, codec, coding, **own) as (transcoder, files):
        if format == "safetensors":
            transcoder.encode(files.inputs)
        elif files.writes_output:
            raise ValueError(f"--format {format} writes a folder of shards; name it with --output")
        else:
            transcoder.encode_corpus(files.inputs, format)


def decode(
    inputs: list[str] | None = None,
    output: ResumeOptions = ResumeOptions(),
    codec: CodecOptions = CodecOptions(),
    coding: CodingOptions = CodingOptions(),
    text: str | None = None,
    sample_rate: int | None = None,
    format: AudioFormat | None = None,
) -> None:
    """Tokens back to audio, at the sample rate and length of the recording that was encoded.

      llmcodec decode tokens/ -o again/

    Args:
        inputs: token files (.safetensors), shards (.arrow, .parquet), folders of them, or - for standard input.
        output: folder, file (.wav, .flac, .ogg, .opus, .mp3), or - for standard output; optional for one file.
        codec: bundled, a folder, or a Hugging Face hub id; must be the one that made the tokens.
        coding: how files are processed.
        text: instead of inputs, tokens as text, <CODEC_17><CODEC_4>..., as a language model prints them; - reads them
            from standard input. Other text is ignored, runs of tokens are joined.
        sample_rate: of the result in Hz; default: that of the recording, and for text that of the codec.
        format: of the result; default: by the ending of the output, else wav.
    """
    if (text is None) == (not inputs):
        raise ValueError("name token files to decode, or give --text, one of the two")
    given, audio = inputs or [], {"sample_rate": sample_rate, "format": format}
    with transcoding("decoding", given, f".{format or 'wav'}", output, codec, coding, **audio) as (transcoder, files):
        if text is None:
            transcoder.decode(files.inputs)
        else:
            transcoder.decode_text(read_text() if text == STANDARD_STREAM else text)


def reconstruct(
    inputs: list[str],
    output: ResumeOptions = ResumeOptions(),
    codec: CodecOptions = CodecOptions(),
    coding: CodingOptions = CodingOptions(),
    channels: Channels = "mix",
    sample_rate: int | None = None,
    format: AudioFormat | None = None,
) -> None:
    """Audio through the codec and back, to hear what it preserves.

      llmcodec reconstruct speech.flac -o again.wav --codec facebook/encodec_24khz

    Args:
        inputs: files, folders (their tree is kept), or - for standard input.
        output: folder, file (.wav, .flac, .ogg, .opus, .mp3), or - for standard output; optional for one file.
        codec: bundled, a folder, or a Hugging Face hub id.
        coding: how files are processed.
        channels: mix codes the mean of all channels, split codes every channel by itself.
        sample_rate: of the result in Hz; default: that of the recording.
        format: of the result; default: by the ending of the output, else wav.
    """
    audio = {"channels": channels, "sample_rate": sample_rate, "format": format}
    with transcoding("reconstructing", inputs, f".{format or 'wav'}", output, codec, coding, **audio) as (
        transcoder,
        files,
    ):
        transcoder.reconstruct(files.inputs)


@contextmanager
def transcoding(
    doing: str,
    inputs: Sequence[str],
    ending: str,
    output: ResumeOptions,
    codec: CodecOptions,
    coding: CodingOptions,
    **settings: Any,
) -> Iterator[tuple[Transcoder, Streams]]:
    """A transcoder with a progress bar, and the paths to give it; prints the summary at the end, also after a signal.

    Args:
        doing: name of the work: `encoding`.
        inputs: as given.
        ending: of a result that goes to standard output.
        output: as given.
        codec: opened once the paths of all results are checked.
        coding: how files are processed.
        settings: further ones of the transcoder.

    Raises:
        Failed: some files failed. TooManyBad: more than --max-bad. OSError: disk full. Stopped: by a signal.
        StoreError: the store fails.
    """
    report, done, opened = Report(), doing.removesuffix("ing") + "ed", list[Runtime]()

    def open_codec(side: Side | None) -> Runtime:
        opened.append(codec.open(side, coding.batch_seconds))
        return opened[-1]

    def ran_by() -> str:
        return getattr(opened[-1], "ran_by", "") if opened else ""

    with standard_streams(inputs, output.output, ending) as files:
        settings |= {"output": files.output, "resume": output.resume, "overwrite": output.overwrite, **vars(coding)}
        settings |= {"settings": {"precision": codec.precision, "runtime": codec.runtime}}
        try:
            with stopped_in_order("files listed as done are complete, --resume continues"), FilesBar(doing) as bar:
                one = Transcoder(open_codec, **settings, watcher=bar, report=report)
                yield one, files
        except (Stopped, TooManyBad, StoreError):
            with suppress(OSError):  # the terminal may be gone
                summarise(report, done, place_of(files, report), ran_by(), stopped=True)
            raise
        report.failed[:] = [Problem(files.readable(one.label), files.readable(one.reason)) for one in report.failed]
        report.warned[:] = [files.readable(one) for one in report.warned]
        summarise(report, done, place_of(files, report), ran_by())


def place_of(files: Streams, report: Report) -> str:
    """Where results went, for the summary."""
    return "standard output" if files.writes_output else files.output or str(report.first_target or "nothing")
