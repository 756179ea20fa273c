"""`llmcodec codecs`; `export`, `convert`, `prior`: a codec becomes another folder; `verify` checks what we wrote.

Test: tests/runtime/test_export.py, tests/adapters/test_convert.py, tests/transcode/test_prior.py,
tests/cli/test_verify.py.
"""

from __future__ import annotations

from llmcodec.adapters import catalogue
from llmcodec.adapters.convert import convert
from llmcodec.cli.options import ClipOptions, DeviceOptions
from llmcodec.cli.summary import Failed, FilesBar
from llmcodec.runtime.export import export_codec
from llmcodec.transcode.prior import write_prior

__all__ = ["convert", "export_codec", "list_codecs", "prior", "verify"]


def list_codecs(like: str | None = None) -> str:
    """List codecs by name: origin of their weights, rates, licence, and their state on this machine.

      llmcodec codecs --like wavtokenizer

    States: `works offline` (the weights are here), `needs the hub` (they can be fetched, or converted from a file that
    can), `random only` (--codec random:NAME, for speed and tests).

    Args:
        like: only those with this text in their name or origin; null lists all, and what is not available.
    """
    lines = [("name", "state", "Hz", "frames/s", "tokens", "bit/s", "licence", "weights")]
    wanted = (like or "").lower()
    for entry in catalogue.ENTRIES:
        if wanted not in f"{entry.title} {entry.name} {entry.weights}".lower():
            continue
        missing = catalogue.missing_package(entry)
        state = f"{catalogue.state_of(entry, catalogue.is_cached)}{f', pip install {missing}' if missing else ''}"
        rates = (
            f"{entry.sample_rate:,}",
            f"{entry.frame_rate:.3g}",
            f"{entry.num_codebooks}" if entry.has_tokens else "-",
        )
        bits = f"{entry.nominal_bits_per_second:,.0f}"
        lines.append((entry.name, state, *rates, bits, entry.licence, catalogue.origin_of(entry)))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    table = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    absent = [f"  {name}: {reason}" for name, reason in catalogue.UNAVAILABLE.items()]
    if len(lines) == 1:
        raise ValueError(f"codecs: none like {like!r}; `llmcodec codecs` lists all")
    return "\n".join(table if like else [*table, "", "not available:", *absent])


def prior(
    codec: str,
    output: str,
    corpus: ClipOptions = ClipOptions(split=("train",), min_seconds=0.0),
    folds: int = 10,
    rounds: int = 1,
    overwrite: bool = False,
    device: DeviceOptions = DeviceOptions(),
) -> str:
    """Write a copy of a codec with the counts that rate-aware encoding needs; `--codec search:OUTPUT` then searches.

    The counts know their clips: one that is searched later is searched by the counts of others. A clip that cannot be
    read stops it; with --max-bad it is named and left out.

      llmcodec prior runs/rate -o searched --manifest corpus/manifest.jsonl

    Args:
        codec: bundled, a folder, or a Hugging Face hub id of an llmcodec codec.
        output: folder to write; it appears under this name when it is complete.
        corpus: whose codes are counted.
        manifest: JSONL manifest of speech like that to be encoded (ten minutes help, hours are better); bundled is the
            corpus in the package.
        split: count these splits, joined by commas; null takes all clips.
        folds: parts that the clips are counted in; a clip is searched by the parts that it is not in.
        rounds: 1 counts nearest codes. Each further round searches all clips, every fold by its own counts, and counts
            what search finds; it takes the time of encoding them by search. Take few folds then, so that each has
            counts enough (2, or --folds 4 for hours of speech).
        overwrite: write into a folder that is not empty.
    """
    with FilesBar("counting") as bar:
        found = write_prior(
            codec,
            output,
            corpus.clips(),
            folds=folds,
            rounds=rounds,
            device=device.torch_device(),
            overwrite=overwrite,
            watcher=bar,
            max_bad=corpus.max_bad,
        )
    lines = [f"left out: {line}" for line in found.unreadable]
    if found.unreadable:
        lines.append(f"{len(found.unreadable)} clips could not be read and are not counted")
    counted = f"{found.num_pairs:,} pairs of codes from {found.num_clips:,} clips"
    return "\n".join([*lines, f"{output}: {counted}; use it with --codec search:{output}"])


def verify(inputs: list[str], write_digests: bool = False) -> None:
    """Check files and folders that llmcodec wrote; prints a line for each file, codec, language model, ...

    Weights are compared with the digests that were stored when they were saved; a tensor that differs is named. The
    exit code is 1 if anything is damaged.

      llmcodec verify runs/rate
      llmcodec verify old-codec --write-digests

    Args:
        inputs: codec, LM, adapter, ONNX or run folders, checkpoints, token files, shards, or folders of them.
        write_digests: first store the digests of the current weights, for folders of llmcodec 0.1 or after another
            program has changed them.
    """
    from llmcodec.experiments.verification import note_digests
    from llmcodec.experiments.verification import verify as verify_place

    if write_digests:
        for place in inputs:
            note_digests(place)
    damaged = []
    for place in inputs:
        for finding in verify_place(place):
            print(finding, flush=True)
            damaged += [finding.path] if finding.is_damaged else []
    if damaged:
        raise Failed(f"{len(damaged)} damaged: {', '.join(map(str, damaged[:5]))}{', ...' if damaged[5:] else ''}")
