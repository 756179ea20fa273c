"""Codecs measured the same way on one corpus, for `llmcodec compare`: rows, verdicts, a page with figures and audio.

    systems = named_systems(["bundled", "mine=runs/mine"])
    comparison = Comparison(corpus, MeasurementConfig())
    for name, encoded in open_systems(systems, "cpu"):
        comparison.add(name, encoded)
    print(system_table(comparison.rows).markdown(), *all_statements(comparison.rows))

Test: tests/cli/test_compare.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.adapters.catalogue import ENTRIES, UNAVAILABLE, missing_package, state_of
from llmcodec.adapters.load import load_codec
from llmcodec.data.manifest import Clip, spread
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.system import Corpus, MeasurementConfig, look_up_system
from llmcodec.io.atomic import write_text
from llmcodec.io.progress import OnProgress
from llmcodec.io.structured import parse_json, read_object, write_json
from llmcodec.protocol import can_decode
from llmcodec.report.figures import Curve, learning_curve
from llmcodec.report.files import command_line, result_paths, versions
from llmcodec.report.page import ReportMeta, write_report
from llmcodec.report.player import Example, Tokens, Track
from llmcodec.report.tables import system_table, to_json
from llmcodec.report.verdict import Statement, verdict

TERMS_SHOWN = {
    "recon/mel": "mel loss",
    "recon/multi_mel": "multi-scale mel loss",
    "lm/rate_bits": "bits per token under the LM trained along",
    "lm/ftp_1": "next-token loss of the first head, nats",
    "align/cosine": "1 - cosine of audio and text states",
    "codes/used": "codes used",
}
"""Terms of a training log that get a picture, where at least one run has them."""
MAX_POINTS = 400
"""Points of one curve on the page; longer logs are thinned."""


ALL = "all"


@dataclass(frozen=True)
class System:
    """One codec as it was named on the command line."""

    name: str
    place: str
    optional: bool = False
    """One of `all`: that it cannot be measured is told, and the others go on."""

    @property
    def run(self) -> Path | None:
        """Its run folder: the place itself, or the folder above `codec`; None if there is none."""
        place = Path(self.place)
        return next((one for one in (place, place.parent) if place.is_dir() and (one / "log.jsonl").is_file()), None)


class Comparison:
    """Rows of systems that are measured the same way, and recordings as every system reconstructs them.

    Args:
        corpus: the same clips for all.
        measurement: what is measured.
        recordings: held-out recordings for the page.
        cache: folder of cached measurements; None turns caching off.
        fresh: measure again instead of using the cache.
    """

    def __init__(
        self,
        corpus: Corpus,
        measurement: MeasurementConfig,
        recordings: int = 0,
        cache: Path | None = None,
        fresh: bool = False,
    ) -> None:
        self.corpus, self.measurement, self.cache, self.fresh = corpus, measurement, cache, fresh
        self.rows: list[SystemRow] = []
        self.recordings = Recordings(choose_recordings(corpus.held_out, recordings))

    def add(self, name: str, encoded: EncodedCorpus, on_progress: OnProgress | None = None) -> None:
        """Measure a system, or take its row from the cache; `name` is that of the row."""
        kept = (self.cache, self.fresh)
        self.rows.append(look_up_system(name, encoded, self.corpus, self.measurement, *kept, on_progress))
        self.recordings.add(self.rows[-1], encoded)

    @property
    def examples(self) -> list[Example]:
        """The recordings, for the page."""
        return self.recordings.examples


class Recordings:
    """Recordings for a page, as they are and as every system reconstructs them."""

    def __init__(self, clips: Sequence[Clip]) -> None:
        self._tracks: dict[Clip, list[Track]] = {clip: [] for clip in clips}

    def add(self, row: SystemRow, encoded: EncodedCorpus) -> None:
        """A version of every recording, with the surprisal of its tokens if the row has an LM's."""
        surprisal = row.predictability.surprisal if row.predictability is not None else {}
        played = list(self._tracks) if can_decode(encoded.codec) else []
        for clip, wav_S in encoded.reconstructions(played):
            if not self._tracks[clip]:
                original_S, sample_rate = encoded.recording(clip)
                self._tracks[clip].append(Track("original", np.array(original_S), sample_rate))
            tokens = _tokens(encoded, clip, surprisal[clip.id]) if clip.id in surprisal else None
            self._tracks[clip].append(Track(row.name, np.array(wav_S), encoded.codec.sample_rate, tokens))

    @property
    def examples(self) -> list[Example]:
        """For the page."""
        return [Example(clip.id, tracks, clip.text) for clip, tracks in self._tracks.items()]


