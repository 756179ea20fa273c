"""The speech in Debian packages: Asterisk's prompts, Fish Fillets' dialogues, a few sentences of LibriVox.

Each source yields (row of the manifest without `audio` and `duration`, function that decodes it).
"""

from __future__ import annotations

import gzip
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from corpus.speech import read_container, read_file

Recording = tuple[dict[str, Any], Callable[[], np.ndarray]]

ASTERISK = {  # language -> speaker, licence
    "en": ("ast_en_allison", "CC-BY-SA-3.0"),
    "es": ("ast_es_allison", "CC-BY-SA-3.0"),
    "fr": ("ast_fr_june", "CC-BY-SA-3.0"),
    "it": ("ast_it_carlo", "CC-BY-3.0"),
    "ru": ("ast_ru_ivrvoice", "CC-BY-3.0"),
}
# Tones, monkeys and silence; the names are shared by all languages.
_ASTERISK_NO_SPEECH = re.compile(
    r"^(silence/|beep$|beeperr$|ascending-2tone$|descending-2tone$|confbridge-join$|confbridge-leave$|tt-monkeys$)"
)
_FILLETS_NO_WORDS = re.compile(r"^(CVAK|[áéíóúhHuú .,!…]+)$", re.IGNORECASE)
_FILLETS_DIALOGUE = re.compile(
    r'dialogId\("([^"]+)",\s*"font_([^"]*)",\s*"((?:[^"\\]|\\.)*)"\)\s*(?:dialogStr\("((?:[^"\\]|\\.)*)"\))?'
)


def asterisk(roots: Path) -> Iterator[Recording]:
    """Telephone prompts in five languages, wide band (G.722, up to about 7.5 kHz), one studio reader each."""
    for language, (speaker, licence) in ASTERISK.items():
        package = f"asterisk-core-sounds-{language}"
        text = _asterisk_text(roots / package / "usr/share/doc" / package / f"core-sounds-{language}.txt.gz")
        (base,) = (roots / f"{package}-g722/usr/share/asterisk/sounds").iterdir()
        for path in sorted(base.rglob("*.g722"), key=str):
            key = path.relative_to(base).as_posix()[:-5]
            if _ASTERISK_NO_SPEECH.match(key):
                continue
            words = text.get(key, "")
            if words.startswith(("[", "<", "(")) and words.endswith(("]", ">", ")")):
                continue  # a description, not words
            words = re.sub(r"\[[^\]]*\]|<[^>]*>|\([^)]*\)", " ", words)
            if language == "en":  # said aloud as words
                words = words.replace("*", " star ").replace("#", " pound ")
            row = {
                "id": f"ast_{language}/" + re.sub(r"[^\w-]+", "_", key),
                "speaker": speaker,
                "language": language,
                "text": clean(words),
                "source": "asterisk-core-sounds",
                "license": licence,
                "bandwidth_hz": 7000,
            }
            yield row, partial(read_container, path.read_bytes(), "g722")


def _asterisk_text(path: Path) -> dict[str, str]:
    with gzip.open(path, "rt", encoding="utf-8-sig") as lines:
        pairs = (line.split(":", 1) for line in lines if not line.startswith(";") and ":" in line)
        return {key.strip(): words.strip() for key, words in pairs}


def fillets(roots: Path) -> Iterator[Recording]:
    """Acted dialogues of a game in Czech and Dutch; speakers are characters, not always different people."""
    scripts = roots / "fillets-ng-data/usr/share/games/fillets-ng/script"
    for language in ("cs", "nl"):
        base = roots / f"fillets-ng-data-{language}/usr/share/games/fillets-ng/sound"
        for script in sorted(scripts.glob(f"*/dialogs_{language}.lua"), key=str):
            level = script.parent.name
            for match in _FILLETS_DIALOGUE.finditer(script.read_text(encoding="utf-8")):
                key, font = match[1], match[2]
                words = clean((match[4] or "").replace("\\n", " ").replace("\\", ""))
                path = base / level / language / f"{key}.ogg"
                if not path.exists() or not re.search(r"\w", words) or _FILLETS_NO_WORDS.match(words):
                    continue
                if font == "both" or (level == "elk" and font == "elk"):
                    continue  # two voices at once; mock Russian in a Czech set
                row = {
                    "id": f"fil_{language}/{level}_{key}",
                    "speaker": f"fil_{language}_{font}",
                    "language": language,
                    "text": words,
                    "source": "fillets-ng",
                    "license": "GPL-2.0-only",
                    "bandwidth_hz": 8000,
                }
                yield row, partial(read_file, path)


def librivox(roots: Path) -> Iterator[Recording]:
    """Five sentences of a LibriVox reading that ship as test data of PocketSphinx."""
    base = roots / "pocketsphinx-testdata/usr/share/pocketsphinx/test/data/librivox"
    for line in (base / "transcription").read_text(encoding="utf-8").splitlines():
        match = re.match(r"<s>(.*)</s> \((.+)\)", line.strip())
        if match:
            row = {
                "id": "lvx_en/" + match[2],
                "speaker": "lvx_en_austen",
                "language": "en",
                "text": clean(match[1].strip().replace("a more a amiable", "a more amiable")),
                "source": "pocketsphinx-testdata",
                "license": "BSD-2-Clause (package); LibriVox recording",
                "bandwidth_hz": 8000,
            }
            yield row, partial(read_file, base / f"{match[2]}.wav")


def clean(text: str) -> str:
    """Straight quotes and single spaces."""
    for curly, straight in (("\u2019", "'"), ("\u2018", "'"), ("\u201c", '"'), ("\u201d", '"')):
        text = text.replace(curly, straight)
    return " ".join(text.split())
