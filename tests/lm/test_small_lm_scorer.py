"""lm/small_lm_scorer.py: log-likelihoods equal those of plain scoring, windows count every token once."""

from __future__ import annotations

import pytest
import torch

from llmcodec.lm.embeddings import save_tensors
from llmcodec.lm.small_lm import SmallLM, SmallLMConfig
from llmcodec.lm.small_lm_scorer import SmallLMScorer, load_scorer, score_clips, train_scorer
from llmcodec.lm.small_lm_training import LikelihoodConfig
from llmcodec.protocol import TokenScorer

SMALL = SmallLMConfig(num_layers=1, hidden_size=16, num_heads=2, intermediate_size=24)


def model() -> SmallLM:
    return SmallLM(SMALL, 12, seed=0, start_in_table=True)


def clips() -> list[torch.Tensor]:
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, 12, (n,), generator=draw) for n in (7, 30, 1, 19)]


def test_sums_equal_those_of_the_measuring_code():
    scorer = SmallLMScorer(model(), 40, batch_tokens=50)
    assert isinstance(scorer, TokenScorer)
    rows = scorer.token_log_likelihoods(clips())
    assert [len(row) for row in rows] == [7, 30, 1, 19] and all((row < 0).all() for row in rows)
    nats, _ = score_clips(scorer.model, clips(), 40)
    torch.testing.assert_close(-torch.stack([row.sum() for row in rows]), nats, rtol=1e-5, atol=1e-5)


def test_a_row_does_not_depend_on_what_comes_later_or_who_is_in_the_batch():
    scorer = SmallLMScorer(model(), 40)
    (clip,) = [c for c in clips() if len(c) == 30]
    alone = scorer.token_log_likelihoods([clip])[0]
    torch.testing.assert_close(scorer.token_log_likelihoods([clip[:11]])[0], alone[:11], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(scorer.token_log_likelihoods(clips())[1], alone, rtol=1e-5, atol=1e-6)


def test_long_clips_are_read_in_windows_that_overlap_by_half():
    scorer = SmallLMScorer(model(), 10)
    clip = clips()[1]
    row = scorer.token_log_likelihoods([clip])[0]
    whole = SmallLMScorer(scorer.model, 10)
    torch.testing.assert_close(row[:10], whole.token_log_likelihoods([clip[:10]])[0])
    torch.testing.assert_close(row[10:15], whole.token_log_likelihoods([clip[5:15]])[0][5:])
    assert len(row) == 30 and (row < 0).all()


def test_training_learns_an_alternation_and_repeats_itself():
    config = LikelihoodConfig(model=SMALL, audio_seconds=300.0, batch_seconds=4.0, context_seconds=2.0, bf16=False)
    train = [torch.tensor([i % 2, 2 + i % 2] * 25) for i in range(8)]
    shown: list[float] = []
    scorer = train_scorer(train, 4, 25.0, config, on_progress=shown.append)
    wrong, right = (scorer.token_log_likelihoods([torch.tensor(t * 10)])[0].mean() for t in ([0, 1], [0, 2]))
    assert right > wrong + 1 and shown[-1] == 1.0 and scorer.max_tokens == 50
    again = train_scorer(train, 4, 25.0, config)
    row = torch.tensor([0, 2] * 5)
    assert torch.equal(again.token_log_likelihoods([row])[0], scorer.token_log_likelihoods([row])[0])


def test_codes_of_another_codec_are_refused():
    with pytest.raises(ValueError, match="outside"):
        SmallLMScorer(model(), 40).token_log_likelihoods([torch.tensor([12])])
    with pytest.raises(ValueError, match="train_codes"):
        train_scorer([torch.tensor([9])], 4, 25.0)


def test_the_small_lm_of_a_run_scores_as_it_did_while_training(tmp_path) -> None:
    trained = SmallLM(SmallLMConfig(family="qwen3", num_layers=1, hidden_size=32, num_heads=None, head_dim=16), 40)
    with torch.no_grad():
        trained.start_H.normal_()
    save_tensors(path := tmp_path / "audio_lm.safetensors", trained.state_dict())
    row = torch.arange(30) * 7 % 40
    with torch.no_grad():
        states = trained.eval().hidden_states(trained.embedding_VH[row][None])[0]
        wanted = trained.logits(states).log_softmax(-1)[torch.arange(30), row]
    (found,) = load_scorer(path, max_tokens=30).token_log_likelihoods([row])
    torch.testing.assert_close(found.float(), wanted)
    save_tensors(tmp_path / "other.safetensors", {"weight": torch.zeros(3)})
    with pytest.raises(ValueError, match="not a small language model of a run"):
        load_scorer(tmp_path / "other.safetensors", max_tokens=30)
