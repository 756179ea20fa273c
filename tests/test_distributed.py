"""Means over variable lengths, alone and on two gloo processes."""

from __future__ import annotations

import pytest
import torch

from llmcodec.distributed import (
    at_least_float32,
    average_gradients,
    clip_factor,
    clip_gradients,
    masked_mean,
    mean_over_ranks,
)


def test_masked_mean_ignores_what_the_mask_hides_even_nan():
    values = torch.tensor([[1.0, 2.0, float("nan")], [4.0, float("inf"), 7.0]], requires_grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    mean = masked_mean(values, mask)
    assert mean.item() == pytest.approx((1 + 2 + 4) / 3)
    mean.backward()
    assert values.grad is not None
    torch.testing.assert_close(values.grad, mask.float() / 3)


def test_masked_mean_broadcasts_the_mask():
    values_BTX = torch.arange(12.0).reshape(2, 3, 2)
    mask_BT = torch.tensor([[True, False, True], [False, False, True]])
    assert masked_mean(values_BTX, mask_BT[..., None]).item() == pytest.approx((0 + 1 + 4 + 5 + 10 + 11) / 6)
    assert masked_mean(values_BTX).item() == pytest.approx(5.5)


def test_an_empty_mask_gives_zero_and_keeps_the_graph():
    values = torch.ones(3, requires_grad=True)
    mean = masked_mean(values, torch.zeros(3, dtype=torch.bool))
    mean.backward()
    assert mean.item() == 0 and values.grad is not None and not values.grad.any()


def test_a_float_mask_is_refused():
    with pytest.raises(ValueError, match="bool"):
        masked_mean(torch.ones(2), torch.ones(2))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32, torch.float64])
def test_at_least_float32(dtype):
    expected = torch.float64 if dtype is torch.float64 else torch.float32
    assert at_least_float32(torch.ones(1, dtype=dtype)).dtype is expected


VALUES = torch.tensor([1.0, 5.0, -2.0, 8.0, 4.0, 3.0], dtype=torch.float64)
MASK = torch.tensor([True, True, True, False, False, True])


def _half(rank: int) -> dict[str, torch.Tensor]:
    """Three entries per rank, of which 3 and 1 are real."""
    weight = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float64))
    unused = torch.nn.Parameter(torch.tensor([2.0], dtype=torch.float32))
    part = slice(3 * rank, 3 * rank + 3)
    mean = masked_mean(weight * VALUES[part], MASK[part])
    mean.backward()
    if rank == 0:
        unused.grad = torch.tensor([3.0])
    average_gradients([weight, unused])
    assert weight.grad is not None and unused.grad is not None
    return {
        "mean": mean.detach(),
        "gradient": weight.grad,
        "unused": unused.grad,
        "count": torch.tensor(mean_over_ranks(10.0 + rank, torch.device("cpu"))),
    }


def test_two_ranks_equal_one_process_with_unequal_counts(two_ranks):
    first, second = two_ranks(_half)
    expected = (1 + 5 - 2 + 3) / 4
    assert ((first["mean"] + second["mean"]) / 2).item() == pytest.approx(2 * expected, rel=1e-12)
    assert first["gradient"].item() == pytest.approx(expected, rel=1e-12)
    assert torch.equal(first["gradient"], second["gradient"])
    # The rank without a gradient took part with zeros.
    assert first["unused"].item() == second["unused"].item() == 1.5
    assert first["count"].item() == 10.5


@pytest.mark.parametrize("limit", [1.0, 100.0])
def test_clip_gradients_is_torchs(limit):
    torch.manual_seed(0)
    mine = [torch.zeros(3, 4).requires_grad_(), torch.zeros(5).requires_grad_(), torch.zeros(2).requires_grad_()]
    theirs = [p.detach().clone().requires_grad_() for p in mine]
    for a, b in zip(mine[:2], theirs, strict=False):
        a.grad = 3 * torch.randn_like(a)
        b.grad = a.grad.clone()
    norm = clip_gradients(iter(mine), limit)
    torch.testing.assert_close(norm, torch.nn.utils.clip_grad_norm_(theirs, limit))
    for a, b in zip(mine[:2], theirs, strict=False):
        torch.testing.assert_close(a.grad, b.grad)
    assert mine[2].grad is None


def test_clip_gradients_leaves_what_is_not_finite():
    weight = torch.zeros(2).requires_grad_()
    weight.grad = torch.tensor([float("inf"), 1.0])
    assert torch.isinf(clip_gradients([weight], 1.0))
    assert weight.grad.tolist() == [float("inf"), 1.0]
    assert clip_gradients([], 1.0) == 0.0


@pytest.mark.parametrize("size", [0.1, 5.0, float("inf"), float("nan")])
def test_a_device_clips_without_asking_for_the_norm_as_the_cpu_does(size):
    gradients = [torch.full((3,), size), torch.full((2,), size)]
    parameters = [torch.zeros_like(gradient) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    norm = clip_gradients(parameters, 1.0)
    scaled = [gradient * clip_factor(norm, 1.0) for gradient in gradients]
    for parameter, expected in zip(parameters, scaled, strict=True):
        assert parameter.grad is not None and torch.equal(parameter.grad.nan_to_num(7.0), expected.nan_to_num(7.0))
