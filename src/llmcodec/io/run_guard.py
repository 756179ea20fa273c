"""What guards a run folder: one process writes it, it is resumed as it was begun, and signals end it in good order.

    with RunLock("runs/mine"), StopSignals() as stop:
        for step in ...:
            if stop.received: save(); raise Stopped(stop.received, "llmcodec train ... --resume")

Test: `pytest tests/io/test_run_guard.py`.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from inspect import signature
from pathlib import Path
from types import FrameType, TracebackType
from typing import IO, Any, TypeVar, get_args, get_type_hints

from llmcodec.io.atomic import find_left_overs, restore_folders
from llmcodec.io.remote.paths import as_path, shown
from llmcodec.io.structured import read_object, write_json

T = TypeVar("T")
LOCK = ".lock"
RUN = "run.json"
WRITTEN = (RUN, "audio_files.json", "log.jsonl", "curves.png", "codec", "lm")
"""What only the holder of the lock writes at the top of a run folder."""
SIGNALS = ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1")
"""Ctrl-C, the end of a batch job's time, a closed terminal, and what SLURM sends ahead (`--signal=B:USR1@120`)."""
SAME_SIGNAL_SECONDS = 0.5
"""`timeout` and batch systems send a signal to the process and to its group: it comes twice and means once."""


