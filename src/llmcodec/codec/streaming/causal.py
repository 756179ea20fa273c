"""A causal codec on a live stream: state instead of repeated context, so that every step costs the same.

What is kept between steps: per layer the last `attention_window` keys and values (a ring; positions are relative, so
they never grow) and the last `conv_kernel_size - 1` inputs of the depthwise convolution; half an STFT window of samples
in the encoder; the frames whose inverse STFT still overlaps the future in the decoder. Batch norm in evaluation is a
scale and a shift. Shapes: B batch (1), T frames, D width, N heads, P past frames.
Test: tests/codec/test_causal.py.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.codec.conformer import Attention, Conformer, ConformerLayer, ConvolutionModule, rotary_tables, rotate
from llmcodec.codec.streaming.latency import Plan
from llmcodec.codec.streaming.sessions import DecoderSession, EncoderSession


class LayerState:
    """Past of one conformer layer: rotary-free keys and values (B, N, P, head), convolution inputs (B, K - 1, D)."""

    def __init__(self, layer: ConformerLayer, like: Tensor) -> None:
        width, past = like.shape[-1], layer.conv_module.past
        heads = width // layer.attn.head_dim
        self.key = self.value = like.new_zeros(1, heads, 0, layer.attn.head_dim)
        self.convolution = like.new_zeros(1, past, width)


class ConformerStream:
    """A causal conformer, some frames at a time: the same numbers as the whole signal at once, up to rounding."""

    def __init__(self, conformer: Conformer) -> None:
        assert conformer.causal and conformer.attention_window is not None
        self.conformer, self.window = conformer, conformer.attention_window
        self.states: list[LayerState] | None = None

    def __call__(self, hidden_BTD: Tensor) -> Tensor:
        if self.states is None:
            self.states = [LayerState(layer, hidden_BTD) for layer in self.layers]
        past, new = self.states[0].key.shape[2], hidden_BTD.shape[1]
        cos, sin = rotary_tables(past + new, self.conformer.head_dim, hidden_BTD, exact=True)
        position = torch.arange(past + new, device=hidden_BTD.device)
        back = position[past:, None] - position
        allowed = ((back >= 0) & (back <= self.window))[None, None]
        for layer, state in zip(self.layers, self.states, strict=True):
            hidden_BTD = hidden_BTD + 0.5 * layer.ffn1(layer.ffn1_layer_norm(hidden_BTD))
            attended = self.attend(layer.attn, layer.attn_layer_norm(hidden_BTD), state, cos, sin, allowed)
            hidden_BTD = hidden_BTD + attended
            hidden_BTD = hidden_BTD + self.convolve(layer.conv_module, hidden_BTD, state)
            hidden_BTD = hidden_BTD + 0.5 * layer.ffn2(layer.ffn2_layer_norm(hidden_BTD))
            hidden_BTD = layer.final_layer_norm(hidden_BTD)
        return self.conformer.layer_norm(hidden_BTD)

    @property
    def layers(self) -> list[Any]:
        return list(self.conformer.layers)

    def attend(
        self, attention: Attention, hidden_BTD: Tensor, state: LayerState, cos: Tensor, sin: Tensor, allowed: Tensor
    ) -> Tensor:
        batch, new, width = hidden_BTD.shape
        qkv = attention.to_qkv(hidden_BTD).view(batch, new, 3, width // attention.head_dim, attention.head_dim)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        key, value = torch.cat((state.key, key), dim=2), torch.cat((state.value, value), dim=2)
        query = rotate(query, cos[-new:], sin[-new:])
        mixed = F.scaled_dot_product_attention(query, rotate(key, cos, sin), value, attn_mask=allowed)
        state.key, state.value = key[:, :, -self.window :].clone(), value[:, :, -self.window :].clone()
        return attention.to_out(mixed.transpose(1, 2).reshape(batch, new, width))

    def convolve(self, module: ConvolutionModule, hidden_BTD: Tensor, state: LayerState) -> Tensor:
        gated = F.glu(module.pointwise_conv1(module.layer_norm(hidden_BTD)), dim=-1)
        gated = torch.cat((state.convolution, gated), dim=1)
        state.convolution = gated[:, gated.shape[1] - module.past :].clone()
        mixed = module.depthwise_conv(gated.transpose(1, 2)).transpose(1, 2)
        return module.pointwise_conv2(F.gelu(module.conv_norm(mixed), approximate="tanh"))


class CausalEncoder(EncoderSession):
    """Encodes `plan.chunk_frames` frames per step as soon as half an STFT overlap behind them is there."""

    def __init__(self, codec: Any, plan: Plan, audio_kind: str | None = None) -> None:
        super().__init__(codec, plan, audio_kind)
        self.stream = ConformerStream(codec.encoder.conformer)
        self.partitions = codec.partitions_of(None if audio_kind is None else [audio_kind], 1)
        self.overlap = -(-plan.lookahead_samples // self.hop)  # frames that see beyond the start of the kept samples

    def ready(self) -> bool:
        end = (self.next_frame + self.plan.chunk_frames) * self.hop + self.plan.lookahead_samples
        return self.tail.stop >= end

    def step(self, final: bool) -> Tensor:
        start, stop = self.next_frame, self.next_frame + self.plan.chunk_frames
        first = max(0, start - self.overlap)
        if final and self.tail.stop <= start * self.hop:
            return self.empty()
        end = self.tail.stop if final else stop * self.hop + self.plan.lookahead_samples
        wav = self.tail.view(first * self.hop, end).to(self.device)[None]
        features = self.codec.encoder.frontend(wav, torch.tensor([wav.shape[1]], device=wav.device))
        features = features[:, start - first : None if final else stop - first]
        self.next_frame = start + features.shape[1]
        self.tail.drop(min(end, max(0, self.next_frame - self.overlap) * self.hop))
        if features.shape[1] == 0:
            return self.empty()
        return self.codec.quantizer(self.stream(features), self.partitions)[0].cpu()


class CausalDecoder(DecoderSession):
    """Decodes `plan.chunk_frames` frames per step; the last half overlap of samples waits for the next one."""

    def __init__(self, codec: Any, plan: Plan, length: int | None = None) -> None:
        super().__init__(codec, plan, length)
        self.stream = ConformerStream(codec.decoder.conformer)
        self.kept = codec.config.n_fft // self.hop - 1  # frames that overlap the samples still to come
        self.hidden_BTD: Tensor | None = None

    def ready(self) -> bool:
        return self.tail.stop >= self.next_frame + self.plan.chunk_frames

    def step(self, final: bool) -> Tensor:
        stop = self.tail.stop if final else self.next_frame + self.plan.chunk_frames
        done = max(0, self.next_frame * self.hop - self.plan.lookahead_samples)
        if stop > self.next_frame:
            codes = self.tail.view(self.next_frame, stop).to(self.device)
            new_BTD = self.stream(self.codec.quantizer.embed(codes))
            self.hidden_BTD = new_BTD if self.hidden_BTD is None else torch.cat((self.hidden_BTD, new_BTD), dim=1)
        assert self.hidden_BTD is not None
        first = stop - self.hidden_BTD.shape[1]
        end = stop * self.hop - (0 if final else self.plan.lookahead_samples)
        wav = self.empty()
        if end > done:
            wav = self.codec.decoder.head(self.hidden_BTD)[0].cpu()[done - first * self.hop : end - first * self.hop]
        self.hidden_BTD = self.hidden_BTD[:, max(0, self.hidden_BTD.shape[1] - self.kept) :].clone()
        self.next_frame = stop
        self.tail.drop(stop)
        if final and self.length is not None:  # `auv_floor_frames` drops the samples behind the last whole hop
            wav = F.pad(wav, (0, max(0, self.length - self.emitted - len(wav))))
        return wav
