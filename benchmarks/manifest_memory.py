"""Memory and time of a manifest of very many clips: opening it, the order of training, batches of audio, tokenizing.

    python benchmarks/manifest_memory.py --rows 10000000 --folder /tmp/many
    python benchmarks/manifest_memory.py --rows 400000 --folder /tmp/few --jsonl    # with its index

makes a synthetic manifest as an Arrow table (every clip is a stretch of one of 100 short recordings) and then, in a
fresh process each, does what `llmcodec train`, `llmcodec tokenize --shard` and `llmcodec tokenize` do before they
compute; the last one with a codec that does nothing, up to its first 2,000 clips, and again when the shards hold all
clips but these. Private memory is RssAnon of the process at its highest, sampled every 20 ms: mapped pages of files are
not in it.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from llmcodec.data.manifest import (
    Clip,
    durations_of,
    find_blocks,
    find_missing,
    manifest_hash,
    read_manifest,
    write_manifest,
)
from llmcodec.io import audio
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.token_file import TokenProvenance
from llmcodec.io.token_shards import TokenRow, TokenShardWriter
from llmcodec.transcode.sharding import Shard
from llmcodec.transcode.tokenize import TokenJob

FILES, SECONDS = 100, 4.0
LEFT = 2000
"""Clips that `tokenize` encodes."""


class NoCodec:
    """A runtime whose codes are zeros, until it has seen LEFT clips."""

    identity = TokenProvenance("none", "0" * 64, 16_000, 16_000, 1, 256)
    seen = 0

    def encode_batch(self, wavs: list[np.ndarray]) -> list[np.ndarray]:
        self.seen += len(wavs)
        if self.seen > LEFT:
            raise KeyboardInterrupt
        return [np.zeros((1, -(-len(wav) // 16_000)), np.int64) for wav in wavs]


def rows_from(first: int, stop: int) -> Iterator[Clip]:
    for row in range(first, stop):
        yield Clip(
            f"corpus/{row % 977:03d}/{row:09d}",
            f"audio/{row % FILES:03d}.flac",
            1 + row % 2971 / 1000,
            f"the transcript of the recording with the number {row}",
            f"speaker{row % 5003}",
            "en",
            "synthetic",
            split="train" if row % 50 else "valid",
            start=0.0,
        )


def write_corpus(folder: Path, rows: int, as_jsonl: bool) -> Path:
    """The recordings and the manifest."""
    manifest = folder / f"manifest_{rows}.{'jsonl' if as_jsonl else 'arrow'}"
    if manifest.is_file():
        return manifest
    noise = np.random.default_rng(0)
    for number in range(FILES):
        audio.write(folder / f"audio/{number:03d}.flac", noise.normal(0, 0.1, 64_000).astype(np.float32), 16_000)
    steps = Steps()
    steps(f"writing {manifest.name}", lambda: write_manifest(manifest, rows_from(0, rows)))
    return manifest


def private_megabytes() -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon:")) / 1024


class Steps:
    """Prints time and highest private memory of steps, one after the other."""

    def __init__(self) -> None:
        self.highest, self._done = private_megabytes(), threading.Event()
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while not self._done.wait(0.02):
            self.highest = max(self.highest, private_megabytes())

    def __call__(self, name: str, step: Callable[[], object]) -> object:
        self.highest, started = private_megabytes(), time.monotonic()
        result = step()
        seconds = time.monotonic() - started
        time.sleep(0.03)
        print(f"| {name} | {seconds:.1f} | {self.highest:.0f} |", flush=True)
        return result


def index(manifest: str) -> None:
    steps = Steps()
    steps("first reading: the index", lambda: read_manifest(manifest))


def train(manifest: str) -> None:
    steps = Steps()
    from llmcodec.data.clips import ClipDataset  # imports torch
    from llmcodec.data.loader import ClipLoader
    from llmcodec.data.sampler import ResumableSampler

    clips = steps("imports (torch)", lambda: None)
    clips = steps(
        "open, filter by split and seconds",
        lambda: read_manifest(manifest, "train", languages=["en"], min_seconds=1.1, max_seconds=3.9),
    )
    bad = BadRows("1%", len(clips))
    print(f"{len(clips):,} clips after the filters", flush=True)
    dataset = steps("data set", lambda: ClipDataset(clips, 16_000, bad=bad))
    sampler = ResumableSampler(dataset.durations, batch_clips=32, seed=1, bucket_batches=8, blocks=find_blocks(clips))
    loader = ClipLoader(dataset, sampler, prefetch=2)
    steps("first batch of 32 clips", lambda: next(loader))
    steps("next 20 batches", lambda: [next(loader) for _ in range(20)])
    steps("look for missing files", lambda: find_missing(clips, bad))
    steps("digest of the manifest for run.json", lambda: manifest_hash(clips))


def shard(manifest: str) -> None:
    steps = Steps()

    def plan() -> int:
        clips = read_manifest(manifest, min_seconds=0.5)
        span = Shard.read("37/100").span((durations_of(clips) * 1000).round().astype(np.int64))
        return len(list(clips[span.start : span.stop]))

    print(f"{steps('one of 100 shards: its clips', plan):,} clips in the shard")


def begin(manifest: str, title: str) -> None:
    """`llmcodec tokenize` until it encodes no more."""
    steps = Steps()
    clips = steps("open", lambda: read_manifest(manifest))
    job = steps("digest of the manifest", lambda: TokenJob.of(NoCodec(), clips, by_split=False, clips_per_shard=1000))

    def run() -> None:
        with suppress(KeyboardInterrupt):
            job.run(Path(manifest).with_suffix(".tokens"))

    steps(title, run)


def tokenize(manifest: str) -> None:
    folder = Path(manifest).with_suffix(".tokens")
    shutil.rmtree(folder, ignore_errors=True)
    begin(manifest, f"tokenize: up to clip {LEFT:,}")
    shutil.rmtree(folder)
    with TokenShardWriter(folder, NoCodec.identity, clips_per_shard=10_000) as shards:
        for clip in read_manifest(manifest)[LEFT:]:
            length = round(16_000 * clip.duration)
            shards.add(TokenRow(np.zeros((1, 1, -(-length // 16_000)), np.int64), length, 0, 0, 1, clip.id, clip.text))


def resume(manifest: str) -> None:
    begin(manifest, "tokenize again: all but these are in shards")


PARTS = {"index": index, "shard": shard, "tokenize": tokenize, "resume": resume, "train": train}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/manifest_memory"))
    parser.add_argument("--jsonl", action="store_true")
    parser.add_argument("--part", choices=tuple(PARTS))
    options = parser.parse_args()
    if not options.part:
        print("| step | s | private MB |\n|---|---|---|", flush=True)
    manifest = write_corpus(options.folder, options.rows, options.jsonl)
    if options.part:
        PARTS[options.part](str(manifest))
        return
    print(f"{manifest}: {options.rows:,} rows, {manifest.stat().st_size / 1e9:.2f} GB", flush=True)
    command = [sys.executable, __file__, "--rows", str(options.rows), "--folder", str(options.folder)]
    for part in (part for part in PARTS if part != "index" or options.jsonl):
        subprocess.run([*command, *["--jsonl"] * options.jsonl, "--part", part], check=True)


if __name__ == "__main__":
    main()