def _tokens(encoded: EncodedCorpus, clip: Clip, bits: Sequence[float]) -> Tokens:
    """The clip's codes with the surprisals of the tokens that they were flattened to, (T * Q)."""
    (codes_QT,) = encoded.codes([clip])
    return Tokens(codes_QT.numpy(), np.array(bits).reshape(codes_QT.shape[::-1]).T, encoded.codec.frame_rate)


def named_systems(entries: Sequence[str]) -> list[System]:
    """`PLACE` or `NAME=PLACE` each; run folders are called by their folder's name. `all` is `every_codec`.

    Raises:
        ValueError: no system, or two with one name.
    """
    if not entries:
        raise ValueError("name at least one codec: --codec bundled, --codec FOLDER, or --codec NAME=FOLDER")
    systems = []
    typed = [(one, entry == ALL) for entry in entries for one in (every_codec() if entry == ALL else [entry])]
    for entry, optional in typed:
        name, place = split_name(entry)
        run = System("", place).run
        systems.append(System(name or (run.resolve().name if run is not None else place), place, optional))
    names = [system.name for system in systems]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two codecs are called {twice[0]!r}: give them names, NAME=PLACE")
    return systems


def split_name(entry: str) -> tuple[str, str]:
    """`NAME=PLACE` -> both; no name where the `=` belongs to the place: search:bundled?effort=fast, s3://a/lr=3, or a
    folder that is there."""
    name, found, place = entry.partition("=") if not Path(entry).exists() else ("", "", "")
    return (name, place) if found and not re.search("[:?]", name) else ("", entry)


def every_codec() -> list[str]:
    """Every codec that opens here, as NAME=PLACE: its weights if they are here, else random ones, as its name says.

    Codecs whose package is not installed are not among them: `absent_codecs`.
    """
    found = []
    for entry in ENTRIES:
        if missing_package(entry) or entry.title.startswith("llmcodec"):  # our own sizes are not another system
            continue
        if state_of(entry) == "works offline":
            found.append(f"{entry.title}={entry.name if entry.name == entry.weights else entry.weights}")
        else:
            found.append(f"{entry.title} (random weights)={entry.name}")
    return found


def absent_codecs() -> list[str]:
    """A line for every codec that has a name and cannot be opened here, with the reason."""
    lacking = [f"{entry.title}: needs the package {name}" for entry in ENTRIES if (name := missing_package(entry))]
    return lacking + [f"{name}: {why}" for name, why in UNAVAILABLE.items()]


def open_systems(systems: Sequence[System], device: str) -> Iterator[tuple[str, EncodedCorpus]]:
    """Name and codec of one system after the other; each is closed when the next one is opened."""
    for system in systems:
        with EncodedCorpus(load_codec(system.place, device)) as encoded:
            yield system.name, encoded


def prefixed(on_progress: OnProgress, name: str) -> OnProgress:
    """The same, with a name before every stage."""
    return lambda stage, share: on_progress(f"{name}: {stage}", share)


def choose_recordings(clips: Sequence[Clip], count: int) -> list[Clip]:
    """Recordings of 1.5 to 6 s (of any length if there are none), preferably with a transcript."""
    suitable = [clip for clip in clips if 1.5 <= clip.duration <= 6.0]
    with_text = [clip for clip in suitable if clip.text]
    return spread(with_text or suitable or clips, min(count, len(clips)))[:count]


