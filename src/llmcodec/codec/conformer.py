"""Masked conformer with rotary attention: macaron feed-forward, self-attention, convolution module, feed-forward.

Padding never reaches a real frame: masked keys in attention, zeroed input of the depthwise convolution, masked batch
statistics. A causal conformer also processes a stream call by call (`Conformer.open_stream`): the same layers, with a
`LayerState` that prepends past frames to the new ones. Module names follow AUV's state dict.
Shapes: B batch, T frames, P past frames, D width, N heads, C head width. Test: tests/codec/test_model.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.modeling_layers import GradientCheckpointingLayer

from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.inputs import is_traced
from llmcodec.codec.windowed_attention import windowed_attention
from llmcodec.distributed import at_least_float32, sum_over_ranks

MASKED_FRAMES = 384  # up to here one (T, T) mask is faster (and small); longer clips use blocks
EAGER_FRAMES = 192  # up to here PyTorch's fused function is slower in training on a CPU, and no more exact
Reach = tuple[int, int] | None  # frames before and after itself that a frame sees; None: all
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]  # queries (B, N, T, C), keys, values (B, N, P + T, C) -> (B, N, T, C)


class LayerState:
    """State of one causal layer in a stream; its size is bounded by the window.

    Args:
        layer: whose stream it is.
        window: frames that attention looks back.
    """

    def __init__(self, layer: ConformerLayer, window: int) -> None:
        like = layer.final_layer_norm.weight
        self.window, self.taps = window, layer.conv_module.past
        head_dim = layer.attn.head_dim
        self.key = self.value = like.new_zeros(
            1, len(like) // head_dim, 0, head_dim
        )  # before rotation, which is relative
        self.convolution = like.new_zeros(1, self.taps, len(like))

    def extend_attention(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """New keys and values (B, N, T, C) -> past and new ones, (B, N, P + T, C); the last ones are kept."""
        key, value = torch.cat((self.key, key), dim=2), torch.cat((self.value, value), dim=2)
        self.key, self.value = key[:, :, -self.window :].clone(), value[:, :, -self.window :].clone()
        return key, value

    def extend_convolution(self, hidden_BTD: Tensor) -> Tensor:
        """New inputs (B, T, D) -> past and new ones, (B, K - 1 + T, D); the last ones are kept."""
        hidden_BTD = torch.cat((self.convolution, hidden_BTD), dim=1)
        self.convolution = hidden_BTD[:, hidden_BTD.shape[1] - self.taps :].clone()
        return hidden_BTD


def rotary_tables(
    num_frames: int, head_dim: int, like: Tensor, base: float = 10000.0, exact: bool = False
) -> tuple[Tensor, Tensor]:
    """cos and sin of shape (T, head_dim), halves repeated (GPT-NeoX layout), computed in float32 as AUV does.

    `exact` takes the angles in float64 (on the CPU: not every device has it); float32 is off by 1e-4 at frame 3,000.
    """
    device, dtype = (torch.device("cpu"), torch.float64) if exact else (like.device, torch.float32)
    inverse = 1.0 / base ** (torch.arange(0, head_dim, 2, device=device).to(dtype) / head_dim)
    angle = torch.outer(torch.arange(num_frames, device=device).to(dtype), inverse)
    angle = torch.cat((angle, angle), dim=-1)
    return angle.cos().to(like), angle.sin().to(like)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary position embedding to (B, N, T, head_dim)."""
    cos, sin = cos.to(x.dtype), sin.to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat((-second, first), dim=-1) * sin


def attention_mask(
    num_frames: int, mask_BT: Tensor | None, reach: Reach, device: torch.device, past: int = 0
) -> Tensor | None:
    """Frames that a frame may attend to: boolean (B or 1, 1, T, P + T); None when every frame sees every other.

    Args:
        num_frames: T.
        mask_BT: True at real frames; None: all are.
        reach: frames that a frame sees.
        device: of the result.
        past: P frames of a stream before the first one.
    """
    allowed = None
    if reach is not None and min(reach) < past + num_frames - 1:
        position = torch.arange(past + num_frames, device=device)
        back = position[past:, None] - position
        allowed = ((back <= reach[0]) & (back >= -reach[1]))[None, None]
    if mask_BT is not None:
        keys = mask_BT[:, None, None, :]
        allowed = keys if allowed is None else allowed & keys
        itself = torch.eye(num_frames, dtype=torch.bool, device=device)
        allowed = allowed | itself  # a padded query needs one key: itself
    return allowed


