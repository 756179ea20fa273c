"""Audio made by other tools: a CSV file with a recording and its reconstruction on every line.

    reference,reconstruction,codec,domain
    clips/1.wav,out/dac/1.wav,DAC,speech

`reference` and `reconstruction` are required; `codec`, `domain`, `text` and `language` are optional. Paths are relative
to the CSV's folder, or to the current one. Test: tests/evaluation/test_pairs.py.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmcodec.evaluation import wer
from llmcodec.evaluation.cache import Journal, model_state
from llmcodec.evaluation.reconstruction import ReconstructionResult, file_state, length_key, measure_missing
from llmcodec.evaluation.workers import ClipRow, Job, Lengths, job_key
from llmcodec.io.remote.paths import as_path, bring, is_url, look_for
from llmcodec.metrics.registry import SUPERB

REQUIRED = ("reference", "reconstruction")


@dataclass(frozen=True)
class Pair:
    """One line of the file."""

    reference: Path
    reconstruction: Path
    id: str
    """The reference as it is written in the file: the same for all codecs."""
    codec: str = "reconstruction"
    domain: str = ""
    text: str = ""
    language: str = "en"


def read_pairs(path: str | os.PathLike[str]) -> list[Pair]:
    """Pairs of a CSV file. Raises ValueError that names the line: a missing column or file, no rows."""
    place = bring(path)
    if not place.is_file():
        raise ValueError(f"{place}: no such file; --pairs takes a CSV with the columns {', '.join(REQUIRED)}")
    pairs: list[Pair] = []
    try:
        with open(place, encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            missing = [name for name in REQUIRED if name not in (reader.fieldnames or [])]
            if missing:
                found = ", ".join(reader.fieldnames or []) or "none"
                raise ValueError(f"{place}: column {', '.join(missing)} missing (found: {found})")
            for row in reader:
                pairs.append(_pair(row, place, reader.line_num))
    except (UnicodeDecodeError, csv.Error) as error:
        raise ValueError(f"{place}: not a CSV file in UTF-8 ({error})") from error
    if not pairs:
        raise ValueError(f"{place}: no pairs under the header")
    seen: set[tuple[str, str]] = set()
    for pair in pairs:
        if (pair.codec, pair.id) in seen:
            raise ValueError(f"{place}: {pair.id} occurs twice for codec {pair.codec!r}")
        seen.add((pair.codec, pair.id))
    return pairs


def _pair(row: dict[str, str | None], place: Path, line: int) -> Pair:
    found = {}
    for name in REQUIRED:
        written = (row.get(name) or "").strip()
        if not written:
            raise ValueError(f"{place}:{line}: {name} is empty")
        candidates = [as_path(written)] if is_url(written) else [place.parent / written, Path(written)]
        look_for(candidates)
        found[name] = next((one for one in candidates if one.is_file()), None)
        if found[name] is None:
            raise ValueError(f"{place}:{line}: {name} {written} is not there")
    reference, reconstruction = found["reference"], found["reconstruction"]
    assert reference is not None and reconstruction is not None
    more = {name: (row.get(name) or "").strip() for name in ("codec", "domain", "text", "language")}
    return Pair(
        reference, reconstruction, str(row["reference"]).strip(), **{name: text for name, text in more.items() if text}
    )


def measure_pairs(
    pairs: Sequence[Pair],
    *,
    metrics: Sequence[str] = SUPERB,
    asr: str | None = None,
    asr_languages: Sequence[str] | None = None,
    num_workers: int | None = None,
    journal: Journal | None = None,
    lengths: Lengths = "cut",
    on_progress: Callable[[float], None] | None = None,
) -> dict[str, ReconstructionResult]:
    """Measure pairs at each reference's own sample rate; results by codec, in the order of the file.

    A file that cannot be read, or a pair of different lengths, is a named failure of that pair.

    Args:
        pairs: from `read_pairs`.
        metrics, asr, num_workers, journal, lengths: as `measure_reconstruction`.
        asr_languages: pairs of other languages get no word errors; None: all get them.

    Raises:
        ValueError: unknown metrics, packages that are not installed, or a recogniser and no transcript for it.
    """
    names = tuple(metrics)
    more, recogniser = length_key(lengths), model_state(asr)
    texts, told = _heard(pairs, asr, asr_languages)
    keys = [
        job_key(
            "pair",
            file_state(p.reference),
            file_state(p.reconstruction),
            names,
            recogniser,
            asr_languages,
            p.text,
            p.language,
            *more,
            *language,
        )
        for p, language in zip(pairs, told, strict=True)
    ]

    def jobs(waiting: Sequence[int]) -> Iterator[Job]:
        for i in waiting:
            p = pairs[i]
            row = ClipRow(p.id, reference=str(p.reference), reconstruction=str(p.reconstruction))
            yield Job(keys[i], row, row.reference, row.reconstruction, 0, names, texts[i], p.language, asr, lengths)

    rows: dict[str, list[ClipRow]] = {}
    for p, row in zip(pairs, measure_missing(keys, jobs, names, asr, num_workers, journal, on_progress), strict=True):
        rows.setdefault(p.codec, []).append(replace(row, domain=p.domain))
    return {codec: ReconstructionResult(found) for codec, found in rows.items()}


def _heard(
    pairs: Sequence[Pair], asr: str | None, wanted: Sequence[str] | None
) -> tuple[list[str], list[tuple[str, ...]]]:
    """Transcripts to be compared, empty for none, and what their languages add to the keys."""
    if asr is None:
        return [""] * len(pairs), [()] * len(pairs)
    recogniser = wer.load_transcriber(asr)
    languages = [wer.language_of(p.language, [p.language] if wanted is None else wanted) for p in pairs]
    both = list(zip(pairs, languages, strict=True))
    texts = [p.text if language and wer.normalise(p.text, language) else "" for p, language in both]
    if not any(texts):
        written = ", ".join(sorted({p.language for p in pairs if p.text})) or "none: is its column called `text`?"
        raise ValueError(
            f"word error rate: none of {len(pairs)} pairs has a transcript in "
            f"{', '.join(wanted or ('any language',))}; languages of their transcripts: {written}"
        )
    wer.check_languages(
        recogniser, [language for (_, language), text in zip(both, texts, strict=True) if language and text]
    )
    return texts, [wer.language_key(recogniser, p.text, p.language, language) for p, language in both]
