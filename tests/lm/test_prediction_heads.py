"""Prediction heads: what they start as, and the names of their weights."""

from __future__ import annotations

import pytest
import torch

from llmcodec.lm.backbone import FrozenCausalLM
from llmcodec.lm.prediction_heads import PredictionHeads
from llmcodec.lm.vocabulary import AudioVocabulary

from .tiny import LetterTokenizer, tiny_qwen3


def test_initial_heads_are_the_given_rows():
    rows = torch.randn(11, 5)
    linear = PredictionHeads(3, "linear", rows)
    assert len(linear.rows) == 3 and all(torch.equal(head, rows) for head in linear.rows)
    residual = PredictionHeads(3, "residual", rows)
    state, output = residual.head(2, torch.ones(1, 5))
    assert len(residual.rows) == 1 and torch.equal(output, rows) and torch.equal(state, torch.ones(1, 5))


def test_the_names_that_checkpoints_hold():
    assert list(PredictionHeads(2, "linear", torch.zeros(3, 4)).state_dict()) == ["rows.0", "rows.1"]
    names = ["rows.0", "blocks.0.linear.weight", "blocks.0.linear.bias"]
    assert list(PredictionHeads(1, "residual", torch.zeros(3, 4)).state_dict()) == names


def test_tied_heads_start_as_the_audio_embeddings_and_untied_ones_from_the_output_rows():
    backbone = FrozenCausalLM(tiny_qwen3(), LetterTokenizer())
    heads = PredictionHeads.from_backbone(backbone, 2, "linear", 40, seed=1)
    assert torch.equal(heads.rows[1], AudioVocabulary.from_backbone(backbone, 40, seed=1).embedding_VH)
    model = tiny_qwen3(tie_word_embeddings=False, vocab=64)
    with torch.no_grad():
        model.lm_head.weight.add_(5.0)
    untied = PredictionHeads.from_backbone(FrozenCausalLM(model, LetterTokenizer()), 2, "residual", 30)
    assert untied.rows[0].mean().item() == pytest.approx(5.0, abs=0.1)
