"""Speculative sampling: exactly plain sampling's distribution, by enumeration and by chi-square, whatever the heads."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import product

import pytest
import torch

from llmcodec.assets import lm_folder
from llmcodec.lm.decoding.speculative import DraftCounts, accept, residual, speculative_steps
from llmcodec.lm.prediction_heads import PredictionHeads
from llmcodec.lm.prepare import draft_heads
from llmcodec.lm.sampling import SamplingConfig, clips_of, filtered, sample, speech_prompt, text_prompt
from llmcodec.lm.token_lm import load_token_lm

from ..small_token_lm import CODEC, random_codes, token_lm


def with_heads(family="llama", num_heads=3, seed=0, **options):
    """A token LM with heads that guess something of their own."""
    lm = token_lm(family, **options)
    lm.heads = draft_heads(lm.model, lm.tokens, num_heads)
    generator = torch.Generator().manual_seed(seed)
    for value in lm.heads.parameters():
        value.data += 0.3 * torch.randn(value.shape, generator=generator)
    return lm


def drafted(lm, prompts, config, counts=None):
    return clips_of(speculative_steps(lm, prompts, config, counts), len(prompts))


def random_rows(*shape, seed):
    rows = torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    rows[..., 0] *= 0.0  # as a forbidden column
    return rows / rows.sum(-1, keepdim=True)


def outcomes(p_of, q_NK, prefix=()):
    """Probability of every (codes of a round), as `accept` draws it: p_of(prefix) is the LM after those codes."""
    if len(prefix) == len(q_NK):
        return {(*prefix, code): float(share) for code, share in enumerate(p_of(prefix))}
    p, q = p_of(prefix), q_NK[len(prefix)]
    found = Counter()
    rejected = 0.0
    for draft, chance in enumerate(q):
        kept = float(chance * torch.minimum(torch.ones(()), p[draft] / chance)) if chance > 0 else 0.0
        rejected += float(chance) - kept
        if kept:
            for codes, share in outcomes(p_of, q_NK, (*prefix, draft)).items():
                found[codes] += kept * share
    again = residual(p, q) / residual(p, q).sum()
    for code, share in enumerate(again):
        found[(*prefix, code)] += rejected * float(share)
    return found


def test_every_sequence_has_its_probability_by_enumeration():
    """Four columns, two drafts: the chance of each sequence of three codes is the product of the LM's own."""
    table = {
        prefix: random_rows(4, seed=sum(9**n * (c + 1) for n, c in enumerate(prefix)))
        for n in range(3)
        for prefix in product(range(4), repeat=n)
    }
    for seed in range(5):
        q_NK = random_rows(2, 4, seed=100 + seed)
        found = outcomes(table.__getitem__, q_NK)
        for first in range(4):  # the first code alone, whatever follows
            chance = sum(share for codes, share in found.items() if codes[0] == first)
            assert chance == pytest.approx(float(table[()][first]), abs=1e-12)
        for codes in product(range(4), repeat=3):
            # A shorter round leaves the rest to the next one, which draws it from the LM.
            chance = sum(
                share
                * float(
                    torch.stack(
                        [table[codes[:n]][codes[n]] for n in range(len(drawn), 3)]
                        or [torch.ones((), dtype=torch.float64)]
                    ).prod()
                )
                for drawn, share in found.items()
                if codes[: len(drawn)] == drawn
            )
            wanted = float(table[()][codes[0]] * table[codes[:1]][codes[1]] * table[codes[:2]][codes[2]])
            assert chance == pytest.approx(wanted, abs=1e-12)


def test_accept_draws_as_enumerated():
    p_LK, q_NK = random_rows(3, 4, seed=1), random_rows(2, 4, seed=2)
    generator = torch.Generator().manual_seed(0)
    wanted = outcomes(lambda prefix: p_LK[len(prefix)], q_NK)
    counts, number = Counter(), 4000
    for _ in range(number):
        drafts = torch.multinomial(q_NK, 1, generator=generator)[:, 0].tolist()
        counts[tuple(accept(p_LK, q_NK, drafts, generator))] += 1
    assert chi_square(counts, {codes: share * number for codes, share in wanted.items()}) < 4.0
    assert accept(q_NK[[0, 0]], q_NK[:1], [2], generator)[0] == 2  # equal distributions: never rejected


def chi_square(counts, expected):
    """Standard deviations that the statistic lies above its mean; cells that expect few are put together."""
    cells = [(counts[codes], share) for codes, share in expected.items() if share >= 5]
    rare = [codes for codes, share in expected.items() if share < 5]
    rest = sum(counts[codes] for codes in rare), sum(expected[codes] for codes in rare)
    cells += [rest] if rest[1] >= 5 else []
    freedom = len(cells) - 1
    return (sum((seen - share) ** 2 / share for seen, share in cells) - freedom) / (2 * freedom) ** 0.5


