"""A short forward pass with cached keys and values for Llama and Qwen3 models: their weights, none of their machinery.

transformers' forward pass of a model of 4 layers of 256 takes three times what its products take; the rest goes into
masks, cache objects and a module call for every step. Here a position of a row is a slot of one buffer, so rows
of any length share a batch, and a row forgets its last tokens by going back. Other architectures: `states.py`.
Shapes: B rows, L new positions, S cached positions, D head size. Test: tests/lm/decoding/test_states.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

MOST_JOINED = 1 << 26
"""Weights that are copied to be joined; a larger layer has products that are long enough one by one."""
KNOWN = ("LlamaModel", "Qwen3Model")
PACKED = (torch.float32, torch.bfloat16)
TYPICAL_ROWS = 16
GROWING_ROTATION = ("dynamic", "longrope")
"""Rotations that depend on the length of the sequence."""
Projection = Callable[[Tensor], Tensor]


def knows(model: Any) -> bool:
    """Whether `LlamaStates` computes what the model does."""
    base = model.base_model
    config = base.config
    return (
        type(base).__name__ in KNOWN
        and type(base).__module__.startswith("transformers.models.")
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and config.hidden_act == "silu"
        and getattr(base.rotary_emb, "rope_type", "dynamic") not in GROWING_ROTATION
        and not any(one._forward_hooks or one._forward_pre_hooks for one in base.modules())
    )


@dataclass(frozen=True)
class _Layer:
    """What a layer computes with."""

    qkv: Projection
    out: Projection
    gate_up: Projection
    down: Projection
    norms: tuple[tuple[Tensor, float], tuple[Tensor, float]]
    """Gain and epsilon before attention and before the feed-forward part."""
    head_norm: tuple[Tensor, float] | None
    """Qwen3: gains (heads + key heads, D) of queries and keys, and epsilon."""


class LlamaStates:
    """Cached keys and values of some rows. See `states.States`."""

    def __init__(self, model: Any):
        base = model.base_model
        attention = base.layers[0].self_attn
        self.embed, self.rotary = base.get_input_embeddings(), base.rotary_emb
        self.head_size, self.scale = attention.head_dim, attention.scaling
        self.key_heads = base.config.num_key_value_heads
        self.group = base.config.num_attention_heads // self.key_heads
        self.layers = [self._layer(layer) for layer in base.layers]
        self.norm = base.norm.weight, base.norm.variance_epsilon
        self.device, self.dtype = self.norm[0].device, self.norm[0].dtype
        self.lengths: list[int] = []
        self.keys_BHSD: list[Tensor] = []
        self.values_BHSD: list[Tensor] = []
        self.turn_SD: tuple[Tensor, Tensor] = (torch.empty(0), torch.empty(0))

    def _layer(self, layer: Any) -> _Layer:
        attention, forward = layer.self_attn, layer.mlp
        head_norm = None
        if getattr(attention, "q_norm", None) is not None:
            gains = [
                attention.q_norm.weight.expand(self.group * self.key_heads, -1),
                attention.k_norm.weight.expand(self.key_heads, -1),
            ]
            head_norm = torch.cat(gains), attention.q_norm.variance_epsilon
        before, after = layer.input_layernorm, layer.post_attention_layernorm
        return _Layer(
            qkv=join(attention.q_proj, attention.k_proj, attention.v_proj),
            out=join(attention.o_proj),
            gate_up=join(forward.gate_proj, forward.up_proj),
            down=join(forward.down_proj),
            norms=((before.weight, before.variance_epsilon), (after.weight, after.variance_epsilon)),
            head_norm=head_norm,
        )

    def read(self, rows: Sequence[Tensor]) -> Tensor:
        """Read further ids of every row; hidden states (B, L, H), those of a shorter row at the beginning."""
        longest = max(map(len, rows))
        ids_BL = torch.stack([F.pad(row, (0, longest - len(row))) for row in rows]).to(self.device)
        if not self.lengths:
            self.lengths = [0] * len(rows)
        level = len(set(self.lengths)) == 1
        size = max(self.lengths) + longest
        self._make_room(len(rows), size)
        slots_BL = (torch.tensor(self.lengths)[:, None] + torch.arange(longest)).to(self.device)
        turn = [table_SD[size - longest : size] if level else table_SD[slots_BL] for table_SD in self.turn_SD]
        turn = [one.view(-1, longest, 1, self.head_size) for one in turn]
        mask = None if longest == 1 and level else self._mask(slots_BL, size)
        hidden_BLH = self.embed(ids_BL)
        for number, layer in enumerate(self.layers):
            hidden_BLH = self._through(layer, number, hidden_BLH, None if level else slots_BL, size, turn, mask)
        self.lengths = [length + len(row) for length, row in zip(self.lengths, rows, strict=True)]
        return _rms_norm(hidden_BLH, *self.norm)

    def _through(
        self,
        layer: _Layer,
        number: int,
        hidden_BLH: Tensor,
        slots_BL: Tensor | None,
        size: int,
        turn: Sequence[Tensor],
        mask: Tensor | None,
    ) -> Tensor:
        """One layer."""
        rows, length, _ = hidden_BLH.shape
        keys, group, width = self.key_heads, self.group, self.head_size
        heads = keys * group
        qkv = layer.qkv(_rms_norm(hidden_BLH, *layer.norms[0])).view(rows, length, heads + 2 * keys, width)
        turned = qkv[:, :, : heads + keys]
        if layer.head_norm is not None:
            turned = F.rms_norm(turned, (width,), None, layer.head_norm[1]) * layer.head_norm[0]
        turned = torch.addcmul(turned * turn[0], turned.roll(width // 2, -1), turn[1])
        for held_BHSD, new_BLHD in (
            (self.keys_BHSD[number], turned[:, :, heads:]),
            (self.values_BHSD[number], qkv[:, :, heads + keys :]),
        ):
            if slots_BL is None:
                held_BHSD[:, :, size - length : size] = new_BLHD.transpose(1, 2)
            else:
                held_BHSD[torch.arange(rows)[:, None], :, slots_BL] = new_BLHD
        # The queries of a group lie behind each other, so that keys and values need not be repeated.
        queries = turned[:, :, :heads].view(rows, length, keys, group, width)
        seen = F.scaled_dot_product_attention(
            queries.permute(0, 2, 3, 1, 4).reshape(rows, keys, group * length, width),
            self.keys_BHSD[number][:, :, :size],
            self.values_BHSD[number][:, :, :size],
            mask,
            scale=self.scale,
        )
        seen = seen.view(rows, keys, group, length, width).permute(0, 3, 1, 2, 4).reshape(rows, length, heads * width)
        hidden_BLH = hidden_BLH + layer.out(seen)
        gate, up = layer.gate_up(_rms_norm(hidden_BLH, *layer.norms[1])).chunk(2, -1)
        return hidden_BLH + layer.down(F.silu(gate) * up)

    def _mask(self, slots_BL: Tensor, size: int) -> Tensor:
        """(B, 1, G L, S) to add to the scores of a group. A slot is a position: one sees itself and those before, not
        what was written behind the end of a shorter row."""
        hidden_BLS = torch.arange(size, device=self.device) > slots_BL[:, :, None]
        mask_BLS = torch.zeros(hidden_BLS.shape, dtype=self.dtype, device=self.device)
        mask_BLS.masked_fill_(hidden_BLS, float("-inf"))
        return mask_BLS.repeat(1, self.group, 1)[:, None]

    def _make_room(self, rows: int, size: int) -> None:
        """Buffers, and the rotation of every position, for twice as many positions whenever they are full."""
        if self.keys_BHSD and size <= self.keys_BHSD[0].shape[2]:
            return
        shape = rows, self.key_heads, 2 * size, self.head_size
        for held in (self.keys_BHSD, self.values_BHSD):
            # What is not written yet is masked, but must be finite: 0 times inf is nan.
            grown = [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self.layers]
            for new, old in zip(grown, held, strict=False):
                new[:, :, : old.shape[2]] = old
            held[:] = grown
        positions_1S = torch.arange(2 * size, device=self.device)[None]
        cos_SD, sin_SD = (one[0] for one in self.rotary(self.keys_BHSD[0], positions_1S))
        half = self.head_size // 2
        # x -> x cos + (-second half, first half) sin: the sign goes into the table.
        self.turn_SD = cos_SD, torch.cat([-sin_SD[:, :half], sin_SD[:, half:]], -1)

    def forget(self, counts: Sequence[int]) -> None:
        """Take back the last ids of every row."""
        self.lengths = [length - count for length, count in zip(self.lengths, counts, strict=True)]

    def keep(self, places: Sequence[int]) -> None:
        """Keep these rows alone."""
        index = torch.tensor(places, device=self.device)
        for held in (self.keys_BHSD, self.values_BHSD):
            held[:] = [one[index] for one in held]
        self.lengths = [self.lengths[place] for place in places]


def join(*modules: nn.Module) -> Projection:
    """One function that gives the outputs of linear layers with the same input behind each other."""
    plain = [one for one in modules if type(one) is nn.Linear]
    biases = [one.bias for one in plain if one.bias is not None]
    weights = sum(one.weight.numel() for one in plain)
    if len(plain) < len(modules) or 0 < len(biases) < len(plain) or weights > MOST_JOINED:
        return lambda x: torch.cat([one(x) for one in modules], -1)
    bias = torch.cat([one.data for one in biases]) if biases else None
    return product(torch.cat([one.weight.data for one in plain]), bias)


def product(weight: Tensor, bias: Tensor | None) -> Projection:
    """x -> x @ weight.T + bias with the matrix stored once as the processor's library reads it."""
    if weight.device.type == "cpu" and weight.dtype in PACKED and torch.backends.mkldnn.is_available():
        pack = getattr(torch.ops.mkldnn, "_reorder_linear_weight", None)
        multiply = getattr(torch.ops.mkldnn, "_linear_pointwise", None)
        if pack is not None and multiply is not None:  # oneDNN's, as torch.compile calls it
            packed = pack(weight, TYPICAL_ROWS)
            return lambda x: multiply(x, packed, bias, "none", [], "")  # type: ignore[no-any-return]
    stored = weight.t().contiguous().t()  # by inputs: with few rows 0.6 to 0.8 of the time
    return lambda x: F.linear(x, stored, bias)


def _rms_norm(x: Tensor, gain: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x, gain.shape, gain, epsilon)