def eager_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None, attentions: list[Tensor] | None = None
) -> Tensor:
    """As PyTorch's `scaled_dot_product_attention`, step by step; `attentions` takes the weights (B, N, T, T)."""
    scores = at_least_float32(query) @ at_least_float32(key).transpose(2, 3) / math.sqrt(query.shape[-1])
    if attn_mask is not None:  # added, which costs nothing in the backward pass
        scores = scores + scores.new_zeros(attn_mask.shape).masked_fill_(~attn_mask, -math.inf)
    weights = scores.softmax(-1)
    if attentions is not None:
        attentions.append(weights)
    return (weights @ at_least_float32(value)).to(value.dtype)


def fast_attention(query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None) -> Tensor:
    """PyTorch's `scaled_dot_product_attention`, or `eager_attention` where that is faster."""
    trains = query.requires_grad and query.dtype == torch.bfloat16 and query.device.type == "cpu"
    if trains and key.shape[2] <= EAGER_FRAMES:
        return eager_attention(query, key, value, attn_mask)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=attn_mask)


def attention_over(
    num_frames: int,
    mask_BT: Tensor | None,
    reach: Reach,
    device: torch.device,
    past: int | None = None,
    eager: bool = False,
    attentions: list[Tensor] | None = None,
) -> Mix:
    """Attention where every frame sees what `attention_mask` allows; the mask is not built for long windowed clips.

    Args:
        num_frames, mask_BT, reach, device: as for `attention_mask`.
        past: frames of a stream before the first one; None outside a stream.
        eager: by `eager_attention` instead of PyTorch's fused function.
        attentions: takes the weights of every layer, which are then computed by `eager_attention`.
    """
    short = not is_traced() and num_frames <= MASKED_FRAMES  # a traced length would be a bound of the graph
    if reach is None or short or past is not None or attentions is not None:
        allowed = attention_mask(num_frames, mask_BT, reach, device, past or 0)
        if eager or attentions is not None:
            return partial(eager_attention, attn_mask=allowed, attentions=attentions)
        return partial(fast_attention, attn_mask=allowed)

    def mix(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return windowed_attention(query / math.sqrt(query.shape[-1]), key, value, *reach, mask_BT)

    return mix


class Attention(nn.Module):
    """Rotary multi-head self-attention without QKV bias."""

    def __init__(self, hidden_size: int, head_dim: int):
        super().__init__()
        self.head_dim = head_dim
        self.to_qkv = nn.Linear(hidden_size, 3 * hidden_size, bias=False)
        self.to_out = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, hidden_BTD: Tensor, cos: Tensor, sin: Tensor, mix: Mix, state: LayerState | None = None
    ) -> Tensor:
        batch, num_frames, width = hidden_BTD.shape
        qkv = self.to_qkv(hidden_BTD).view(batch, num_frames, 3, width // self.head_dim, self.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4).unbind()
        if state is not None:
            key, value = state.extend_attention(key, value)
        mixed = mix(rotate(query, cos[-num_frames:], sin[-num_frames:]), rotate(key, cos, sin), value)
        return self.to_out(mixed.transpose(1, 2).reshape(batch, num_frames, width))


class FeedForward(nn.Module):
    def __init__(self, hidden_size: int, ffn_size: int):
        super().__init__()
        self.up_proj = nn.Linear(hidden_size, ffn_size)
        self.down_proj = nn.Linear(ffn_size, hidden_size)

    def forward(self, hidden_BTD: Tensor) -> Tensor:
        return self.down_proj(F.gelu(self.up_proj(hidden_BTD), approximate="tanh"))


class MaskedBatchNorm(nn.BatchNorm1d):
    """Batch normalisation over (B, T, D) whose training statistics see real frames only, of all ranks together."""

    def reset_running_stats(self) -> None:
        """As PyTorch's, by functions that do not overwrite weights that transformers has loaded."""
        assert self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None
        nn.init.zeros_(self.running_mean)
        nn.init.ones_(self.running_var)
        nn.init.zeros_(self.num_batches_tracked)

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """Scale and shift in evaluation mode, (D,) each."""
        assert self.running_mean is not None and self.running_var is not None
        scale_D = self.weight * (self.running_var + self.eps).rsqrt()
        return scale_D, self.bias - self.running_mean * scale_D

    def forward(self, hidden_BTD: Tensor, mask_BT: Tensor | None = None, counts: bool = True) -> Tensor:
        """(B, T, D) -> (B, T, D); the running statistics stay as they are unless this `counts`."""
        assert self.running_mean is not None and self.running_var is not None
        if not self.training:
            scale_D, shift_D = self.scale_and_shift()
            return hidden_BTD * scale_D.to(hidden_BTD.dtype) + shift_D.to(hidden_BTD.dtype)
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            x = hidden_BTD.float() if hidden_BTD.dtype in (torch.bfloat16, torch.float16) else hidden_BTD
            weight = torch.ones_like(x[..., :1]) if mask_BT is None else mask_BT[..., None].to(x.dtype)
            masked = x * weight
            count, total = sum_over_ranks(weight.sum()), sum_over_ranks(masked.sum((0, 1)))
            mean = total / count
            variance = sum_over_ranks(((x - mean).square() * weight).sum((0, 1))) / count
            if counts:
                self.count(mean, variance, count)
            out = (x - mean) * ((variance + self.eps).rsqrt() * self.weight) + self.bias
        return out.to(hidden_BTD.dtype)

    @torch.no_grad()
    def count(self, mean_D: Tensor, variance_D: Tensor, frames: Tensor) -> None:
        """Move the running statistics towards those of a batch of so many frames."""
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean_D.to(self.running_mean.dtype), self.momentum)
        unbiased_D = variance_D * frames / (frames - 1).clamp(min=1)
        self.running_var.lerp_(unbiased_D.to(self.running_var.dtype), self.momentum)


