"""A codec folder is checked before memory is allocated: the sizes in config.json must be those of the weights file.

`LLMCodec.from_pretrained` and `adapters.load` call `check_folder` on local folders, which may come from untrusted
sources. A config that asks for terabytes, a truncated weights file, a pickle or a missing tensor (transformers would
initialise it randomly and warn) end in a one-line error. Test: tests/codec/test_folder.py, tests/fuzz/test_fuzz.py.
"""

from __future__ import annotations

import os
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.network import build_parts
from llmcodec.io.model_config import check_config, read_configs
from llmcodec.io.structured import read_object
from llmcodec.io.tensor_check import INDEX, WEIGHTS, check_settings, check_tensors, weight_files
from llmcodec.io.tensor_file import TensorEntry, read_header

MAX_JSON_BYTES = 1 << 20
CONFIG, ADAPTER = "config.json", "adapter_config.json"
PREPROCESSOR = "preprocessor_config.json"
MAX_PARTIAL = 1 << 31  # weights of a codec whose files are not compared with its configuration
FLOATS = ("F16", "BF16", "F32", "F64")
STEERS_LOADING = {"transformers_weights", "distributed_config", "_attn_implementation", "attn_implementation"}
"""Settings by which a folder could make transformers read other weights than those that are checked."""
OTHER_TOOLS = {
    "tie_word_embeddings",
    "quantization_config",
    "license",
    "tags",
    "use_cache",
    "_attn_implementation_autoset",
}
"""Settings that transformers and others write and that mean nothing to a codec."""
DTYPES = {"float16", "bfloat16", "float32", "float64", None}


def check_folder(folder: str | os.PathLike[str], partial: bool = False) -> LLMCodecConfig:
    """Check a folder with one of our codecs; returns its configuration.

    Args:
        folder: where the codec is.
        partial: the caller reports tensors that are missing, of another shape or too many, as transformers does
            under `output_loading_info=True`; they are no error then. A codec of more than 8 GB still is.

    Raises:
        ValueError: nothing there, another kind of model, sizes that are not those of the weights file, tensors missing
            or too many, a pickle in place of safetensors, weights that are not finite or not those that were saved.
            One line that names the file.
    """
    place = Path(folder)
    settings = read_config(place)
    kind = settings.get("model_type")
    if kind != LLMCodecConfig.model_type:
        raise ValueError(f"{place / CONFIG}: a model of type {str(kind)[:40]!r}, not {LLMCodecConfig.model_type!r}")
    _check_fields(place / CONFIG, settings)
    tensors = read_tensors(place)
    (_check_plausible if partial else _check_sizes)(place / CONFIG, settings, tensors)
    ours = {name: value for name, value in settings.items() if name in LLMCodecConfig.own_settings()}
    try:
        config = LLMCodecConfig(**ours)
        sizes = tuple((name, value) for name, value in sorted(ours.items()) if isinstance(value, (int, type(None))))
        expected = _expected_tensors(sizes)
    except (TypeError, RuntimeError, OverflowError) as error:
        raise ValueError(f"{place / CONFIG}: not a configuration of a codec ({str(error)[:120]})") from error
    if not partial:
        _compare(place, expected, tensors)
    _check_preprocessor(place / PREPROCESSOR, config)
    check_settings(place / CONFIG, LLMCodecConfig.own_settings())
    for path in weight_files(place):
        check_tensors(path, partial=partial)
    return config


def _check_preprocessor(path: Path, config: LLMCodecConfig) -> None:
    """Refuse a feature extractor that prepares audio for another rate or hop than the codec's."""
    if not path.is_file():
        return
    settings = read_object(path, MAX_JSON_BYTES)
    for name, ours in (("sampling_rate", config.sample_rate), ("hop_length", config.hop_samples)):
        if settings.get(name, ours) != ours:
            raise ValueError(f"{path}: {name} is {str(settings[name])[:40]}, but {CONFIG} beside it has {ours}")


