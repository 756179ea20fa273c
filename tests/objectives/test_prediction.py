"""Future-token prediction against float64 loops, its shift, and what the released shift does."""

from __future__ import annotations

import sys
import types

import pytest
import torch

from llmcodec.lm.prediction_heads import PredictionHeads
from llmcodec.lm.vocabulary import AudioVocabulary
from llmcodec.objectives.prediction import PredictionConfig, draft_nats, head_weights, prediction_terms

from .toy_codec import gradients, toy_encoding

NUM_CODES, WIDTH, HEADS = 11, 5, 4


def _heads(kind="linear", num_heads=HEADS) -> PredictionHeads:
    torch.manual_seed(0)
    heads = PredictionHeads(num_heads, kind, torch.randn(NUM_CODES, WIDTH)).double()
    # Heads start equal (linear) or as the identity (residual): move them apart, so that a mix-up shows.
    for parameter in heads.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return heads


def _loss(heads, hidden, codes, mask, **options) -> torch.Tensor:
    return prediction_terms(heads, hidden, codes, mask, PredictionConfig(**options))["lm/ftp"]


def _hidden(frames=8):
    return torch.randn(
        3, frames, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(2)
    ).requires_grad_()


def _by_loops(heads, hidden, codes, lengths):
    """Sum over clips and positions, one logit row at a time."""
    losses = []
    for k in range(1, HEADS + 1):
        total, count = torch.zeros((), dtype=torch.float64), 0
        for clip, length in enumerate(lengths):
            for t in range(length):  # hidden[t] has read codes 0 .. t-1; the k-th after them is t + k - 1
                if t + k - 1 < length:
                    state = hidden[clip, t]
                    if len(heads.blocks):
                        linear = heads.blocks[k - 1].linear
                        a = linear.weight @ state + linear.bias
                        state = state + a * torch.sigmoid(a)
                    rows = heads.rows[0 if len(heads.blocks) else k - 1]
                    logits = rows @ state
                    total = total + torch.logsumexp(logits, 0) - logits[codes[clip, t + k - 1]]
                    count += 1
        losses.append(total / max(1, count))
    return losses


@pytest.mark.parametrize("kind", ["linear", "residual"])
@pytest.mark.parametrize("lengths", [(7, 4, 1), (2, 1, 1)])
def test_equals_loops_in_value_and_gradient(kind, lengths):
    encoding, _ = toy_encoding(lengths)
    heads, hidden = _heads(kind), _hidden()
    terms = prediction_terms(heads, hidden, encoding.codes_BT, encoding.mask_BT, PredictionConfig())
    losses = _by_loops(heads, hidden, encoding.codes_BT, lengths)
    expected = sum(w * loss for w, loss in zip(head_weights(HEADS), losses, strict=True))
    torch.testing.assert_close(terms["lm/ftp"], expected)
    for k, loss in enumerate(losses, start=1):
        torch.testing.assert_close(terms[f"lm/ftp_{k}"], loss.detach())
        assert not terms[f"lm/ftp_{k}"].requires_grad
    learners = [hidden, *heads.parameters()]
    torch.testing.assert_close(gradients(terms["lm/ftp"], *learners), gradients(expected, *learners))


def test_weights_are_the_papers():
    assert [round(w, 2) for w in head_weights(5)] == [0.44, 0.22, 0.15, 0.11, 0.09]
    assert sum(head_weights(3)) == pytest.approx(1.0)


def test_no_head_sees_its_target_and_with_the_released_shift_the_first_does():
    encoding, _ = toy_encoding((8, 8, 8), dtype=torch.float64)
    rows = torch.randn(NUM_CODES, WIDTH, dtype=torch.float64)
    vocabulary = AudioVocabulary(rows, torch.randn(WIDTH, dtype=torch.float64))
    heads = _heads()
    embeds = rows[encoding.codes_BT].requires_grad_()
    for start, sees_target in ((True, False), (False, True)):
        inputs = vocabulary.inputs(embeds, encoding.mask_BT, start=start)
        hidden = inputs.embeds_BLH.cumsum(1)  # causal: position t mixes inputs 0..t
        target = 4
        state, output = heads.head(1, hidden)
        (gradient,) = gradients(state[0, target].sum(), embeds)
        assert bool(gradient[0, target].any()) is sees_target
        assert gradient[0, target - 1].any() and not gradient[0, target + 1].any()
        assert output.shape == (NUM_CODES, WIDTH)


def test_with_the_released_shift_head_one_learns_to_copy():
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(0, NUM_CODES, (4, 50), generator=generator)  # noise: nothing to predict
    mask = torch.ones_like(codes, dtype=torch.bool)
    rows = torch.randn(NUM_CODES, 16, generator=generator)
    vocabulary = AudioVocabulary(rows, torch.zeros(16))
    final = {}
    for start in (True, False):
        heads = PredictionHeads(1, "linear", torch.zeros(NUM_CODES, 16))
        optimizer = torch.optim.Adam(heads.parameters(), lr=0.1)
        for _ in range(60):
            optimizer.zero_grad()
            hidden = vocabulary.inputs(rows[codes], mask, start=start).embeds_BLH.detach()
            loss = _loss(heads, hidden, codes, mask)
            loss.backward()
            optimizer.step()
        final[start] = loss.item()
    assert final[True] > 1.5, "head 1 predicts noise it must not have seen"
    assert final[False] < 0.1, "the released shift lets head 1 copy"


