"""Figures of generated speech: loops, silence, sums over draws and seeds, comparisons."""

from __future__ import annotations

import numpy as np
import pytest

from llmcodec.cli.generation import with_voices
from llmcodec.data.manifest import Clip
from llmcodec.evaluation import generation
from llmcodec.evaluation.generation import (
    GenerationConfig,
    Listeners,
    Passage,
    check_passages,
    share_in_loops,
    share_of_silence,
)
from llmcodec.evaluation.generation_results import GeneratedRow, compare_generation, figure
from llmcodec.evaluation.wer import Recogniser, WordRow
from llmcodec.io import audio
from llmcodec.metrics.base import Measured
from llmcodec.report.generation import comparisons, generation_table, sentences
from llmcodec.runtime.torch_runtime import TorchRuntime

from ..miniature import SAMPLE_RATE, miniature_codec, miniature_speech

RATE = 50.0


def row(name: str, draw: int = 0, errors: int = 0, words: int = 5, **rest) -> GeneratedRow:
    said = WordRow(name, words, errors, "text", "heard")
    return GeneratedRow(name, draw, 1.0, True, 0.0, 0.0, words=said, **rest)


def test_what_repeats_itself_is_a_loop_and_what_does_not_is_none():
    numbers = np.random.default_rng(0)
    free = numbers.permutation(4096)[:200]
    assert share_in_loops(free, RATE) == 0
    once = np.concatenate([free[:100], free[60:160]])  # 40 codes come again, once
    assert share_in_loops(once, RATE) == 0
    thrice = np.concatenate([free[:60], *[free[60:80]] * 3, free[80:140]])
    assert share_in_loops(thrice, RATE) == pytest.approx(60 / 180)
    held = np.concatenate([free[:75], np.full(25, 7)])  # one code for half a second
    assert share_in_loops(held, RATE) == pytest.approx(0.25)
    assert share_in_loops(np.concatenate([free[:75], np.full(20, 7)]), RATE) == 0
    assert share_in_loops(np.full(300, 3), RATE) == 1 and share_in_loops(np.zeros(0, int), RATE) == 0
    slow = np.tile(free[:60], 4)  # its period is longer than a second: not what a loop sounds like
    assert share_in_loops(slow, RATE) == 0


def test_silence_is_counted_against_the_recordings_speech():
    numbers = np.random.default_rng(1)
    speech = np.concatenate([0.1 * numbers.standard_normal(16_000), np.zeros(3_200)]).astype(np.float32)
    assert share_of_silence(speech, speech, 16_000) == pytest.approx(1 / 6)
    assert share_of_silence(speech[:16_000], 70 * speech, 16_000) == 0  # 37 dB below
    assert share_of_silence(speech[:16_000], 150 * speech, 16_000) == 1  # 43 dB below
    assert share_of_silence(np.zeros(0, np.float32), speech, 16_000) == 1


def test_figures_average_draws_and_seeds_and_leave_out_draws_without_a_value():
    first = [row("a", 0, 2), row("a", 1, 3), row("b", 0, 0, 10)]
    second = [row("a", 0, 1), row("a", 1, 1), row("b", 0, 4, 10)]
    assert figure([first], "wer").value == 5 / 20 and figure([first, second], "wer").value == 11 / 40
    assert figure([first, second], "wer").has_bounds
    silent = Measured(None, "digital silence")
    voices = [row("a", measured={"speaker": Measured(0.5)}), row("b", measured={"speaker": silent})]
    assert figure([voices], "speaker").value == 0.5
    assert figure([[row("a", measured={"speaker": silent})]], "speaker") is None and figure([first], "dnsmos") is None
    with pytest.raises(ValueError, match="other passages"):
        figure([first, first[:2]], "wer")


def test_a_comparison_of_one_seed_is_the_paired_t_test():
    stats = pytest.importorskip("scipy.stats")
    numbers = np.random.default_rng(2)
    before, after = numbers.integers(0, 5, 40), numbers.integers(0, 4, 40)
    a, b = ([row(str(n), 0, int(e)) for n, e in enumerate(errors)] for errors in (before, after))
    found = compare_generation([a], [b], "wer")
    expected = stats.ttest_rel(after, before)
    assert found.interval.value == pytest.approx((after.mean() - before.mean()) / 5)
    assert found.p == pytest.approx(expected.pvalue, rel=1e-6)
    with pytest.raises(ValueError, match="same number of seeds"):
        compare_generation([a], [b, b], "wer")


