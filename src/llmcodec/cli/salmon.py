"""`llmcodec evaluate salmon` and `llmcodec data salmon`: score codecs on a suite; make a suite from a corpus.

Test: tests/cli/test_salmon.py.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from llmcodec import assets
from llmcodec.adapters.load import BUNDLED, load_codec
from llmcodec.cli.output import Show, progress, write_text
from llmcodec.data.manifest import read_manifest
from llmcodec.evaluation.system import encode_all
from llmcodec.experiments.comparison import named_systems
from llmcodec.lm.small_lm_training import MINI_LIKELIHOOD, LikelihoodConfig
from llmcodec.lm.speech import check_codec
from llmcodec.metrics.statistics import Interval
from llmcodec.protocol import Codec, TokenScorer
from llmcodec.runtime.torch_runtime import identity_of
from llmcodec.salmon.build import SuiteSettings, build_suite
from llmcodec.salmon.score import SalmonResult, compare_salmon, salmon_accuracy
from llmcodec.salmon.suite import open_suite

if TYPE_CHECKING:
    from rich.table import Table

    from llmcodec.lm.token_lm import TokenLM

POOLED, AVERAGE = "all pairs", "mean of the parts"


def evaluate_salmon(
    suite: str,
    codec: list[str] | None = None,
    lm: str | None = None,
    manifest: str = BUNDLED,
    parts: list[str] | None = None,
    max_pairs: int | None = None,
    likelihood: LikelihoodConfig | None = None,
    seed: int = 0,
    device: str = "cpu",
    output: str | None = None,
) -> None:
    """How often a language model over a codec's tokens prefers the consistent one of two recordings (SALMon).

    Chance is 50 %. Without --lm, the same small language model is trained from scratch on each codec's tokens of the
    manifest's train split, so that codecs can be compared; the table then says as much about that model and its data as
    about the codec.

    Args:
        suite: folder in the official layout (PART/sample_I_0.wav, sample_I_1.wav), made by `llmcodec data salmon` or
            downloaded, or a Hugging Face data set such as slprl/SALMon.
        codec: `bundled`, a folder, a hub id, or NAME=one of these; may be repeated; default: the codec of --lm.
        lm: token language model of `llmcodec lm train`, a folder or hub id, for one codec.
        manifest: where the language model is trained without --lm: a JSONL manifest, or `bundled`.
        parts: only these parts, such as [speaker_consistency, rir_consistency].
        max_pairs: only the first pairs of each part.
        likelihood: model and budget of the language model trained here; null takes the small one for `bundled`.
        seed: of the language model trained here.
        device: where codec and language model run, such as cuda.
        output: also write table (.md) and everything measured (.json) under this name.
    """
    from rich.console import Console

    if lm is not None and len(codec or []) > 1:
        raise ValueError("--lm speaks the tokens of one codec: give one --codec, or leave --lm out to train one each")
    spoken = load_token_lm(lm, device) if lm is not None else None
    card = spoken.card.codec if spoken is not None else None
    systems = named_systems(codec or [card.codec if card is not None else BUNDLED])
    open_suite(suite, parts)  # what is wrong with it is said before a language model is trained
    console = Console()
    results: dict[str, SalmonResult] = {}
    config = likelihood or (MINI_LIKELIHOOD if manifest == BUNDLED else LikelihoodConfig())
    with progress(console) as show:
        for system in systems:
            loaded = load_codec(system.place, device)

            def report(stage: str, share: float, name: str = system.name) -> None:
                show(f"{name}: {stage}", share)

            scorer: TokenScorer
            if spoken is not None:
                check_codec(spoken, identity_of(loaded, system.name).provenance(), system.place)
                scorer = spoken
            else:
                scorer = _train(loaded, manifest, config, seed, device, report)
            results[system.name] = salmon_accuracy(
                loaded, scorer, suite, parts, max_pairs=max_pairs, on_progress=report
            )
    console.print(salmon_table(results))
    for line in comparisons(results):
        console.print(f"- {line}", highlight=False)
    if output is not None:
        stem = Path(output)
        about = {"suite": suite, "lm": lm or asdict(config), "manifest": None if lm else manifest, "seed": seed}
        content = {"about": about, "codecs": {name: result.to_json() for name, result in results.items()}}
        write_text(stem.with_suffix(".md"), salmon_markdown(results))
        write_text(stem.with_suffix(".json"), json.dumps(content, indent=1) + "\n")
        console.print(f"written: {stem.with_suffix('.md')}, {stem.with_suffix('.json')}", soft_wrap=True)


def load_token_lm(place: str, device: str) -> TokenLM:
    """As in `lm.token_lm`, imported when it is needed."""
    from llmcodec.lm import token_lm

    return token_lm.load_token_lm(place, device=device)


def _train(codec: Codec, manifest: str, config: LikelihoodConfig, seed: int, device: str, report: Show) -> TokenScorer:
    """The measuring LM, trained on the codec's tokens of the manifest's train split."""
    from llmcodec.lm.small_lm_scorer import train_scorer

    clips = read_manifest(assets.speech_manifest() if manifest == BUNDLED else manifest, "train")
    codes = []
    for start in range(0, len(clips), 200):
        codes += encode_all(codec, clips[start : start + 200])
        report("encode the training clips", len(codes) / len(clips))
    return train_scorer(
        codes,
        codec.codebook_size,
        codec.frame_rate,
        config,
        num_codebooks=codec.num_codebooks,
        seed=seed,
        device=device,
        on_progress=lambda share: report("train the language model", share),
    )


def make_salmon_suite(
    manifest: list[str] | None = None,
    output: str = "salmon_suite",
    pairs: int = 200,
    parts: list[str] | None = None,
    splits: list[str] | None = None,
    seed: int = 0,
    speakers: str | None = None,
    noises: str | None = None,
    rooms: str | None = None,
    max_seconds: float = 4.0,
    snr_db: tuple[float, float] = (0.0, 15.0),
    t60_seconds: tuple[float, float] = (0.15, 1.1),
    check: bool = False,
    check_pairs: int = 400,
) -> None:
    """Make a SALMon-style suite from any corpus: pairs of clips of which one changes speaker, background or room.

    Parts: speaker_consistency, gender_consistency (where --speakers tells genders), bg_all_consistency,
    bg_domain_consistency, rir_consistency. Sentiment and bg_alignment need labels that corpora do not have and are left
    out. Both sides of a pair pass through the same cut; same settings, same bytes.

    Args:
        manifest: JSONL manifest; repeat it for several corpora; default the corpus in the package.
        output: folder to write; it must not exist.
        pairs: pairs of each part, at most.
        parts: only these parts, such as [speaker_consistency, rir_consistency]; null makes what the corpus allows.
        splits: splits that clips may come from, earlier ones are used up first; default [test, valid].
        seed: everything random is drawn from it.
        speakers: JSON file: speaker label -> person, {person, gender} or null (leave out), so that one person under two
            labels is not taken for two.
        noises: folder of recorded backgrounds, one subfolder per domain; null synthesises them.
        rooms: folder of recorded impulse responses; null generates rooms.
        max_seconds: longest clip of the suite.
        snr_db: range of the speech level over the background's.
        t60_seconds: range of reverberation times of generated rooms.
        check: also test that the cut gives nothing away (docs/data.md); takes as long as a few suites.
        check_pairs: pairs for that test.
    """
    from rich.console import Console

    from llmcodec.salmon.cut_check import check_cut

    paths = [str(assets.speech_manifest()) if path == BUNDLED else path for path in manifest or [BUNDLED]]
    settings = SuiteSettings(
        pairs=pairs,
        parts=tuple(parts) if parts is not None else None,
        splits=tuple(splits) if splits is not None else SuiteSettings.splits,
        seed=seed,
        max_seconds=max_seconds,
        snr_db=snr_db,
        t60_seconds=t60_seconds,
    )
    console = Console()
    with progress(console) as show:
        summary = build_suite(paths, output, settings, speakers=speakers, noises=noises, rooms=rooms, on_progress=show)
    console.print(str(summary), highlight=False, soft_wrap=True)
    if not check:
        return
    with progress(console) as show:
        result = check_cut(
            paths, settings, speakers=speakers, pairs=check_pairs, on_progress=lambda part, share: show("check", share)
        )
    content = {"passed": result.passed, "accuracy": {k: vars(v) for k, v in result.accuracy.items()}}
    write_text(Path(output) / "cut_check.json", json.dumps(content, indent=1) + "\n")
    console.print(str(result), highlight=False, soft_wrap=True)
    if not result.passed:
        raise ValueError("the cut can be heard, or the classifier is too weak to tell: see the figures above")


# -- tables ------------------------------------------------------------------------------------------------------------
def _rows(results: Mapping[str, SalmonResult]) -> tuple[list[str], list[list[str]]]:
    """Head and lines. One codec: mean and summed log-likelihood side by side. Several: a column each."""
    first = next(iter(results.values()))
    if len(results) == 1:
        head = ["", "pairs", "mean log-likelihood", "summed", "ties"]
        lines = [
            [name, str(len(part.pairs)), percent(part.mean), percent(part.sum), str(part.ties)]
            for name, part in first.parts.items()
        ]
        ties = sum(part.ties for part in first.parts.values())
        lines.append([POOLED, str(first.overall.num), percent(first.overall), percent(first.overall_sum), str(ties)])
        return head, [*lines, [AVERAGE, "", f"{100 * first.average:.1f}", "", ""]]
    head = ["", "pairs", *results]
    lines = [
        [name, str(len(part.pairs)), *(percent(result.parts[name].mean) for result in results.values())]
        for name, part in first.parts.items()
    ]
    lines.append([POOLED, str(first.overall.num), *(percent(result.overall) for result in results.values())])
    return head, [*lines, [AVERAGE, "", *(f"{100 * result.average:.1f}" for result in results.values())]]


def percent(cell: Interval) -> str:
    """`61.5 [54.6, 68.0]`, in percent."""
    return f"{100 * cell.value:.1f} [{100 * cell.low:.1f}, {100 * cell.high:.1f}]"


def salmon_table(results: Mapping[str, SalmonResult]) -> Table:
    """For `rich.print`."""
    from rich.table import Table

    head, lines = _rows(results)
    table = Table(title="SALMon: % of pairs whose consistent side is more likely [95 % Wilson interval]")
    for number, name in enumerate(head):
        table.add_column(name, justify="left" if number == 0 else "right")
    for line in lines:
        table.add_row(*line)
    return table


def salmon_markdown(results: Mapping[str, SalmonResult]) -> str:
    """The same table in Markdown, with the comparisons."""
    head, lines = _rows(results)
    table = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    table += ["| " + " | ".join(line) + " |" for line in lines]
    notes = [f"- {line}" for line in comparisons(results)]
    return "\n".join(table + ([""] + notes if notes else [])) + "\n"


def comparisons(results: Mapping[str, SalmonResult]) -> list[str]:
    """Every other codec against the first, paired by pair."""
    (base, reference), *others = results.items()
    sentences = []
    for name, result in others:
        paired = compare_salmon(reference, result)
        change = [100 * x for x in (paired.difference.value, paired.difference.low, paired.difference.high)]
        word = "differs from" if paired.real else "no difference shown from"
        evidence = f"{change[0]:+.1f} points, paired 95 % interval {change[1]:+.1f} to {change[2]:+.1f}"
        sentences.append(f"{name}: {word} {base}, {evidence}, {paired.num} pairs, one language model each.")
    return sentences