def check_any_folder(folder: str | os.PathLike[str]) -> None:
    """Check a folder with a codec of ours or of another project. Raises ValueError."""
    if read_config(Path(folder)).get("model_type") == LLMCodecConfig.model_type:
        check_folder(folder)
    else:
        read_tensors(Path(folder))  # which says where they are missing
        check_foreign_folder(folder)


def check_foreign_folder(folder: str | os.PathLike[str]) -> None:
    """Check a folder with a codec of unknown architecture, as far as possible.

    Its safetensors must be intact and finite, and no integer in its configuration may exceed the number of weights
    (sizes that ask for terabytes do). Raises ValueError; does nothing if there are no safetensors.
    """
    place = Path(folder)
    settings = read_config(place)
    read_configs(place)
    if not (place / WEIGHTS).exists() and not (place / INDEX).exists():
        return
    tensors = read_tensors(place)
    check_config(place / CONFIG, settings, sum(entry.num_elements for entry in tensors.values()), len(tensors))
    for path in weight_files(place):
        check_tensors(path, ours=False)


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of a folder. Raises ValueError if it is missing, implausibly large, or not a JSON object."""
    path = folder / CONFIG
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder with a codec")
    if not path.is_file():
        raise ValueError(f"{folder}: no {CONFIG} in it; is this the folder of a codec?")
    if (folder / ADAPTER).exists():
        raise ValueError(f"{folder}: {ADAPTER} in it would change the weights while they are loaded; remove it")
    return read_object(path, MAX_JSON_BYTES)


def read_tensors(folder: Path) -> dict[str, TensorEntry]:
    """Headers of a folder's weights, in one file or several; nothing is loaded. Raises ValueError as `check_folder`."""
    return {name: entry for path in weight_files(folder) for name, entry in read_header(path).tensors.items()}


@lru_cache(maxsize=1)
def _standard_fields() -> dict[str, Any]:
    """Settings that every model of transformers has."""
    return {**LLMCodecConfig().to_dict(), "torch_dtype": None, "auto_map": None}


def _check_fields(path: Path, settings: dict[str, Any]) -> None:
    """Check that every setting of ours and of transformers is of the right type.

    Others are kept, unless they are ours misspelt or would reach into the configuration or the loading.
    """
    own, standard = LLMCodecConfig.own_settings(), _standard_fields()
    unknown = sorted(set(settings) - set(own) - set(standard) - OTHER_TOOLS)
    for name, value in settings.items():
        if name not in own and name not in standard:
            _check_foreign(path, name)
        if name in own and not _plausible(name, value, own[name]):
            raise ValueError(f"{path}: {name} cannot be {str(value)[:60]!r}")
        if name in ("dtype", "torch_dtype") and not (isinstance(value, (str, type(None))) and value in DTYPES):
            raise ValueError(f"{path}: {name} cannot be {str(value)[:60]!r}")
        default = standard.get(name)
        if name not in own and default is not None and not isinstance(value, type(default)):
            raise ValueError(f"{path}: {name} cannot be {str(value)[:60]!r}")

    if unknown:
        named = ", ".join(name[:60] for name in unknown[:5])
        warnings.warn(f"{path}: kept without effect: {named}; was it made by a newer llmcodec?", stacklevel=4)


def _check_foreign(path: Path, name: str) -> None:
    """A setting of another tool."""
    LLMCodecConfig.refuse_misspelt(name, path)
    if name in LLMCodecConfig.attribute_map:
        raise ValueError(f"{path}: {name} is called {LLMCodecConfig.attribute_map[name]} in this file")
    if hasattr(LLMCodecConfig, name) or name in STEERS_LOADING:
        raise ValueError(f"{path}: {name[:60]!r} cannot be a setting of a codec")