class ConvolutionModule(nn.Module):
    """Pointwise, GLU, depthwise convolution, batch norm, GELU, pointwise."""

    def __init__(self, hidden_size: int, kernel_size: int, causal: bool = False):
        super().__init__()
        self.past = kernel_size - 1 if causal else 0  # zeros in front instead of on both sides
        self.layer_norm = nn.LayerNorm(hidden_size)
        self.pointwise_conv1 = nn.Linear(hidden_size, 2 * hidden_size, bias=False)
        padding = 0 if causal else kernel_size // 2
        self.depthwise_conv = nn.Conv1d(
            hidden_size, hidden_size, kernel_size, padding=padding, groups=hidden_size, bias=False
        )
        self.conv_norm = MaskedBatchNorm(hidden_size)
        self.pointwise_conv2 = nn.Linear(hidden_size, hidden_size, bias=False)

    def forward(
        self, hidden_BTD: Tensor, mask_BT: Tensor | None, state: LayerState | None = None, counts: bool = True
    ) -> Tensor:
        hidden_BTD = F.glu(self.pointwise_conv1(self.layer_norm(hidden_BTD)), dim=-1)
        if mask_BT is not None:
            hidden_BTD = hidden_BTD * mask_BT[..., None]
        if state is not None:
            hidden_BTD = state.extend_convolution(hidden_BTD)
        elif self.past:
            hidden_BTD = F.pad(hidden_BTD, (0, 0, self.past, 0))
        hidden_BTD = self.depthwise(hidden_BTD)
        hidden_BTD = F.gelu(self.conv_norm(hidden_BTD, mask_BT, counts), approximate="tanh")
        return self.pointwise_conv2(hidden_BTD)

    def depthwise(self, hidden_BTD: Tensor) -> Tensor:
        """The convolution over T, (B, T, D) -> (B, T', D), which is contiguous on a CPU."""
        conv, hidden_BDT = self.depthwise_conv, hidden_BTD.transpose(1, 2)
        if hidden_BTD.device.type != "cpu" or is_traced():
            return conv(hidden_BDT).transpose(1, 2)
        # As a picture of one row, it keeps channels last: the same numbers without reordering, twice as fast.
        padding = (0, int(conv.padding[0]))
        out_BDT = F.conv2d(hidden_BDT[:, :, None], conv.weight[:, :, None], padding=padding, groups=conv.groups)[
            :, :, 0
        ]
        return out_BDT.transpose(1, 2)


