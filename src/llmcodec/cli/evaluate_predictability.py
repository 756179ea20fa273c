"""`llmcodec evaluate predictability`: how well a language model predicts the tokens of codecs, by one protocol.

Test: `pytest tests/cli/test_evaluate.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from llmcodec.adapters.load import BUNDLED
from llmcodec.cli.requests import (
    HELD_OUT,
    check_names,
    comma,
    fingerprint,
    named_codecs,
    place_of,
    progress_bar,
    settings,
    write_results,
    write_text,
)
from llmcodec.data.manifest import Clip, manifest_hash, read_manifest
from llmcodec.evaluation.predictability import ClipBits, CurvePoint, LikelihoodConfig, PredictabilityResult
from llmcodec.evaluation.predictability import measure_predictability as measure
from llmcodec.evaluation.probe import MINI_PROBE, ProbeConfig, measure_probe
from llmcodec.evaluation.reconstruction import evaluate_reconstruction
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.system import encode_all, nominal_bits_per_second
from llmcodec.evaluation.workers import Journal, job_key
from llmcodec.io.atomic import write_bytes
from llmcodec.lm.ngrams import ngram_bits
from llmcodec.lm.small_lm_training import MINI_LIKELIHOOD
from llmcodec.metrics.token_statistics import code_statistics
from llmcodec.protocol import Codec, HasFeatures
from llmcodec.report.figures import Curve, frontier, to_png
from llmcodec.report.tables import markdown_table, rich_table, to_json
from llmcodec.report.verdict import verdict


def evaluate_predictability_command(
    codec: list[str],
    manifest: str = BUNDLED,
    seeds: int = 1,
    audio_seconds: float | None = None,
    probe: bool = False,
    probe_codes: int | None = None,
    ngrams: bool = True,
    mel: bool = True,
    sources: str | None = None,
    languages: str | None = None,
    min_seconds: float = 0.5,
    workers: int | None = None,
    output: str | None = None,
    device: str = "cpu",
) -> None:
    """Train the same small language model on the tokens of every codec and say how many bits a second of speech costs.

      llmcodec evaluate predictability --codec bundled --seeds 3 -o bits
      llmcodec evaluate predictability --codec bundled --codec mine=runs/rate/codec --manifest corpus --probe -o bits

    The model sees audio tokens alone, from the same seeds, with the same budget in seconds of audio; codecs with
    several codebooks are read token by token. With `-o NAME`: tables, everything as JSON, NAME.frontier.png (Mel
    distance against bits) and NAME.curves.png; codecs that are done are not trained again.

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is what others are compared with.
        manifest: JSONL manifest with splits train, valid, test; `bundled` is the corpus in the package.
        seeds: trainings of the language model per codec, seeds 0, 1, ...
        audio_seconds: training budget in seconds of audio seen; null takes 3,200 for the bundled corpus, else 32,000.
        probe: also the matched probe (P-ACC, P-PPL), for codecs that show their latents.
        probe_codes: codes of the probe; null takes 512 for the bundled corpus, else 8,192.
        ngrams: also bits per token of 1- to 4-gram models.
        mel: also Mel distance of the held-out clips, for the frontier.
        sources: keep clips of these sources, joined by commas.
        languages: keep clips of these languages, joined by commas.
        min_seconds: drop shorter clips.
        workers: processes for the Mel distance; null takes as many as there are free cores.
        output: write NAME.md, NAME.json and the plots.
        device: where codec and language model run.
    """
    check_names(codec)
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {seeds}")
    small = manifest == BUNDLED
    protocol = replace(MINI_LIKELIHOOD if small else LikelihoodConfig(), seeds=tuple(range(seeds)))
    if audio_seconds is not None:
        protocol = replace(protocol, audio_seconds=audio_seconds)
    latents = MINI_PROBE if small else ProbeConfig()
    latents = replace(latents, num_codes=probe_codes or latents.num_codes)
    wanted: dict[str, Any] = {"sources": comma(sources), "languages": comma(languages), "min_seconds": min_seconds}
    train, valid, test = (read_manifest(place_of(manifest), split, **wanted) for split in ("train", *HELD_OUT))
    splits = [train, valid, test]
    console = Console()
    rows: list[SystemRow] = []
    for name, loaded in named_codecs(codec, device):
        rows.append(_measure(console, name, loaded, splits, protocol, ngrams, mel, workers, device, output))
        if probe and not isinstance(loaded, HasFeatures):
            console.print(f"- {name}: no probe, this codec does not show its latents", highlight=False)
        elif probe:
            with progress_bar(console, f"{name}: probe") as show:
                found = measure_probe(loaded, train, valid, test, protocol, latents, show)
            more = {**rows[-1].more, "probe_bits_per_second": found.bits_per_second}
            rows[-1] = replace(rows[-1], probe=found, more=more)
        console.print(rich_table(rows, with_interval=len(rows) < 3))
    sentences = [f"{row.name}: {_seeds(row)}" for row in rows]
    sentences += [s.text for other in rows[1:] for s in verdict(rows[0], other, keys=("lm_bits_per_second", "mel"))]
    for sentence in sentences:
        console.print(f"- {sentence}", highlight=False)
    if output is not None:
        clips = [clip for part in splits for clip in part]
        text = f"{markdown_table(rows)}\n" + "".join(f"- {sentence}\n" for sentence in sentences)
        told = {**settings(clips), "protocol": asdict(protocol), "probe": asdict(latents) if probe else None}
        systems = to_json(rows)
        for row in rows:
            assert row.predictability is not None
            systems[row.name]["curve"] = [asdict(point) for point in row.predictability.curve]
        paths = write_results(output, text, {"settings": told, "systems": systems, "statements": sentences})
        drawn = draw(rows, paths[0].with_suffix(""))
        console.print(f"written: {', '.join(map(str, [*paths, *drawn]))}", highlight=False)


def _measure(
    console: Console,
    name: str,
    codec: Codec,
    splits: Sequence[Sequence[Clip]],
    protocol: LikelihoodConfig,
    ngrams: bool,
    mel: bool,
    workers: int | None,
    device: str,
    output: str | None,
) -> SystemRow:
    """One codec; its language model is looked up where an earlier run left it."""
    with console.status(f"{name}: encode"):
        train, valid, test = (encode_all(codec, clips) for clips in splits)
    vocabulary = codec.codebook_size * codec.num_codebooks
    hashes = [manifest_hash(clips) for clips in splits]
    key = job_key(fingerprint(codec), hashes, protocol)
    kept = None if output is None else Path(f"{output}.{key}.lm.json")
    lm = None if kept is None else load_result(kept, protocol)
    if lm is None:
        with progress_bar(console, f"{name}: language model") as show:
            lm = measure(
                train,
                valid,
                test,
                codec.codebook_size,
                codec.frame_rate,
                protocol,
                num_codebooks=codec.num_codebooks,
                valid_ids=[clip.id for clip in splits[1]],
                test_ids=[clip.id for clip in splits[2]],
                device=device,
                on_progress=show,
            )
        if kept is not None:
            save_result(kept, lm)
    held_out = [*valid, *test]
    statistics = code_statistics(held_out, codec.codebook_size, codec.num_codebooks)
    more = {
        "zipf_exponent": statistics.zipf_exponent,
        "entropy_bits_per_second": codec.frame_rate * codec.num_codebooks * statistics.unigram_entropy_bits,
    }
    if ngrams:
        with console.status(f"{name}: n-grams"):
            more |= {f"ngram_{n}": bits for n, bits in ngram_bits(train, held_out, vocabulary).items()}
    reconstruction = None
    if mel:
        journal = Journal(None if output is None else Path(f"{output}.rows.jsonl"))
        with progress_bar(console, f"{name}: Mel distance") as show:
            reconstruction = evaluate_reconstruction(
                codec,
                [*splits[1], *splits[2]],
                metrics=("mel",),
                num_workers=workers,
                journal=journal,
                fingerprint=fingerprint(codec),
                on_progress=show,
            )
    return SystemRow(name, nominal_bits_per_second(codec), reconstruction, lm, statistics, more=more)


def _seeds(row: SystemRow) -> str:
    lm = row.predictability
    assert lm is not None
    each = ", ".join(f"{rate:.1f}" for rate in lm.seed_bits_per_second.values())
    count = len(lm.seed_bits_per_second)
    spread = f"; they differ by {lm.seed_spread:.1%}" if count > 1 else ""
    return (
        f"{count} language-model seed{'s' if count > 1 else ''} ({each} bit/s{spread}), {len(lm.clips)} held-out clips."
    )


def save_result(path: Path, result: PredictabilityResult) -> None:
    """Everything but the protocol, as JSON."""
    kept = {
        "clips": [asdict(clip) for clip in result.clips],
        "curve": [asdict(point) for point in result.curve],
        "seeds": [[seed, rate] for seed, rate in result.seed_bits_per_second.items()],
        "token_rate": result.token_rate,
        "vocabulary": result.vocabulary,
    }
    write_text(path, json.dumps(kept) + "\n")


def load_result(path: Path, protocol: LikelihoodConfig) -> PredictabilityResult | None:
    """A result that `save_result` wrote, or None where there is none that can be read."""
    try:
        kept = json.loads(path.read_text(encoding="utf-8"))
        return PredictabilityResult(
            clips=[ClipBits(**clip) for clip in kept["clips"]],
            curve=[CurvePoint(**point) for point in kept["curve"]],
            seed_bits_per_second={int(seed): float(rate) for seed, rate in kept["seeds"]},
            token_rate=float(kept["token_rate"]),
            vocabulary=int(kept["vocabulary"]),
            config=protocol,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def draw(rows: Sequence[SystemRow], stem: Path) -> list[Path]:
    """The frontier (where Mel distances were measured) and the learning curves."""
    drawn = []
    plane = frontier(rows)
    if plane.series:
        plane = replace(plane, title=f"{plane.title}: lower left is better (95 % intervals)")
        drawn.append(write_bytes(stem.with_name(stem.name + ".frontier.png"), to_png(plane)))
    curves = {}
    for row in rows:
        assert row.predictability is not None
        for seed in row.predictability.seed_bits_per_second:
            these = [point for point in row.predictability.curve if point.seed == seed]
            name = row.name if len(row.predictability.seed_bits_per_second) == 1 else f"{row.name}, seed {seed}"
            curves[name] = (
                [point.audio_seconds for point in these],
                [point.test_bits * row.predictability.token_rate for point in these],
            )
    title = "The measuring language model while it learns (test clips)"
    picture = Curve(title, "Seconds of audio seen", "Bits per second", curves)
    return [*drawn, write_bytes(stem.with_name(stem.name + ".curves.png"), to_png(picture))]