def lock_file(path: Path) -> IO[str] | None:
    """The file, open; while it is, no other process gets it. None where another one has it.

    The lock of a process that ends, however it ends, is free again. The file stays: a lock is held on a file, not on a
    name, so who deletes it lets two processes hold one each. Where the system has no locks, everybody gets the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file = open(path, "a+", encoding="utf-8")  # noqa: SIM115  the caller closes it
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            file.close()
            return None
    except ImportError:  # Windows
        pass
    return file


class RunLock:
    """Holds a run folder for this process while the `with` block runs; the operating system lets go of dead holders.

    What a killed holder left of the run's own files (`WRITTEN`) is removed, and a folder that it was replacing is back.

    Where the file system has no locks, the folder is not guarded.

    Raises:
        ValueError: another process holds the folder; the message names it.
    """

    def __init__(self, folder: str | os.PathLike[str], enabled: bool = True) -> None:
        self.path, self.enabled = as_path(folder) / LOCK, enabled
        self._file: IO[str] | None = None

    def __enter__(self) -> RunLock:
        if self.enabled:
            self._acquire()
        return self

    def _acquire(self) -> None:
        self._file = lock_file(self.path)
        if self._file is None:
            holder = self.path.read_text(encoding="utf-8").strip() or "another process"
            raise ValueError(f"{self.path.parent}: {holder} is writing this run; wait for it, or name another folder")
        self._file.truncate(0)
        self._file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        self._file.flush()
        restore_folders(self.path.parent)
        for name in WRITTEN:
            for left_over in find_left_overs(self.path.parent, name):
                if left_over.is_dir():
                    shutil.rmtree(left_over, ignore_errors=True)
                else:
                    left_over.unlink(missing_ok=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._file is not None:
            self._file.close()  # the file stays: who waits for it may have it open
            self._file = None


class Stopped(Exception):
    """A signal has ended a run, and everything that it had done is on disk."""

    def __init__(self, number: int, what: str) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}: {what}")
        self.exit_code = 128 + number
        """What the process returns, as a shell has it."""


class StopSignals:
    """Remembers the first of SIGNALS in `received`; a second one ends the process at once, with exit code 128 + number.

    Handlers are set in the main thread only and put back at the end of the `with` block. A SIGHUP that is ignored
    (`nohup`) stays so.

    Args:
        interrupt: the first one also raises KeyboardInterrupt, for work without steps at which to look.
    """

    def __init__(self, interrupt: bool = False) -> None:
        self.interrupt = interrupt
        self.received = 0
        """Number of the signal, 0 for none."""
        self._at = 0.0
        self._before: dict[int, Any] = {}

    def __enter__(self) -> StopSignals:
        if threading.current_thread() is threading.main_thread():
            for number in (getattr(signal, name) for name in SIGNALS if hasattr(signal, name)):
                if (number, signal.getsignal(number)) != (getattr(signal, "SIGHUP", None), signal.SIG_IGN):
                    self._before[number] = signal.signal(number, self._remember)
        return self

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if number == self.received and time.monotonic() - self._at < SAME_SIGNAL_SECONDS:
            return
        if self.received:
            os._exit(128 + number)
        self.received, self._at = number, time.monotonic()
        if self.interrupt:
            raise KeyboardInterrupt

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}


@contextmanager
def stopped_in_order(how: str) -> Iterator[None]:
    """Ends work without steps at any of SIGNALS as at Ctrl-C: it is interrupted where it stands, and tidies up.

    Args:
        how: to go on, for the message.

    Raises:
        Stopped: a signal came.
    """
    with StopSignals(interrupt=True) as stop:
        try:
            yield
        except KeyboardInterrupt as error:
            raise Stopped(stop.received or signal.SIGINT, how) from error


def recipe_of(kind: type[T], values: Mapping[str, Any], default: T | None = None) -> T:
    """A nested dataclass from fields that an earlier version wrote.

    Old spellings are read, younger fields have the value of `default` or their own default, fields that are gone are
    left out.
    """
    hints = get_type_hints(kind)
    known = signature(kind).parameters
    made: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            continue
        section = _dataclass_in(hints[name])
        if section is not None and isinstance(value, Mapping):
            usual = getattr(default, name, None) if default is not None else _default_of(kind, name)
            value = recipe_of(section, value, usual if isinstance(usual, section) else None)
        made[name] = value
    return kind(**made) if default is None else dataclasses.replace(default, **made)  # type: ignore[type-var]


def _default_of(kind: type[Any], name: str) -> Any:
    """Default of a field, None where it has none."""
    item = next((item for item in dataclasses.fields(kind) if item.name == name), None)
    if item is None or (item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING):
        return None
    return item.default_factory() if item.default_factory is not dataclasses.MISSING else item.default


def _dataclass_in(hint: Any) -> type[Any] | None:
    """The dataclass of a type such as `LanguageConfig | None` or `Schedule | float`."""
    choices = [hint, *get_args(hint)]
    return next((one for one in choices if isinstance(one, type) and dataclasses.is_dataclass(one)), None)


def flat_fields(fields: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """Nested fields by their names on the command line, `{"data.split": "train"}`, as JSON gives them back."""
    flat: dict[str, Any] = {}
    for name, value in json.loads(shown(json.dumps(fields))).items():
        flat |= flat_fields(value, f"{inside}{name}.") if isinstance(value, dict) else {f"{inside}{name}": value}
    return flat


def changed_fields(before: Mapping[str, Any], now: Any) -> dict[str, tuple[Any, Any]]:
    """Fields that differ between a recipe as run.json has it and a recipe: name -> (old, new)."""
    old = flat_fields(dataclasses.asdict(recipe_of(type(now), before)))
    new = flat_fields(dataclasses.asdict(now))
    return {name: (old.get(name), new.get(name)) for name in (old | new) if old.get(name) != new.get(name)}


def refuse_changes(changes: Mapping[str, tuple[Any, Any]], may_differ: Collection[str], folder: object) -> None:
    """Errors: ValueError naming old and new value of every change that is not allowed."""
    refused = [name for name in changes if name not in may_differ]
    if refused:
        lines = "; ".join(f"{name} was {changes[name][0]!r}, is {changes[name][1]!r}" for name in refused[:8])
        more = f" and {len(refused) - 8} more" if len(refused) > 8 else ""
        raise ValueError(
            f"{folder}: the run was begun with another recipe: {lines}{more}. Resume it as it was, name another "
            "folder, or accept the change with --allow-changes"
        )


def go_on(
    folder: Path,
    recipe: Any,
    facts: Mapping[str, Any],
    *,
    step: int,
    content: Callable[[Mapping[str, Any]], Mapping[str, str | None]],
    content_field: str,
    may_differ: Collection[str],
    may_grow: Collection[str] = (),
    changed: Mapping[str, tuple[Any, Any]] | None = None,
    allow_changes: bool = False,
) -> Callable[[], None]:
    """Compare a resumed run with its `run.json`.

    Call what it returns once the run's state is loaded: that adds a row to the list `resumed` in `run.json`; the rest
    stays as it was.

    Args:
        folder: of the run.
        recipe: dataclass that it is resumed with.
        facts: what else `run.json` says of this process: data, versions, commit.
        step: from which the run goes on.
        content: digests of the data in such facts, by what they are of; None where an older version wrote none.
        content_field: field of the recipe that names the data: it may differ if the content is the same.
        may_differ: further fields of which no computation depends.
        may_grow: numbers that may get larger.
        changed: what the caller has found to differ besides: name -> (old, new).
        allow_changes: accept what differs; the row in `resumed` says in what.

    Raises:
        ValueError: something else differs, with old and new values; or there is no `run.json`.
    """
    path = folder / RUN
    if not path.is_file():
        if not allow_changes:
            raise ValueError(
                f"{path} is missing, so nobody can tell whether the recipe is that of the run; "
                "resume with --allow-changes if it is"
            )
        write_json(path, {"recipe": dataclasses.asdict(recipe), **facts})
    described = read_object(path)
    rows = described.get("resumed", [])
    before = next((row for row in reversed(rows) if row["changes"]), described)  # the last recipe that was accepted
    changes = changed_fields(before["recipe"], recipe) | dict(changed or {})
    old, new = content(before), content(facts)
    allowed = {*may_differ, *(name for name in may_grow if name in changes and _grew(*changes[name]))}
    known = [name for name in new if old.get(name) is not None]
    differing = [name for name in known if old[name] != new[name]]
    if known and not differing:
        allowed.add(content_field)
    elif content_field not in changes:
        changes |= {f"{content_field} ({name})": (old[name], new[name]) for name in differing}
    if not allow_changes:
        refuse_changes(changes, allowed, folder)
    row = {"step": step, "changes": changes, **({"recipe": dataclasses.asdict(recipe)} if changes else {}), **facts}

    def record() -> None:
        write_json(path, described | {"resumed": [*rows, row]})

    return record


def _grew(old: Any, new: Any) -> bool:
    return isinstance(old, (int, float)) and isinstance(new, (int, float)) and new >= old
