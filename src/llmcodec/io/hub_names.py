"""Names that may be a folder here or a repository on the Hugging Face hub: what never becomes a request.

    refuse_lost_path("runs/rate", "codec")                      # runs/ is here: a path, not a repository
    folder = find_cached("owner/name", "codec", "lm/token_lm.json")
    with hub_answers("codec owner/name"): ...                   # what the hub cannot do is one line

A path that is not there any more looks like a hub id, and whoever owns that id on the hub would be trusted instead.
Test: tests/io/test_hub_names.py.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def hub_answers(asked: str, no_entry: str = "") -> Iterator[None]:
    """What the hub can answer about what was `asked` for, as one line.

    Args:
        no_entry: what to say of a repository without the file.
    """
    from huggingface_hub import errors

    reasons = {  # a subclass stands before its parent
        errors.GatedRepoError: "its owner grants access on request: ask on its hub page, then `hf auth login`",
        errors.RepositoryNotFoundError: "no such repository, neither here nor on the hub (or a private one: "
        "`hf auth login`)",
        errors.RemoteEntryNotFoundError: "the repository has no config.json, or no such file" + no_entry,
        errors.LocalEntryNotFoundError: "no such folder here, and the Hugging Face hub cannot be reached "
        "(HF_HUB_OFFLINE=1 skips the attempt); download it elsewhere and give the folder",
    }
    try:
        yield
    except (errors.HfHubHTTPError, OSError) as error:
        known = (reason for kind, reason in reasons.items() if isinstance(error, kind))
        reason = next(known, f"the hub did not answer well ({one_line(error)})")
        raise ValueError(f"{asked}: {reason}") from error


def one_line(error: BaseException, limit: int = 160) -> str:
    """What an error says, in one line of at most `limit` letters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= limit else f"{text[: limit - 1]}…"
