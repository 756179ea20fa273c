"""codec/neural_prior.py against Hugging Face's blocks: every trial by scoring the clip that has it."""

from __future__ import annotations

import pytest
import torch

from llmcodec.codec.neural_prior import AUDIO_LM, NeuralPrior, find_audio_lm, load_neural_prior
from llmcodec.codec.token_prior import BigramPrior
from llmcodec.lm.embeddings import save_tensors
from llmcodec.lm.small_lm import SmallLM, SmallLMConfig
from llmcodec.lm.small_lm_scorer import load_scorer

CODES = 12
CONFIG = SmallLMConfig(family="qwen3", num_layers=2, hidden_size=24, num_heads=2, head_dim=8, intermediate_size=40)


@pytest.fixture
def clips():
    draw = torch.Generator().manual_seed(0)
    return [torch.randint(0, CODES, (n,), generator=draw) for n in (7, 30, 1, 19)]


@pytest.fixture
def file(tmp_path):
    """A model none of whose weights is at its start."""
    model = SmallLM(CONFIG, CODES, seed=0)
    with torch.no_grad():
        for weight in model.parameters():
            weight += 0.3 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel()))
    save_tensors(tmp_path / AUDIO_LM, model.state_dict())
    return tmp_path / AUDIO_LM


def trial_by_trial(scorer, pairs, clip, place, code):
    """Nats of a code in its place by scoring the clip that has it, and of the code behind it by pairs."""
    changed = clip.clone()
    changed[place] = code
    own = -float(scorer.token_log_likelihoods([changed])[0][place])
    return own + (float(pairs.nats(changed[place], changed[place + 1])) if place + 1 < len(clip) else 0.0)


@pytest.mark.parametrize("window", [40, 10])
def test_trials_cost_what_scoring_the_clip_with_each_of_them_costs(file, clips, window):
    pairs, scorer, clip = BigramPrior.fit(clips, CODES), load_scorer(file, window), clips[1]
    prior = NeuralPrior(load_neural_prior(file, pairs).tensors, pairs, window)
    places, trials = torch.tensor([0, 7, 12, 23, 29]), torch.arange(CODES)[:, None].repeat(1, 5)
    for codes in (clip, clip.flip(0), clip):  # another clip in between: what was asked before is not answered again
        found = prior.trial_nats(codes, places, trials)
        wanted = [[trial_by_trial(scorer, pairs, codes, int(p), x) for p in places] for x in range(CODES)]
        torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-4)
    assert (found.max(0).values - found.min(0).values > 0.5).all()  # the model is far from uniform
    one = prior.trial_nats(clips[2], torch.tensor([0]), torch.arange(CODES)[:, None])
    torch.testing.assert_close((-one).exp().sum(), torch.tensor(1.0))


def test_a_clip_that_the_pairs_know_is_searched_by_other_pairs(file, clips):
    class Known(BigramPrior):
        def leave_out(self, wav_S):
            return BigramPrior.fit(clips[:1], CODES)

    whole = BigramPrior.fit(clips, CODES)
    prior = load_neural_prior(file, Known(whole.keys_G, whole.counts_G, whole.unigram_V))
    left = prior.leave_out(torch.zeros(100))
    assert left.pairs.keys_G.numel() < whole.keys_G.numel() and left.codebook_size == CODES
    assert {"keys", "counts", "unigram", "lm.embedding_VH"} <= set(prior.to(torch.device("cpu")).state_dict())


def test_other_files_and_other_codes_are_refused(file, clips, tmp_path):
    pairs = BigramPrior.fit(clips, CODES)
    with pytest.raises(ValueError, match="audio_lm.safetensors: a language model of 12 codes, a prior of 13"):
        load_neural_prior(file, BigramPrior.fit(clips, 13))
    with pytest.raises(ValueError, match="needs a prior of pairs"):
        prior = load_neural_prior(file, pairs)
        nested = NeuralPrior(prior.tensors, prior)
        nested.trial_nats(clips[1], torch.tensor([3]), torch.tensor([[1]]))
    good = load_neural_prior(file, pairs).tensors
    for name, tensor in {"gain_H": None, "bias_V": torch.zeros(3), "other": torch.zeros(1), "start_H": None}.items():
        tensors = {key: value for key, value in good.items() if key != name} | (
            {} if tensor is None else {name: tensor}
        )
        save_tensors(tmp_path / "wrong.safetensors", tensors)
        with pytest.raises(ValueError, match=rf"wrong.safetensors: not a small language model of a run \({name}"):
            load_neural_prior(tmp_path / "wrong.safetensors", pairs)
    with pytest.raises(ValueError, match="cannot be read|no such file"):
        load_neural_prior(tmp_path / "none.safetensors", pairs)


def test_it_is_found_beside_the_codec_or_in_the_run_that_holds_it(file, tmp_path):
    (tmp_path / "codec").mkdir()
    assert find_audio_lm(tmp_path) == find_audio_lm(tmp_path / "codec") == file
    assert find_audio_lm(tmp_path / "codec" / "deep") is None
    assert find_audio_lm(tmp_path / "another codec") is None  # that LM may be of any codec
