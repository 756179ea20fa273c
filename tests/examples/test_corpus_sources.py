"""The readers of examples/corpus on small made-up packages: ids, speakers, languages, texts, what is skipped."""

from __future__ import annotations

import importlib
import subprocess
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf

debian = importlib.import_module("corpus.debian")
readings = importlib.import_module("corpus.readings")
sources = importlib.import_module("corpus.sources")


@pytest.fixture
def sound():
    def write(path: Path, number: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        sf.write(path, 0.1 * np.random.default_rng(number).standard_normal((8000, 2)), 8000)

    return write


def test_festvox_ru(tmp_path, sound):
    voice = tmp_path / "festvox-ru/usr/share/festival/voices/russian/msu_ru_nsh_clunits"
    sound(voice / "wav/ru_0001.wav")
    (voice / "etc").mkdir()
    (voice / "etc/txt.done.data").write_text('( ru_0001 "Он+а  завел+а" )\n( ru_0002 "без звука" )\n', encoding="utf-8")
    [(row, decode)] = readings.festvox_ru(tmp_path)
    assert (row["id"], row["speaker"], row["language"]) == ("fvru/ru_0001", "fvru_nsh", "ru")
    assert row["text"] == "Она завела", "without the marks of stress"
    wav_S = decode()
    assert wav_S.shape == (16000,) and wav_S.dtype == np.float32


def test_tuxpaint(tmp_path, sound):
    stamps = tmp_path / "tuxpaint-stamps-default/usr/share/tuxpaint/stamps"
    for name in ("animals/cat_desc.ogg", "animals/cat_desc_de.ogg", "animals/cat_desc_pt_BR.ogg", "animals/cat.wav"):
        sound(stamps / name)
    (stamps / "animals/dog_desc.ogg").symlink_to("cat_desc.ogg")
    (stamps / "animals/cat.txt").write_text("A cat.\nde.utf8=Eine Katze.\nfr.utf8=Un chat.\n", encoding="utf-8")
    rows = [row for row, _ in readings.tuxpaint(tmp_path)]
    assert [(row["id"], row["speaker"], row["language"], row["text"]) for row in rows] == [
        ("tux_en/animals_cat", "tux_en", "en", "A cat."),
        ("tux_de/animals_cat", "tux_de", "de", "Eine Katze."),
        ("tux_pt_BR/animals_cat", "tux_pt_BR", "pt", ""),
    ], "one volunteer a language; effects and links are no captions"


def test_klettres_lists_a_file_once(tmp_path, sound):
    base = tmp_path / "klettres-data/usr/share/klettres"
    sound(base / "he/alpha/a-01.ogg")
    listing = '<sound name="A" file="he/alpha/a-01.ogg"/><sound name="B" file="he/alpha/a-01.ogg"/>'
    (base / "he/sounds.xml").write_text(listing + '<sound name="C" file="he/alpha/none.ogg"/>', encoding="utf-8")
    [(row, _)] = readings.klettres(tmp_path)
    assert (row["id"], row["speaker"], row["text"]) == ("klet_he/he_alpha_a-01", "klet_he", "a")


def test_librivox(tmp_path, sound):
    base = tmp_path / "pocketsphinx-testdata/usr/share/pocketsphinx/test/data/librivox"
    sound(base / "sense-01.wav")
    (base / "transcription").write_text("<s> he was a more a amiable man </s> (sense-01)\n", encoding="utf-8")
    [(row, decode)] = sources.librivox(tmp_path)
    assert (row["id"], row["text"]) == ("lvx_en/sense-01", "he was a more amiable man")
    assert len(decode()) == 16000


def test_half_a_package_is_unpacked_again(tmp_path, monkeypatch):
    (tmp_path / "debs").mkdir()
    (tmp_path / "debs/pack_1.deb").touch()
    files = ["a", "b"]

    def unpack(command, check):
        assert command[:2] == ["dpkg", "-x"] and check
        for name in files:
            if name == "full":
                raise subprocess.CalledProcessError(2, command)
            Path(command[3], name).touch()

    monkeypatch.setattr(debian.subprocess, "run", unpack)
    files.insert(1, "full")
    with pytest.raises(subprocess.CalledProcessError):
        debian.fetch(["pack"], tmp_path / "debs", tmp_path / "x")
    files.remove("full")
    debian.fetch(["pack"], tmp_path / "debs", tmp_path / "x")
    assert sorted(path.name for path in (tmp_path / "x").rglob("*")) == ["a", "b", "pack"]
