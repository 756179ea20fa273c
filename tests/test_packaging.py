"""Release files that run elsewhere: workflows, Dockerfile, metadata; linters join where a machine has them."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
import wave
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
DOCKERFILE = ROOT / "packaging/Dockerfile"


def load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_says_that_it_has_not_run_and_asks_for_little(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.startswith("# Has not run yet")
    flow = yaml.safe_load(text)
    assert flow["permissions"] == {"contents": "read"}
    targets = set(re.findall(r"^([\w-]+)(?: [\w-]+)*:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for job in flow["jobs"].values():
        assert job["timeout-minutes"] <= 150
        for step in job["steps"]:
            assert ("uses" in step) != ("run" in step)
            assert re.fullmatch(r"[\w-]+/[\w-]+@(v\d+|release/v\d+)", step.get("uses", "a/b@v1"))
            if found := re.match(r"make ([\w-]+)", step.get("run", "")):
                assert found[1] in targets, step


def test_a_release_is_signed_and_published_without_a_password() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text(encoding="utf-8"))["jobs"]
    publish = jobs["publish"]
    assert publish["needs"] == "build" and publish["environment"] == "pypi"
    assert publish["permissions"] == {"contents": "read", "id-token": "write", "attestations": "write"}
    assert "permissions" not in jobs["build"], "what runs our code may not sign"
    used = [step["uses"].partition("@")[0] for step in publish["steps"]]
    assert used == ["actions/download-artifact", "actions/attest-build-provenance", "pypa/gh-action-pypi-publish"]


def test_the_dockerfile_copies_what_there_is_and_starts_the_demo() -> None:
    text = DOCKERFILE.read_text(encoding="utf-8")
    assert text.startswith("# Has not run yet")
    copied = [word for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE) for word in line.split()[:-1]]
    assert [word for word in copied if not word.startswith("dist/") and not (ROOT / word).exists()] == []
    assert re.search(r'^CMD \["python", "/opt/llmcodec/app.py"\]$', text, re.MULTILINE) and "USER 1000" in text
    pin = re.search(r"^torch==(\S+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert pin is None or f"torch=={pin[1]}" in text


@pytest.mark.parametrize(
    ("linter", "files"), [("actionlint", WORKFLOWS), ("hadolint", [DOCKERFILE])], ids=["actionlint", "hadolint"]
)
def test_linters_find_nothing(linter: str, files: list[Path]) -> None:
    if shutil.which(linter) is None:
        pytest.skip(f"no {linter} on this machine")
    done = subprocess.run([linter, *map(str, files)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_metadata_names_known_classifiers() -> None:
    classifiers = pytest.importorskip("trove_classifiers").classifiers
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    named = re.findall(r'^  "([\w ]+ :: .*)",', text, re.MULTILINE)
    assert len(named) > 8 and set(named) <= set(classifiers)
    assert "[project.urls]" in text


def test_the_check_of_a_release_refuses_leftovers(tmp_path: Path) -> None:
    release = load(ROOT / "packaging/check_release.py")
    with pytest.raises(SystemExit, match="0 files, wanted 1"):
        release.one("llmcodec-*.whl", tmp_path)
    (tmp_path / "llmcodec-1.whl").touch()
    assert release.one("llmcodec-*.whl", tmp_path).name == "llmcodec-1.whl"
    (tmp_path / "llmcodec-2.whl").touch()
    with pytest.raises(SystemExit, match="2 files"):
        release.one("llmcodec-*.whl", tmp_path)
    release.write_tone(tmp_path / "a.wav")
    with wave.open(str(tmp_path / "a.wav")) as file:
        assert file.getnframes() == 20800 and file.getframerate() == 16000
