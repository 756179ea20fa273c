"""One self-contained HTML page: verdict, table, audio players, spectrograms, curves, commands. No external requests.

Audio is embedded as 16-bit FLAC, pictures as PNG and SVG; the page follows light and dark mode and fits a phone.
Test: `pytest tests/report/test_page.py`.
"""

from __future__ import annotations

import base64
import io
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

import numpy as np

from llmcodec.evaluation.results import Measure, SystemRow, compare, used_measures
from llmcodec.metrics.statistics import Interval
from llmcodec.report.figures import Curve, curve_svg, spectrogram_png
from llmcodec.report.sections import frontier_section, runs_section, salmon_section
from llmcodec.report.style import PAGE, STYLE
from llmcodec.report.tables import Statement, format_value

MAX_BYTES = 6_000_000

GLOSSARY = {
    "mel": "Codec-SUPERB's distance between mel spectrograms",
    "stft": "the same between magnitude spectrograms",
    "pesq": "wide-band quality score, 1.0 to 4.6",
    "stoi": "intelligibility score, 0 to 1",
    "f0corr": "how alike the pitch contours are, -1 to 1",
    "sdr": "signal to sample-exact error",
    "lm_bits_per_second": "what a small language model needs to write the tokens of one second",
    "lm_bits_per_token": "the same for one token",
    "unigram_bits": "cost without any context",
    "context_gain": "what context saves",
    "accuracy": "how often the model's first guess is right",
    "within_utterance_bits": "variety of tokens inside an utterance",
    "used_codes": "codes that occur at all",
    "repeat_rate": "tokens equal to the one before",
    "wer": "words that a recogniser gets wrong",
    "probe_accuracy": "the same after a common 8,192-code quantiser of the latents",
    "probe_perplexity": "its perplexity",
    "salmon": "pairs whose consistent side the token LM finds more likely",
    "slice_consistency": "tokens that stay when a slice is encoded alone",
    "nominal_bits_per_second": "frames times the logarithm of the codebook size",
}


@dataclass(frozen=True)
class Track:
    """One version of a recording."""

    name: str
    wav_S: np.ndarray
    """Mono float samples in [-1, 1]."""
    sample_rate: int


@dataclass(frozen=True)
class Example:
    """One recording in several versions, heard and seen side by side."""

    title: str
    tracks: Sequence[Track]
    text: str = ""


