"""A codec optimised for inference: the same interface and, in fp32, the same results, faster and in less memory.

    fast = optimize_for_inference(codec)                   # fastest that preserves tokens and audio
    exact = optimize_for_inference(codec, "fp32")          # the plain codec up to rounding
    fastest = optimize_for_inference(codec, "int8")

Speed, token agreement and audio quality of each precision: docs/speed.md. Test: tests/codec/fast/test_engine.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.fast.conformer import Precisions
from llmcodec.codec.fast.cpu_conformer import kernels_run
from llmcodec.codec.fast.cpu_kernels import processor_has, why_not
from llmcodec.codec.fast.ends import PackedDecoder, PackedEncoder, PackedQuantizer
from llmcodec.codec.fast.linear import Precision
from llmcodec.codec.hub import HubCodec
from llmcodec.codec.inputs import Numbers, check_weights
from llmcodec.codec.model import LLMCodec
from llmcodec.codec.network import Decoder, Encoder
from llmcodec.codec.outputs import LLMCodecOutput
from llmcodec.precision import AUTO, Side
from llmcodec.precision import Precision as Choice

LAYERS = ("front", "up", "down", "qkv", "out", "pw1", "pw2", "head")


def of_all(precision: Precision, attention: Precision, **others: Precision) -> Precisions:
    """Precision of every kind of layer."""
    return {**dict.fromkeys(LAYERS, precision), "attention": attention, **others}


# mixed: bf16 only where few tokens change (a bf16 product also rounds its result to bf16).
PRECISIONS: Mapping[str, Precisions] = {
    "fp32": of_all("fp32", "fp32"),
    "mixed": of_all("fp32", "fp32", qkv="bf16", pw1="bf16", pw2="bf16"),
    "bf16": of_all("bf16", "bf16"),
    "int16": of_all("int16", "int16"),
    "int8": of_all("int8", "int8", front="int16", head="int16"),
}


class InferenceCodec(LLMCodec):
    """An `LLMCodec` packed for speed. It cannot be trained, saved or moved to another device."""

    def __init__(self, codec: LLMCodec, encoder: nn.Module, quantizer: PackedQuantizer, decoder: nn.Module):
        HubCodec.__init__(self, codec.config)  # not LLMCodec's, which would build the parts that are replaced here
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder  # type: ignore[assignment]
        self.place = codec.device
        self.precisions = ("fp32", "fp32")
        self.num_weights = 0
        super().train(False)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.place

    @property
    def dtype(self) -> torch.dtype:
        """Of input and output samples, whatever the internal precision."""
        return torch.float32

    @property
    def keeps_caches(self) -> bool:
        """Streams are coded chunk by chunk: only the plain modules have the causal codec's caches."""
        return False

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Of the codec that it was made from; none can be trained."""
        return 0 if only_trainable else self.num_weights

    def train(self, mode: bool = True) -> InferenceCodec:
        """Not supported: there are no gradients."""
        if mode:
            raise ValueError("a codec from optimize_for_inference cannot be trained; train the one it was made from")
        super().train(False)
        return self

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Not supported: the packed weights are specific to this machine."""
        raise ValueError("a codec from optimize_for_inference cannot be saved; save the one it was made from")

    def _apply(self, fn: Any, recurse: bool = True) -> InferenceCodec:
        """Reject casts and moves unless they change nothing."""
        probe = torch.zeros(1, device=self.place)
        moved = fn(probe)
        if moved.device != probe.device or moved.dtype != probe.dtype:
            raise ValueError(
                "a codec from optimize_for_inference cannot be moved or cast; do that first, then optimise"
            )
        return self

    @torch.no_grad()
    def forward(
        self,
        input_values: Numbers,
        padding_mask: Numbers | None = None,
        audio_codes: Numbers | None = None,
        **kwargs: Any,
    ) -> LLMCodecOutput:
        """As in `LLMCodec`, without gradients and losses.

        Raises:
            ValueError: also where hidden states or attention weights are asked for: the packed layers keep none.
        """
        states = {"output_hidden_states": False, "output_attentions": False}  # whatever the configuration says
        if asked := [name for name in states if kwargs.get(name)]:
            raise ValueError(
                f"a codec from optimize_for_inference has no {asked[0].removeprefix('output_')}; ask the one it was "
                "made from"
            )
        return super().forward(input_values, padding_mask, audio_codes, **kwargs | states)

    @torch.no_grad()
    def encode_latents(self, *args: Any, **kwargs: Any) -> Any:
        """As in `LLMCodec`, without gradients and without the losses."""
        return super().encode_latents(*args, **kwargs)

    @torch.no_grad()
    def decode_latents(self, *args: Any, **kwargs: Any) -> Tensor:
        """As in `LLMCodec`, without gradients."""
        return super().decode_latents(*args, **kwargs)