def test_a_model_that_drops_its_hardest_passages_does_not_win_by_that():
    alike = [0.9, 0.8, 0.85, 0.9, 0.1, 0.2]
    both = [row(f"{n}", measured={"speaker": Measured(value)}) for n, value in enumerate(alike)]
    silent = {"speaker": Measured(None, "too little voice")}
    dropped = [one if n < 4 else row(f"{n}", measured=silent) for n, one in enumerate(both)]
    found = compare_generation([both], [dropped], "speaker")
    assert found is not None and found.interval.value == 0.0
    assert compare_generation([both[:1]], [[row("0", measured=silent)]], "speaker") is None


def test_the_primary_comparison_keeps_its_p_and_the_others_are_adjusted():
    numbers = np.random.default_rng(3)

    def system(mean: float):
        errors = numbers.poisson(mean, 30)
        return [
            [
                row(str(n), 0, int(e), measured={"dnsmos": Measured(3 + 0.1 * numbers.normal())})
                for n, e in enumerate(errors)
            ]
        ]

    systems = {"control": system(2.0), "searched": system(1.0), "rate": system(1.9)}
    raw = {
        (name, key): compare_generation(systems["control"], systems[name], key).p
        for name in ("searched", "rate")
        for key in ("wer", "dnsmos")
    }
    found = {(name, one.key): p for name, one, p in comparisons(systems, "wer")}
    assert found["searched", "wer"] == raw["searched", "wer"]
    others = sorted((p, key) for key, p in raw.items() if key != ("searched", "wer"))
    same = [key for key in found if key not in raw]  # loops and the like: equal in all, p is 1
    count, largest = len(others) + len(same), 0.0
    for rank, (p, key) in enumerate(others):
        largest = max(largest, min(1.0, (count - rank) * p))
        assert found[key] == pytest.approx(largest)
    said = sentences(systems, "wer")
    assert said[0].startswith("Primary comparison: Word error rate of searched against control: better, -0.")


def test_draws_without_a_value_are_named():
    failed = [[row("a", measured={"speaker": Measured(None, "what was generated: digital silence")})]]
    fine = [[row("a", measured={"speaker": Measured(0.5)})]]
    said = sentences({"control": fine, "mine": failed}, "wer")
    assert any("mine: 1 of 1 draws have no Speaker similarity" in line and "digital silence" in line for line in said)


def test_the_recogniser_is_told_the_language_and_characters_have_no_spaces(tmp_path):
    miniature_speech(tmp_path)
    clip = Clip("c0", str(tmp_path / "0.wav"), 0.9, text="你好吗", language="zh-CN")
    runtime, config = TorchRuntime(miniature_codec().eval(), "mini"), GenerationConfig(draws=1, seconds=1.0)
    told: list[str | None] = []
    hears = Recogniser("some", lambda wav_S, language: told.append(language) or "你好嘛", frozenset(("en", "zh")))
    (row,) = generation.measure_recordings(runtime, [Passage(clip, clip.text)], config, ("wer", "cer"), hears)
    assert told == ["zh"] and row.words.errors == 1 and row.characters == (1, 3)
    assert "(characters in zh)" in generation_table({"mine": [[row]]}, "").markdown()
    with pytest.raises(ValueError, match="clips in zh, but the recogniser tiny.en knows English alone"):
        english = Recogniser("tiny.en", hears.hear, frozenset(("en",)))
        generation.measure_recordings(runtime, [Passage(clip, clip.text)], config, ("wer",), english)


@pytest.mark.parametrize("task", ["read", "continue"])
def test_recordings_through_the_codec_are_measured_from_where_the_prompt_ends(task, tmp_path, monkeypatch):
    miniature_speech(tmp_path)
    clips = [
        Clip(f"c{n}", str(tmp_path / f"{n}.wav"), s, speaker=f"s{n}", text="red green blue")
        for n, s in enumerate((0.9, 0.62))
    ]
    runtime = TorchRuntime(miniature_codec().eval(), "mini")
    config = GenerationConfig(task, draws=1, seconds=1.0, prompt_seconds=0.1)
    passages = [Passage(clip, clip.text) for clip in clips]
    heard: list[int] = []

    def hear(wav_S: np.ndarray) -> str:
        heard.append(wav_S.size)
        return "red green grey"

    rows = generation.measure_recordings(runtime, passages, config, ("wer", "cer"), hear)
    hop = runtime.identity.hop_samples
    skipped = 0 if task == "read" else round(0.1 * SAMPLE_RATE) // hop * hop / SAMPLE_RATE
    frame = hop / SAMPLE_RATE
    for found, clip in zip(rows, clips, strict=True):
        assert clip.duration - skipped - 1e-9 <= found.seconds <= clip.duration - skipped + frame
        assert found.words is None if task == "continue" else found.words.errors == 1
        assert found.characters is None if task == "continue" else found.characters == (4, 14)
        assert found.ended is (None if task == "continue" else True), "the length of a continuation is fixed"
    assert len(heard) == (2 if task == "read" else 0)