def test_targets_and_padding_carry_no_gradient():
    encoding, codebook = toy_encoding()
    hidden = _hidden()
    loss = _loss(_heads(), hidden, encoding.codes_BT, encoding.mask_BT)
    found = gradients(loss, hidden, encoding.query_BTC, codebook)
    assert not found[0][:, : encoding.mask_BT.shape[1]][~encoding.mask_BT].any()
    assert not found[0][:, 7:].any() and not found[1].any() and not found[2].any()


def test_memory_never_holds_all_logits():
    from .memory_probe import peak_bytes

    batch, frames, num_codes, width, num_heads = 2, 200, 8192, 32, 5
    heads = PredictionHeads(num_heads, "linear", torch.randn(num_codes, width))
    hidden = torch.randn(batch, frames, width, requires_grad=True)
    codes = torch.randint(0, num_codes, (batch, frames))
    mask = torch.ones_like(codes, dtype=torch.bool)
    weights = num_heads * num_codes * width * 4

    peak = peak_bytes(lambda: _loss(heads, hidden, codes, mask).backward())
    # Gradients of the heads exist anyway; a head's gradient is scaled once more on its way.
    assert peak < 1.5 * weights + 0.25 * num_heads * batch * frames * num_codes * 4


def test_liger_is_optional_and_used_when_asked(monkeypatch):
    encoding, _ = toy_encoding()
    heads = _heads()
    with pytest.raises(ValueError, match="pip install liger-kernel"):
        _loss(heads, _hidden(), encoding.codes_BT, encoding.mask_BT, kernel="liger")

    def stand_in(hidden, weight, target, reduction):
        return torch.nn.functional.cross_entropy(hidden @ weight.T, target, reduction=reduction), None

    functional = types.ModuleType("liger_kernel.transformers.functional")
    functional.liger_fused_linear_cross_entropy = stand_in  # type: ignore[attr-defined]
    for name in ("liger_kernel", "liger_kernel.transformers"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, "liger_kernel.transformers.functional", functional)
    own = _loss(_heads(), _hidden(), encoding.codes_BT, encoding.mask_BT)
    fused = _loss(heads, _hidden(), encoding.codes_BT, encoding.mask_BT, kernel="liger")
    torch.testing.assert_close(fused, own)


def _half(rank: int) -> dict[str, torch.Tensor]:
    encoding, _ = toy_encoding((7, 4, 1))
    keep = slice(0, 1) if rank == 0 else slice(1, 3)
    heads, hidden = _heads(), _hidden()
    loss = _loss(heads, hidden[keep], encoding.codes_BT[keep], encoding.mask_BT[keep])
    return {"loss": loss.detach(), "grad": torch.cat([g.flatten() for g in gradients(loss, *heads.parameters())])}


def test_two_ranks_equal_one(two_ranks):
    first, second = two_ranks(_half)
    encoding, _ = toy_encoding((7, 4, 1))
    heads = _heads()
    loss = _loss(heads, _hidden(), encoding.codes_BT, encoding.mask_BT)
    torch.testing.assert_close((first["loss"] + second["loss"]) / 2, loss.detach())
    whole = torch.cat([g.flatten() for g in gradients(loss, *heads.parameters())])
    torch.testing.assert_close((first["grad"] + second["grad"]) / 2, whole)


def test_errors_say_what_is_wrong():
    encoding, _ = toy_encoding()
    with pytest.raises(ValueError, match="as many hidden states"):
        _loss(_heads(), _hidden(3), encoding.codes_BT, encoding.mask_BT)
    with pytest.raises(ValueError, match="num_heads"):
        PredictionConfig(num_heads=0)
    with pytest.raises(ValueError, match="linear or residual"):
        PredictionConfig(kind="mlp")  # type: ignore[arg-type]


def test_draft_heads_predict_the_codes_after_the_next_inside_their_sequence():
    """Two packed sequences, the second with text in it: by loops over positions; nothing reaches the LM's states."""
    first = 10
    labels = torch.tensor([[-100, 12, 13, 14, 11, -100, -100, 12, 15, 9]])  # 9 is an end of audio
    positions = torch.tensor([[0, 1, 2, 3, 4, 0, 1, 2, 3, 4]])
    heads = _heads("residual", 2)
    hidden = torch.randn(1, 10, WIDTH, dtype=torch.float64, requires_grad=True)
    wanted = torch.zeros((), dtype=torch.float64)
    for k, weight in ((1, 2 / 3), (2, 1 / 3)):
        for place, target in {1: ((0, 13), (1, 14), (2, 11), (6, 15)), 2: ((0, 14), (1, 11))}[k]:
            states, rows = heads.head(k, hidden[0, place : place + 1].detach())
            wanted = wanted + weight * torch.nn.functional.cross_entropy(
                states @ rows.T, torch.tensor([target - first])
            )
    found = draft_nats(heads, hidden, labels, positions, first)
    assert torch.allclose(found, wanted)
    found.backward()
    assert hidden.grad is None and float(heads.blocks[1].linear.weight.grad.abs().sum()) > 0
    short = draft_nats(heads, hidden[:, :2], labels[:, :2], positions[:, :2], first)
    heads.zero_grad()
    short.backward()  # no targets, but a graph
    assert short.item() == 0.0 and not heads.blocks[1].linear.weight.grad.any()
