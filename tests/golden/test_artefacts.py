"""What an earlier commit wrote is read as it was, goes on as it did, and is written again byte for byte.

make_artefacts.py says at which commit and how the artefacts were made.
"""

from __future__ import annotations

import json
import shutil
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

from llmcodec.io import audio
from llmcodec.io.token_file import load_token_file, save_token_file
from llmcodec.io.token_shards import TokenShardWriter, open_token_shards
from llmcodec.training.trainer import Trainer
from llmcodec.transcode.index import check_index

from ..miniature import SAMPLE_RATE
from .make_artefacts import (
    ARTEFACTS,
    COMMANDS,
    LAST_LM_STEP,
    LAST_STEP,
    RESULTS,
    SAVED_LM_STEP,
    SAVED_STEP,
    STATE_KEYS,
    call,
    coded,
    logged,
    run_command,
    run_recipe,
    scored,
    state_keys,
    token_codes,
    train,
    train_lm,
)

RECORDED: dict[str, Any] = json.loads((ARTEFACTS / RESULTS).read_text(encoding="utf-8"))
TOKEN_FOLDERS = [name for name in COMMANDS if name.startswith("tokens")]
SHARD_FOLDERS = [name for name in COMMANDS if name not in TOKEN_FOLDERS]

on_cpu = pytest.mark.skipif(torch.cuda.is_available(), reason="training was recorded on a CPU")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the artefacts as the working directory."""
    shutil.copytree(ARTEFACTS, tmp_path / "artefacts")
    monkeypatch.chdir(tmp_path / "artefacts")
    return Path(".")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def close(rows: list[dict[str, float]], tolerance: float) -> list[Any]:
    return [pytest.approx(row, rel=tolerance, abs=1e-9) for row in rows]


def skip_for_another_pyarrow(name: str) -> None:
    """Shards hold the version of pyarrow, and their bytes are its own."""
    if name in SHARD_FOLDERS and metadata.version("pyarrow") != RECORDED["pyarrow"]:
        pytest.skip(f"bytes are those of pyarrow {RECORDED['pyarrow']}")


def test_the_codec_of_a_run_gives_its_codes_and_its_sound(place: Path):
    codes, decoded = coded(place / "run" / "codec", "torch")
    assert codes == RECORDED["codes"] and len(set(codes)) >= 8
    assert decoded == pytest.approx(RECORDED["decoded"], abs=1e-5)


def test_the_exported_graphs_give_theirs(place: Path):
    pytest.importorskip("onnxruntime")
    codes, decoded = coded(place / "onnx", "onnx")
    assert codes == RECORDED["onnx_codes"] == RECORDED["codes"]
    assert decoded == pytest.approx(RECORDED["onnx_decoded"], abs=1e-5)


@on_cpu
def test_a_run_goes_on_as_it_would_have(place: Path):
    shutil.copytree(place / "run", "start/run")
    trainer = train("run", LAST_STEP, resume=True)
    rows = logged(Path("start/run"), SAVED_STEP)
    assert trainer.step == LAST_STEP and [row["step"] for row in rows] == [4, 5, 6]
    assert rows == close(RECORDED["continuation"], 1e-6)  # computed in float64, logged in float32
    assert logged(Path("start/run"), 0)[:SAVED_STEP] == logged(ARTEFACTS / "run", 0)


@pytest.mark.parametrize("name", COMMANDS)
def test_tokens_are_read_as_they_were_written(name: str):
    assert json.loads(json.dumps(token_codes(ARTEFACTS / name))) == RECORDED["tokens"][name]


@pytest.mark.parametrize("name", TOKEN_FOLDERS)
def test_a_token_file_is_written_again_byte_for_byte(name: str, tmp_path: Path):
    for path in sorted((ARTEFACTS / name).iterdir()):
        save_token_file(tmp_path / path.name, *load_token_file(path))
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", SHARD_FOLDERS)
def test_shards_are_written_again_byte_for_byte(name: str, tmp_path: Path):
    skip_for_another_pyarrow(name)
    for path in sorted((ARTEFACTS / name).rglob("shard-*")):
        provenance, rows = open_token_shards(path)
        folder = tmp_path / path.parent.name
        with TokenShardWriter(folder, provenance, format="parquet" if path.suffix == ".parquet" else "arrow") as shards:
            for row in rows:
                shards.add(row)
        assert (folder / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_writes_the_same_bytes(name: str, place: Path):
    skip_for_another_pyarrow(name)
    before = files_in(place / name)
    shutil.rmtree(place / name)
    run_command(name)
    after = files_in(place / name)
    where = after.pop("codec.json", None)  # newer than the artefacts: where the codec is
    assert where is None or json.loads(where)["codec_path"] == str((place / "run" / "codec").resolve())
    record = after.pop(".encoded.json", None)  # newer too: how token files were made
    assert (record is not None) == (name in TOKEN_FOLDERS)
    assert record is None or json.loads(record).keys() == {"precision", "runtime"}
    index = after.pop("index.json", None)  # newer than the artefacts: what is there
    assert index is None or not any(is_damaged for _, _, is_damaged in check_index(place / name))
    assert before and after == before


def test_decoding_any_format_gives_the_recorded_sound(place: Path):
    for name, where in (("tokens", "mono.wav"), ("shards_arrow", "mono.wav"), ("shards_parquet", "mono.wav")):
        call("decode", name, "-o", f"from_{name}", "--codec", "run/codec", "--precision", "fp32")
        (path,) = Path(f"from_{name}").rglob(where)
        decoded = audio.load(path, SAMPLE_RATE)[::97].tolist()
        assert decoded == pytest.approx(RECORDED["decoded"], abs=1e-4)  # 16 bits


def test_a_token_lm_scores_as_it_did(place: Path):
    scores = scored(place / "lm_run" / "lm")
    assert scores == pytest.approx(RECORDED["lm_scores"], abs=1e-5)
    assert sum(scores) == pytest.approx(sum(RECORDED["lm_scores"]), rel=1e-5)


@on_cpu
def test_a_token_lm_goes_on_as_it_would_have(place: Path):
    train_lm("lm_run", LAST_LM_STEP, "--resume")
    assert logged(place / "lm_run", SAVED_LM_STEP) == close(RECORDED["lm_continuation"], 1e-5)


@on_cpu
def test_states_have_the_names_they_had(place: Path):
    recorded = json.loads((ARTEFACTS / STATE_KEYS).read_text(encoding="utf-8"))
    shutil.copytree(place / "run", "start/run")
    trainer = Trainer(run_recipe("run", LAST_STEP), resume=True, show_progress=False)
    keys = state_keys(trainer.training_state(), place / "run" / "codec", place / "lm_run" / "lm")
    assert list(keys) == list(recorded)
    for part, names in keys.items():
        assert sorted(names) == sorted(recorded[part]), part
