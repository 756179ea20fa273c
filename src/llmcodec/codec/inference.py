"""A codec made ready to run: the same interface and, in fp32, the same results, faster and in less memory.

    fast = optimize_for_inference(codec)                                    # fastest that keeps tokens and sound
    exact = optimize_for_inference(codec, "fp32")                           # the plain codec up to rounding
    small = optimize_for_inference(codec, "int8", calibration=[wav_S])      # a few seconds of audio for its ranges

What each precision gains, and costs in tokens and sound: docs/speed.md. Test: tests/unit/codec/test_inference.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .config import LLMCodecConfig
from .fast_conformer import Kinds
from .fast_ends import FastDecoder, FastEncoder, FastQuantizer
from .fast_linear import Precision, Range, has_int8_kernels
from .hub import HubCodec
from .model import Decoder, Encoder, LLMCodec

Choice = Literal["auto", "fp32", "mixed", "bf16", "int8"]
Side = Literal["encoder", "decoder"]
LAYERS = ("front", "up", "down", "qkv", "out", "pw1", "pw2", "head")
LINEARS = {
    "input_proj": "front",
    "up_proj": "up",
    "down_proj": "down",
    "to_qkv": "qkv",
    "to_out": "out",
    "pointwise_conv1": "pw1",
    "pointwise_conv2": "pw2",
    "output_proj": "head",
}


def plan(precision: Precision, attention: Precision, **others: Precision) -> Kinds:
    """Precision of every kind of layer."""
    return {**dict.fromkeys(LAYERS, precision), "attention": attention, **others}


# mixed: bf16 only where more than 99.5 % of the tokens stay (a bf16 product also rounds its result to bf16).
PLANS: Mapping[str, Kinds] = {
    "fp32": plan("fp32", "fp32"),
    "mixed": plan("fp32", "fp32", qkv="bf16", pw1="bf16", pw2="bf16"),
    "bf16": plan("bf16", "bf16"),
    "int8": plan("int8", "bf16", front="bf16", head="bf16"),
}
# The fastest whose tokens agree in >= 99.5 %, and whose sound is above 30 dB, on the bundled codec (docs/speed.md).
AUTO_ENCODER: Choice = "mixed"
AUTO_DECODER: Choice = "int8"


class InferenceCodec(LLMCodec):
    """`LLMCodec` whose parts are packed for speed. It cannot be trained, saved or moved to another device."""

    def __init__(self, codec: LLMCodec, encoder: nn.Module, quantizer: FastQuantizer, decoder: nn.Module):
        HubCodec.__init__(self, codec.config)  # not LLMCodec's: it would build what is put in its place here
        self.encoder, self.quantizer, self.decoder = encoder, quantizer, decoder  # type: ignore[assignment]
        self.place = codec.device
        self.precisions = ("fp32", "fp32")
        super().train(False)

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self.place

    @property
    def dtype(self) -> torch.dtype:
        """Of samples in and out, whatever the precision inside."""
        return torch.float32

    @property
    def keeps_caches(self) -> bool:
        """A stream is coded chunk by chunk: the causal codec's caches belong to the plain modules."""
        return False

    def train(self, mode: bool = True) -> InferenceCodec:
        """Refused: there are no gradients here."""
        if mode:
            raise ValueError("a codec from optimize_for_inference cannot be trained; train the one it was made from")
        return super().train(False)  # type: ignore[return-value]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """Refused: the packed weights are this machine's."""
        raise ValueError("a codec from optimize_for_inference cannot be saved; save the one it was made from")

    def _apply(self, fn: Any, recurse: bool = True) -> InferenceCodec:
        """Casts and moves are refused unless they change nothing."""
        probe = torch.zeros(1, device=self.place)
        moved = fn(probe)
        if moved.device != probe.device or moved.dtype != probe.dtype:
            raise ValueError("a codec from optimize_for_inference stays as it is; move or cast first, then optimise")
        return self

    @torch.inference_mode()
    def encode_latents(self, *args: Any, **kwargs: Any) -> Any:
        """As in `LLMCodec`, without gradients and without the losses."""
        return super().encode_latents(*args, **kwargs)

    @torch.inference_mode()
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
    calibration: Sequence[Tensor] | None = None,
    consume: bool = False,
) -> InferenceCodec:
    """A fast codec with the weights of `codec`.

    Args:
        codec: a plain `LLMCodec`, on the device where it will run. It is left as it is, unless `consume`.
        precision: of both sides. auto: the fastest on this machine that keeps 99.5 % of the tokens and a decoder
            within 30 dB of fp32, as measured on the bundled codec; fp32: the plain codec's results; mixed: bf16 where
            tokens allow it; bf16; int8 (CPU only).
        encoder, decoder: a side that differs from `precision`.
        only: the side that will be used; the other one stays plain, which saves the time to pack and calibrate it.
        calibration: clips (S,) for the ranges of int8, some seconds of what will be coded; without them auto
            takes bf16 for the decoder.
        consume: free the weights of `codec` as they are packed; it is of no use afterwards. Halves peak memory.

    Raises:
        ValueError: unknown precision, int8 without calibration or without kernels, a codec in training mode.
    """
    if isinstance(codec, InferenceCodec) or codec.training:
        raise ValueError("optimize_for_inference takes a plain codec in evaluation mode: call codec.eval() first")
    sides = {
        "encoder": resolve(encoder or precision, AUTO_ENCODER, codec.device, calibration is not None),
        "decoder": resolve(decoder or precision, AUTO_DECODER, codec.device, calibration is not None),
    }
    if only is not None:
        sides = {only: sides[only]}
    wanted = [codec.get_submodule(side) for side, name in sides.items() if name == "int8"]
    if wanted and calibration is None:
        raise ValueError("int8 needs calibration=[wav_S, ...]: a few seconds of audio at the codec's sample rate")
    spans = input_ranges(codec, calibration or (), wanted) if wanted else {}

    def done(module: nn.Module) -> None:
        if consume:
            for parameter in module.parameters():
                parameter.data = parameter.data.new_empty(0)

    config: LLMCodecConfig = codec.config
    parts: dict[str, nn.Module] = {"encoder": codec.encoder, "decoder": codec.decoder}
    if "encoder" in sides:
        assert isinstance(codec.encoder, Encoder)
        parts["encoder"] = FastEncoder(codec.encoder, config, PLANS[sides["encoder"]], spans, done)
    if "decoder" in sides:
        assert isinstance(codec.decoder, Decoder)
        parts["decoder"] = FastDecoder(codec.decoder, config, PLANS[sides["decoder"]], spans, done)
    fast = InferenceCodec(codec, parts["encoder"], FastQuantizer(codec.quantizer, done), parts["decoder"])
    fast.precisions = (sides.get("encoder", "fp32"), sides.get("decoder", "fp32"))
    return fast


