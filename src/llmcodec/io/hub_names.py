"""Names that may be a folder here or a repository on the Hugging Face hub: what never becomes a request.

    refuse_lost_path("runs/rate", "codec")                      # runs/ is here: a path, not a repository
    folder = find_cached("owner/name", "codec", "lm/token_lm.json")

A path that is not there any more looks like a hub id, and whoever owns that id on the hub would be trusted instead.
Test: tests/io/test_hub_names.py.
"""

from __future__ import annotations

import re
from pathlib import Path

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


def refuse_lost_path(name: str, what: str) -> None:
    """Refuse a name that can only mean a folder of this machine, or that means one before it means a repository.

    Raises:
        ValueError: no hub id in form, or an id whose owner is a folder here, in which the name is missing.
    """
    if not HUB_ID.fullmatch(name) or name.startswith("."):
        raise ValueError(f"{what} {name}: no such folder")
    parent, slash, _ = name.partition("/")
    if slash and Path(parent).is_dir():
        raise ValueError(
            f"{what} {name}: no such folder. {parent}/ is here, so this is not looked up on the hub; for a repository "
            f"of that name, give the folder that `hf download {name}` prints"
        )


def find_cached(name: str, what: str, said_by: object) -> Path:
    """The folder that a name in a file of ours means: here, or a repository that this machine has downloaded before.

    Args:
        said_by: the file, for messages.

    Raises:
        ValueError: neither; the hub is never asked.
    """
    if name and Path(name).is_dir():
        return Path(name)
    if HUB_ID.fullmatch(name) and "/" in name and not name.startswith("."):
        from huggingface_hub import snapshot_download

        try:
            return Path(snapshot_download(name, local_files_only=True))
        except (OSError, ValueError):  # its own error says to go online
            pass
        advice = f"; if it is a repository on the hub, `hf download {name}` first"
    else:
        advice = ""
    raise ValueError(
        f"{said_by}: names the {what} {name!r}, which is not on this machine; "
        f"a name in a file is never fetched from the hub{advice}"
    )