def test_voices_are_compared_with_other_speakers_of_the_same_language_and_source(monkeypatch):
    clips = [("a", "ann", "en"), ("b", "bob", "en"), ("c", "ann", "en"), ("d", "eve", "fr")]
    passages = [Passage(Clip(n, "x", 1.0, speaker=s, language=lang, source="studio"), "") for n, s, lang in clips]
    listeners = Listeners.__new__(Listeners)
    listeners.passages, listeners.voices = passages, [np.eye(4)[0], np.eye(4)[1], np.eye(4)[2], np.eye(4)[3]]
    made = np.array([0.6, 0.3, 0.1, 0.9])
    monkeypatch.setattr(generation, "embed_voice", lambda wav_S, name: made)
    of_a, of_b, of_d = (listeners._voices_of(n, np.ones(5)) for n in (0, 1, 3))
    assert of_a["speaker"].value == 0.6 and of_a["margin"].value == pytest.approx(0.6 - 0.3)
    assert of_b["margin"].value == pytest.approx(0.3 - (0.6 + 0.1) / 2), "both of ann's recordings"
    assert of_d["speaker"].value == 0.9 and of_d["margin"].failure == "no other speaker beside it"


def test_what_is_spoken_in_a_voice_is_compared_with_the_prompt_and_the_prompts_of_others(tmp_path, monkeypatch):
    miniature_speech(tmp_path, seconds=(0.9, 0.8, 0.7, 0.62))
    clips = [
        Clip(f"c{n}", str(tmp_path / f"{n}.wav"), s, speaker=f"s{n % 2}", text="red green blue")
        for n, s in enumerate((0.9, 0.8, 0.7, 0.62))
    ]
    passages = with_voices([Passage(clip, clip.text) for clip in clips], clips, 0.2)
    assert [passage.voice.id for passage in passages] == ["c2", "c3", "c0", "c1"]  # another clip of the speaker
    monkeypatch.setattr(generation, "load_metric_package", lambda *_: None)
    heard: list[np.ndarray] = []
    monkeypatch.setattr(generation, "embed_voice", lambda wav_S, name: heard.append(wav_S) or np.eye(4)[len(heard) % 4])
    runtime = TorchRuntime(miniature_codec().eval(), "mini")
    config = GenerationConfig("voice", prompt_seconds=0.2)
    listeners = Listeners(passages, runtime, config, ("speaker",), "none")
    for wav_S, passage in zip(heard, passages, strict=True):
        samples = round(0.2 * runtime.identity.frame_rate) * runtime.identity.hop_samples
        assert np.array_equal(wav_S, audio.resample(passage.voice.load(SAMPLE_RATE)[:samples], SAMPLE_RATE, 16_000))
    assert listeners.prompt_samples == 0  # nothing of the prompt is in what was made
    with pytest.raises(ValueError, match="c0 has no other recording of its speaker of 5 s"):
        check_passages(with_voices([Passage(clips[0], "a")], clips, 5.0), GenerationConfig("voice", prompt_seconds=5.0))


def test_passages_that_a_task_cannot_use_are_refused_by_name():
    clip = Clip("short", "x.wav", 1.0)
    with pytest.raises(ValueError, match="short lasts 1 s, too short to be continued after 2 s"):
        check_passages([Passage(clip, "")], GenerationConfig("continue"))
    with pytest.raises(ValueError, match="short has no text to read"):
        check_passages([Passage(clip, " ")], GenerationConfig("read"))
    with pytest.raises(ValueError, match="no passage is left"):
        check_passages([], GenerationConfig())
    for wrong in ({"draws": 0}, {"seconds": 0.0}, {"task": "sing"}):
        with pytest.raises(ValueError, match="generation:"):
            GenerationConfig(**wrong)


def test_batches_and_draws_have_seeds_of_their_own():
    runtime = TorchRuntime(miniature_codec().eval(), "mini")
    config = GenerationConfig("continue", seconds=0.5)
    seeds = {config.sampling(draw, batch, runtime).seed for draw in range(3) for batch in range(3)}
    assert len(seeds) == 9
    one = config.sampling(0, 0, runtime)
    assert one.min_codes == one.max_codes == round(0.5 * runtime.identity.frame_rate)