class ConformerLayer(GradientCheckpointingLayer):
    """One layer; under gradient checkpointing it runs again in the backward pass."""

    def __init__(self, config: LLMCodecConfig):
        super().__init__()
        width = config.hidden_size
        self.ffn1_layer_norm = nn.LayerNorm(width)
        self.ffn1 = FeedForward(width, width * config.ffn_mult)
        self.attn_layer_norm = nn.LayerNorm(width)
        self.attn = Attention(width, config.head_dim)
        self.conv_module = ConvolutionModule(width, config.conv_kernel_size, config.causal)
        self.ffn2_layer_norm = nn.LayerNorm(width)
        self.ffn2 = FeedForward(width, width * config.ffn_mult)
        self.final_layer_norm = nn.LayerNorm(width)

    def forward(
        self,
        hidden_BTD: Tensor,
        cos: Tensor,
        sin: Tensor,
        mix: Mix,
        mask_BT: Tensor | None,
        state: LayerState | None = None,
        runs: list[int] | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D); `runs` is an empty list for each call: only its first run counts for statistics."""
        counts = not runs
        if runs is not None:
            runs.append(1)
        hidden_BTD = hidden_BTD + 0.5 * self.ffn1(self.ffn1_layer_norm(hidden_BTD))
        hidden_BTD = hidden_BTD + self.attn(self.attn_layer_norm(hidden_BTD), cos, sin, mix, state)
        hidden_BTD = hidden_BTD + self.conv_module(hidden_BTD, mask_BT, state, counts)
        hidden_BTD = hidden_BTD + 0.5 * self.ffn2(self.ffn2_layer_norm(hidden_BTD))
        return self.final_layer_norm(hidden_BTD)


class Conformer(nn.Module):
    """A stack of conformer layers and a final layer norm: (B, T, D) -> (B, T, D)."""

    def __init__(self, config: LLMCodecConfig, num_layers: int):
        super().__init__()
        self.config, self.head_dim = config, config.head_dim
        self.reach, self.causal = config.attention_reach, config.causal
        self.layers = nn.ModuleList(ConformerLayer(config) for _ in range(num_layers))
        self.layer_norm = nn.LayerNorm(config.hidden_size)

    def open_stream(self) -> list[LayerState]:
        """Initial states of a stream, for `forward`; the conformer must be causal."""
        assert self.causal and self.reach is not None
        return [LayerState(cast(ConformerLayer, layer), self.reach[0]) for layer in self.layers]

    def forward(
        self,
        hidden_BTD: Tensor,
        mask_BT: Tensor | None = None,
        states: Sequence[LayerState] | None = None,
        layer_outputs: list[Tensor] | None = None,
        attentions: list[Tensor] | None = None,
    ) -> Tensor:
        """(B, T, D) -> (B, T, D).

        Args:
            hidden_BTD: frames of whole clips, or (1, T, D) that continue a stream.
            mask_BT: True at real frames; None means that all are real.
            states: of `open_stream`, updated in place; None outside a stream.
            layer_outputs: takes the output (B, T, D) of every layer.
            attentions: takes the attention weights (B, N, T, P + T) of every layer.
        """
        num_frames = hidden_BTD.shape[1]
        past = states[0].key.shape[2] if states else None
        cos, sin = rotary_tables((past or 0) + num_frames, self.head_dim, hidden_BTD, exact=self.causal)
        eager = self.config._attn_implementation == "eager"  # as transformers' `attn_implementation` says
        mix = attention_over(num_frames, mask_BT, self.reach, hidden_BTD.device, past, eager, attentions)
        memories: Sequence[LayerState | None] = states or [None] * len(self.layers)
        for layer, state in zip(self.layers, memories, strict=True):
            hidden_BTD = layer(hidden_BTD, cos, sin, mix, mask_BT, state, [])
            if layer_outputs is not None:
                layer_outputs.append(hidden_BTD)
        return self.layer_norm(hidden_BTD)