@pytest.mark.parametrize("options", [{"top_p": 0.9}, {"top_k": 12, "top_p": 1.0}, {"repetition_penalty": 3.0}])
def test_the_third_code_is_distributed_as_in_plain_sampling(options):
    config = SamplingConfig(temperature=1.5, max_codes=3, min_codes=3, **{"top_p": 1.0, **options})
    check_third_codes(with_heads(num_heads=2), config, number=800, penalised="repetition_penalty" in options)


def test_the_third_code_of_the_bundled_lm_is_distributed_as_in_plain_sampling():
    """8,192 codes, told apart by their remainder of 24; the heads are copies of the LM's output."""
    lm = load_token_lm(str(lm_folder()))
    lm.heads = draft_heads(lm.model, lm.tokens, 2)
    assert lm.num_codes == 8192
    config = SamplingConfig(temperature=1.5, top_p=1.0, max_codes=3, min_codes=3)
    check_third_codes(lm, config, number=600, cells=24)


def check_third_codes(lm, config, number, cells=1 << 30, penalised=False):
    """Chi-square over the real loop: the pairs of a second and third code against the LM's probabilities of them."""
    prompt = speech_prompt(lm, torch.tensor([3, 1, 4]))
    counts = DraftCounts(2)
    codes_N3 = torch.stack(drafted(lm, [prompt] * number, config, counts))
    assert 0 < counts.accepted[1] <= counts.accepted[0] < counts.drafted[0]
    expected = Counter()
    for pair, count in Counter(map(tuple, codes_N3[:, :2].tolist())).items():
        ids = torch.cat([prompt, torch.tensor(pair) + lm.tokens.first])[None]
        logits = lm.model(input_ids=ids).logits[0, -1][lm.tokens.output_ids].detach()
        logits[0] = -torch.inf
        if penalised:
            logits[torch.tensor(sorted({3, 1, 4, *pair})) + 1] -= torch.tensor(3.0).log()
        for column, share in enumerate(filtered(logits[None], config)[0].softmax(-1).tolist()):
            expected[(column - 1) % cells] += count * share
    found = Counter((codes_N3[:, 2] % cells).tolist())
    assert set(found) <= {cell for cell, share in expected.items() if share}
    assert chi_square(found, expected) < 4.0


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_at_temperature_0_it_is_plain_sampling(family):
    lm = with_heads(family)
    prompts = [speech_prompt(lm, codes) for codes in random_codes(1, 9, 4, seed=5)]
    prompts += [text_prompt(lm, "hello"), speech_prompt(lm)]
    for config in (
        SamplingConfig(temperature=0, max_codes=12),
        SamplingConfig(temperature=0, max_codes=7, min_codes=7),
    ):
        wanted = sample(lm, prompts, config)
        assert [clip.tolist() for clip in drafted(lm, prompts, config)] == [clip.tolist() for clip in wanted]


def test_perfect_heads_are_always_accepted_and_read_less_often():
    """An LM whose next code does not depend on anything: its heads know all that follows."""
    lm = with_heads(num_heads=3)
    lm.model.base_model.norm.weight.data.zero_()
    lm.heads = PredictionHeads(3, "residual", torch.zeros(lm.num_codes, 32))
    counts = DraftCounts(3)
    config = SamplingConfig(temperature=1.0, top_p=1.0, max_codes=21, min_codes=21)
    assert [len(clip) for clip in drafted(lm, [speech_prompt(lm)] * 2, config, counts)] == [21, 21]
    assert counts.accepted == counts.drafted == [10, 10, 10] and counts.passes == 10  # 1 + 5 x 4 codes each
    assert counts.in_words() == "accepted: head 1 100% of 10, head 2 100% of 10, head 3 100% of 10; 10 clips read"


def test_a_batch_draws_what_single_calls_draw_and_frames_stay_whole():
    lm = with_heads(codec=replace(CODEC, num_codebooks=2, codebook_size=20))
    config = SamplingConfig(temperature=2.0, top_p=0.95, max_codes=16, seed=3)
    prompts = [speech_prompt(lm, torch.tensor([3, 25])), speech_prompt(lm)]
    together = drafted(lm, prompts, config)
    assert torch.equal(together[0], drafted(lm, prompts[:1], config)[0])
    for clip in together:
        assert 0 < len(clip) <= 16 and len(clip) % 2 == 0
        assert bool((clip[0::2] < 20).all()) and bool((clip[1::2] >= 20).all())


def test_what_is_refused():
    with pytest.raises(ValueError, match="no draft heads; train them"):
        drafted(token_lm(), [speech_prompt(token_lm())], SamplingConfig())
    lm = with_heads()
    lm.card = replace(lm.card, formats=["tts_stream"], turns=(3, 4))
    with pytest.raises(ValueError, match="in turns with its speech cannot be drafted"):
        drafted(lm, [text_prompt(lm, "hello there")], SamplingConfig())
