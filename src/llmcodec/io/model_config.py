"""Configurations of models, in folders that may have come from anybody, before anything is built from them.

    settings = read_configs(folder)                              # every JSON file that transformers would read, bounded
    check_config(folder / "config.json", settings, num_weights=10**8, num_tensors=200)

`num_hidden_layers: 1000000` or a width of 10^12 would take hours or all memory before the weights turn out not to fit.
Test: tests/io/test_model_config.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from llmcodec.io.structured import read_object

CONFIG = "config.json"
READ_BY_TRANSFORMERS = (
    CONFIG,
    "generation_config.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "adapter_config.json",
    "preprocessor_config.json",
    "processor_config.json",
)
MAX_BYTES = 1 << 26
"""Of such a file; the tokenizer's lists every audio token."""
FEW_WEIGHTS = 1 << 20
"""Numbers up to here are not suspicious, however small the model is."""
NO_SIZES = ("theta", "max_window_layers")
"""Parts of names of whole numbers that cost nothing."""


@contextmanager
def refuse_damage(place: str | Path) -> Iterator[None]:
    """Turn what libraries raise while they read a folder of configurations or a tokenizer into one line.

    transformers raises a dozen kinds of errors for a damaged file, and tokenizers a plain Exception, so that only
    catching all of them gives users the name of the folder. A file that is gone, a failing network and full memory are
    no damage and pass.

    Raises:
        ValueError: the folder, and the reason shortened to one line.
    """
    try:
        yield
    except (OSError, MemoryError, ModuleNotFoundError):
        raise
    except Exception as error:
        reason = str(error)
        if type(error) is ValueError and "\n" not in reason:
            raise
        what = "" if isinstance(error, ValueError) else f"{type(error).__name__}: "
        raise ValueError(f"{place}: cannot be read as a model ({what}{' '.join(reason.split())[:240]})") from error


def read_configs(folder: Path) -> dict[str, Any]:
    """config.json of a folder, {} where there is none, once it and the JSON files beside it are known to be harmless.

    Raises:
        ValueError: nested too deeply, too large, no JSON, or settings that would make transformers read other weights
            than those of the folder, or load kernels from a hub.
    """
    found = {name: read_object(folder / name, MAX_BYTES) for name in READ_BY_TRANSFORMERS if (folder / name).is_file()}
    settings = found.get(CONFIG, {})
    if settings.get("transformers_weights") is not None:
        raise ValueError(f"{folder / CONFIG}: transformers_weights names other weights than model.safetensors")
    attention = settings.get("attn_implementation", settings.get("_attn_implementation"))
    if attention is not None and "/" in str(attention):
        raise ValueError(
            f"{folder / CONFIG}: attn_implementation {str(attention)[:60]!r} is code from a hub, never run"
        )
    if found.get("adapter_config.json", {}).get("megatron_config"):
        raise ValueError(
            f"{folder}: adapter_config.json: megatron_config imports a module of its choice; not supported"
        )
    return settings


def check_config(path: Path, settings: dict[str, Any], num_weights: int, num_tensors: int) -> None:
    """Refuse a configuration that asks for more than its weights can be.

    Args:
        path: of the file, for messages.
        num_weights: numbers in all tensors of the folder. num_tensors: how many tensors there are.

    Raises:
        ValueError: a whole number larger than `num_weights`, or more layers than `num_tensors`.
    """
    most = max(FEW_WEIGHTS, num_weights)
    waiting: list[tuple[str, Any]] = [("", settings)]
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
        elif isinstance(value, list):
            waiting += [(name, one) for one in value]
        elif isinstance(value, int) and not any(part in name for part in NO_SIZES):
            if abs(value) > most:
                shown = value if abs(value) < 1 << 64 else "more than 2^64"
                raise ValueError(f"{path}: contains the number {shown}, more than the {most} weights in all")
            if name.endswith(("layers", "n_layer")) and value > num_tensors:
                raise ValueError(f"{path}: {name} is {value}, but there are only {num_tensors} tensors in the weights")
