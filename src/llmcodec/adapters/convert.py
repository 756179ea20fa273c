"""`llmcodec convert`: published checkpoints become folders that every command reads.

    convert("auv.pt", "auv")                                             # AUV, LLM-Codec: ours from then on
    convert("WavTokenizer_small_320_24k_4096.ckpt", "wavtokenizer")      # a network of adapters.networks
    convert("hf://novateur/WavTokenizer/WavTokenizer_small_320_24k_4096.ckpt", "wavtokenizer")
    convert("speech_tokenizer_v2.onnx", "s3")

What a checkpoint is of is read from its tensors. Nothing in it is executed (`codec/interop/checkpoints.py`).
Test: tests/adapters/test_convert.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from llmcodec.adapters.family import CodecFamily
from llmcodec.adapters.load import NO_CODEC
from llmcodec.adapters.networks.folder import fill, save_network
from llmcodec.adapters.networks.s3_onnx import STRIDE, read_s3_onnx
from llmcodec.adapters.registry import FAMILIES
from llmcodec.codec.interop.checkpoints import read_tensors
from llmcodec.codec.interop.convert import auv_states, convert_auv, convert_back, some
from llmcodec.codec.model_card import write_card
from llmcodec.io.atomic import atomic_folder
from llmcodec.io.hub_names import hub_answers

HUB_FILE = re.compile(r"hf://([\w.-]+/[\w.-]+)/(.+)")
RATE_IN_NAME = re.compile(r"(25|50)_?hz", re.IGNORECASE)


def convert(
    checkpoint: str,
    output: str,
    to: Literal["llmcodec", "auv"] = "llmcodec",
    key: str | None = None,
    ceil_frames: bool = False,
    licence: str | None = None,
    overwrite: bool = False,
) -> str:
    """Turn a published checkpoint into a codec folder, or a folder of ours back into an AUV checkpoint.

      llmcodec convert auv.pt -o auv_codec
      llmcodec convert hf://OWNER/NAME/FILE.ckpt -o wavtokenizer

    AUV and LLM-Codec become codecs of ours, to be trained on. WavTokenizer, UniCodec, SpeechTokenizer, SoundStream and
    S3Tokenizer become folders to measure and to code with.

    Args:
        checkpoint: a .pt, .ckpt, .bin, .safetensors or .onnx file, here or on the hub (hf://OWNER/NAME/FILE); with
            --to auv a codec folder.
        output: the folder to write; with --to auv a .pt or .safetensors file.
        to: llmcodec, or auv for a state dict that the published package loads.
        key: where in a training checkpoint the codec is (auv, model.auv), if it has several.
        ceil_frames: count AUV's frames by ceil, so that any length can be coded; without it they are floored.
        licence: of the weights, as the hub names it; goes into the model card.
        overwrite: replace what is at the output.

    Returns:
        What was found and written, as text for the user.
    """
    if to == "auv":
        return convert_back(checkpoint, output, overwrite)
    place = fetched(checkpoint)
    onnx = place.suffix == ".onnx"
    tensors = read_s3_onnx(place) if onnx else read_tensors(place)
    if not onnx and auv_states(tensors):
        return convert_auv(checkpoint, tensors, output, key, ceil_frames, licence, overwrite)
    if key is not None or ceil_frames:
        raise ValueError(f"{checkpoint}: --key and --ceil-frames are for AUV and LLM-Codec, and this is neither")
    rate = RATE_IN_NAME.search(place.name)
    if STRIDE not in tensors and rate is not None:
        tensors[STRIDE] = Tensor([50 // int(rate[1])])
    return convert_network(checkpoint, tensors, Path(output), licence, overwrite)


def convert_network(
    checkpoint: str, tensors: Mapping[str, Tensor], output: Path, licence: str | None, overwrite: bool
) -> str:
    """Write the folder of whichever family the tensors are of; returns what was done.

    Raises:
        ValueError: of none, or a tensor is missing, not finite, or of a shape that does not fit the others.
    """
    name, family, sizes, state = recognised(checkpoint, tensors)
    bad = next((one for one, tensor in state.items() if not bool(tensor.isfinite().all())), None)
    if bad is not None:
        raise ValueError(f"{checkpoint}: {bad} holds NaN or infinite weights; a damaged or diverged checkpoint")
    network = family.build(**sizes)
    fill(network, state, checkpoint)
    codec = family.adapter(network, None)
    with atomic_folder(output, merge=overwrite) as folder:
        save_network(folder, name, sizes, state)
        write_card(folder, CARD.format(licence=licence or "unknown", title=family.title, name=output.name))
    parameters = sum(tensor.numel() for tensor in state.values()) / 1e6
    only = "" if codec.can_decode else "; it has no decoder"
    return (
        f"{checkpoint}: {family.title}, {len(state)} tensors, {parameters:.1f} M weights; "
        f"{len(tensors) - len(state)} others are not needed\n{output}: {codec.sample_rate:,} Hz, "
        f"{codec.frame_rate:g} frames a second, {codec.num_codebooks} x {codec.codebook_size:,} codes{only}"
    )


def recognised(
    checkpoint: str, tensors: Mapping[str, Tensor]
) -> tuple[str, CodecFamily, dict[str, Any], dict[str, Tensor]]:
    """Name, family, sizes and weights. Raises ValueError for a checkpoint of something else, or with parts missing."""
    known = {name: family for name, family in FAMILIES.items() if family.published is not None}
    for name, family in known.items():
        assert family.published is not None
        try:
            found = family.published(tensors)
        except (KeyError, IndexError, StopIteration, TypeError) as error:
            raise ValueError(f"{checkpoint}: looks like {family.title}, but lacks weights ({error})") from error
        if found is not None:
            return name, family, *found
    titles = ", ".join(["AUV", "LLM-Codec", *(family.title for family in known.values())])
    raise ValueError(f"{checkpoint}: the weights of none of {titles}; it has {some(tensors)}")


def fetched(checkpoint: str) -> Path:
    """The file: here, or downloaded where it is called hf://OWNER/NAME/FILE. Raises ValueError as one line."""
    if match := HUB_FILE.fullmatch(checkpoint):
        from huggingface_hub import hf_hub_download

        with hub_answers(checkpoint, NO_CODEC):
            return Path(hf_hub_download(match[1], match[2]))
    return Path(checkpoint)


CARD = """\
---
license: {licence}
library_name: llmcodec
tags: [audio, neural-codec]
---

# {title}

Published weights of {title}, converted by `llmcodec convert`; nothing was trained. Weight norms are folded into the
weights, and what only training needs is left out. Licence and authors are those of the published checkpoint.

```
llmcodec reconstruct speech.wav -o again.wav --codec {name}
llmcodec compare this={name} bundled --manifest test.jsonl
```
"""
