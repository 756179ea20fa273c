"""A family of codecs: who makes the model, who adapts it, how a folder is recognised, the published sizes.

Every file of this package that adapts a codec ends with one, and `registry.FAMILIES` lists them.
Test: tests/adapters/test_load.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from llmcodec.adapters.base import CodecAdapter
from llmcodec.adapters.networks.folder import lacking, load_network


@dataclass(frozen=True)
class CodecFamily:
    """One architecture and its adapter."""

    title: str
    """What messages call it."""
    adapter: Callable[[Any, int | None], CodecAdapter]
    """Model and number of codebooks (None: as usual) -> codec."""
    build: Callable[..., nn.Module]
    """Sizes of a configuration -> model with initial weights. Imports the package when it is called, as does `load`."""
    load: Callable[[Path], nn.Module] | None = None
    """Folder (AUV: checkpoint) -> model with its weights; None: the codec has none, and its name alone gives it."""
    package: str = "llmcodec"
    """What has to be installed."""
    install: str = ""
    """How, when it does not come with llmcodec."""
    marks: tuple[str, ...] = ()
    """Keys by which a config.json without `model_type` is recognised."""
    presets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Name behind `random:` -> sizes of the published configuration, where they differ from the defaults of `build`."""
    published: Callable[[Mapping[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]] | None] | None = None
    """Tensors of a published checkpoint -> sizes and weights for `convert`, or None if it is of another codec."""

    def load_codec(self, place: Path, num_codebooks: int | None = None) -> CodecAdapter:
        """The codec with the weights at `place`.

        Raises:
            ValueError: a package is missing or too old, or the codec has no such number of codebooks.
        """
        assert self.load is not None, f"{self.title} has no weights to load"
        return self._adapted(partial(self.load, place), num_codebooks)

    def build_codec(self, sizes: Mapping[str, Any], num_codebooks: int | None = None) -> CodecAdapter:
        """A codec of these sizes with initial weights from the global generator; raises as `load_codec`."""
        return self._adapted(partial(self.build, **sizes), num_codebooks)

    def _adapted(self, make: Callable[[], nn.Module], num_codebooks: int | None) -> CodecAdapter:
        try:
            model = make()
        except ModuleNotFoundError as error:
            missing = (error.name or "").partition(".")[0]
            raise ValueError(
                f"{self.package} needs the package {missing}: {self.install or f'pip install {missing}'}"
            ) from None
        except (ImportError, AttributeError) as error:
            raise ValueError(f"{self.package} is too old or broken ({error}): pip install -U {self.package}") from None
        return self.adapter(model, num_codebooks)


def transformers_family(
    title: str,
    name: str,
    adapter: Callable[[Any, int | None], CodecAdapter],
    presets: Mapping[str, Mapping[str, Any]],
) -> CodecFamily:
    """The family of `{name}Config` and `{name}Model` in transformers."""

    def build(**sizes: Any) -> nn.Module:
        import transformers

        return getattr(transformers, f"{name}Model")(getattr(transformers, f"{name}Config")(**sizes))

    def load(folder: Path) -> nn.Module:
        import torch
        import transformers

        model, report = getattr(transformers, f"{name}Model").from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, output_loading_info=True, trust_remote_code=False
        )
        if missing := lacking(model, report["missing_keys"]):
            raise ValueError(
                f"{folder}: the weights lack {len(missing)} tensors, such as {missing[0]}: no {name} checkpoint?"
            )
        return model

    return CodecFamily(title, adapter, build, load, "transformers", presets=presets)


def network_family(
    title: str,
    adapter: Callable[[Any, int | None], CodecAdapter],
    network: Callable[..., nn.Module],
    published: Callable[[Mapping[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]] | None],
    presets: Mapping[str, Mapping[str, Any]],
) -> CodecFamily:
    """The family of a network in `adapters.networks`, whose folders `llmcodec convert` writes."""
    return CodecFamily(title, adapter, network, partial(load_network, network), presets=presets, published=published)
