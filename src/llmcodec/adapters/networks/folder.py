"""Folders of the networks in this package: `config.json` with their sizes, `model.safetensors`; and what is published.

    save_network(Path("wavtokenizer"), "wavtokenizer", sizes, tensors)     # what `llmcodec convert` writes
    network = load_network(WavTokenizer, Path("wavtokenizer"))

Published checkpoints hold weight norms in two parts (`weight_g`, `weight_v`) and much that only training needs.
Test: tests/adapters/test_published.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmcodec.codec.folder import CONFIG, MAX_JSON_BYTES
from llmcodec.io.structured import read_object, write_json
from llmcodec.io.tensor_check import WEIGHTS, check_tensors, write_digests

Network = TypeVar("Network", bound=nn.Module)
NORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
"""The two parts of a normed weight, as PyTorch has called them: lengths and directions."""
SPARE = {"inited", "initialized", "cluster_size", "embed_avg", "num_batches_tracked", "masked_spec_embed"}
"""Last parts of names of tensors that only training reads, so that a checkpoint may lack them."""
CONSTANT = {"position_ids", "token_type_ids", "relative_position_index"}
"""The same of tensors that models of transformers fill in by themselves."""


def load_network(build: Callable[..., Network], folder: Path) -> Network:
    """The network whose sizes and weights lie in a folder.

    Raises:
        ValueError: sizes that are no sizes; a tensor that is missing, foreign, or of another shape. One line.
    """
    settings = read_object(folder / CONFIG, MAX_JSON_BYTES)
    sizes = {name: value for name, value in settings.items() if name != "model_type"}
    for name, value in sizes.items():
        items = value if isinstance(value, list) and value else [value]
        if not all(isinstance(item, (bool, str)) or (isinstance(item, int) and item >= 0) for item in items):
            raise ValueError(f"{folder / CONFIG}: {name} is {str(value)[:40]}, not a size")
    tensors = load_file(check_tensors(folder / WEIGHTS))
    with torch.device("meta"):  # sizes that ask for terabytes get none
        check_shapes(build(**sizes), tensors, folder / WEIGHTS)
    network = build(**sizes)
    fill(network, tensors, folder / WEIGHTS)
    return network


def fill(network: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Give a network its weights, in float32; raises as `check_shapes`."""
    check_shapes(network, tensors, source)
    network.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})


def check_shapes(network: nn.Module, tensors: Mapping[str, Tensor], source: object) -> None:
    """Raise ValueError that names the first tensor that is missing, foreign, or of another shape."""
    wanted = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    for name in [*wanted, *found]:
        if wanted.get(name) != found.get(name):
            there, needed = found.get(name, "missing"), wanted.get(name, "none such")
            raise ValueError(f"{source}: {name[:80]} is {there}, the sizes of its configuration need {needed}")


def lacking(network: nn.Module, missing: Iterable[str]) -> list[str]:
    """Those of the `missing` tensors, by name, without which a model of transformers does something else.

    Buffers count as parameters do: the codebooks of many codecs are buffers.
    """
    needed = set(network.state_dict()) & set(missing)
    return sorted(name for name in needed if name.rpartition(".")[2] not in SPARE | CONSTANT)


def save_network(folder: Path, model_type: str, sizes: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write a folder that `load_network` reads, with digests."""
    write_json(folder / CONFIG, {"model_type": model_type, **sizes})
    plain = {name: tensor.detach().float().contiguous().clone() for name, tensor in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    write_digests(folder)


def fold_norms(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weight norms as the weights they make; the other tensors as they are."""
    folded = dict(tensors)
    for length, direction in NORMS:
        for name in [name for name in tensors if name.endswith(f".{length}")]:
            stem = name.removesuffix(length)
            norms, vectors = folded.pop(name).float(), folded.pop(stem + direction).float()
            folded[f"{stem}weight"] = torch._weight_norm(vectors, norms, 0)
    return folded


def below(tensors: Mapping[str, Tensor], landmark: str) -> dict[str, Tensor] | None:
    """The tensors beside `landmark`, wherever in a checkpoint they are, without what their names begin with there.

    None if there is no such tensor.
    """
    for name in tensors:
        if name == landmark or name.endswith(f".{landmark}"):
            prefix = name.removesuffix(landmark)
            return {one.removeprefix(prefix): tensor for one, tensor in tensors.items() if one.startswith(prefix)}
    return None


def renamed(tensors: Mapping[str, Tensor], names: Mapping[str, str]) -> dict[str, Tensor]:
    """Those tensors whose names begin as one of `names` (regular expressions), with that part replaced."""
    found = {}
    for name, tensor in tensors.items():
        for pattern, new in names.items():
            if match := re.match(pattern, name):
                found[match.expand(new) + name[match.end() :]] = tensor
                break
    return found


def seanet_sizes(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Sizes of a SEANet encoder by its weights, named `encoder.model....`; `conv.conv` is `conv` there."""
    convs = {
        int(match[1]): tensor
        for name, tensor in tensors.items()
        if (match := re.fullmatch(r"encoder\.model\.(\d+)\.conv\.weight", name))
    }
    first, *strided, last = (convs[place] for place in sorted(convs))
    block = next(tensor for name, tensor in tensors.items() if re.search(r"encoder\..*\.block\.1\.conv\.weight", name))
    return {
        "width": last.shape[0],
        "num_filters": first.shape[0],
        "ratios": [tensor.shape[2] // 2 for tensor in reversed(strided)],
        "residual_kernel": block.shape[2],
        "lstm_layers": sum(bool(re.search(r"^encoder\..*lstm\.weight_ih_l\d+$", name)) for name in tensors),
    }


def without_doubles(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names of SEANet's convolutions without the repetition they have in published checkpoints."""
    short = ((".conv.conv.", ".conv."), (".convtr.convtr.", ".convtr."))
    found = {}
    for name, tensor in tensors.items():
        for long, plain in short:
            name = name.replace(long, plain)
        found[name] = tensor
    return found
