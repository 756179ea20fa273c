"""`llmcodec evaluate ...`: one measurement at a time, for any codec.

Test: tests/cli/test_evaluate.py.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcodec.adapters.opus import KBITS as OPUS_KBITS
from llmcodec.assets import BUNDLED
from llmcodec.cli.options import ClipOptions, CorpusOptions, DeviceOptions, OutputOptions
from llmcodec.cli.output import name_files, open_console, show
from llmcodec.evaluation.cache import Journal
from llmcodec.evaluation.consistency import Change, ConsistencyResult, measure_consistency
from llmcodec.evaluation.pairs import measure_pairs, read_pairs
from llmcodec.evaluation.probe import MINI_PROBE, ProbeConfig
from llmcodec.evaluation.reconstruction import measure_reconstruction
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.robustness import CONDITIONS, Condition, RobustnessResult, measure_robustness
from llmcodec.evaluation.system import (
    Corpus,
    MeasurementConfig,
    add_probe,
    add_token_details,
    look_up_system,
    reconstruction_row,
)
from llmcodec.evaluation.workers import Lengths
from llmcodec.experiments.comparison import Recordings, choose_recordings, named_systems, open_systems, prefixed
from llmcodec.io.atomic import write_bytes
from llmcodec.io.progress import ProgressBar, status_line
from llmcodec.io.structured import read_object, write_csv
from llmcodec.lm.small_lm_training import MINI_LIKELIHOOD, LikelihoodConfig
from llmcodec.metrics.registry import CLAP, METRICS, SUPERB
from llmcodec.protocol import HasFeatures, has_tokens
from llmcodec.report import consistency as consistency_report
from llmcodec.report import fidelity
from llmcodec.report import robustness as robustness_report
from llmcodec.report.figures import Curve, Scatter, frontier, learning_curve, to_png
from llmcodec.report.files import provenance, result_paths, wants_page, write_results
from llmcodec.report.tables import system_table, to_json
from llmcodec.report.verdict import seed_sentence, verdict

if TYPE_CHECKING:
    from rich.console import Console

NOT_OF_PAIRS = "the corpus options", "--clips", "--domain", "--opus"
PLAYERS = 3
"""Recordings on a page."""
GROUPS = {"superb": SUPERB, "fast": ("mel", "stft", "sdr"), "all": tuple(METRICS)}


def evaluate_reconstruction(
    codec: list[str] | None = None,
    pairs: str | None = None,
    metrics: tuple[str, ...] = ("superb",),
    asr: str | None = None,
    asr_languages: tuple[str, ...] = ("en",),
    clap: str | None = None,
    corpus: ClipOptions = ClipOptions(),
    clips: int | None = None,
    domain: str = "source",
    lengths: Lengths = "cut",
    opus: tuple[int, ...] = OPUS_KBITS,
    workers: int | None = None,
    predictability: str | None = None,
    per_file: str | None = None,
    output: OutputOptions = OutputOptions(),
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """Measure the fidelity of codecs: Codec-SUPERB's metrics and more, means with 95 % intervals, paired comparison.

      llmcodec evaluate reconstruction --codec bundled --codec mine=runs/rate/codec --per-file rows.csv -o quality
      llmcodec evaluate reconstruction --pairs pairs.csv --per-file rows.csv

    Results are saved as they come in NAME.rows.jsonl next to the output, so a killed run resumes. A file on which a
    metric cannot be computed is counted and named, never scored.

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is the reference.
        pairs: CSV with columns reference, reconstruction, codec, domain (also text, language): existing audio.
        metrics: names and groups (superb, fast, all) joined by commas, such as superb,logmel; a wrong one lists all.
        asr: also word error rate by this recogniser: `faster-whisper`, or a Hugging Face speech model.
        asr_languages: languages of the recogniser, joined by commas.
        clap: also the similarity of recording and reconstruction to this CLAP (laion/clap-htsat-unfused, or a folder).
        split: splits joined by commas; default: valid, dev, test and the like, else everything.
        clips: measure this many clips, evenly spread; null takes all.
        domain: field of the manifest that splits the table: source, language, speaker, split.
        lengths: pairs of unequal length: cut takes the length of the shorter one, superb puts zeros behind it, as
            Codec-SUPERB does, which can change PESQ by .1 and more.
        opus: also Opus at these kbit/s, joined by commas, as rows that need no weights; their bitrate is that of the
            bytes sent. An empty list leaves them out.
        workers: processes that measure; null takes as many as there are free cores.
        predictability: JSON written by `evaluate predictability`; its LM bits per second join the table.
        per_file: write a row per file to this CSV.
        output: write NAME.md (tables) and NAME.json (everything); NAME.html also the page with players.
    """
    console = open_console()
    names = _metric_names(metrics)
    place = output.output or per_file
    journal = Journal(
        None if place is None else result_paths(place, ".md", ".json", ".html", ".csv", ".rows.jsonl")[-1]
    )
    shared: dict[str, Any] = {
        "metrics": names,
        "lengths": lengths,
        "asr": asr,
        "num_workers": workers,
        "journal": journal,
    }
    rows: list[SystemRow] = []
    recordings = Recordings([])
    if pairs is not None:
        usual = ClipOptions(), None, "source", OPUS_KBITS
        given = zip((corpus, clips, domain, opus), usual, NOT_OF_PAIRS, strict=True)
        if ignored := [name for now, before, name in given if now != before]:
            raise ValueError(f"--pairs takes clips, texts and domains from its file; leave out {', '.join(ignored)}")
        if clap is not None:
            raise ValueError("--clap measures codecs, not --pairs")
        if codec:
            raise ValueError("--pairs measures existing audio and takes no --codec; run the two one after the other")
        listed = read_pairs(pairs)
        with ProgressBar(f"{len(listed)} pairs", console=console) as bar:
            results = measure_pairs(listed, asr_languages=asr_languages, on_progress=bar.update, **shared)
        rows = [SystemRow(name, float("nan"), result, words=result.words) for name, result in results.items()]
        told = provenance()
    else:
        systems = named_systems([*(codec or ()), *(f"opus:{kbits}" for kbits in (opus if codec else ()))])
        wanted, bad = corpus.measured_clips(clips)
        if not hasattr(wanted[0], domain):
            raise ValueError(f"--domain {domain}: clips have no such field; choose source, language, speaker or split")
        shared |= {"asr_languages": asr_languages, "domain": domain, "clap": clap}
        recordings = Recordings(choose_recordings(wanted, PLAYERS if wants_page(output.output) else 0))
        for name, encoded in open_systems(systems, device.torch_device()):
            with ProgressBar(name, console=console) as bar:
                result = measure_reconstruction(encoded, wanted, on_progress=bar.update, **shared)
            rows.append(reconstruction_row(name, encoded, result))
            recordings.add(rows[-1], encoded)
        told = provenance(wanted, bad)
    rows = [_with_lm_bits(row, predictability, console) for row in rows]
    parts = {f"{title}{fidelity.LENGTHS[lengths]}": part for title, part in fidelity.by_domain(rows).items()}
    told["lengths"] = lengths
    names += () if clap is None else (CLAP.key,)
    sentences = [*fidelity.comparisons(rows, names), *fidelity.failures(rows), *fidelity.word_counts(rows)]
    show(console, [system_table(part, title, len(part) < 3) for title, part in parts.items()], sentences)
    if per_file is not None:
        columns = fidelity.csv_columns(names, asr is not None)
        name_files(console, [write_csv(per_file, columns, fidelity.csv_rows(rows))])
    if output.output is not None:
        tables = [system_table(part, title) for title, part in parts.items()]
        values = {"settings": told, "systems": to_json(rows)}
        name_files(console, write_results(output.output, tables, sentences, values, rows, recordings.examples))


def _metric_names(words: tuple[str, ...]) -> tuple[str, ...]:
    """Metrics by name or by group."""
    return tuple(name for word in words for name in GROUPS.get(word, (word,)))


def _with_lm_bits(row: SystemRow, path: str | None, console: Console) -> SystemRow:
    """Add LM bits per second of the same name from a predictability JSON; says so where there are none."""
    if path is None:
        return row
    try:
        systems = read_object(path)["systems"]
        value = systems.get(row.name, {}).get("measures", {}).get("lm_bits_per_second", {}).get("value")
    except (OSError, ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: not a result of `llmcodec evaluate predictability` ({error})") from error
    if value is None:
        there = ", ".join(systems) or "nothing"
        console.print(f"- {path}: no LM bits of {row.name!r} in it; there is {there}", highlight=False, soft_wrap=True)
        return row
    return replace(row, more={**row.more, "lm_bits_per_second": float(value)})


def evaluate_predictability(
    codec: list[str] | None = None,
    corpus: CorpusOptions = CorpusOptions(),
    seeds: int = 1,
    audio_seconds: float | None = None,
    probe: bool = False,
    probe_codes: int | None = None,
    ngrams: bool = True,
    mel: bool = True,
    workers: int | None = None,
    output: OutputOptions = OutputOptions(),
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """Train the same small language model on the tokens of every codec; report its bits per second of speech.

      llmcodec evaluate predictability --codec bundled --seeds 3 -o bits
      llmcodec evaluate predictability --codec bundled --codec mine=runs/rate/codec --manifest corpus --probe -o bits

    The model sees audio tokens only, with the same seeds and the same budget in seconds of audio; codecs with
    several codebooks are read token by token. With `-o NAME`: tables, everything as JSON, NAME.frontier.png (Mel
    distance against bits) and NAME.curves.png; codecs that are done are not trained again.

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is the reference.
        seeds: how often to train the language model per codec, with seeds 0, 1, ...
        audio_seconds: training budget in seconds of audio seen; null takes 3,200 for the bundled corpus, else 32,000.
        probe: also the matched probe (P-ACC, P-PPL), for codecs that expose their latents.
        probe_codes: codes of the probe; null takes 512 for the bundled corpus, else 8,192.
        ngrams: also bits per token of 1- to 4-gram models.
        mel: also Mel distance of the held-out clips, for the trade-off plot.
        workers: processes for the Mel distance; null takes as many as there are free cores.
        output: write NAME.md, NAME.json and the plots; NAME.html also the page with players.
    """
    systems = named_systems(codec or ())
    if seeds < 1:
        raise ValueError(f"--seeds must be at least 1, not {seeds}")
    small = corpus.manifest == BUNDLED
    protocol = replace(MINI_LIKELIHOOD if small else LikelihoodConfig(), seeds=tuple(range(seeds)))
    latents = MINI_PROBE if small else ProbeConfig()
    if audio_seconds is not None:
        protocol = replace(protocol, audio_seconds=audio_seconds)
    if probe_codes is not None:
        latents = replace(latents, num_codes=probe_codes)
    (train, valid, test), bad = corpus.without_bad(*corpus.three_splits())
    clips = Corpus(train, valid, test)
    config = MeasurementConfig(
        protocol, None if mel else 0, metrics=["mel"], consistency_clips=0, workers=workers, ngrams=ngrams
    )
    console, rows = open_console(), []
    recordings = Recordings(choose_recordings(clips.held_out, PLAYERS if wants_page(output.output) else 0))
    cache = Path(f"{output.output}.kept") if output.output is not None else None
    for name, encoded in open_systems(systems, device.torch_device()):
        if not has_tokens(encoded.codec):
            raise ValueError(f"{name}: has no tokens to predict; `llmcodec evaluate reconstruction` measures its sound")
        with status_line(console) as tell:
            row = look_up_system(name, encoded, clips, config, cache, on_progress=prefixed(tell, name))
            row = add_token_details(row, encoded)
            if probe and isinstance(encoded.codec, HasFeatures):
                row = add_probe(row, encoded, clips, protocol, latents, cache, prefixed(tell, f"{name}: probe"))
        if probe and row.probe is None:
            console.print(f"- {name}: no probe, this codec does not expose its latents", highlight=False)
        rows.append(row)
        recordings.add(row, encoded)
        show(console, [system_table(rows, with_interval=len(rows) < 3)], [])
    sentences = [f"{row.name}: {seed_sentence(row)}" for row in rows]
    sentences += [s.text for other in rows[1:] for s in verdict(rows[0], other, keys=("lm_bits_per_second", "mel"))]
    show(console, [], sentences)
    if output.output is not None:
        told = provenance([*clips.train, *clips.held_out], bad)
        told |= {"protocol": asdict(protocol), "probe": asdict(latents) if probe else None}
        values = {"settings": told, "systems": to_json(rows)}
        curve = learning_curve(rows, each_seed=True)
        paths = write_results(
            output.output, [system_table(rows)], sentences, values, rows, recordings.examples, [curve]
        )
        pictures: dict[str, Curve | Scatter] = {".frontier.png": frontier(rows), ".curves.png": curve}
        paths += [
            write_bytes(paths[0].with_suffix(ending), to_png(picture))
            for ending, picture in pictures.items()
            if picture.series
        ]
        name_files(console, paths)


def evaluate_consistency(
    codec: list[str] | None = None,
    corpus: ClipOptions = ClipOptions(),
    slices: tuple[float, ...] = (0.2, 0.5, 1, 2),
    slices_per_clip: int = 2,
    shifts: tuple[float, ...] = (0.125, 0.25, 0.5),
    phases: tuple[float, ...] = (90, 180),
    noises: tuple[float, ...] = (40, 30),
    seed: int = 0,
    clips: int | None = 100,
    output: OutputOptions = OutputOptions(),
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """Share of tokens that stay the same if a slice is encoded alone, or after shifts, phase changes and light noise.

      llmcodec evaluate consistency --codec bundled --codec mine=runs/rate/codec -o consistency

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is the reference.
        slices: lengths in seconds, joined by commas.
        slices_per_clip: slices of each length per clip, at places drawn by the seed.
        shifts: time shifts in frames, above 0 and at most 0.5.
        phases: constant phase added at every frequency, in degrees.
        noises: signal-to-noise ratios of white noise, in dB.
        seed: of slice places and noise.
        split: splits joined by commas; default: valid, dev, test and the like, else everything.
        clips: measure this many clips, evenly spread; null takes all.
        output: write NAME.md (table) and NAME.json (everything); NAME.html also a page.
    """
    systems = named_systems(codec or ())
    amounts = {"slice": slices, "shift": shifts, "phase": phases, "noise": noises}
    changes = [Change(kind, float(amount)) for kind, wanted in amounts.items() for amount in wanted]
    chosen, bad = corpus.measured_clips(clips)
    console = open_console()
    results: dict[str, ConsistencyResult] = {}
    for name, encoded in open_systems(systems, device.torch_device()):
        with ProgressBar(name, console=console) as bar:
            results[name] = measure_consistency(encoded, chosen, changes, slices_per_clip, seed, bar.update)
    table, sentences = consistency_report.consistency_table(results), consistency_report.comparisons(results)
    show(console, [table], sentences)
    if output.output is not None:
        told = {"settings": {**provenance(chosen, bad), "seed": seed}}
        told["systems"] = {name: consistency_report.to_json(result) for name, result in results.items()}
        name_files(console, write_results(output.output, [table], sentences, told))


def evaluate_robustness(
    codec: list[str] | None = None,
    corpus: ClipOptions = ClipOptions(),
    levels: tuple[float, ...] = (-40, -30, -20, -10, 6),
    noises: tuple[float, ...] = (20,),
    pauses: tuple[float, ...] = (1,),
    metrics: tuple[str, ...] = ("stoi", "pesq"),
    seed: int = 0,
    clips: int | None = 50,
    workers: int | None = None,
    output: OutputOptions = OutputOptions(),
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """Robustness of codecs to quiet and loud recordings, digital silence, a telephone band and noise.

      llmcodec evaluate robustness --codec bundled --codec mine=runs/levels/codec -o robust

    Every clip is scaled to a peak of -6 dBFS first. Zeros, 1-bit dither and white noise at -70 dBFS have one measure:
    the level of the output.

    Args:
        codec: `bundled`, a folder or hub id, or NAME=one of these; the first is the reference.
        levels: gains in dB, joined by commas; 0 is always measured, as the reference.
        noises: signal-to-noise ratios of white noise, in dB.
        pauses: seconds of digital zeros put into the middle of the speech.
        metrics: of the output against the input, joined by commas.
        seed: of noise and dither.
        split: splits joined by commas; default: valid, dev, test and the like, else everything.
        clips: measure this many clips, evenly spread; null takes all.
        workers: processes that measure; null takes as many as there are free cores.
        output: write NAME.md (tables) and NAME.json (everything); NAME.html also a page.
    """
    systems = named_systems(codec or ())
    spoken = {"level": (0.0, *levels), "telephone": (0.0,), "noise": noises, "pause": pauses}
    wanted = [Condition(kind, float(amount)) for kind, amounts in spoken.items() for amount in amounts]
    wanted = list(dict.fromkeys([*wanted, *(c for c in CONDITIONS if c.silent)]))
    chosen, bad = corpus.measured_clips(clips)
    console, names = open_console(), _metric_names(metrics)
    results: dict[str, RobustnessResult] = {}
    for name, encoded in open_systems(systems, device.torch_device()):
        with ProgressBar(name, console=console) as bar:
            results[name] = measure_robustness(encoded, chosen, wanted, names, seed, workers, bar.update)
    tables = robustness_report.tables(results, names)
    sentences = robustness_report.sentences(results, names)
    show(console, tables, sentences)
    if output.output is not None:
        told = {"settings": {**provenance(chosen, bad), "seed": seed}}
        told["systems"] = {name: robustness_report.to_json(result) for name, result in results.items()}
        name_files(console, write_results(output.output, tables, sentences, told))