def _plausible(name: str, value: Any, default: Any) -> bool:
    if name == "codebook_partitions":
        return value is None or (
            isinstance(value, dict)
            and all(isinstance(span, list) and len(span) == 2 and all(map(_whole, span)) for span in value.values())
        )
    if name == "attention_window":
        return value is None or _whole(value)
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e9
    return _whole(value) and value > 0


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 31


def _check_plausible(path: Path, settings: dict[str, Any], tensors: dict[str, TensorEntry]) -> None:
    """Refuse sizes that no memory would hold, where the weights file need not fit them."""
    value = LLMCodecConfig.own_settings() | settings
    width, layers = value["hidden_size"], value["encoder_layers"] + value["decoder_layers"]
    per_layer = width * (4 * width * value["ffn_mult"] + 7 * width + value["conv_kernel_size"])
    total = layers * per_layer + value["codebook_size"] * value["codebook_dim"] + 2 * width * value["n_fft"]
    if total > MAX_PARTIAL or layers > 1000:
        raise ValueError(f"{path}: asks for {layers} layers and {total:,} weights, which the files need not have")


def _check_sizes(path: Path, settings: dict[str, Any], tensors: dict[str, TensorEntry]) -> None:
    """Check the settings that determine memory against the shapes of the weights."""
    value = LLMCodecConfig.own_settings() | settings
    layer = "encoder.conformer.layers.0."
    claims = {
        "quantizer.codebook": (value["codebook_size"], value["codebook_dim"]),
        "encoder.frontend.input_proj.weight": (value["hidden_size"], value["n_fft"] + 2),
        f"{layer}ffn1.up_proj.weight": (value["ffn_mult"] * value["hidden_size"], value["hidden_size"]),
        f"{layer}conv_module.depthwise_conv.weight": (value["hidden_size"], 1, value["conv_kernel_size"]),
    }
    for name, shape in claims.items():
        found = tensors[name].shape if name in tensors else "nothing"
        if found != shape:
            raise ValueError(f"{path}: asks for {name} of shape {shape}, the weights have {found}")
    if value["head_dim"] > value["hidden_size"]:
        raise ValueError(f"{path}: head_dim {value['head_dim']} is more than hidden_size {value['hidden_size']}")
    for side in ("encoder", "decoder"):
        start = f"{side}.conformer.layers."
        layers = len({name[len(start) :].partition(".")[0] for name in tensors if name.startswith(start)})
        if layers != value[f"{side}_layers"]:
            raise ValueError(f"{path}: asks for {value[f'{side}_layers']} {side} layers, the weights have {layers}")


@lru_cache(maxsize=16)
def _expected_tensors(sizes: tuple[tuple[str, Any], ...]) -> dict[str, tuple[tuple[int, ...], bool]]:
    """Name -> shape and whether it is of a float type, of the model with these settings. Allocates no weights."""
    with torch.device("meta"):
        encoder, quantizer, decoder = build_parts(LLMCodecConfig(**dict(sizes)))
    model = nn.ModuleDict({"encoder": encoder, "quantizer": quantizer, "decoder": decoder})
    return {name: (tuple(one.shape), one.is_floating_point()) for name, one in model.state_dict().items()}


def _compare(folder: Path, expected: dict[str, tuple[tuple[int, ...], bool]], tensors: dict[str, TensorEntry]) -> None:
    missing, extra = sorted(set(expected) - set(tensors)), sorted(set(tensors) - set(expected))
    if missing or extra:
        name, state = (missing[0], "missing from") if missing else (extra[0], "unknown but in")
        more = len(missing) + len(extra) - 1
        raise ValueError(
            f"{folder}: {name[:80]} is {state} the weights" + (f", and {more} more differ" if more else "")
        )
    for name, (shape, is_float) in expected.items():
        entry = tensors[name]
        if entry.shape != shape or (entry.dtype in FLOATS) != is_float:
            raise ValueError(f"{folder}: {name} is {entry.dtype} {entry.shape} in the weights, not of shape {shape}")
