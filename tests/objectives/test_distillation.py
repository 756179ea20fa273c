"""Distillation: the terms against a plain loop, the mask, who learns."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from llmcodec.adapters.features.base import SpeechEncoder
from llmcodec.objectives.distillation import Distillation, TeacherConfig, distillation_terms


class Constant(SpeechEncoder):
    """Two features per frame: 1 and 2."""

    def __init__(self):
        super().__init__(16000, 320, 2, torch.device("cpu"), torch.float32)

    def features_of(self, wav_BS: Tensor) -> Tensor:
        return torch.tensor([1.0, 2.0]).expand(len(wav_BS), wav_BS.shape[1] // 320, 2)


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def by_hand(student: Tensor, features: Tensor, mask: Tensor) -> tuple[float, float]:
    """Mean absolute difference and mean of 1 - cosine, in plain Python."""
    distances, angles = [], []
    for clip, frame in mask.nonzero().tolist():
        a, b = student[clip, frame].tolist(), features[clip, frame].tolist()
        distances.append(sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a))
        dot = sum(x * y for x, y in zip(a, b, strict=True))
        angles.append(1 - dot / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b)))
    return sum(distances) / len(distances), sum(angles) / len(angles)


def test_the_terms_are_those_of_a_loop_and_padding_does_not_count():
    mask = torch.arange(7) < torch.tensor([7, 3, 1])[:, None]
    student, features = draw(3, 7, 5, seed=1), draw(3, 7, 5, seed=2)
    l1, cosine = by_hand(student, features, mask)
    student = student.masked_fill(~mask[..., None], math.nan).requires_grad_()
    terms = distillation_terms(student, features, mask)
    assert terms["distill/l1"].item() == pytest.approx(l1, rel=1e-12)
    assert terms["distill/cosine"].item() == pytest.approx(cosine, rel=1e-12)


def test_a_perfect_pupil_pays_nothing_and_the_gradient_is_that_of_the_real_frames():
    mask = torch.arange(4) < torch.tensor([4, 2])[:, None]
    features = draw(2, 4, 3, seed=3)
    terms = distillation_terms(features, features, mask)
    assert terms["distill/l1"] == 0 and abs(terms["distill/cosine"]) < 1e-12
    student = draw(2, 4, 3, seed=4).requires_grad_()
    distillation_terms(student, features, mask)["distill/l1"].backward()
    expected = torch.sign(student.detach() - features) / 3 / 6 * mask[..., None]
    torch.testing.assert_close(student.grad, expected)


def test_half_precision_is_compared_in_float32():
    student, features = draw(1, 4, 3, seed=5), draw(1, 4, 3, seed=6)
    mask = torch.ones(1, 4, dtype=torch.bool)
    terms = distillation_terms(student.bfloat16(), features.float(), mask)
    assert {value.dtype for value in terms.values()} == {torch.float32}


def test_the_projection_learns_the_teacher_does_not_and_is_not_saved():
    distillation = Distillation(Constant(), TeacherConfig("x"), width=3, num_layers=4)
    assert distillation.layer == 2 and list(distillation.state_dict()) == ["projection.weight", "projection.bias"]
    wav = draw(2, 960, seed=7).float()
    features = distillation.features(wav, torch.tensor([960, 640]), 16000, 320, 3)
    assert features[0].tolist() == [[1, 2]] * 3 and features[1].tolist() == [[1, 2]] * 2 + [[0, 0]]
    hidden = draw(2, 3, 3, seed=8).float().requires_grad_()
    mask = torch.tensor([[True] * 3, [True, True, False]])
    with torch.autocast("cpu", torch.bfloat16):
        terms = distillation(hidden, features, mask)
    weight, bias = distillation.projection.weight.double(), distillation.projection.bias.double()
    expected = by_hand((hidden.double() @ weight.T + bias).detach(), features.double(), mask)
    got = (terms["distill/l1"].item(), terms["distill/cosine"].item())
    assert got == pytest.approx(expected, rel=1e-6), "in float32 under autocast"
    sum(terms.values()).backward()
    assert all(p.grad is not None and p.grad.any() for p in distillation.parameters())
    assert hidden.grad is not None and hidden.grad[mask].any() and not hidden.grad[~mask].any()


@pytest.mark.parametrize(("layers", "chosen", "expected"), [(12, None, 6), (4, None, 2), (1, None, 1), (4, 4, 4)])
def test_the_middle_layer_teaches_unless_another_is_named(layers, chosen, expected):
    config = TeacherConfig("x", decoder_layer=chosen)
    assert Distillation(Constant(), config, 3, layers).layer == expected


def test_a_layer_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match=r"teacher\.decoder_layer is 5, but the decoder has 4 layers"):
        Distillation(Constant(), TeacherConfig("x", decoder_layer=5), 3, 4)
    with pytest.raises(ValueError, match=r"teacher\.decoder_layer must be at least 1"):
        TeacherConfig("x", decoder_layer=0)


def test_the_first_projection_depends_on_the_seed_alone():
    one, again, other = (Distillation(Constant(), TeacherConfig("x"), 3, 4, seed) for seed in (1, 1, 2))
    assert torch.equal(one.projection.weight, again.projection.weight)
    assert not torch.equal(one.projection.weight, other.projection.weight)