@torch.no_grad()
def optimize_for_inference(
    codec: LLMCodec,
    precision: Choice = "auto",
    *,
    encoder: Choice | None = None,
    decoder: Choice | None = None,
    only: Side | None = None,
    consume: bool = False,
) -> InferenceCodec:
    """An optimised codec with the weights of `codec`.

    Args:
        codec: a plain `LLMCodec`, on the device where it will run. It is left unchanged, unless `consume`.
        precision: of both sides. auto: the fastest on this machine that keeps 99 % of the tokens and a decoder
            within 28 dB of fp32, as measured on the bundled codec; fp32: the plain codec's results; mixed: bf16 where
            tokens allow it; bf16; int16 and int8, where our own kernels run (cpu_kernels.py).
        encoder, decoder: precision of one side, if it differs from `precision`.
        only: the side that will be used; the other one is not packed, which saves time.
        consume: free the weights of `codec` as they are packed; it is unusable afterwards. Halves peak memory.

    Raises:
        ValueError: unknown precision, int16 or int8 without kernels for it, a codec in training mode, weights that
            are not finite.
    """
    if isinstance(codec, InferenceCodec) or codec.training:
        raise ValueError("optimize_for_inference takes a plain codec in evaluation mode: call codec.eval() first")
    check_weights(codec)
    weights = codec.num_parameters()  # before they are consumed
    config: LLMCodecConfig = codec.config
    kernels = kernels_run(config, codec.device)
    automatic = automatic_sides(codec.device, kernels)
    chosen: dict[Side, str] = {"encoder": encoder or precision, "decoder": decoder or precision}
    sides = {
        side: automatic[side] if name == "auto" else checked(name, kernels, config, codec.device)
        for side, name in chosen.items()
        if only in (None, side)
    }

    def done(module: nn.Module) -> None:
        if consume:
            for parameter in module.parameters():
                parameter.data = parameter.data.new_empty(0)

    parts: dict[str, nn.Module] = {"encoder": codec.encoder, "decoder": codec.decoder}
    if "encoder" in sides:
        assert isinstance(codec.encoder, Encoder)
        parts["encoder"] = PackedEncoder(codec.encoder, config, PRECISIONS[sides["encoder"]], done)
    if "decoder" in sides:
        assert isinstance(codec.decoder, Decoder)
        parts["decoder"] = PackedDecoder(codec.decoder, config, PRECISIONS[sides["decoder"]], done)
    fast = InferenceCodec(codec, parts["encoder"], PackedQuantizer(codec.quantizer, done), parts["decoder"])
    fast.num_weights = weights
    fast.precisions = (sides.get("encoder", "fp32"), sides.get("decoder", "fp32"))
    return fast


def automatic_sides(device: torch.device, kernels: bool) -> Mapping[Side, Choice]:
    """Precisions of auto, by what is fast on this machine."""
    if kernels:
        return AUTO["kernels"]
    if device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False):
        return AUTO["torch, bf16 GPU"]
    halves = processor_has("_is_avx512_bf16_supported") or processor_has("_is_amx_tile_supported")
    return AUTO["torch, bf16 CPU" if device.type == "cpu" and halves else "torch"]


def checked(name: str, kernels: bool, config: LLMCodecConfig, device: torch.device) -> str:
    """Precisions by name. Raises ValueError if unknown or not available here."""
    if name not in PRECISIONS:
        raise ValueError(f"no precision {name!r}: choose auto, {', '.join(PRECISIONS)}")
    if name in ("int16", "int8") and not kernels:
        graphs = "; ONNX Runtime runs int8 without them: llmcodec export --format onnx" if name == "int8" else ""
        raise ValueError(f"{name} runs on our own kernels, and not here: {unfit(config, device)}{graphs}")
    return name


def unfit(config: LLMCodecConfig, device: torch.device) -> str:
    """Why a codec does not run on our kernels."""
    if device.type != "cpu":
        return f"the codec is on {device}"
    return (
        why_not()
        or f"width {config.hidden_size} or head {config.head_dim} is not a multiple of 16, or the head exceeds 256"
    )
