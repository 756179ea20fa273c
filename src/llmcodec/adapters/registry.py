"""The kinds of codecs that llmcodec can drive: who makes the model, who adapts it, how a folder is recognised.

To add one: write an adapter (`peer.PeerCodec`, two functions), add a row to `KINDS`, and, if it can be made without its
weights, a preset in `random_weights`. docs/codecs.md shows it in 40 lines.
Test: tests/adapters/test_load.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from llmcodec.adapters.base import PeerCodec


@dataclass(frozen=True)
class Kind:
    """One family of codecs."""

    adapter: str
    """`module:class` in this room, imported when needed."""
    package: str
    """What has to be installed."""
    build: Callable[..., nn.Module]
    """Sizes of a configuration -> model with initial weights."""
    load: Callable[[Path], nn.Module]
    """Folder -> model with its weights."""
    extra: str = ""
    """How to install it, when it does not come with llmcodec."""
    marks: tuple[str, ...] = ()
    """Keys by which a config.json without `model_type` is recognised."""

    def adapt(self, model: nn.Module, num_codebooks: int | None = None) -> PeerCodec:
        module, _, name = self.adapter.partition(":")
        return getattr(import_module(f".{module}", __package__), name)(model, num_codebooks)

    def made_by(self, make: Callable[..., nn.Module], *arguments: Any, **sizes: Any) -> nn.Module:
        """Run `build` or `load`. Errors: ValueError naming the package that is missing."""
        try:
            return make(*arguments, **sizes)
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            raise ValueError(
                f"{self.package} needs the package {missing}: {self.extra or f'pip install {missing}'}"
            ) from None
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{self.package} is too old or broken ({error}): pip install -U {self.package}") from None


def _from_transformers(name: str, adapter: str) -> Kind:
    """A model of transformers, `{name}Config` and `{name}Model`."""

    def build(**sizes: Any) -> nn.Module:
        import transformers

        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes))

    def load(folder: Path) -> nn.Module:
        import torch
        import transformers

        model, report = getattr(transformers, f"{name}Model").from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True
        )
        parameters = {key for key, _ in model.named_parameters()}
        missing = sorted(parameters & set(report["missing_keys"]))
        if missing:
            raise ValueError(
                f"{folder}: the weights lack {len(missing)} tensors, such as {missing[0]}: no {name} checkpoint?"
            )
        return model

    return Kind(adapter, "transformers", build, load)


def _build_snac(**sizes: Any) -> nn.Module:
    from snac import SNAC

    return SNAC(**sizes)


def _load_snac(folder: Path) -> nn.Module:
    from snac import SNAC

    # The package's own reader: torch.load, which takes nothing but tensors since PyTorch 2.6 (weights_only).
    return SNAC.from_pretrained(str(folder))


def _build_auv(**sizes: Any) -> nn.Module:
    from llmcodec.adapters.auv import build_auv

    return build_auv(**sizes)


def _load_auv(checkpoint: Path) -> nn.Module:
    from llmcodec.adapters.auv import load_auv

    return load_auv(checkpoint)


def _build_bigcodec(**sizes: Any) -> nn.Module:
    from llmcodec.adapters.bigcodec import build_bigcodec

    return build_bigcodec(**sizes)


def _load_bigcodec(folder: Path) -> nn.Module:
    from llmcodec.adapters.bigcodec import load_bigcodec

    return load_bigcodec(folder)


KINDS: Mapping[str, Kind] = {
    "encodec": _from_transformers("Encodec", "encodec:EncodecCodec"),
    "dac": _from_transformers("Dac", "dac:DacCodec"),
    "mimi": _from_transformers("Mimi", "mimi:MimiCodec"),
    "snac": Kind(
        "snac:SnacCodec",
        "snac",
        _build_snac,
        _load_snac,
        "pip install 'llmcodec[snac]'",
        ("vq_strides", "encoder_rates"),
    ),
    "xcodec": _from_transformers("Xcodec", "xcodec:XcodecCodec"),
    "xcodec2": _from_transformers("Xcodec2", "xcodec2:Xcodec2Codec"),
    "neucodec": _from_transformers("NeuCodec", "xcodec2:NeuCodecCodec"),
    "bigcodec": Kind(
        "bigcodec:BigCodecCodec",
        "bigcodec",
        _build_bigcodec,
        _load_bigcodec,
        "pip install --no-deps bigcodec einops (torchaudio is not needed)",
        ("ngf", "vq_num_quantizers"),
    ),
    "auv": Kind(
        "auv:AuvCodec",
        "auv",
        _build_auv,
        _load_auv,
        "pip install --no-deps auv einops (torchaudio is not needed)",
    ),
}
"""By the `model_type` of config.json, or a name of ours where there is none."""


def kind_of(config: Mapping[str, Any]) -> str | None:
    """The kind that a config.json describes, or None."""
    model_type = config.get("model_type")
    if model_type is not None:
        return model_type if model_type in KINDS else None
    return next(
        (name for name, kind in KINDS.items() if kind.marks and all(mark in config for mark in kind.marks)), None
    )
