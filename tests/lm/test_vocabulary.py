"""Audio rows: where they start, what trains, what the LLM reads."""

from __future__ import annotations

import pytest
import torch

from llmcodec.lm.backbone import FrozenCausalLM
from llmcodec.lm.rows import RowStatistics, row_statistics, sample_rows
from llmcodec.lm.vocabulary import AudioVocabulary

from .tiny import LetterTokenizer, tiny_qwen3


def test_statistics_are_mean_and_covariance():
    rows = torch.randn(500, 6, dtype=torch.float64) @ torch.randn(6, 6, dtype=torch.float64) + 3.0
    found = row_statistics(rows)
    torch.testing.assert_close(found.mean_H, rows.mean(0).float())
    torch.testing.assert_close(found.factor_HH @ found.factor_HH.T, torch.cov(rows.T).float(), rtol=1e-4, atol=1e-4)


def test_fewer_rows_than_dimensions_are_no_trouble():
    found = row_statistics(torch.randn(5, 16))
    assert found.factor_HH.isfinite().all()


def test_sampled_rows_have_the_statistics():
    truth = row_statistics(torch.randn(500, 4) @ torch.randn(4, 4) + 1.0)
    sampled = row_statistics(sample_rows(truth, 20_000, seed=0))
    assert (sampled.mean_H - truth.mean_H).norm() < 0.1
    covariance = truth.factor_HH @ truth.factor_HH.T
    assert (sampled.factor_HH @ sampled.factor_HH.T - covariance).norm() < 0.05 * covariance.norm()


def test_rows_are_the_same_for_every_codec_by_seed():
    statistics = RowStatistics(torch.zeros(8), torch.eye(8))
    small, large = sample_rows(statistics, 700, 3), sample_rows(statistics, 2500, 3)
    assert torch.equal(small, large[:700])
    assert not torch.equal(small, sample_rows(statistics, 700, 4))
    assert large.unique(dim=0).shape[0] == 2500


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
    first.save_rows(tmp_path / "rows.safetensors")
    second = AudioVocabulary(torch.zeros(5, 4), torch.zeros(4))
    second.load_rows(tmp_path / "rows.safetensors")
    assert torch.equal(second.embedding_VH, first.embedding_VH) and torch.equal(second.start_H, first.start_H)
    with pytest.raises(ValueError, match=r"\(5, 4\).*needs \(6, 4\)"):
        AudioVocabulary(torch.zeros(6, 4), torch.zeros(4)).load_rows(tmp_path / "rows.safetensors")
    with pytest.raises(ValueError, match="no such file"):
        second.load_rows(tmp_path / "none")
    with pytest.raises(ValueError, match="must be"):
        AudioVocabulary(torch.zeros(6, 4), torch.zeros(5))
