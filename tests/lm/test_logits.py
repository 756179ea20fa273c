"""Wanted logits only, equal to the model's own, for families that do something to theirs."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmcodec.lm import logits as module
from llmcodec.lm.growth import attach_rows
from llmcodec.lm.logits import check_head, hidden_states, output_rows, target_nats, token_logits

from .small_token_lm import FAMILIES, token_lm


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("attached", [False, True])
def test_rows_in_any_order_are_slices_of_the_models_own_logits(family, attached):
    lm = token_lm(family)
    if attached:
        attach_rows(lm.model, lm.tokens)
    check_head(lm.model)
    ids = torch.arange(250, 300)[None]
    with torch.no_grad():
        own = lm.model(input_ids=ids).logits[0]
        hidden = hidden_states(lm.model, input_ids=ids)[0]
        for wanted in (lm.tokens.output_ids, lm.tokens.output_ids[[3, 0, 7]], None):
            ours = token_logits(lm.model, hidden, output_rows(lm.model, wanted))
            assert torch.allclose(ours, own if wanted is None else own[:, wanted], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "value"), [("final_logit_softcapping", 2.0), ("logits_scaling", 3.0), ("logit_scale", 0.5)]
)
def test_families_that_change_their_logits(name, value):
    lm = token_lm()
    before = token_logits(lm.model, torch.ones(1, 32), output_rows(lm.model, None))
    setattr(lm.model.config, name, value)
    after = token_logits(lm.model, torch.ones(1, 32), output_rows(lm.model, None))
    expected = {"logits_scaling": before / 3, "logit_scale": before / 2}.get(name, 2 * torch.tanh(before / 2))
    assert torch.allclose(after, expected, atol=1e-6)
    with pytest.raises(ValueError, match="makes its logits in a way that llmcodec does not know"):
        check_head(lm.model)  # this Llama does no such thing


def test_chunks_change_neither_loss_nor_gradient(monkeypatch):
    lm = token_lm()
    hidden = torch.randn(23, 32, requires_grad=True)
    targets, rows = torch.arange(23), output_rows(lm.model, lm.tokens.output_ids)
    whole = target_nats(lm.model, hidden, targets, rows)
    expected = torch.autograd.grad(whole.sum(), hidden)[0]
    assert torch.allclose(whole, F.cross_entropy(hidden @ rows[0].T, targets, reduction="none"), atol=1e-5)
    monkeypatch.setattr(module, "CHUNK_LOGITS", 41 * 5)
    pieces = target_nats(lm.model, hidden, targets, rows)
    assert torch.allclose(pieces, whole, atol=1e-6)
    assert torch.allclose(torch.autograd.grad(pieces.sum(), hidden)[0], expected, atol=1e-6)
