"""No folder runs code: not even one whose configuration names code of its own (`auto_map`), with `y` on stdin."""

from __future__ import annotations

import ast
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM, dynamic_module_utils

import llmcodec
from llmcodec.adapters.features.load import load_encoder
from llmcodec.adapters.load import load_codec
from llmcodec.codec import LLMCodec
from llmcodec.evaluation.wer import load_transcriber
from llmcodec.lm.backbone import FrozenCausalLM
from llmcodec.lm.export import check_layout
from llmcodec.lm.prepare import prepare_model
from llmcodec.lm.recipe import LMModelConfig
from llmcodec.lm.token_lm import AUDIO_ROWS, TokenLMCard, load_token_lm

from .lm.small_token_lm import token_lm

SOURCE = Path(llmcodec.__file__).parent
PROJECT = SOURCE.parents[1]
OUR_OWN = {"LLMCodec", "FrozenCausalLM", "cls", "super()"}
"""Their `from_pretrained` is ours."""
NO_CODE = {"PeftModel", "BigCodec", "SNAC", "model"}
"""Classes of other packages that know no code in a folder (`model`: AUV's, which reads a checkpoint)."""


def calls_that_load(path: Path) -> list[tuple[int, str, ast.Call]]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        function = node.func
        if isinstance(function, ast.Attribute) and function.attr in ("from_pretrained", "from_config"):
            found.append((node.lineno, ast.unparse(function.value), node))
        elif ast.unparse(function).rpartition(".")[2] == "pipeline":
            found.append((node.lineno, "pipeline", node))
    return found


def test_every_call_that_loads_a_folder_refuses_its_code():
    files = [path for place in (SOURCE, PROJECT / "examples", PROJECT / "benchmarks") for path in place.rglob("*.py")]
    calls = [(path, *call) for path in files for call in calls_that_load(path)]
    assert len(calls) > 15, "the search finds nothing"
    for path, line, owner, call in calls:
        if owner not in OUR_OWN | NO_CODE:
            says = {word.arg: ast.unparse(word.value) for word in call.keywords}
            assert says.get("trust_remote_code") == "False", f"{path}:{line}: {owner} without trust_remote_code=False"


CODE = """
from pathlib import Path
Path({marker!r}).touch()
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
class Config(LlamaConfig):
    model_type = "stranger"
class Model(LlamaForCausalLM):
    config_class = Config
class Tokenizer(PreTrainedTokenizerFast):
    pass
"""
AUTO_MAP = {
    "AutoConfig": "code.Config",
    **dict.fromkeys(
        ("AutoModel", "AutoModelForCausalLM", "AutoModelForCTC", "AutoModelForSpeechSeq2Seq"), "code.Model"
    ),
    **dict.fromkeys(("AutoFeatureExtractor", "AutoProcessor"), "code.Tokenizer"),
    "AutoTokenizer": ["code.Tokenizer", "code.Tokenizer"],
}


@pytest.fixture
def marker(tmp_path, monkeypatch) -> Path:
    """Appears when the folder's code runs; whoever asks whether it may is answered yes."""
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n" * 100))
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(tmp_path / "modules"))
    monkeypatch.setattr(sys, "path", [*sys.path])
    return tmp_path / "code ran"


def stranger(folder: Path, marker: Path, model_type: str) -> Path:
    """A language model that works, but for its configuration, which wants code."""
    lm = token_lm()
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    for name in ("config.json", "tokenizer_config.json", "preprocessor_config.json"):
        path = folder / name
        facts = json.loads(path.read_text()) if path.exists() else {}
        if name == "tokenizer_config.json" and model_type == "stranger":
            facts["tokenizer_class"] = "Tokenizer"
        facts |= {"model_type": model_type, "auto_map": AUTO_MAP}
        path.write_text(json.dumps(facts))
    (folder / "code.py").write_text(CODE.format(marker=str(marker)))
    return folder


def on_top_of(folder: Path) -> str:
    """An adapter folder whose card names `folder` as the language model below."""
    lm, place = token_lm(), folder.with_name("adapter")
    lm.tokenizer.save_pretrained(place)
    TokenLMCard(base=str(folder)).save(place)
    (place / AUDIO_ROWS).touch()
    return str(place)


LOADERS: dict[str, Callable[[Path], object]] = {
    "token LM": lambda folder: load_token_lm(str(folder)),
    "adapter": lambda folder: load_token_lm(on_top_of(folder)),
    "backbone": lambda folder: FrozenCausalLM.from_pretrained(str(folder)),
    "base of lm train": lambda folder: prepare_model(LMModelConfig(base=str(folder)), 40, True),
    "layout of an export": lambda folder: check_layout(folder),
    "speech recogniser": lambda folder: load_transcriber(str(folder)),
    "teacher": lambda folder: load_encoder(f"wav2vec2:{folder}"),
    "codec": lambda folder: load_codec(str(folder)),
    "our codec": lambda folder: LLMCodec.from_pretrained(folder),
}


@pytest.mark.parametrize("model_type", ["stranger", "llama", "encodec", "llmcodec"])
@pytest.mark.parametrize("loader", LOADERS)
def test_a_folder_that_wants_to_run_code_does_not(tmp_path, marker, loader, model_type):
    folder = stranger(tmp_path / "folder", marker, model_type)
    try:
        LOADERS[loader](folder)
    except (OSError, ValueError) as error:
        assert model_type != "llama" or loader not in ("token LM", "backbone", "base of lm train"), error
    assert not marker.exists()


def test_the_folder_above_is_a_danger(tmp_path, marker):
    """Without the option the code runs: the test above would notice."""
    AutoModelForCausalLM.from_pretrained(stranger(tmp_path / "folder", marker, "stranger"))
    assert marker.exists()