def write_comparison(
    output: str,
    comparison: Comparison,
    systems: Sequence[System],
    manifest: str,
    typed: Sequence[str],
    left_out: Sequence[str] = (),
) -> list[Path]:
    """Write the page (.html), the table (.md), and values, intervals and rows per file (.json).

    Args:
        output: name of the files; an ending is dropped.
        comparison: what was measured.
        systems: where the codecs come from.
        manifest: name of the corpus.
        typed: the command to show outside the console script.
        left_out: lines on clips that nothing was measured on; page and table end with them.
    """
    rows, corpus, lm = comparison.rows, comparison.corpus, comparison.measurement.likelihood
    meta = ReportMeta(
        title=", ".join(row.name for row in rows) if len(rows) < 4 else f"{len(rows)} codecs compared",
        summary=f"Measured alike on {len(corpus.held_out)} held-out clips of {manifest}; the token LM was trained on "
        f"{len(corpus.train)} others. Compared with {rows[0].name}.",
        statements=all_statements(rows),
        commands=[command_line(typed)],
        versions=versions(),
        settings={
            "manifest": f"{manifest} ({', '.join(corpus.hashes)})",
            "token LM": f"{lm.model.num_layers} x {lm.model.hidden_size}, {lm.audio_seconds:,.0f} s of audio",
            "LM seeds": ", ".join(map(str, lm.seeds)),
            **{system.name: system.place for system in systems if system.name != system.place},
        },
        notes=[
            "The intervals cover the choice of files, not the variance of training. Every number: docs/evaluation.md.",
            *left_out,
        ],
        reference=rows[0].name,
        runs=run_facts(systems),
    )
    page, table, values = result_paths(output, ".html", ".md", ".json")
    write_report(page, rows, comparison.examples, curves(rows, systems), meta)
    write_text(table, system_table(rows).markdown() + "".join(f"\n{line}\n" for line in left_out))
    write_json(values, to_json(rows))
    return [page, table, values]


def curves(rows: Sequence[SystemRow], systems: Sequence[System]) -> list[Curve]:
    """The token LM's learning curve of every system, and the training terms of those that are runs."""
    order = list(dict.fromkeys([system.name for system in systems] + [row.name for row in rows]))
    measured = any(row.predictability is not None for row in rows)
    drawn = [replace(learning_curve(rows), order=order)] if measured else []
    logs = {system.name: _log(system.run) for system in systems if system.run is not None}
    for term, label in TERMS_SHOWN.items():
        series = {}
        for name, log in logs.items():
            points = [(row["step"], row[term]) for row in log if isinstance(row.get(term), (int, float))]
            if points:
                points = points[:: max(1, len(points) // MAX_POINTS)]
                series[name] = ([float(step) for step, _ in points], [float(value) for _, value in points])
        if series:
            drawn.append(Curve(f"Training: {label}", "step", term, series, order=order))
    return drawn


def _log(run: Path) -> list[dict[str, Any]]:
    """Rows of `log.jsonl`; lines that are not rows (cut short by a killed run) are skipped."""
    rows = []
    for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            row = parse_json(line, run)
        except ValueError:
            continue
        if isinstance(row, dict) and isinstance(row.get("step"), int):
            rows.append(row)
    return rows


def all_statements(rows: Sequence[SystemRow]) -> list[Statement]:
    """The verdict on every system against the first; their common caveat comes once, at the end."""
    verdicts = [verdict(rows[0], other) for other in rows[1:]]
    caveats = list(dict.fromkeys(statements[-1] for statements in verdicts))
    return [statement for statements in verdicts for statement in statements[:-1]] + caveats


def run_facts(systems: Sequence[System]) -> dict[str, dict[str, str]]:
    """Facts from `run.json` of every run: how to reproduce it."""
    found = {}
    for system in systems:
        path = system.run / "run.json" if system.run is not None else None
        if path is None or not path.is_file():
            continue
        try:
            told = read_object(path)
            recipe = told["recipe"]
            weights = {name: weight for name, weight in recipe["weights"].items() if weight}
            found[system.name] = {
                "folder": str(system.run),
                "steps": str(recipe["steps"]),
                "seed": str(recipe["seed"]),
                "weights": ", ".join(f"{name} {number_of(weight)}" for name, weight in weights.items()),
                "manifest": f"{told['manifest']['path']} ({told['manifest']['hash']})",
                "commit": str(told.get("commit") or "unknown"),
                "versions": ", ".join(f"{name} {version}" for name, version in told["versions"].items()),
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found[system.name] = {"folder": str(system.run), "run.json": f"cannot be read ({error})"}
    return found


def number_of(weight: Any) -> str:
    """The final value of a weight that is a number or a schedule."""
    return str(weight["value"]) if isinstance(weight, dict) else str(weight)
