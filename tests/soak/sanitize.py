"""`make sanitize`: the tests of the CPU kernels with their C file compiled for ASan, UBSan and ThreadSanitizer.

    python -m tests.soak.sanitize [address|thread ...]      # all by default

Needs gcc, its sanitizer libraries and a processor that runs the kernels (cpu_kernels.py). A report ends the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
UNDEFINED = "-fsanitize=undefined,float-cast-overflow -fno-sanitize-recover=all"
KINDS = {
    "address": ("libasan.so", f"-fsanitize=address {UNDEFINED}"),
    "thread": ("libtsan.so", "-fsanitize=thread"),
}
OPTIONS = {
    # Python and torch keep memory until the end of the process: only the kernels' own errors count.
    "ASAN_OPTIONS": "detect_leaks=0",
    "TSAN_OPTIONS": "halt_on_error=1:exitcode=66:report_signal_unsafe=0:suppressions={scratch}/suppressions",
}
SUPPRESSED = "race:_dl_deallocate_tls\n"
"""The C library's own memory of threads that end, which is used again before ThreadSanitizer sees why it may be."""
OTHERS = ("compil", "source", "processes", "damaged", "machine", "fork", "warning", "cache", "folder", "user")
"""In the names of tests that compile, or fork beside threads: they run no kernels, or cannot under a sanitizer."""

THREADED = "no_thread or many_short_clips or (linear_layer and any_size) or nearest_code"
"""In the names of tests that code on several threads."""


def run(kind: str, scratch: str) -> int:
    """The exit code of pytest under one sanitizer."""
    library, flags = KINDS[kind]
    found = subprocess.run(["gcc", f"-print-file-name={library}"], capture_output=True, text=True, check=True)
    Path(scratch, "suppressions").write_text(SUPPRESSED)
    environment = os.environ | {name: value.format(scratch=scratch) for name, value in OPTIONS.items()}
    environment |= {"CC": f"gcc -g {flags}", "LD_PRELOAD": found.stdout.strip(), "XDG_CACHE_HOME": scratch}
    environment["PYTHONPATH"] = os.pathsep.join((str(HERE), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")))
    files = [f"tests/codec/fast/{name}.py" for name in ("test_cpu_kernels", "test_engine")]
    files.append("tests/codec/test_mel_distance.py")
    tests = ["-s", "-x", "-q", "-rs", *files]
    options = ["-p", "no:randomly", "-p", "no:cacheprovider", "-p", "sanitized"]
    chosen = ["-k", THREADED if kind == "thread" else " and ".join(f"not {name}" for name in OTHERS)]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *options, *tests, *chosen], cwd=ROOT, env=environment
    ).returncode


def main() -> int:
    for kind in sys.argv[1:] or KINDS:
        with tempfile.TemporaryDirectory() as scratch:
            print(f"== {kind}", flush=True)
            if code := run(kind, scratch):
                print(f"{kind}: reported something, or a test failed (exit code {code})", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
