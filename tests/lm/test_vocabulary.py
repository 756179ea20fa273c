"""Audio rows: where they start, what trains, what the LLM reads."""

from __future__ import annotations

import pytest
import torch

from llmcodec.lm.backbone import FrozenCausalLM
from llmcodec.lm.embeddings import load_module, save_tensors
from llmcodec.lm.vocabulary import AudioVocabulary

from .tiny import LetterTokenizer, tiny_qwen3


def test_rows_from_a_backbone():
    backbone = FrozenCausalLM(tiny_qwen3(), LetterTokenizer())
    vocabulary = AudioVocabulary.from_backbone(backbone, 40, seed=1)
    assert vocabulary.size == 40
    mean = backbone.model.get_input_embeddings().weight.mean(0)
    torch.testing.assert_close(vocabulary.start_H.detach(), mean, rtol=1e-5, atol=1e-6)  # no BOS: the mean
    assert {name for name, p in vocabulary.named_parameters() if p.requires_grad} == {"embedding_VH", "start_H"}


def test_a_bos_row_starts():
    backbone = FrozenCausalLM(tiny_qwen3(vocab=64), LetterTokenizer(bos_token_id=7))
    vocabulary = AudioVocabulary.from_backbone(backbone, 30)
    assert vocabulary.embedding_VH.mean().item() == pytest.approx(0.0, abs=0.1)
    assert torch.equal(vocabulary.start_H.detach(), backbone.model.get_input_embeddings().weight[7])


def test_inputs_shift_by_the_start_embedding():
    vocabulary = AudioVocabulary(torch.randn(5, 4), torch.randn(4))
    embeds = torch.randn(2, 3, 4)
    mask = torch.tensor([[True, True, True], [True, False, False]])
    inputs = vocabulary.inputs(embeds, mask)
    assert torch.equal(inputs.embeds_BLH[:, 1:], embeds)
    assert torch.equal(inputs.embeds_BLH[:, 0], vocabulary.start_H.expand(2, 4))
    assert inputs.mask_BL.tolist() == [[True, True, True, True], [True, True, False, False]]
    assert inputs.last_B.tolist() == [3, 1]
    released = vocabulary.inputs(embeds, mask, start=False)
    assert released.embeds_BLH is embeds and released.last_B.tolist() == [2, 0]


def test_only_audio_rows_move_in_a_training_step():
    backbone = FrozenCausalLM(tiny_qwen3())
    vocabulary = AudioVocabulary.from_backbone(backbone, 10)
    text = backbone.model.get_input_embeddings().weight.clone()
    codes = torch.tensor([[1, 2, 3]])
    inputs = vocabulary.inputs(vocabulary.embedding_VH[codes], torch.ones_like(codes, dtype=torch.bool))
    backbone(inputs.embeds_BLH, inputs.mask_BL).last_BLH.square().sum().backward()
    used = vocabulary.embedding_VH.grad.abs().sum(-1) > 0
    assert used.nonzero().flatten().tolist() == [1, 2, 3] and vocabulary.start_H.grad.any()
    assert torch.equal(backbone.model.get_input_embeddings().weight, text)


def test_rows_of_an_adapted_run(tmp_path):
    first = AudioVocabulary(torch.randn(5, 4), torch.randn(4))
    save_tensors(tmp_path / "rows.safetensors", first.state_dict())
    second = AudioVocabulary(torch.zeros(5, 4), torch.zeros(4))
    load_module(second, tmp_path / "rows.safetensors", "audio rows")
    assert torch.equal(second.embedding_VH, first.embedding_VH) and torch.equal(second.start_H, first.start_H)
    with pytest.raises(ValueError, match=r"\(5, 4\).*needs \(6, 4\)"):
        load_module(AudioVocabulary(torch.zeros(6, 4), torch.zeros(4)), tmp_path / "rows.safetensors", "audio rows")
    with pytest.raises(ValueError, match="no such file"):
        load_module(second, tmp_path / "none", "audio rows")
    with pytest.raises(ValueError, match="must be"):
        AudioVocabulary(torch.zeros(6, 4), torch.zeros(5))
