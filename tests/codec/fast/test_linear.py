"""Packed linear layers against float64 matrix products."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmcodec.codec.fast.linear import PackedLinear


def layer(rows=37, inputs=48, outputs=80):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=generator) for s in ((rows, inputs), (outputs, inputs), (outputs,)))
    return x, weight / inputs**0.5, bias


def exact(x, weight, bias, gelu):
    out = F.linear(x.double(), weight.double(), bias.double())
    return F.gelu(out, approximate="tanh") if gelu else out


@pytest.mark.parametrize("onednn", [True, False])
@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 2e-6), ("bf16", 0.01)])
def test_equals_the_product_within_its_precision(precision, bound, gelu, onednn, monkeypatch):
    if not onednn:
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    x, weight, bias = layer()
    got, expected = PackedLinear(weight, bias, precision, gelu)(x).double(), exact(x, weight, bias, gelu)
    error = (got - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < bound
    assert precision == "fp32" or error > 1e-5, "a low precision that is not low"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_norm_in_front(precision):
    x, weight, bias = layer()
    norm = nn.LayerNorm(48)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    packed = PackedLinear(weight, bias, precision)
    got = packed.after_norm(x, norm.weight.detach(), norm.bias.detach(), norm.eps)
    expected = exact(norm(x).detach(), weight, bias, gelu=False)
    assert (got.double() - expected).norm() / expected.norm() < (1e-6 if precision == "fp32" else 0.02)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_weights_are_its_own(precision):
    x, weight, bias = layer()
    packed = PackedLinear(weight, bias, precision)
    before = packed(x)
    weight.zero_(), bias.zero_()
    assert torch.equal(packed(x), before) and before.abs().max() > 0
