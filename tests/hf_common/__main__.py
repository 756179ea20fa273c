"""Fetch the tests of the installed transformers and run `suite.py` on them."""

from __future__ import annotations

import argparse
import importlib.metadata
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
STUBS = {
    "stub_export.py": "exporters/test_export.py",
    "stub_generation.py": "generation/test_utils.py",
    "stub_config.py": "utils/test_configuration_utils.py",
}
PIP = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]


def fetch(version: str, root: Path) -> None:
    """The folder `tests` of a version, made importable, and `parameterized`, which it imports."""
    with tempfile.TemporaryDirectory() as folder:
        source = f"transformers=={version}"
        options = ["--no-deps", "--no-build-isolation", "--no-binary", "transformers"]
        subprocess.run([*PIP, "download", *options, source, "-d", folder], check=True)
        with tarfile.open(next(Path(folder).glob("transformers-*.tar.gz"))) as archive:
            inside = f"transformers-{version}/tests/"
            members = [member for member in archive.getmembers() if member.name.startswith(inside)]
            archive.extractall(folder, members, filter="data")
        shutil.copytree(Path(folder, inside), root / "tests", dirs_exist_ok=True)
    for package in ("", "exporters", "generation", "utils"):
        (root / "tests" / package).mkdir(exist_ok=True)
        (root / "tests" / package / "__init__.py").touch()
    # It would import transformers from the source tree around it, which is not there.
    config = root / "tests/test_configuration_common.py"
    lines = config.read_text(encoding="utf-8").splitlines()
    own = "transformers_module = direct_transformers_import"
    lines = ["import transformers as transformers_module" if line.startswith(own) else line for line in lines]
    config.write_text("\n".join(lines) + "\n", encoding="utf-8")
    subprocess.run([*PIP, "install", "--no-deps", "--target", str(root), "parameterized==0.9.0"], check=True)


def main() -> int:
    """Exit code of pytest."""
    parser = argparse.ArgumentParser(prog="python -m tests.hf_common")
    parser.add_argument("--model", choices=("llmcodec", "dac", "mimi", "encodec"), default="llmcodec")
    chosen, rest = parser.parse_known_args()
    version = importlib.metadata.version("transformers")
    cache = Path(os.environ.get("LLMCODEC_HF_COMMON", Path(tempfile.gettempdir()) / "llmcodec_hf_common"))
    root = cache / version
    if not (root / "complete").exists():
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(parents=True)
        fetch(version, root)
        (root / "complete").touch()
    for name, place in STUBS.items():
        shutil.copyfile(HERE / name, root / "tests" / place)
    paths = [str(root), str(HERE.parents[1] / "src"), os.environ.get("PYTHONPATH", "")]
    settings = {
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "HF_COMMON_MODEL": chosen.model,
        "HF_HUB_OFFLINE": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    # Not from the root of the project, whose own package is called tests, too.
    command = [sys.executable, "-m", "pytest", "-q", "--tb=line", "-p", "no:cacheprovider", "--import-mode=importlib"]
    command += ["-c", os.devnull, "--rootdir", str(HERE), str(HERE / "suite.py"), *rest]
    return subprocess.run(command, cwd=HERE, env=os.environ | settings).returncode


if __name__ == "__main__":
    sys.exit(main())
