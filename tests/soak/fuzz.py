"""`make soak`, first part: damages everything that llmcodec reads, with new seeds, and reads it.

    python -m tests.soak.fuzz                                    # a new seed, five minutes; prints the seed
    python -m tests.soak.fuzz --seed 7 --minutes 60 --reader lm  # the same cases again, one reader
    python -m tests.soak.fuzz --seed 7 --reader lm --case 123    # one case; SOAK_DEBUG=1 shows the traceback

A case is right where the result is that of the sound sample or another sound one, or where a ValueError says in one
line what is wrong (an OSError, if the file is gone). Anything else is printed as a line to replay and ends in exit code
1: another exception, a crash, more than SECONDS or MEMORY, another result although a digest guards it. Readers run in
forked processes, so that a crash of a library costs one case. What is found becomes a test of `make test`.
"""

from __future__ import annotations

import argparse
import fnmatch
import io
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import FrameType

from ..fuzz import mutations
from .readers import READERS, Reader, check_message

SECONDS = 20.0
"""That one case may take."""
MEMORY = 4 << 30
"""Bytes of address space that reading may take beyond what the process has."""
BATCH = 100
"""Cases of a forked process."""
TEXTS = (".txt", ".tsv", ".csv", ".yaml", ".scp", ".PHN", ".TXT", ".md", "text", "utt2spk", "segments")


class Slow(BaseException):
    """A case took more than SECONDS."""


def damage(path: Path, chance: random.Random) -> str:
    """Damage one file in a way that fits its ending; says how."""
    key, kind = chance.getrandbits(32), chance.random()
    data = path.read_bytes()
    path.unlink()  # a new file: the old one may still be mapped
    if kind < 0.02:
        return "removed"
    if kind < 0.04:
        path.mkdir()
        return "a folder instead"
    if kind < 0.06:
        path.touch()
        return "emptied"
    if path.suffix == ".jsonl" or path.name.endswith("manifest.json"):
        changed = mutations.damaged_lines(data, key)
    elif path.suffix == ".json":
        changed = mutations.damaged_json(data.decode(), key).encode("utf-8", "surrogatepass")
    elif path.suffix == ".safetensors":
        changed = mutations.damaged(data, key)
    elif path.name.endswith(TEXTS):
        changed = mutations.damaged_text(data, key)
    else:
        changed = mutations.damaged_bytes(data, key)
    path.write_bytes(changed)
    return "damaged" if changed != data else "as it was"


def one_case(name: str, reader: Reader, sample: Path, work: Path, seed: int, case: int, right: object) -> str:
    """What is wrong with a case, '' if nothing is."""
    chance = random.Random(f"{seed} {name} {case}")
    shutil.rmtree(work, ignore_errors=True)
    folder = work / "sample"
    shutil.copytree(sample, folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file() and fnmatch.fnmatch(path.name, reader.files))
    damaged = chance.sample(files, min(len(files), chance.choice((1, 1, 1, 2))))
    how = ", ".join(f"{path.relative_to(folder)} {damage(path, chance)}" for path in damaged)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            found = reader.read(folder)
        if found != right and all(fnmatch.fnmatch(path.name, reader.exact) for path in damaged):
            return f"another result in silence ({how})"
    except ValueError as error:
        try:
            check_message(error)
        except AssertionError as wrong:
            return f"{wrong} ({how})"
    except OSError as error:
        if error.filename is None or "\n" in str(error):
            return f"{type(error).__name__}: {error} ({how})"
    except BaseException as error:
        if os.environ.get("SOAK_DEBUG"):
            traceback.print_exc()
        return f"{type(error).__name__}: {str(error)[:300]} ({how})"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return ""


def run_batch(name: str, place: Path, seed: int, cases: range, until: float) -> tuple[int, list[tuple[int, str]]]:
    """The case after the last one that was done, and what was wrong, in a process of its own."""
    reader = READERS[name]
    progress = place / "progress"
    progress.write_text("")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
            resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
            signal.signal(signal.SIGALRM, too_slow)
            right = reader.read(place / "sample") if reader.exact else None
            with open(progress, "a", encoding="utf-8") as file:
                for case in cases:
                    if time.monotonic() > until:
                        break
                    file.write(f"{case}\n")
                    file.flush()
                    wrong = one_case(name, reader, place / "sample", place / "work", seed, case, right)
                    file.write(f"{case} {' '.join(wrong.split())}\n" if wrong else "")
                    file.flush()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    lines = [line.split(" ", 1) for line in progress.read_text(encoding="utf-8").splitlines()]
    found = [(int(line[0]), line[1]) for line in lines if len(line) == 2]
    last = int(lines[-1][0]) if lines else cases.start - 1
    if code:
        found.append((last, f"the process ended with {code}"))
    return last + 1, found


def too_slow(number: int, frame: FrameType | None) -> None:
    raise Slow(f"more than {SECONDS} s")


def main() -> int:
    parser = argparse.ArgumentParser(description="Damage what llmcodec reads, and read it.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**9))
    parser.add_argument("--minutes", type=float, default=5.0, help="for all readers together")
    parser.add_argument("--reader", action="append", choices=list(READERS), help="only these; default all")
    parser.add_argument("--case", type=int, help="only this one")
    parser.add_argument("--cases", type=int, help="so many of each reader, instead of --minutes")
    options = parser.parse_args()
    names = options.reader or list(READERS)
    print(f"seed {options.seed}, {options.minutes:g} minutes, readers {', '.join(names)}", flush=True)
    wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        for name in names:
            place = Path(scratch) / name
            (place / "sample").mkdir(parents=True)
            with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
                READERS[name].make(place / "sample")
            READERS[name].read(place / "sample")  # it is sound, and what reading imports is there in every fork
            minutes = options.minutes / len(names) if options.cases is None else 60
            until = time.monotonic() + 60 * minutes
            case, stop = (0, options.cases or 1 << 60) if options.case is None else (options.case, options.case + 1)
            started = case
            while case < stop and time.monotonic() < until:
                case, found = run_batch(name, place, options.seed, range(case, min(stop, case + BATCH)), until)
                for number, what in found:
                    print(f"WRONG --seed {options.seed} --reader {name} --case {number}: {what}", flush=True)
                wrong += len(found)
            print(f"{name}: {case - started} cases", flush=True)
    print(f"{wrong} wrong" if wrong else "nothing wrong")
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
