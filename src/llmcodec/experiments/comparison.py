"""What `llmcodec compare` puts on its page beside the numbers: recordings, learning curves, training runs, commands.

Test: tests/cli/test_compare.py.
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from llmcodec import __version__
from llmcodec.data.manifest import Clip
from llmcodec.evaluation.cache import key_of
from llmcodec.evaluation.reconstruction import reconstruct
from llmcodec.evaluation.results import SystemRow
from llmcodec.evaluation.system import spread
from llmcodec.io import audio
from llmcodec.io.digests import digest, package_versions, source_commit
from llmcodec.io.structured import parse_json, read_object
from llmcodec.protocol import Codec
from llmcodec.report.figures import Curve, learning_curve
from llmcodec.report.page import Example, Track
from llmcodec.report.verdict import Statement, verdict
from llmcodec.salmon.score import codec_module, weights_digest

TERMS_SHOWN = {
    "recon/mel": "mel loss",
    "recon/multi_mel": "multi-scale mel loss",
    "lm/rate_bits": "bits per token under the LM trained along",
    "lm/ftp_1": "next-token loss of the first head, nats",
    "align/cosine": "1 - cosine of audio and text states",
    "codes/used": "codes used",
}
"""Terms of a training log that get a picture, where at least one run has them."""
PACKAGES = ("torch", "transformers", "numpy", "soundfile", "scipy")
DRAWING = ("cache",)
"""Modules of this room that no number depends on."""
MAX_POINTS = 400
"""Points of one curve on the page; longer logs are thinned."""


@dataclass(frozen=True)
class System:
    """One codec as it was named on the command line."""

    name: str
    place: str

    @property
    def run(self) -> Path | None:
        """The run folder that it comes from: the place itself, or the folder above `codec`; None if there is none."""
        for folder in (Path(self.place), Path(self.place).parent):
            if (folder / "log.jsonl").is_file():
                return folder
        return None


def named_systems(entries: Sequence[str]) -> list[System]:
    """`PLACE` or `NAME=PLACE` each; run folders are called by their folder's name.

    Raises:
        ValueError: two systems with one name.
    """
    systems = []
    for entry in entries:
        name, _, place = entry.rpartition("=")
        if not name:
            run = System("", place).run
            name = run.resolve().name if run is not None else place
        systems.append(System(name, place))
    names = [system.name for system in systems]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two codecs are called {twice[0]!r}: give them names, NAME=PLACE")
    return systems


def codec_key(codec: Codec, *settings: Any) -> str | None:
    """Names everything that decides a measurement of a codec; None where its weights cannot be seen."""
    module = codec_module(codec)
    if module is None:
        return None
    facts = [type(codec).__name__, codec.sample_rate, codec.hop_samples, codec.num_codebooks, codec.codebook_size]
    config: Any = getattr(module, "config", None)
    config = config.to_json_string() if hasattr(config, "to_json_string") else repr(config)
    return key_of(__version__, code_digest(), facts, config, weights_digest(module), *settings)


def code_digest(root: Path = Path(__file__).parents[1]) -> str:
    """Changes with every line of code that a measurement runs through: what older code measured is measured again."""
    parts: list[str | bytes] = []
    for place in ("protocol.py", "io", "codec", "adapters", "metrics", "lm", "salmon", "evaluation"):
        files = root / place
        for path in sorted(files.rglob("*.py")) if files.is_dir() else [files]:
            if path.stem not in DRAWING:
                parts += [path.relative_to(root).as_posix(), path.read_bytes()]
    return digest(*parts, size=12)


def examples(codecs: Mapping[str, Codec], clips: Sequence[Clip], count: int) -> list[Example]:
    """Some held-out recordings of 1.5 to 6 s (of any length if there are none) as every codec gives them back."""
    suitable = [clip for clip in clips if 1.5 <= clip.duration <= 6.0]
    with_text = [clip for clip in suitable if clip.text]
    chosen = spread(with_text or suitable or clips, min(count, len(clips)))
    made = []
    for clip in chosen[:count]:
        native, rate = audio.read(clip.path)
        tracks = [Track("original", native, rate)]
        for name, codec in codecs.items():
            wav_S = audio.load(clip.path, codec.sample_rate)
            tracks.append(Track(name, reconstruct(codec, wav_S)[0], codec.sample_rate))
        made.append(Example(clip.id, tracks, clip.text))
    return made


def curves(rows: Sequence[SystemRow], systems: Sequence[System]) -> list[Curve]:
    """The token LM's learning curve of every system, and the terms of training of those that are runs."""
    order = [system.name for system in systems]
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
    """Rows of `log.jsonl`; lines that are no row (cut short by a killed run) are passed over."""
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
    """The verdict on every system against the first; the caveat that ends each is said once, at the end."""
    verdicts = [verdict(rows[0], other) for other in rows[1:]]
    caveats = list(dict.fromkeys(statements[-1] for statements in verdicts))
    return [statement for statements in verdicts for statement in statements[:-1]] + caveats


def run_facts(systems: Sequence[System]) -> dict[str, dict[str, str]]:
    """What `run.json` tells of every run: how to make it again."""
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
                "weights": ", ".join(f"{name} {_weight(weight)}" for name, weight in weights.items()),
                "manifest": f"{told['manifest']['path']} ({told['manifest']['hash']})",
                "commit": str(told.get("commit") or "unknown"),
                "versions": ", ".join(f"{name} {version}" for name, version in told["versions"].items()),
            }
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            found[system.name] = {"folder": str(system.run), "run.json": f"cannot be read ({error})"}
    return found


def _weight(weight: Any) -> str:
    return str(weight["value"]) if isinstance(weight, dict) else str(weight)


def command_line(fallback: Sequence[str]) -> str:
    """The command as it was typed, or `fallback` where this is not a run of the console script."""
    typed = Path(sys.argv[0]).name in ("llmcodec", "llmcodec.exe", "__main__.py") and len(sys.argv) > 1
    return shlex.join(["llmcodec", *(sys.argv[1:] if typed else fallback)])


def versions() -> dict[str, str]:
    """Exact versions of everything that decides the numbers; packages that are not installed are left out."""
    found = package_versions("llmcodec", "python", *PACKAGES)
    commit = source_commit()
    return found if commit is None else {**found, "commit": commit[:12]}
