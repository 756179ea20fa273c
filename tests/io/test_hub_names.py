"""io/hub_names.py: paths that are gone and names in files never become a request."""

from __future__ import annotations

import huggingface_hub
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from llmcodec.io.hub_names import find_cached, refuse_lost_path


@pytest.fixture
def requests(monkeypatch) -> list[tuple[str, bool]]:
    """What was asked of the hub: (repository, whether the local cache alone was meant)."""
    asked: list[tuple[str, bool]] = []

    def snapshot_download(repo_id, local_files_only=False, **options):
        asked.append((repo_id, local_files_only))
        if not local_files_only or repo_id != "owner/here":
            raise LocalEntryNotFoundError("not here")
        return "/cache/owner/here"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    return asked


@pytest.mark.parametrize("name", ["/gone/codec", "./codec", "../codec", "a/b/c", "codec dir", "~/codec", ".x/y", ""])
def test_what_is_no_hub_id_is_a_folder_that_is_gone(name):
    with pytest.raises(ValueError, match="no such folder"):
        refuse_lost_path(name, "codec")


def test_a_path_in_a_folder_that_is_here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("runs/rate", "gpt2", "owner/name"):
        refuse_lost_path(name, "codec")  # could be on the hub
    (tmp_path / "runs").mkdir()
    with pytest.raises(ValueError, match=r"codec runs/rate: no such folder. runs/ is here, .* `hf download runs/rate`"):
        refuse_lost_path("runs/rate", "codec")


def test_a_name_in_a_file_is_looked_up_here_alone(tmp_path, monkeypatch, requests):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "owner" / "name").mkdir(parents=True)
    assert str(find_cached("owner/name", "codec", "card.json")) == "owner/name" and requests == []
    assert str(find_cached("owner/here", "codec", "card.json")) == "/cache/owner/here"
    assert requests == [("owner/here", True)]
    with pytest.raises(ValueError, match="card.json: names the codec 'runs/rate', .*`hf download runs/rate` first"):
        find_cached("runs/rate", "codec", "card.json")
    assert requests[1:] == [("runs/rate", True)]
    for name in ("/gone/codec", ""):
        with pytest.raises(ValueError, match=f"'{name}', which is not on this machine; a name in a file is never"):
            find_cached(name, "codec", "card.json")
    assert len(requests) == 2
