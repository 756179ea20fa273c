"""Chunked cross-entropy against dense autograd, in float64."""

from __future__ import annotations

import pytest
import torch

from llmcodec.objectives import chunked
from llmcodec.objectives.chunked import linear_cross_entropy, row_chunks, to_frames

from .toy_codec import gradients, one_hot, straight_through, toy_encoding


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Several chunks even for toys."""
    monkeypatch.setattr(chunked, "MIN_CHUNK_ROWS", 3)
    monkeypatch.setattr(chunked, "HEAD_ROWS", 3)


def _tensors(dtype=torch.float64, rows=10, width=5, codes=7, code_dim=3):
    generator = torch.Generator().manual_seed(0)
    shapes = ((rows, width), (codes, width), (rows, code_dim), (codes, code_dim))
    drawn = [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]
    tensors = [x.to(dtype).requires_grad_() for x in drawn]
    return *tensors, torch.randint(0, codes, (rows,), generator=generator)


def test_row_chunks_cover_every_row_once_and_stay_small():
    for rows, width in ((0, 5), (1, 5), (400, 20480), (5000, 3)):
        slices = list(row_chunks(rows, width, torch.device("cpu")))
        assert [i for s in slices for i in range(s.start, s.stop)] == list(range(rows))
    sizes = [s.stop - s.start for s in row_chunks(400, 20480, torch.device("cpu"))]
    assert sizes == [67] * 5 + [65]  # no chunk for a remainder of a few rows
    large = [s.stop - s.start for s in row_chunks(4000, 20480, torch.device("cpu"))]
    assert max(large) * 20480 <= 1 << 22 and min(large) > max(large) // 2


def test_chunks_of_a_wide_head_keep_enough_rows_and_a_gpu_takes_few_chunks():
    wide = [s.stop - s.start for s in row_chunks(512, 152_000, torch.device("cpu"), parts=3, least=256)]
    assert wide == [256, 256]
    assert len(list(row_chunks(400, 20480, torch.device("cuda")))) == 1
    assert len(list(row_chunks(4000, 20480, torch.device("cuda")))) == 5  # 64 MB each


@pytest.mark.parametrize("lengths", [None, [2, 0, 3]])
def test_frames_and_rows_are_inverse(lengths):
    encoding, _ = toy_encoding(lengths=(2, 0, 3))
    encoding.lengths = lengths
    x = torch.randn(3, 3, 4)
    rows = x[encoding.places]
    assert torch.equal(rows, x[encoding.mask_BT]) and rows.shape == (5, 4)
    assert torch.equal(to_frames(rows, encoding.mask_BT, encoding.places), x * encoding.mask_BT[..., None])


def test_linear_cross_entropy_equals_torch():
    hidden, weight, _, _, targets = _tensors()
    total, each = linear_cross_entropy(hidden, weight, targets)
    dense = torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="none")
    torch.testing.assert_close(each, dense.detach())
    torch.testing.assert_close(gradients(3 * total, hidden, weight), gradients(3 * dense.sum(), hidden, weight))


def test_gradcheck():
    hidden, weight, _, _, targets = _tensors()
    assert torch.autograd.gradcheck(lambda h, w: linear_cross_entropy(h, w, targets)[0], (hidden, weight))


def test_soft_targets_are_straight_through():
    hidden, weight, query, codebook, targets = _tensors()
    tau = 0.3
    total, _ = linear_cross_entropy(hidden, weight, targets, query_NC=query, codebook_VC=codebook, tau=tau)
    q = straight_through(one_hot(targets, 7), (query @ codebook.T / tau).softmax(-1))
    dense = -(q * (hidden @ weight.T).log_softmax(-1)).sum()
    torch.testing.assert_close(total, dense)
    names = (hidden, weight, query, codebook)
    torch.testing.assert_close(gradients(2 * total, *names), gradients(2 * dense, *names))
    assert gradients(total, query)[0].abs().max() > 1e-3


def test_bf16_products_come_close_and_keep_dtypes():
    hidden, weight, query, codebook, targets = _tensors(torch.float32, rows=64, width=32, codes=50)
    options = dict(query_NC=query, codebook_VC=codebook, tau=0.5)
    exact, _ = linear_cross_entropy(hidden, weight, targets, **options)
    rough, _ = linear_cross_entropy(hidden, weight, targets, matmul_dtype=torch.bfloat16, **options)
    assert rough.dtype is torch.float32 and rough.item() == pytest.approx(exact.item(), rel=1e-2)
    pairs = zip(gradients(exact, hidden, weight, query), gradients(rough, hidden, weight, query), strict=True)
    for a, b in pairs:
        assert b.dtype is torch.float32 and (a - b).norm() < 0.05 * a.norm()


def test_bf16_hidden_gets_a_bf16_gradient_and_autocast_changes_nothing():
    hidden, weight, _, _, targets = _tensors(torch.float32)
    half = hidden.detach().bfloat16().requires_grad_()
    plain, _ = linear_cross_entropy(half, weight, targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast, _ = linear_cross_entropy(half, weight, targets)
        (gradient,) = gradients(cast, half)
    assert gradient.dtype is torch.bfloat16 and torch.equal(plain, cast)


def test_no_gradient_is_computed_without_need():
    hidden, weight, _, _, targets = _tensors()
    with torch.no_grad():
        total, _ = linear_cross_entropy(hidden, weight, targets)
    assert not total.requires_grad
    total, _ = linear_cross_entropy(hidden, weight.detach(), targets)
    assert gradients(total, hidden)[0].abs().sum() > 0


def test_no_rows_give_zero_with_a_graph():
    hidden, weight, _, _, targets = _tensors()
    total, _ = linear_cross_entropy(hidden[:0], weight, targets[:0])
    total.backward()
    assert total.item() == 0 and weight.grad is not None and not weight.grad.any()


def test_errors_say_what_is_wrong():
    hidden, weight, query, codebook, targets = _tensors()
    with pytest.raises(ValueError, match="must be"):
        linear_cross_entropy(hidden, weight[:, :3], targets)
    with pytest.raises(ValueError, match="go together"):
        linear_cross_entropy(hidden, weight, targets, query_NC=query)
    with pytest.raises(ValueError, match="as many"):
        linear_cross_entropy(hidden, weight, targets, query_NC=query, codebook_VC=codebook[:4])
    with pytest.raises(ValueError, match="tau"):
        linear_cross_entropy(hidden, weight, targets, tau=0.0)