@dataclass(frozen=True)
class ReportMeta:
    """What stands around the numbers."""

    title: str
    summary: str = ""
    statements: Sequence[Statement] = ()
    commands: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = ()
    reference: str = ""
    """Name of the system that the others are compared with; empty: the first."""
    runs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Facts about the training run of a system, by its name."""


def learning_curve(rows: Sequence[SystemRow]) -> Curve:
    """Held-out bits per second of the token language model against audio seen, one line per system, mean over seeds."""
    series: dict[str, tuple[list[float], list[float]]] = {}
    for row in rows:
        if (lm := row.predictability) is None:
            continue
        by_seed = [[p for p in lm.curve if p.seed == seed] for seed in lm.config.seeds]
        steps = list(zip(*by_seed, strict=True))
        minutes = [sum(p.audio_seconds for p in points) / len(points) / 60 for points in steps]
        bits = [sum(p.test_bits for p in points) / len(points) * lm.token_rate for points in steps]
        series[row.name] = (minutes, bits)
    caption = "Every system starts at its unigram cost; the reported value is the checkpoint chosen on the other split."
    return Curve("Token language model", "minutes of audio seen", "bits per second, test clips", series, caption)


def write_report(
    path: str | os.PathLike[str],
    rows: Sequence[SystemRow],
    examples: Sequence[Example],
    curves: Sequence[Curve],
    meta: ReportMeta,
    max_bytes: int = MAX_BYTES,
) -> Path:
    """Write the page and return its path. Examples that would make it larger than max_bytes are left out, and it says
    so.

    Errors: ValueError when there is no system, names repeat, or `meta.reference` is none of them.
    """
    names = [row.name for row in rows]
    if not rows or len(set(names)) != len(names):
        raise ValueError(f"a report needs at least one system and different names, not {names}")
    reference = meta.reference or names[0]
    if reference not in names:
        raise ValueError(f"the reference system {reference!r} is none of {names}")
    head = [_header(meta), _verdict(meta.statements), _table(rows), _differences(rows, reference)]
    head += [frontier_section(rows), salmon_section(rows), _failures(rows)]
    tail = [_curves(curves), runs_section(meta.runs), _how(meta)]
    room = max_bytes - sum(len(part.encode()) for part in (*head, *tail)) - len(STYLE) - 2_000
    page = PAGE.format(
        title=escape(meta.title),
        style=STYLE,
        body="\n".join(part for part in (*head, _examples(examples, room), *tail) if part),
    )
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".partial")
    temporary.write_text(page, encoding="utf-8")
    temporary.replace(target)
    return target


def _header(meta: ReportMeta) -> str:
    summary = f"<p class=lead>{escape(meta.summary)}</p>" if meta.summary else ""
    return f"<header><h1>{escape(meta.title)}</h1>{summary}</header>"


def _verdict(statements: Sequence[Statement]) -> str:
    if not statements:
        return ""
    marks = {"better": "better", "worse": "worse", "same": "note", "warning": "warning"}
    items = "".join(
        f'<li class="{s.kind}"><span class=mark>{marks[s.kind]}</span><span>{escape(s.text)}</span></li>'
        for s in statements
    )
    return f"<section><h2>What changed</h2><ul class=verdict>{items}</ul></section>"


def _cell(cell: Interval | None, digits: int) -> str:
    value = format_value(cell, digits, with_interval=False)
    if cell is None or not math.isfinite(cell.low):
        return f"<td>{value}</td>"
    return f"<td>{value}<small>{cell.low:,.{digits}f} … {cell.high:,.{digits}f}</small></td>"


def _row_head(measure: Measure) -> str:
    unit = f" <span class=unit>{escape(measure.unit)}</span>" if measure.unit else ""
    hint = f"<small>{escape(GLOSSARY[measure.key])}</small>" if measure.key in GLOSSARY else ""
    better = {True: "higher is better", False: "lower is better", None: ""}[measure.higher_is_better]
    arrow = f' <abbr title="{better}">{measure.arrow}</abbr>' if measure.arrow else ""
    return f"<th scope=row>{escape(measure.label)}{arrow}{unit}{hint}</th>"


def _table(rows: Sequence[SystemRow]) -> str:
    cells = [row.cells() for row in rows]
    head = "".join(f"<th scope=col>{escape(row.name)}</th>" for row in rows)
    body = "".join(
        f"<tr>{_row_head(measure)}{''.join(_cell(c.get(measure.key), measure.digits) for c in cells)}</tr>"
        for measure in used_measures(rows)
    )
    note = "Means; small: 95 % bootstrap interval over files. ↑ higher is better, ↓ lower is better."
    return (
        "<section><h2>Measurements</h2><div class=scroll tabindex=0 role=region aria-label='Measurements'>"
        f"<table><thead><tr><th scope=col><span class=hidden>Measure</span></th>{head}</tr></thead>"
        f"<tbody>{body}</tbody></table></div><p class=note>{note}</p></section>"
    )


def _differences(rows: Sequence[SystemRow], reference: str) -> str:
    """Paired differences of every other system from the reference."""
    base = next(row for row in rows if row.name == reference)
    others = [row for row in rows if row.name != reference]
    lines = []
    for measure in used_measures(rows):
        results = [compare(base, other, measure.key) for other in others]
        if any(result is not None for result in results):
            cells = ""
            for result in results:
                if result is None:
                    cells += "<td>-</td>"
                    continue
                d = result.difference
                good = measure.higher_is_better is not None and (d.value > 0) == measure.higher_is_better
                kind = (
                    "same"
                    if not result.real
                    else "plain"
                    if measure.higher_is_better is None
                    else "better"
                    if good
                    else "worse"
                )
                word = {"same": "not shown", "plain": "real", "better": "real, better", "worse": "real, worse"}[kind]
                digits = measure.digits + 1
                bounds = f"{d.low:+,.{digits}f} … {d.high:+,.{digits}f}"
                cells += (
                    f'<td>{d.value:+,.{digits}f}<small>{bounds}</small><small class="tag {kind}">{word}</small></td>'
                )
            lines.append(f"<tr>{_row_head(measure)}{cells}</tr>")
    if not lines:
        return ""
    head = "".join(f"<th scope=col>{escape(other.name)}</th>" for other in others)
    note = (
        "The same files in both systems; small: paired 95 % interval. Real: the interval and a paired t-test exclude 0."
    )
    return (
        f"<section><h2>Differences from {escape(reference)}</h2>"
        "<div class=scroll tabindex=0 role=region aria-label='Differences'>"
        f"<table><thead><tr><th scope=col><span class=hidden>Measure</span></th>{head}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table></div><p class=note>{note}</p></section>"
    )


def _failures(rows: Sequence[SystemRow]) -> str:
    lines = []
    for row in rows:
        for metric, reasons in row.failures().items():
            counted = ", ".join(f"{num} × {reason}" for reason, num in reasons.items())
            lines.append(f"<li>{escape(f'{row.name}, {metric}: {counted}')}</li>")
    if not lines:
        return ""
    return f"<section><h2>Files that could not be measured</h2><ul>{''.join(lines)}</ul></section>"


def _flac(track: Track) -> bytes:
    import soundfile

    buffer = io.BytesIO()
    soundfile.write(buffer, np.clip(track.wav_S, -1, 1), track.sample_rate, format="FLAC", subtype="PCM_16")
    return buffer.getvalue()


def _uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _examples(examples: Sequence[Example], room: int) -> str:
    shown: list[str] = []
    for example in examples:
        html = _example(example)
        if len(html.encode()) > room:
            break
        room -= len(html.encode())
        shown.append(html)
    if not examples:
        return ""
    left = len(examples) - len(shown)
    note = f"<p class=note>{left} more left out to keep the page small.</p>" if left else ""
    return f"<section><h2>Listen and look</h2>{''.join(shown)}{note}</section>"


def _example(example: Example) -> str:
    figures = []
    for track in example.tracks:
        seconds, top = track.wav_S.size / track.sample_rate, track.sample_rate / 2000
        name, title = escape(track.name), escape(example.title)
        picture = _uri("image/png", spectrogram_png(track.wav_S, track.sample_rate))
        sound = _uri("audio/flac", _flac(track))
        alt = f"Spectrogram of {title}, {name}: {seconds:.1f} seconds, 0 to {top:g} kHz"
        figures.append(
            f'<figure><figcaption>{name}</figcaption><img src="{picture}" alt="{alt}">'
            f"<div class=axis><span>0 s</span><span>0–{top:g} kHz</span><span>{seconds:.1f} s</span></div>"
            f'<audio controls preload=none aria-label="{title}, {name}" src="{sound}"></audio></figure>'
        )
    text = f"<p class=quote>{escape(example.text)}</p>" if example.text else ""
    return f"<article><h3>{escape(example.title)}</h3>{text}<div class=tracks>{''.join(figures)}</div></article>"


def _curves(curves: Sequence[Curve]) -> str:
    figures = []
    for number, curve in enumerate(curves):
        label = escape(f"{curve.title}: {curve.y_label} against {curve.x_label} for {', '.join(curve.series)}")
        caption = f"<p class=note>{escape(curve.caption)}</p>" if curve.caption else ""
        svg = curve_svg(curve, number).replace("<svg", f'<svg role="img" aria-label="{label}"', 1)
        figures.append(f"<figure class=curve><figcaption>{escape(curve.title)}</figcaption>{svg}{caption}</figure>")
    return f"<section><h2>Curves</h2><div class=curves>{''.join(figures)}</div></section>" if figures else ""


def _how(meta: ReportMeta) -> str:
    parts = []
    if meta.commands:
        parts.append(f"<pre><code>{escape(chr(10).join(meta.commands))}</code></pre>")
    for mapping in (meta.settings, meta.versions):
        if mapping:
            pairs = "".join(f"<div><dt>{escape(k)}</dt><dd>{escape(v)}</dd></div>" for k, v in mapping.items())
            parts.append(f"<dl>{pairs}</dl>")
    if meta.notes:
        parts.append(f"<ul>{''.join(f'<li>{escape(note)}</li>' for note in meta.notes)}</ul>")
    return f"<section><h2>How this was made</h2>{''.join(parts)}</section>" if parts else ""
