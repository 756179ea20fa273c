"""Frozen speech encoders by name: `KIND:PLACE`, then `:LAYER` and `?seconds=N` if wanted.

    load_encoder("wavlm:microsoft/wavlm-base-plus")      # a Hugging Face hub id or a folder; its last layer
    load_encoder("hubert:facebook/hubert-base-ls960:9")  # the output of layer 9
    load_encoder("wav2vec2:FOLDER")
    load_encoder("whisper:openai/whisper-base")          # the encoder
    load_encoder("whisper-ct2:FOLDER?seconds=4")         # a Whisper in CTranslate2's format, padded to 4 s
    load_encoder("hubert:random:9")                      # the published shape, nothing learned: for speed and tests

CLAP gives one vector for a clip and no frames: `clap.py`. Test: tests/adapters/test_features.py.
"""

from __future__ import annotations

import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch

from llmcodec.adapters.features.base import SpeechEncoder
from llmcodec.adapters.features.self_supervised import SelfSupervisedEncoder
from llmcodec.adapters.features.whisper import CTranslate2WhisperEncoder, WhisperEncoder
from llmcodec.adapters.networks.folder import lacking
from llmcodec.io.hub_names import hub_answers, refuse_lost_path

NAME = re.compile(r"([\w-]+):(.+?)(?::(\d+))?(?:\?seconds=(\d*\.?\d+))?")
WHISPER, CTRANSLATE2, RANDOM = "whisper", "whisper-ct2", "random"
KINDS = {
    "wavlm": "wavlm:microsoft/wavlm-base-plus",
    "hubert": "hubert:facebook/hubert-base-ls960",
    "wav2vec2": "wav2vec2:facebook/wav2vec2-base-960h",
    WHISPER: "whisper:openai/whisper-base",
    CTRANSLATE2: "whisper-ct2:FOLDER, written by ct2-transformers-converter",
}
"""What they are called, and where published weights are."""


def load_encoder(
    name: str,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
    padded_seconds: float | None = None,
) -> SpeechEncoder:
    """The speech encoder called `name`, frozen, in evaluation mode.

    Args:
        name: see the module's examples.
        padded_seconds: Whisper pads each clip to this length, as `?seconds=` says in a name; None: 30 s.

    Raises:
        ValueError: an unknown kind (with the nearest), no such model, one of another kind, weights that are missing,
            not finite or of another shape, no such layer, a missing package. One line.
    """
    match = NAME.fullmatch(name)
    if match is None or match[1] not in KINDS:
        raise ValueError(f"speech encoder {name!r}: {_nearest(name)}")
    kind, place, layer = match[1], match[2], None if match[3] is None else int(match[3])
    padded_seconds = padded_seconds if match[4] is None else float(match[4])
    device = torch.device(device)
    try:
        if padded_seconds is not None and kind not in (WHISPER, CTRANSLATE2):
            raise ValueError("padded_seconds is for Whisper; the others hear a clip as it is")
        if kind == CTRANSLATE2:
            if layer is not None:
                raise ValueError("CTranslate2 gives the last layer only; leave out the layer")
            return CTranslate2WhisperEncoder(Path(place), padded_seconds, device, dtype)
        model, extractor = _random(kind) if place == RANDOM else from_transformers(kind, place)
        if kind == WHISPER:
            return WhisperEncoder(model, extractor, layer, padded_seconds, device, dtype)
        return SelfSupervisedEncoder(model, extractor, layer, device, dtype)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"speech encoder {name}: {first}") from error


def place_of(name: str) -> tuple[str, str, str]:
    """A name in three parts: `KIND:`, its place, and what follows. Raises ValueError as `load_encoder`."""
    match = NAME.fullmatch(name)
    if match is None or match[1] not in KINDS:
        raise ValueError(f"speech encoder {name!r}: {_nearest(name)}")
    return f"{match[1]}:", match[2], name[match.end(2) :]


def _nearest(name: str) -> str:
    """What to write instead, and where weights come from."""
    said = name.lower().replace(".", "").replace(" ", "")
    near = [kind for kind in KINDS if kind in said and not (kind == WHISPER and CTRANSLATE2 in said)]
    near = near or get_close_matches(said.partition(":")[0], KINDS, 2, 0.6)
    hints = f" (near: {'; '.join(KINDS[kind] for kind in near)})" if near else ""
    if "clap" in said:
        hints = " (CLAP has no frames; evaluate reconstruction --clap PLACE measures with it)"
    return f"give KIND:PLACE or KIND:PLACE:LAYER, KIND one of {', '.join(KINDS)}{hints}"


def from_transformers(kind: str, place: str) -> tuple[Any, Any]:
    """Frozen model and its feature extractor, from a folder or the hub; safetensors only.

    Args:
        kind: `model_type` that it has to have.

    Raises:
        ValueError, OSError: no such model, or weights that are not those of its configuration.
    """
    from transformers import AutoFeatureExtractor, AutoModel

    if not Path(place).is_dir():
        refuse_lost_path(place, "model")
        from huggingface_hub import hf_hub_download

        with hub_answers(place):
            hf_hub_download(place, "config.json")
    extractor = AutoFeatureExtractor.from_pretrained(place, trust_remote_code=False)
    options: dict[str, Any] = {"dtype": torch.float32, "use_safetensors": True, "output_loading_info": True}
    options["ignore_mismatched_sizes"] = True  # to name the tensor below
    model, report = AutoModel.from_pretrained(place, trust_remote_code=False, **options)
    if model.config.model_type != kind:
        raise ValueError(f"a model of type {model.config.model_type!r}, not {kind!r}")
    for key, found, wanted in sorted(report["mismatched_keys"]):
        raise ValueError(f"{key} is {tuple(found)}, its configuration needs {tuple(wanted)}")
    if missing := lacking(model, report["missing_keys"]):
        raise ValueError(f"the weights lack {len(missing)} tensors, such as {missing[0]}")
    broken = next((key for key, value in model.state_dict().items() if not value.isfinite().all()), None)
    if broken is not None:
        raise ValueError(f"{broken} holds NaN or infinite values: the weights are broken")
    return model.requires_grad_(False).eval(), extractor


def _random(kind: str) -> tuple[Any, Any]:
    """The published base size with weights of seed 0; the global generator is left alone."""
    import transformers

    names = {"wavlm": "WavLM", "hubert": "Hubert", "wav2vec2": "Wav2Vec2", WHISPER: "Whisper"}
    config = getattr(transformers, f"{names[kind]}Config")()
    with torch.random.fork_rng(devices=[]), torch.device("cpu"):
        torch.manual_seed(0)
        model = getattr(transformers, f"{names[kind]}Model")(config)
    extractor = transformers.WhisperFeatureExtractor if kind == WHISPER else transformers.Wav2Vec2FeatureExtractor
    return model.requires_grad_(False).eval(), extractor()
