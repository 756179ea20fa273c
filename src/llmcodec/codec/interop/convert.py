"""AUV's checkpoints become folders of ours, and back: what `llmcodec convert` (`adapters/convert.py`) does with them.

Test: tests/codec/interop/test_convert.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor

from llmcodec.codec.hub import remove_graphs
from llmcodec.codec.interop.auv import config_from_auv, from_auv, to_auv
from llmcodec.codec.model import LLMCodec
from llmcodec.io.atomic import atomic_file, atomic_folder

LANDMARK = "tokenizer.stft_head.inp.weight"  # in every AUV state dict, under any prefix
SIDES = ("tokenizer.", "token2wav.")


def convert_auv(
    checkpoint: str,
    tensors: Mapping[str, Tensor],
    output: str,
    key: str | None = None,
    ceil_frames: bool = False,
    licence: str | None = None,
    overwrite: bool = False,
) -> str:
    """Write the codec folder of an AUV or LLM-Codec checkpoint; returns what was found and written, for the user.

    Args:
        checkpoint: its name. tensors: all that it holds, an AUV state dict (`auv_states`) among them.
        output, key, ceil_frames, licence, overwrite: as for `llmcodec convert`.

    Raises:
        ValueError: several codecs and no key, a key without one, weights that are not finite or do not fit.
    """
    found = auv_states(tensors)
    if key is None and len(found) > 1:
        raise ValueError(f"{checkpoint}: has several codecs, choose one with --key: {', '.join(sorted(found))}")
    chosen = next(iter(found)) if key is None else key.rstrip(".")
    if chosen not in found:
        raise ValueError(f"{checkpoint}: no codec under the key {key!r}; it has {', '.join(map(repr, sorted(found)))}")
    state = found[chosen]
    bad = [name for name, tensor in state.items() if not bool(tensor.isfinite().all())]
    if bad:
        raise ValueError(f"{checkpoint}: {bad[0]} holds NaN or infinite weights; a damaged or diverged checkpoint")
    config = config_from_auv(state)
    config.auv_floor_frames = not ceil_frames
    codec = from_auv(state, config)
    with atomic_folder(output, merge=overwrite) as folder:
        codec.save_pretrained(folder, card=codec.card(Path(output).resolve().name, licence, MEASURED))
    remove_graphs(output)
    left = len(tensors) - len(state)
    return (
        f"{checkpoint}: AUV{f' under {chosen!r}' if chosen else ''}, {len(state)} tensors, "
        f"{sum(t.numel() for t in codec.parameters()) / 1e6:.1f} M parameters, {config.encoder_layers} + "
        f"{config.decoder_layers} layers of width {config.hidden_size}, {config.codebook_size:,} codes"
        + (f"; {left} other tensors ignored" if left else "")
        + f"\n{output}: {FLOORED if config.auv_floor_frames else CEILED}"
    )


FLOORED = (
    "frames are floored as the published AUV does, for equal tokens at every length; it needs clips of more than 480 "
    "samples. --ceil-frames takes any length"
)
CEILED = "frames are counted by ceil, any length; tokens equal the published AUV's where 320 divides the length"
MEASURED = """\
Converted by `llmcodec convert`. The conversion renames weights and changes none: on random weights of the published
size, tokens equal those of the `auv` package at all lengths tried and waveforms agree within 1e-5 (llmcodec's test
`tests/codec/interop/test_auv.py`). To see it for these weights, with the package installed:
`llmcodec compare ours=FOLDER published=auv:auv.pt --manifest test.jsonl`."""


def convert_back(folder: str, output: str, overwrite: bool = False) -> str:
    """A codec folder -> a state dict in AUV's names, tensors only."""
    place = Path(output)
    if place.suffix not in (".pt", ".safetensors"):
        raise ValueError(f"{output}: an AUV checkpoint is a .pt or .safetensors file")
    if place.exists() and (place.is_dir() or not overwrite):
        raise ValueError(f"{output}: is already there; choose another name, or --overwrite")
    if not (Path(folder) / "config.json").is_file():
        raise ValueError(f"{folder}: no codec folder (config.json is missing)")
    codec = LLMCodec.from_pretrained(folder)
    if codec.config.causal or codec.config.attention_window is not None:
        raise ValueError(f"{folder}: its attention is bounded, AUV's is not; the published package cannot run it")
    state = {name: tensor.contiguous() for name, tensor in to_auv(codec).items()}
    with atomic_file(place, durable=True) as file:
        if place.suffix == ".safetensors":
            file.write(save(state, {"format": "pt"}))
        else:
            torch.save(state, file)
    floor = "" if codec.config.auv_floor_frames else "; the package floors frames, this codec counted them by ceil"
    return f"{output}: {len(state)} tensors in AUV's names{floor}"


def auv_states(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Every AUV state dict in a checkpoint: where it is (dotted, "" at the top) -> its tensors in AUV's own names."""
    found = {}
    for name in tensors:
        if name == LANDMARK or name.endswith(f".{LANDMARK}"):
            prefix = name[: -len(LANDMARK)]
            ends = tuple(prefix + side for side in SIDES)
            found[prefix.rstrip(".")] = {
                one[len(prefix) :]: tensor for one, tensor in tensors.items() if one.startswith(ends)
            }
    return found


def some(names: Mapping[str, Tensor]) -> str:
    """The first few names, for a message."""
    first = sorted(names)[:3]
    return ", ".join(first) + (", ..." if len(names) > 3 else "")
