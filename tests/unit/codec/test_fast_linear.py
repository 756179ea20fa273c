"""Packed linear layers against float64 matrix products."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from llmcodec.codec.fast_linear import PackedLinear, has_int8_kernels

needs_int8 = pytest.mark.skipif(not has_int8_kernels(), reason="no oneDNN int8 kernels in this PyTorch")


def layer(rows=37, inputs=48, outputs=80):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias = (torch.randn(*s, generator=generator) for s in ((rows, inputs), (outputs, inputs), (outputs,)))
    return x, weight / inputs**0.5, bias


def exact(x, weight, bias, gelu):
    out = F.linear(x.double(), weight.double(), bias.double())
    return F.gelu(out, approximate="tanh") if gelu else out


@pytest.mark.parametrize("gelu", [False, True])
@pytest.mark.parametrize(("precision", "bound"), [("fp32", 2e-6), ("bf16", 0.01), ("int8", 0.02)])
def test_equals_the_product_within_its_precision(precision, bound, gelu):
    if precision == "int8" and not has_int8_kernels():
        pytest.skip("no oneDNN int8 kernels in this PyTorch")
    x, weight, bias = layer()
    packed = PackedLinear(weight, bias, precision, gelu, span=(float(x.min()), float(x.max())))
    got, expected = packed(packed.take(x)).double(), exact(x, weight, bias, gelu)
    error = (got - expected).square().mean().sqrt() / expected.square().mean().sqrt()
    assert error < bound
    assert precision == "fp32" or error > 1e-5, "a low precision that is not low"


@needs_int8
def test_int8_equals_its_own_arithmetic():
    x, weight, bias = layer()
    packed = PackedLinear(weight, bias, "int8", span=(-2.0, 3.0))
    step = 5.0 / 255
    zero = round(2.0 / step)
    codes = torch.floor(x.double() / step + zero + 0.5).clamp(0, 255)
    scale = weight.double().abs().amax(1, keepdim=True) / 127
    rounded = (weight.double() / scale).round()
    expected = ((codes - zero) @ rounded.T) * scale.T * step + bias
    assert (packed.take(x).double() - codes).abs().max() <= 1  # a value on the edge of two codes may fall either way
    same = (packed.take(x).double() == codes).all(1)
    assert same.float().mean() > 0.9
    torch.testing.assert_close(packed(packed.take(x))[same].double(), expected[same], rtol=1e-5, atol=1e-5)


@needs_int8
def test_int8_rows_do_not_depend_on_their_batch():
    x, weight, bias = layer(rows=300)
    packed = PackedLinear(weight, bias, "int8", gelu=True, span=(-3.0, 3.0))
    whole = packed(packed.take(x))
    assert torch.equal(whole[:7], packed(packed.take(x[:7])))


@pytest.mark.parametrize("first", ["fp32", "bf16", "int8"])
@pytest.mark.parametrize("second", ["fp32", "bf16", "int8"])
def test_a_layer_gives_what_the_next_one_reads(first, second):
    if "int8" in (first, second) and not has_int8_kernels():
        pytest.skip("no oneDNN int8 kernels in this PyTorch")
    x, weight, bias = layer()
    hidden = exact(x, weight, bias, gelu=True).float()
    down = torch.randn(16, 80, generator=torch.Generator().manual_seed(1)) / 9
    up = PackedLinear(weight, bias, first, gelu=True, span=(float(x.min()), float(x.max())))
    into = PackedLinear(down, None, second, span=(float(hidden.min()), float(hidden.max())))
    got = into(up(up.take(x), into=into)).double()
    expected = hidden.double() @ down.double().T
    assert (got - expected).norm() / expected.norm() < 0.03


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8"])
def test_the_norm_in_front_is_folded(precision):
    if precision == "int8" and not has_int8_kernels():
        pytest.skip("no oneDNN int8 kernels in this PyTorch")
    x, weight, bias = layer()
    norm = nn.LayerNorm(48)
    nn.init.uniform_(norm.weight, 0.5, 2.0)
    nn.init.normal_(norm.bias)
    normed = norm(x).detach()
    packed = PackedLinear(weight, bias, precision, span=(float(normed.min()), float(normed.max())))
    got = packed(packed.after_norm(x, *packed.fold_norm(norm)))
    expected = exact(normed, weight, bias, gelu=False)
    assert (got.double() - expected).norm() / expected.norm() < (1e-6 if precision == "fp32" else 0.02)
    residual = torch.ones(37, 80)
    packed.add_to(residual, packed.take(normed))
    assert (residual.double() - 1 - expected).norm() / expected.norm() < (1e-6 if precision == "fp32" else 0.02)


def test_int8_without_a_range_is_refused():
    _, weight, bias = layer()
    with pytest.raises(ValueError, match="range of its inputs|oneDNN"):
        PackedLinear(weight, bias, "int8")