def resolve(name: Choice, automatic: Choice, device: torch.device, calibrated: bool) -> str:
    """A name of `PLANS`; auto by what the machine multiplies fast."""
    if name != "auto":
        if name not in PLANS:
            raise ValueError(f"no precision {name!r}: choose auto, {', '.join(PLANS)}")
        return name
    if device.type != "cpu":
        halves = device.type == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)
        return "mixed" if automatic == "mixed" and halves else "fp32"
    if automatic == "int8" and calibrated and has_int8_kernels() and processor_has("_is_vnni_supported"):
        return "int8"
    if processor_has("_is_avx512_bf16_supported") or processor_has("_is_amx_tile_supported"):
        return "bf16" if automatic == "int8" else automatic
    return "fp32"


def processor_has(question: str) -> bool:
    """One of the `torch.cpu._is_..._supported` questions; no where this PyTorch cannot be asked."""
    ask = getattr(torch.cpu, question, None)
    return ask is not None and bool(ask())


@torch.no_grad()
def input_ranges(codec: LLMCodec, calibration: Sequence[Tensor], parts: Sequence[nn.Module]) -> dict[nn.Module, Range]:
    """Smallest and largest input of every linear layer of `parts` while `codec` codes the calibration clips."""
    spans: dict[nn.Module, Range] = {}
    code = codec if codec.decoder in parts else codec.encode

    def watch(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        low, high = (float(value) for value in inputs[0].aminmax())
        old = spans.get(module, (low, high))
        spans[module] = (min(low, old[0]), max(high, old[1]))

    watched = [
        layer.register_forward_pre_hook(watch)
        for part in parts
        for name, layer in part.named_modules()
        if name.rpartition(".")[2] in LINEARS
    ]
    try:
        for wav in calibration:
            code(wav.reshape(1, 1, -1).to(codec.device))
    finally:
        for handle in watched:
            handle.remove()
    return spans
