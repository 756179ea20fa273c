"""A codec made of random tensors: a batch of encodings with gradients, and plain dense versions of our functions."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import normalize

from llmcodec.protocol import CodecEncoding

LENGTHS = (7, 4, 1)


def toy_encoding(
    lengths: tuple[int, ...] = LENGTHS,
    num_codes: int = 11,
    code_dim: int = 4,
    width: int = 6,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> tuple[CodecEncoding, Tensor]:
    """Encoding (query, latent and quantised latent are leaves) and codebook (a leaf); padding holds garbage."""
    generator = torch.Generator().manual_seed(seed)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    batch, frames = len(lengths), max(lengths)
    mask = torch.arange(frames) < torch.tensor(lengths)[:, None]
    query = normalize(random(batch, frames, code_dim), dim=-1)
    codebook = normalize(random(num_codes, code_dim), dim=-1)
    codes = (query @ codebook.T).argmax(-1).masked_fill(~mask, 0)
    encoding = CodecEncoding(
        codes,
        mask,
        query.to(dtype).requires_grad_(),
        random(batch, frames, width).to(dtype).requires_grad_(),
        random(batch, frames, width).to(dtype).requires_grad_(),
    )
    return encoding, codebook.to(dtype).requires_grad_()


def straight_through(hard: Tensor, soft: Tensor) -> Tensor:
    """Value of `hard`, gradient of `soft`."""
    return hard + soft - soft.detach()


def one_hot(codes: Tensor, num_codes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.nn.functional.one_hot(codes, num_codes).to(dtype)


def gradients(loss: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Gradients of the loss, zeros where there is none; the tensors keep no .grad."""
    found = torch.autograd.grad(loss, tensors, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors, found, strict=True)]
