"""named_files.py: the content counts, not the path or the time; what is no file here counts as its name."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from llmcodec.training import named_files as module
from llmcodec.training.named_files import content_of, named_files

from ..miniature import everything_on, recipe_of


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model" / "inner").mkdir(parents=True)
    (tmp_path / "model" / "config.json").write_text("{}")
    (tmp_path / "model" / "inner" / "weights.bin").write_bytes(b"1234")
    return tmp_path / "model"


def test_another_content_is_seen_and_a_copy_is_the_same(folder: Path, tmp_path: Path) -> None:
    before = content_of(str(folder))
    assert before is not None and content_of(str(folder / "config.json")) not in (before, None)
    shutil.copytree(folder, tmp_path / "copy")
    os.utime(tmp_path / "copy" / "config.json", (1e9, 1e9))
    for note in ("README.md", "digests.json", ".codes"):
        (folder / note).write_text("of no weight")
    assert content_of(str(folder)) == before == content_of(str(tmp_path / "copy"))
    (folder / "inner" / "weights.bin").write_bytes(b"1235")
    os.utime(folder / "inner" / "weights.bin", ns=(1, 1))
    assert content_of(str(folder)) != before
    (tmp_path / "copy" / "inner" / "weights.bin").rename(tmp_path / "copy" / "weights.bin")
    assert content_of(str(tmp_path / "copy")) != before


def test_a_place_is_found_in_every_spelling(folder: Path) -> None:
    plain = content_of(str(folder))
    for name in ("{}:4", "wavlm:{}", "whisper-ct2:{}?seconds=4", "hubert:{}:9", "search:{}?weight=1"):
        assert content_of(name.format(folder)) == plain, name
    (folder / "codec").mkdir()
    (folder / "codec" / "config.json").write_text("{}")
    assert content_of(str(folder)) == content_of(str(folder / "codec")), "a run folder is its codec"


def test_a_name_that_is_no_file_here_has_no_content(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bundled").mkdir()
    for name in (
        None,
        "",
        "bundled",
        "tiny",
        "smollm2",
        "owner/name",
        "opus:16",
        "s3://bucket/codec",
        "faster-whisper",
    ):
        assert content_of(name) is None, name


def test_a_long_file_is_read_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module, "WHOLE_BYTES", 100)
    monkeypatch.setattr(module, "PIECE_BYTES", 10)
    path = tmp_path / "long"
    seen: set[tuple[str | None, int | None]] = set()
    for place in (None, 0, 500_000, 999_999):
        content = bytearray(1_000_000)
        if place is not None:
            content[place - 5 if place == 500_000 else place] = 1
        path.write_bytes(content)
        os.utime(path, ns=(len(seen), len(seen)))
        seen.add((content_of(str(path)), place))
    assert len({content for content, place in seen if place != 500_000}) == 3


def test_every_file_of_a_recipe_is_named(tmp_path: Path) -> None:
    recipe = everything_on("paper", tmp_path, "run")
    assert list(named_files(recipe)) == ["codec.start", "language.backbone.name", "bigram.prior", "teacher.name"]
    (tmp_path / "rows").write_text("1")
    language = [f"--language.audio_rows={tmp_path / 'rows'}", f"--language.audio_lm={tmp_path / 'rows'}"]
    found = named_files(recipe_of("--config", "rate", *language))
    assert list(found) == ["language.audio_rows", "language.audio_lm"] and len(set(found.values())) == 1
    assert named_files(recipe_of("--config", "paper_tiny")) == {}
