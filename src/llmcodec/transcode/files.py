"""Files and folders through a codec: audio to token files or shards, tokens to audio, audio there and back.

    report = Transcoder(lambda side: open_runtime("bundled", only=side)).encode(["speech/"], "tokens/")

Existing results are rejected, kept or replaced before the codec is opened. Imports no torch.
Test: tests/transcode/test_files.py, tests/cli/test_transcode.py.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from llmcodec.data.sources import is_source
from llmcodec.io import audio
from llmcodec.io.audio import AUDIO_ENDINGS, MAX_SAMPLE_RATE, MIN_SAMPLE_RATE
from llmcodec.io.bad_rows import MaxBad, read_max_bad
from llmcodec.io.digests import digest_all
from llmcodec.io.token_file import (
    TokenProvenance,
    difference_of_search,
    load_token_file,
    read_token_facts,
    search_of,
)
from llmcodec.io.token_shards import ShardFormat, TokenRow, TokenShardWriter
from llmcodec.io.token_text import frames, parse_codec_text
from llmcodec.precision import Side
from llmcodec.runtime.base import Runtime
from llmcodec.transcode.freshness import audio_of, count_frames, why_stale_audio, why_stale_row, why_stale_tokens
from llmcodec.transcode.index import (
    HERE,
    Plan,
    begin_shards,
    describe_shards,
    refuse_other_settings,
    row_digest,
    row_of_file,
    write_index,
)
from llmcodec.transcode.inputs import TOKEN_ENDINGS, Found, expand_shards, find_clips, find_inputs
from llmcodec.transcode.outputs import plan_outputs, recorded, refuse_existing, refuse_other_ways, remove_left_overs
from llmcodec.transcode.pipeline import Item, Pipeline, Report, Watcher
from llmcodec.transcode.sharding import Part, Shard, in_milliseconds, is_merged, merged_line, refuse_parts
from llmcodec.transcode.work import DecodeWork, EncodeWork, ReconstructWork

WAVE_ENDINGS = (".wav", ".flac", ".ogg", ".opus", ".mp3")
TOKEN_FILE, ENCODED = ".safetensors", ".encoded.json"
CLIPS = 1000
"""Clips in a shard of `encode --format arrow`."""

Channels = Literal["mix", "split"]
AudioFormat = Literal["wav", "flac", "ogg", "opus", "mp3"]
Work = EncodeWork | DecodeWork | ReconstructWork


@dataclass
class Transcoder:
    """One run over files and folders. Every method fills and returns `report`, which lists the files that failed.

    Args:
        open_codec: opens the codec for one side (None: for both), once the paths of all results are checked.
        output: folder or file for the results; None writes next to a single input.
        channels: of audio that is read; mix codes the mean of all channels, split codes every channel by itself.
        sample_rate: of audio that is written, in Hz; None takes that of each recording.
        format: of audio that is written; None takes that of the output's ending, else wav.
        resume: keep finished results and do the rest.
        overwrite: replace existing results.
        workers: threads that read and write files; 0 takes the number of cores, at most 8.
        batch_seconds: padded seconds of audio in one batch.
        long_seconds: longer files are coded piece by piece in constant memory.
        watcher: receives progress.
        report: what has been done so far, also after Ctrl-C.
        max_bad: files that may fail; one more stops the run.
        shard: what `encode` and `encode_corpus` take of the files, into a part of the output; implies `resume`.
        settings: further ones that decide the results; those of other settings are neither merged nor resumed.

    Raises:
        ValueError: invalid settings; every method: problems that prevent the whole run.
    """

    open_codec: Callable[[Side | None], Runtime]
    output: str | None = None
    channels: Channels = "mix"
    sample_rate: int | None = None
    format: AudioFormat | None = None
    resume: bool = False
    overwrite: bool = False
    workers: int = 0
    batch_seconds: float = 64.0
    long_seconds: float = 60.0
    watcher: Watcher = field(default_factory=Watcher)
    report: Report = field(default_factory=Report)
    max_bad: MaxBad = "100%"
    shard: Shard | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        read_max_bad(self.max_bad)
        if self.sample_rate is not None and not MIN_SAMPLE_RATE <= self.sample_rate <= MAX_SAMPLE_RATE:
            raise ValueError(f"--sample-rate {self.sample_rate} Hz cannot be right; 8000 to 192000 are usual")
        if self.workers < 0:
            raise ValueError(f"--workers must be 0 (automatic) or more, not {self.workers}")
        for name in ("batch_seconds", "long_seconds"):
            if not getattr(self, name) > 0:
                raise ValueError(f"--{name.replace('_', '-')} must be more than 0, not {getattr(self, name)}")

    def encode(self, inputs: Sequence[str]) -> Report:
        """Audio files to token files."""
        items = self._plan(self._find(inputs, AUDIO_ENDINGS), (TOKEN_FILE,))
        if self.output is not None and not self.overwrite and (self.resume or self.shard is not None):
            refuse_other_settings(Path(self.output), self.settings)
            refuse_other_ways(Path(self.output) / ENCODED, self.settings)  # before a part is begun
        if self.shard is not None:
            return self._encode_part(self.shard, items)
        pending, done = self.split_done(items, self._tokens_problem)  # raises before the codec is loaded
        return self._encode(self.open_codec("encoder"), pending, done)

    def _encode(self, runtime: Runtime, pending: Sequence[Item], done: Sequence[Item]) -> Report:
        for item in done:  # kept results must be of the same codec as the new ones
            assert item.target is not None
            theirs = read_token_facts(item.target)[1]
            runtime.identity.refuse_others(theirs, item.target)
            if searched := difference_of_search(runtime.identity.codec, theirs.codec):
                raise ValueError(f"{item.target}: {searched}; name another folder, or --overwrite")
        return self._recorded(EncodeWork(runtime, self.channels == "split"), pending, done, ENCODED, {})

    def encode_corpus(self, inputs: Sequence[str], format: ShardFormat) -> Report:
        """Audio files to one folder of shards, rows named by the paths of the files."""
        if self.output is None:
            raise ValueError(f"--format {format} writes a folder of shards; name it with --output")
        if self.overwrite:
            raise ValueError(
                f"--format {format} adds to a folder or starts a new one; delete the folder instead of --overwrite"
            )
        found = self._find(inputs, AUDIO_ENDINGS)
        items = [item_of(one, None) for one in found]
        first: dict[str, Item] = {}
        for item in items:
            if (other := first.setdefault(item.name, item)) is not item:
                raise ValueError(
                    f"{other.label} and {item.label} would both have the id {item.name!r}; name their folder"
                )
        output, part = Path(self.output), None
        if self.shard is None:
            refuse_parts(output)
        runtime = self.open_codec("encoder")
        plan = self._plan_of(items, runtime, format)
        if self.shard is None and self.resume:
            refuse_other_settings(output, plan.settings)
        if self.shard is not None:
            if is_merged(output, plan):
                self.report.warned.append(merged_line(output))
                return self.report
            part = Part.begin(output, self.shard, plan, self.shard.span(self._milliseconds(items)))
            items = items[part.span.start : part.span.stop]
        place, resume = (output, self.resume) if part is None else (part.folder, True)
        with TokenShardWriter(place, runtime.identity, resume=resume, format=format, clips_per_shard=CLIPS) as shards:
            for one in found:
                before = one.other_result.as_posix()
                if before in shards.done and before not in first:
                    raise ValueError(
                        f"{place}: holds a row {before!r}, but {one.source} has the id {one.result.as_posix()!r} since "
                        "a file that differs by its ending alone has come or gone; rename one, or name another folder"
                    )
            if coded := shards.coded.get("mix" if self.channels == "split" else "split"):
                raise ValueError(
                    f"{place}: {coded!r} there was coded without --channels {self.channels}; name another folder"
                )
            self.report.again += [*shards.damaged, *self._drop_stale(shards, items)]
            pending = [item for item in items if item.name not in shards.done]
            self.report.skipped = len(items) - len(pending)
            others = len(shards.done) - self.report.skipped
            if part is not None and others:
                raise ValueError(f"{place}: holds {others} clips that are not of this part; delete it")
            if part is None:
                begin_shards(output, plan)
            self._run(EncodeWork(runtime, self.channels == "split", shards), pending)
        if part is not None:
            part.finish({HERE: describe_shards(place)}, self._left_out(pending))
        else:
            write_index(place, plan, {HERE: describe_shards(place)}, self._left_out(pending))
        return self.report

    def _encode_part(self, shard: Shard, items: list[Item]) -> Report:
        """The token files of one part; its record names them with the digests of their tokens."""
        if self.output is None:
            raise ValueError("--shard writes a part of a folder; name it with --output")
        runtime = self.open_codec("encoder")
        plan = self._plan_of(items, runtime, "safetensors")
        if is_merged(Path(self.output), plan):
            self.report.warned.append(merged_line(Path(self.output)))
            return self.report
        part = Part.begin(Path(self.output), shard, plan, shard.span(self._milliseconds(items)))
        items = items[part.span.start : part.span.stop]
        self.resume = not self.overwrite
        pending, done = self.split_done(items, self._tokens_problem)
        self._encode(runtime, pending, done)
        left_out = self._left_out(items)
        made = [item for item in items if item.name not in left_out]
        with ThreadPoolExecutor(self.threads) as pool:
            digests = pool.map(lambda item: row_digest(row_of_file(item.target, item.name)[0]), made)
            part.finish({}, left_out, {item.name: digest for item, digest in zip(made, digests, strict=True)})
        return self.report

    def _plan_of(self, items: Sequence[Item], runtime: Runtime, format: str) -> Plan:
        """The plan of all files, in their order."""
        settings = {"command": "encode", "channels": self.channels, "format": format, "clips_per_shard": CLIPS}
        for item in items:
            if (shown := audio.readable_name(item.name)) != item.name:
                raise ValueError(
                    f"{shown}: its name is not UTF-8, so it cannot be the id of its tokens; rename the file"
                )
        names = digest_all(f"{item.name}\n" for item in items)
        return Plan.of(settings | dict(self.settings), runtime.identity, len(items), names)

    def _milliseconds(self, items: Sequence[Item]) -> list[int]:
        """Length of every file by its header; 0 where it cannot be read."""

        def length(item: Item) -> int:
            try:
                return in_milliseconds(audio.info(item.source).seconds)
            except (ValueError, OSError):
                return 0

        with ThreadPoolExecutor(self.threads) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # told when the file is coded
            return list(pool.map(length, items))

    def _left_out(self, items: Sequence[Item]) -> dict[str, str]:
        """Names of the items that failed, with reasons."""
        reasons = {problem.label: problem.reason for problem in self.report.failed}
        return {item.name: reasons[item.label] for item in items if item.label in reasons}

    def decode(self, inputs: Sequence[str]) -> Report:
        """Token files and shards to audio."""
        found, rows = expand_shards(self._find(inputs, TOKEN_ENDINGS), self.report.failed)
        items = self._plan(found, WAVE_ENDINGS, ".decoded")
        for item, row in zip(items, rows, strict=True):
            item.header = row
        pending, done = self.split_done(items, self._decoded_problem)
        work = DecodeWork(self.open_codec("decoder"), self.sample_rate)
        return self._recorded(work, pending, done, ".decoded.json", {})

    def decode_text(self, text: str) -> Report:
        """Tokens as a language model prints them (<CODEC_17><CODEC_4>...) to one clip; other text is ignored."""
        if self.output is None:
            raise ValueError("--text needs --output: a file, or - for standard output")
        pending, _ = self.split_done(self._plan([Found(Path("text"), Path("text"))], WAVE_ENDINGS))
        runtime = self.open_codec("decoder")
        for item in pending:
            item.header = (row_of_text(text, runtime.identity), runtime.identity)
        return self._run(DecodeWork(runtime, self.sample_rate), pending)

    def reconstruct(self, inputs: Sequence[str]) -> Report:
        """Audio through the codec and back."""
        items = self._plan(self._find(inputs, AUDIO_ENDINGS), WAVE_ENDINGS, ".reconstructed")
        pending, done = self.split_done(items, self._reconstructed_problem)
        runtime = self.open_codec(None)
        codec = runtime.identity
        told = {"codec": codec.weights_sha256, "channels": self.channels, "sample_rate": self.sample_rate}
        told |= {"num_codebooks": codec.num_codebooks, "search": search_of(codec.codec)}
        work = ReconstructWork(runtime, self.channels == "split", self.sample_rate)
        return self._recorded(work, pending, done, ".reconstructed.json", told)

    def _find(self, inputs: Sequence[str], endings: Sequence[str]) -> list[Found]:
        sources = [name for name in inputs if endings is AUDIO_ENDINGS and is_source(name)]
        plain = [name for name in inputs if name not in sources]
        avoid = Path(self.output) if self.output is not None else None
        found, problems = find_inputs(plain, endings, leave_out=avoid) if plain or not sources else ([], [])
        for name in sources:
            clips, bad = find_clips(name)
            found, problems = [*found, *clips], [*problems, *bad]
        self.report.failed += problems
        return found

    def _plan(self, found: Sequence[Found], endings: Sequence[str], mark: str = "") -> list[Item]:
        ending = f".{self.format}" if self.format else None
        return list(map(item_of, found, plan_outputs(found, self.output, endings, ending, mark)))

    def split_done(
        self, items: list[Item], problem: Callable[[Item], str] = lambda item: ""
    ) -> tuple[list[Item], list[Item]]:
        """Items still to do, and those that `resume` keeps; raises if results exist without `resume` or `overwrite`.

        Args:
            items: all of them.
            problem: says why a result is stale or damaged and has to be made again; empty if it is complete.
        """
        targets = [item.target for item in items if item.target is not None]
        if not self.resume:
            if not self.overwrite:
                refuse_existing(targets)
            return items, []
        remove_left_overs(targets, own=self.shard is not None)
        there = [item for item in items if is_finished(item)]
        with ThreadPoolExecutor(self.threads) as pool, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # problems of a file are reported when it is coded
            problems = {id(item): found for item, found in zip(there, pool.map(problem, there), strict=True) if found}
        self.report.again += [f"{item.target}: {problems[id(item)]}" for item in there if id(item) in problems]
        done = [item for item in there if id(item) not in problems]
        self.report.skipped = len(done)
        kept = set(map(id, done))
        return [item for item in items if id(item) not in kept], done

    @property
    def threads(self) -> int:
        """Threads that read and write files."""
        return self.workers or min(8, os.cpu_count() or 1)

    def _drop_stale(self, shards: TokenShardWriter, items: Sequence[Item]) -> list[str]:
        """Take rows out of the shards whose file is another by now; a line on every one."""
        stale = {
            item.name: reason
            for item in items
            if (origin := shards.origin(item.name)) and (reason := why_stale_row(item.source, origin))
        }
        shards.drop(stale)
        return [f"{name}: {reason}" for name, reason in stale.items()]

    def _tokens_problem(self, item: Item) -> str:
        """Why tokens are not those of their recording."""
        assert item.target is not None
        return why_stale_tokens(item.source, item.target, self.channels == "split")

    def _decoded_problem(self, item: Item) -> str:
        """Why audio is not that of its tokens."""
        assert item.target is not None
        try:
            clip, provenance = item.header or load_token_file(item.source)
        except (ValueError, OSError):
            return ""  # told when it is its turn, if the result is not kept
        rate, length = audio_of(clip, provenance.sample_rate, self.sample_rate)
        return why_stale_audio(item.source, item.target, rate, length)

    def _reconstructed_problem(self, item: Item) -> str:
        """Why audio is not that of its recording."""
        assert item.target is not None
        try:
            header = audio.info(item.source)
        except ValueError:
            return ""
        rate = self.sample_rate or header.sample_rate
        for length in (header.num_frames, None):  # a header may be wrong
            frames = count_frames(item.source) if length is None else length
            wanted = audio.num_resampled(frames, header.sample_rate, rate)
            if not (reason := why_stale_audio(item.source, item.target, rate, wanted)):
                return ""
        return reason

    def _recorded(
        self, work: Work, pending: Sequence[Item], done: Sequence[Item], name: str, told: Mapping[str, Any]
    ) -> Report:
        """`_run` for a folder of results, with a record there of how they are made."""
        targets = [item.target for item in (*pending, *done) if item.target is not None]
        if self.output is None or Path(self.output) in targets:
            return self._run(work, pending)
        path = Path(self.output) / name
        with recorded(path, {**told, **self.settings}, targets, self.resume, bool(done)):
            return self._run(work, pending)

    def _run(self, work: Work, items: Sequence[Item]) -> Report:
        self.report.first_target = items[0].target if items else None
        self.report.allow(self.max_bad, len(items) + len(self.report.failed) + self.report.skipped)
        settings = (self.watcher, self.threads, self.batch_seconds, self.long_seconds, self.report)
        return Pipeline(work, *settings, work.runtime.coders).run(items)


def item_of(found: Found, target: Path | None) -> Item:
    """The item of an input and its result."""
    return Item(found.source, target, str(found.source), found.result.as_posix())


def is_finished(item: Item) -> bool:
    """Results are written atomically; a power failure may leave an empty file, which does not count."""
    return item.target is not None and item.target.exists() and item.target.stat().st_size > 0


def row_of_text(text: str, identity: TokenProvenance) -> TokenRow:
    """Tokens as text -> one clip; runs of tokens are joined."""
    stretches = parse_codec_text(text, identity.num_codebooks * identity.codebook_size)
    codes = [np.array(frames(one, identity.num_codebooks, identity.codebook_size)) for one in stretches]
    codes_QT = np.concatenate(codes, axis=1)
    return TokenRow(codes_QT[None], num_samples=codes_QT.shape[1] * identity.hop_samples, id="text")
