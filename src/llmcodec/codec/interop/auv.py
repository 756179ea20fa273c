"""AUV checkpoints <-> ours: the key map, both ways.

AUV's state dict (PyPI `auv`, arXiv 2509.21968) holds `tokenizer.*` (front end, conformer, vq) and `token2wav.*`
(conformer, head). Test: tests/codec/interop/test_auv.py (parity with the published package).
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from torch import Tensor
from torch import hann_window as make_hann_window

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.model import LLMCodec

# ours -> AUV's, as (pattern, replacement) on whole prefixes
PREFIXES = (
    ("encoder.frontend.input_proj.", "tokenizer.stft_head.inp."),
    ("encoder.conformer.", "tokenizer.conformer."),
    ("quantizer.codebook", "tokenizer.vq.quantizers.0._codebook.weight"),
    ("quantizer.in_proj.", "tokenizer.vq.quantizers.0.in_proj."),
    ("quantizer.out_proj.", "tokenizer.vq.quantizers.0.out_proj."),
    ("decoder.conformer.", "token2wav.conformer."),
    ("decoder.head.output_proj.", "token2wav.istft_head.out."),
)
SUFFIXES = (
    ("proj.magnitude", "proj.parametrizations.weight.original0"),
    ("proj.direction", "proj.parametrizations.weight.original1"),
)
CONV1X1 = re.compile(
    r"(pointwise_conv[12]\.weight|proj\.magnitude|proj\.direction)$"
)  # 1x1 convolutions there, linear layers here
WINDOWS = ("tokenizer.stft_head.stft.window", "token2wav.istft_head.istft.window")  # computed here, stored there


def auv_key(key: str) -> str:
    """Our parameter name -> AUV's."""
    for ours, theirs in PREFIXES:
        if key.startswith(ours):
            key = theirs + key[len(ours) :]
            break
    for ours, theirs in SUFFIXES:
        key = key.replace(ours, theirs) if key.endswith(ours) else key
    return key


def from_auv(state: Mapping[str, Tensor], config: LLMCodecConfig | None = None) -> LLMCodec:
    """AUV state dict -> LLMCodec with `auv_floor_frames=True`, or with the given configuration.

    Raises:
        ValueError: keys missing, left over, or of another shape; the message names them.
    """
    codec = LLMCodec(config or config_from_auv(state))
    own = codec.state_dict()
    left = set(state) - set(WINDOWS)
    converted = {}
    for key, value in own.items():
        theirs = auv_key(key)
        if theirs not in state:
            raise ValueError(f"AUV checkpoint: {theirs} is missing; is this an AUV state dict?")
        tensor = state[theirs]
        tensor = tensor.squeeze(-1) if CONV1X1.search(key) and tensor.ndim == value.ndim + 1 else tensor
        if tensor.shape != value.shape:
            raise ValueError(f"AUV checkpoint: {theirs} has shape {tuple(tensor.shape)}, expected {tuple(value.shape)}")
        converted[key] = tensor
        left.discard(theirs)
    if left:
        raise ValueError(f"AUV checkpoint: unknown keys {sorted(left)[:3]}{' ...' if len(left) > 3 else ''}")
    codec.load_state_dict(converted)
    codec.train(False)
    return codec


def to_auv(codec: LLMCodec) -> dict[str, Tensor]:
    """LLMCodec -> a state dict that the published `auv` package loads."""
    state = {
        auv_key(key): (value[..., None] if CONV1X1.search(key) else value).detach().clone()
        for key, value in codec.state_dict().items()
    }
    return state | {key: make_hann_window(codec.config.n_fft) for key in WINDOWS}


def config_from_auv(state: Mapping[str, Tensor]) -> LLMCodecConfig:
    """Configuration from the shapes of an AUV state dict; what these do not show (head size, rates) is AUV's."""
    try:
        width, features = state["tokenizer.stft_head.inp.weight"].shape
        codes, code_dim = state["tokenizer.vq.quantizers.0._codebook.weight"].shape
    except KeyError as error:
        raise ValueError(f"AUV checkpoint: {error.args[0]} is missing; is this an AUV state dict?") from None
    layers = {
        side: 1 + max(int(k.split(".")[3]) for k in state if k.startswith(f"{side}.conformer.layers."))
        for side in ("tokenizer", "token2wav")
    }
    return LLMCodecConfig(
        n_fft=features - 2,
        hop_samples=(features - 2) // 4,
        hidden_size=width,
        encoder_layers=layers["tokenizer"],
        decoder_layers=layers["token2wav"],
        ffn_mult=state["tokenizer.conformer.layers.0.ffn1.up_proj.weight"].shape[0] // width,
        conv_kernel_size=state["tokenizer.conformer.layers.0.conv_module.depthwise_conv.weight"].shape[-1],
        codebook_size=codes,
        codebook_dim=code_dim,
        auv_floor_frames=True,
    )
