"""Teachers by name: `KIND:PLACE` or `KIND:PLACE:LAYER`.

    load_teacher("wavlm:microsoft/wavlm-base-plus")      # a Hugging Face hub id or a folder; its last layer
    load_teacher("hubert:facebook/hubert-base-ls960:9")  # the output of layer 9
    load_teacher("wav2vec2:FOLDER")
    load_teacher("whisper:openai/whisper-base")          # the encoder
    load_teacher("whisper-ct2:FOLDER")                   # the encoder of a Whisper in CTranslate2's format

Test: tests/adapters/test_features.py.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

from llmcodec.adapters.features.base import Teacher
from llmcodec.adapters.features.self_supervised import SelfSupervisedTeacher
from llmcodec.adapters.features.whisper import CTranslate2WhisperTeacher, WhisperTeacher
from llmcodec.io.hub_names import refuse_lost_path

NAME = re.compile(r"([\w-]+):(.+?)(?::(\d+))?")
WHISPER, CTRANSLATE2 = "whisper", "whisper-ct2"
KINDS = ("wavlm", "hubert", "wav2vec2", WHISPER, CTRANSLATE2)
UNUSED = {"masked_spec_embed"}
"""Weights that only masking reads, which is off outside training."""


def load_teacher(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    padded_seconds: float | None = None,
) -> Teacher:
    """The teacher called `name`, frozen, in evaluation mode.

    Args:
        name: see the module's examples.
        padded_seconds: Whisper pads each clip to this length; None: 30 s.

    Raises:
        ValueError: an unknown kind, no such model, one of another kind, weights that are missing or not finite, no such
            layer, a missing package. One line.
    """
    match = NAME.fullmatch(name)
    if match is None or match[1] not in KINDS:
        raise ValueError(f"teacher {name!r}: give KIND:PLACE or KIND:PLACE:LAYER, KIND one of {', '.join(KINDS)}")
    kind, place, layer = match[1], match[2], None if match[3] is None else int(match[3])
    device = torch.device(device)
    try:
        if padded_seconds is not None and kind not in (WHISPER, CTRANSLATE2):
            raise ValueError("padded_seconds is for Whisper; the others hear a clip as it is")
        if kind == CTRANSLATE2:
            if layer is not None:
                raise ValueError("CTranslate2 gives the last layer only; leave out the layer")
            return CTranslate2WhisperTeacher(Path(place), padded_seconds, device, dtype)
        model, extractor = _from_transformers(kind, place)
        if kind == WHISPER:
            return WhisperTeacher(model, extractor, layer, padded_seconds, device, dtype)
        return SelfSupervisedTeacher(model, extractor, layer, device, dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"teacher {name}: {first}") from error


def _from_transformers(kind: str, place: str) -> tuple[Any, Any]:
    """Frozen model and its feature extractor, from a folder or the hub; safetensors only."""
    from transformers import AutoFeatureExtractor, AutoModel

    if not Path(place).is_dir():
        refuse_lost_path(place, "model")
    extractor = AutoFeatureExtractor.from_pretrained(place, trust_remote_code=False)
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    model, report = AutoModel.from_pretrained(place, trust_remote_code=False, **options)
    if model.config.model_type != kind:
        raise ValueError(f"a model of type {model.config.model_type!r}, not {kind!r}")
    missing = sorted({key for key, _ in model.named_parameters()} & set(report["missing_keys"]) - UNUSED)
    if missing:
        raise ValueError(f"the weights lack {len(missing)} tensors, such as {missing[0]}")
    broken = next((key for key, value in model.state_dict().items() if not value.isfinite().all()), None)
    if broken is not None:
        raise ValueError(f"{broken} holds NaN or infinite values: the weights are broken")
    return model.requires_grad_(False).eval(), extractor
