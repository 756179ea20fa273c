"""io/cache.py: one rule where things that can be made again are kept."""

from __future__ import annotations

from pathlib import Path

from llmcodec.io.cache import cache_folder


def test_the_cache_is_where_the_user_says(tmp_path, monkeypatch):
    monkeypatch.delenv("LLMCODEC_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder("measurements") == tmp_path / ".cache" / "llmcodec" / "measurements"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "llmcodec"
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path / "own"))
    assert cache_folder("a", "b") == tmp_path / "own" / "a" / "b"
    assert list(cache_folder("a", "b").iterdir()) == []


def test_where_nothing_can_be_written_it_is_a_folder_of_this_process(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LLMCODEC_CACHE", str(tmp_path / "file"))
    private = cache_folder("kernels")
    assert private.is_dir() and tmp_path not in private.parents and cache_folder("kernels") == private

    def homeless(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", homeless)
    assert cache_folder("kernels") == private
