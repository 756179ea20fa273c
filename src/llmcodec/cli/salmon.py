"""`llmcodec evaluate salmon` and `llmcodec data salmon`: score codecs on a suite; make a suite from a corpus.

Test: tests/cli/test_salmon.py.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from pathlib import Path

from llmcodec import assets
from llmcodec.assets import BUNDLED
from llmcodec.cli.options import CorpusOptions, DeviceOptions, OutputOptions
from llmcodec.cli.output import name_files, open_console, show
from llmcodec.data.manifest import Clip
from llmcodec.experiments.comparison import named_systems, open_systems, prefixed
from llmcodec.io.bad_rows import BadRows, MaxBad
from llmcodec.io.progress import status_line
from llmcodec.io.structured import write_json
from llmcodec.lm.small_lm_scorer import train_scorer
from llmcodec.lm.small_lm_training import LikelihoodConfig, for_bundled_speech
from llmcodec.lm.speech import check_codec, own_codec
from llmcodec.protocol import TokenScorer, deduplicates
from llmcodec.report.files import write_results
from llmcodec.report.salmon import TITLE, comparisons, salmon_table
from llmcodec.salmon.build import SuiteSettings, build_suite
from llmcodec.salmon.cut_check import check_cut
from llmcodec.salmon.score import SalmonResult, salmon_accuracy
from llmcodec.salmon.suite import open_suite


def evaluate_salmon(
    suite: str,
    codec: list[str] | None = None,
    lm: str | None = None,
    corpus: CorpusOptions = CorpusOptions(),
    parts: tuple[str, ...] | None = None,
    max_pairs: int | None = None,
    likelihood: LikelihoodConfig | None = None,
    seed: int = 0,
    device: DeviceOptions = DeviceOptions(),
    output: OutputOptions = OutputOptions(),
) -> None:
    """SALMon: how often a language model over a codec's tokens prefers the consistent one of two recordings.

      llmcodec evaluate salmon slprl/SALMon --codec bundled --codec mine=runs/rate/codec -o salmon
      llmcodec evaluate salmon suite --lm runs/lm_small

    Chance is 50 %. Without --lm, the same small language model is trained from scratch on each codec's tokens of the
    manifest's train split, so that codecs can be compared; the result then depends on that model and its data as much
    as on the codec.

    Args:
        suite: folder in the official layout (PART/sample_I_0.wav, sample_I_1.wav), made by `llmcodec data salmon` or
            downloaded, or a Hugging Face data set such as slprl/SALMon.
        codec: `bundled`, a folder, a hub id, or NAME=one of these; may be repeated; default: the codec of --lm.
        lm: token language model of `llmcodec lm train`, a folder or hub id, for one codec.
        manifest: JSONL manifest; without --lm the language model is trained on its train split; bundled is the corpus
            in the package.
        parts: only these parts, joined by commas, such as speaker_consistency,rir_consistency.
        max_pairs: only the first pairs of each part.
        likelihood: model and budget of the language model trained here; null takes the small one for `bundled`.
        seed: of the language model trained here.
        output: also write table (.md) and everything measured (.json) under this name; NAME.html also a page.
    """
    from llmcodec.lm.token_lm import load_token_lm

    if lm is not None and len(codec or []) > 1:
        raise ValueError("--lm speaks the tokens of one codec: give one --codec, or leave --lm out to train one each")
    where = device.torch_device()
    spoken = load_token_lm(lm, device=where) if lm is not None else None
    speaks = spoken is not None and spoken.card.codec is not None
    systems = named_systems(codec or [own_codec(spoken) if spoken is not None and speaks else BUNDLED])
    open_suite(suite, parts)  # report errors in it before a language model is trained
    console = open_console()
    results: dict[str, SalmonResult] = {}
    config = likelihood or LikelihoodConfig()
    config = for_bundled_speech(config) if corpus.manifest == BUNDLED else config
    clips: list[Clip] = []
    bad = BadRows()
    if spoken is None:
        (clips,), bad = corpus.without_bad(corpus.read("train"))
    with status_line(console) as tell:
        for name, encoded in open_systems(systems, where):
            if deduplicates(encoded.codec):
                raise ValueError(f"{name}: SALMon's pairs are scored on all frames; leave ?deduplicate out")
            report = prefixed(tell, name)
            scorer: TokenScorer
            if spoken is not None:
                check_codec(spoken, encoded.runtime.identity, name)
                scorer = spoken
            else:
                scorer = train_scorer(
                    encoded.tokens(clips, partial(report, "encode the training clips"), keep=False),
                    encoded.codec.codebook_size,
                    encoded.codec.frame_rate,
                    config,
                    num_codebooks=encoded.codec.num_codebooks,
                    seed=seed,
                    device=where,
                    on_progress=partial(report, "train the language model"),
                )
            results[name] = salmon_accuracy(
                encoded.codec, scorer, suite, parts, max_pairs=max_pairs, on_progress=report
            )
    sentences = comparisons(results)
    show(console, [salmon_table(results, TITLE)], sentences)
    if output.output is not None:
        manifest = None if lm else corpus.manifest
        about = {"suite": suite, "lm": lm or asdict(config), "manifest": manifest, "seed": seed}
        about |= {"left_out": bad.reasons} if bad.reasons else {}
        values = {"about": about, "codecs": {name: result.to_json() for name, result in results.items()}}
        name_files(console, write_results(output.output, [salmon_table(results)], sentences, values))


def make_salmon_suite(
    manifest: list[str] | None = None,
    output: str = "salmon_suite",
    pairs: int = 200,
    parts: tuple[str, ...] | None = None,
    split: tuple[str, ...] = SuiteSettings.splits,
    seed: int = 0,
    speakers: str | None = None,
    noises: str | None = None,
    rooms: str | None = None,
    max_seconds: float = 4.0,
    snr_db: tuple[float, float] = (0.0, 15.0),
    t60_seconds: tuple[float, float] = (0.15, 1.1),
    max_bad: MaxBad = 0,
    check: bool = False,
    check_pairs: int = 400,
) -> None:
    """Make a SALMon-style suite from any corpus: pairs of clips, one of which changes speaker, background or room.

      llmcodec data salmon --manifest corpus/manifest.jsonl -o suite

    Parts: speaker_consistency, gender_consistency (if --speakers gives genders), bg_all_consistency,
    bg_domain_consistency, rir_consistency. Sentiment and bg_alignment need labels that corpora do not have and are left
    out. Both sides of a pair are spliced alike; same settings, same bytes.

    Args:
        manifest: JSONL manifest; repeat it for several corpora; default the corpus in the package.
        output: folder to write; it must not exist.
        pairs: pairs of each part, at most.
        parts: only these parts, joined by commas; null makes what the corpus allows.
        split: splits that clips may come from, joined by commas; earlier ones are used up first.
        seed: of everything random.
        speakers: JSON file: speaker label -> person, {person, gender} or null (leave out), so that one person with two
            labels does not count as two.
        noises: folder of recorded backgrounds, one subfolder per domain; null synthesises them.
        rooms: folder of recorded impulse responses; null generates rooms.
        max_seconds: longest clip of the suite.
        snr_db: range of speech-to-background ratios.
        t60_seconds: range of reverberation times of generated rooms.
        max_bad: leave out at most so many clips that cannot be read, 20 or 1%, and list them; one more stops.
        check: also test that a classifier cannot tell spliced speech from whole; takes as long as a few suites.
        check_pairs: pairs for that test.
    """
    paths = [str(assets.speech_manifest()) if path == BUNDLED else path for path in manifest or [BUNDLED]]
    settings = SuiteSettings(
        pairs=pairs,
        parts=parts,
        splits=split,
        seed=seed,
        max_seconds=max_seconds,
        snr_db=snr_db,
        t60_seconds=t60_seconds,
    )
    console = open_console()
    with status_line(console) as tell:
        summary = build_suite(
            paths, output, settings, speakers=speakers, noises=noises, rooms=rooms, max_bad=max_bad, on_progress=tell
        )
    console.print(str(summary), highlight=False, soft_wrap=True)
    if not check:
        return
    with status_line(console) as tell:
        result = check_cut(
            paths,
            settings,
            speakers=speakers,
            pairs=check_pairs,
            max_bad=max_bad,
            on_progress=lambda part, share: tell("check", share),
        )
    content = {"passed": result.passed, "accuracy": {k: vars(v) for k, v in result.accuracy.items()}}
    write_json(Path(output) / "cut_check.json", content)
    console.print(str(result), highlight=False, soft_wrap=True)
    if not result.passed:
        raise ValueError("the splices can be heard, or the classifier is too weak to tell: see the figures above")
