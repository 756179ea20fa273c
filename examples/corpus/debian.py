"""Debian packages as a source of files: downloaded with apt-get, unpacked with dpkg, nothing is installed."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable
from pathlib import Path

from llmcodec.io.atomic import atomic_folder


def fetch(packages: Iterable[str], downloads: Path, roots: Path) -> None:
    """Download each package once to `downloads` and unpack it to `roots/NAME`."""
    downloads.mkdir(parents=True, exist_ok=True)
    downloads.chmod(0o777)  # apt's sandbox user writes here
    for package in packages:
        if not list(downloads.glob(f"{package}_*.deb")):
            command = ["apt-get", "download", "-q", package]
            subprocess.run(command, cwd=downloads, check=True, stdout=subprocess.DEVNULL)
        root = roots / package
        if not root.is_dir():
            archive = sorted(downloads.glob(f"{package}_*.deb"))[-1]
            with atomic_folder(root) as unpacked:  # half a package would be taken for a small one at the next run
                subprocess.run(["dpkg", "-x", str(archive), str(unpacked)], check=True)
