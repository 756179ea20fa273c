"""Look at dist/ as PyPI and a user would; part of `make release`.

    python packaging/check_release.py --python python3.10 --python python3.13

The sdist holds what the wheel needs; twine accepts all files. In a fresh environment of each Python, `llmcodec-runtime`
codes a file and decodes it again. With --full, so does `llmcodec` itself (it installs torch: --torch-args).
Test: tests/test_packaging.py.
"""

from __future__ import annotations

import argparse
import math
import os
import shlex
import subprocess
import sys
import tarfile
import tempfile
import wave
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
PYTHON_USE = "import llmcodec; print(llmcodec.load('bundled').encode_file('a.wav').codes.shape)"


def run(*command: str | Path, folder: Path, **environment: str) -> str:
    """Standard output of a command.

    Raises:
        SystemExit: it failed; with what it said.
    """
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    words = [str(word) for word in command]
    done = subprocess.run(words, cwd=folder, env=clean | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{shlex.join(words)}\n{done.stdout}{done.stderr}")
    return done.stdout


def one(pattern: str, dist: Path) -> Path:
    """The only file of this name, so that none of an earlier version is published along with it."""
    found = sorted(dist.glob(pattern))
    if len(found) != 1:
        raise SystemExit(f"{dist}/{pattern}: {len(found)} files, wanted 1; empty {dist} and build again")
    return found[0].resolve()


def check_sdist(sdist: Path, wheel: Path, folder: Path) -> None:
    """A wheel built from the sdist has the same files as the one built from the tree."""
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (tree,) = folder.iterdir()
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder / "dist", folder=tree)
    contents = [set(zipfile.ZipFile(one).namelist()) for one in (wheel, next((folder / "dist").glob("*.whl")))]
    if contents[0] != contents[1]:
        raise SystemExit(f"sdist and tree give different wheels: {sorted(contents[0] ^ contents[1])[:10]}")


def write_tone(path: Path, seconds: float = 1.3, rate: int = 16000) -> None:
    samples = [round(8000 * math.sin(2 * math.pi * 220 * i / rate)) for i in range(round(seconds * rate))]
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(b"".join(sample.to_bytes(2, "little", signed=True) for sample in samples))


def check_wheel(python: str, wheel: Path, folder: Path, before: list[list[str]], code: str = "") -> str:
    """Install a wheel in a fresh environment and use it in an empty folder; returns the version of Python."""
    run(python, "-m", "venv", folder / "venv", folder=ROOT)
    bin_folder, home = folder / "venv/bin", folder / "home"
    home.mkdir()
    for arguments in [*before, [str(wheel)]]:
        run(bin_folder / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check", *arguments, folder=home)
    run(bin_folder / "python", "-m", "pip", "check", "--disable-pip-version-check", folder=home)
    write_tone(home / "a.wav")
    cache = str(folder / "cache")
    assert "usage: llmcodec" in run(bin_folder / "llmcodec", "encode", "--help", folder=home)
    run(bin_folder / "llmcodec", "encode", "a.wav", "-o", "a.safetensors", folder=home, LLMCODEC_CACHE=cache)
    run(bin_folder / "llmcodec", "decode", "a.safetensors", "-o", "b.wav", folder=home, LLMCODEC_CACHE=cache)
    with wave.open(str(home / "a.wav")) as first, wave.open(str(home / "b.wav")) as second:
        assert first.getnframes() == second.getnframes() and first.getframerate() == second.getframerate()
    if code:
        assert "(1, 65)" in run(bin_folder / "python", "-c", code, folder=home, LLMCODEC_CACHE=cache)
    return run(bin_folder / "python", "-V", folder=home).strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dist", type=Path, default=ROOT / "dist")
    parser.add_argument("--python", action="append", help="an interpreter; may be repeated; default: this one")
    parser.add_argument("--full", action="store_true", help="install llmcodec with torch, too")
    parser.add_argument("--torch-args", default="", help="of pip, for torch")
    options = parser.parse_args()
    wheel, sdist = one("llmcodec-*.whl", options.dist), one("llmcodec-*.tar.gz", options.dist)
    runtime = one("llmcodec_runtime-*.whl", options.dist)
    print(run(sys.executable, "-m", "twine", "check", "--strict", wheel, sdist, runtime, folder=ROOT).strip())
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "sdist").mkdir()
        check_sdist(sdist, wheel, Path(place) / "sdist")
        print(f"{sdist.name} gives the same wheel")
    for python in options.python or [sys.executable]:
        with tempfile.TemporaryDirectory() as place:
            print(f"{runtime.name} codes and decodes with {check_wheel(python, runtime, Path(place), [])}")
        if options.full:
            torch = [[*shlex.split(options.torch_args), "torch==2.13.0"]]
            with tempfile.TemporaryDirectory() as place:
                version = check_wheel(python, wheel, Path(place), torch, PYTHON_USE)
                print(f"{wheel.name} codes and decodes with {version}")


if __name__ == "__main__":
    main()
