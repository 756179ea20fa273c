"""Sampling against loops without a cache, statistics of the draws, and what is refused."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import pytest
import torch

from llmcodec.lm.sampling import (
    ENDED,
    READING,
    ClipState,
    SamplingConfig,
    draw,
    sample,
    sample_steps,
    speech_prompt,
    text_prompt,
)

from .small_token_lm import CODEC, FAMILIES, random_codes, token_lm


def greedy(lm, prompt, steps):
    """The likeliest code or the end, whole sequence through the model at every step."""
    ids = prompt.tolist()
    allowed = lm.tokens.output_ids
    drawn = []
    for _ in range(steps):
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1][allowed]
        best = int(allowed[int(logits.argmax())])
        if best == lm.tokens.end:
            break
        drawn.append(best - lm.tokens.first)
        ids.append(best)
    return drawn


@pytest.mark.parametrize("family", FAMILIES)
def test_batched_cached_greedy_is_the_plain_loop(family):
    lm = token_lm(family)
    prompts = [speech_prompt(lm, codes) for codes in random_codes(1, 9, 4, seed=5)]
    prompts += [text_prompt(lm, "hello"), speech_prompt(lm)]
    found = sample(lm, prompts, SamplingConfig(temperature=0, max_codes=12))
    assert [clip.tolist() for clip in found] == [greedy(lm, prompt, 12) for prompt in prompts]
    assert len({tuple(clip.tolist()) for clip in found}) > 1


def test_a_batch_draws_what_single_calls_draw_and_rows_that_end_leave():
    lm = token_lm("qwen3")
    prompts = [speech_prompt(lm, codes) for codes in random_codes(2, 7, 5, 3, seed=1)]
    config = SamplingConfig(temperature=9.0, top_p=0.99, max_codes=60, seed=3)
    together = sample(lm, prompts, config)
    assert len({len(clip) for clip in together}) > 1  # some ended by themselves
    first = sample(lm, prompts[:1], config)[0]
    assert torch.equal(together[0], first)
    assert torch.equal(sample(lm, prompts, config)[2], together[2])
    assert not torch.equal(sample(lm, prompts, replace(config, seed=4))[0], first)
    for codes_B in sample_steps(lm, prompts, config):
        assert codes_B.shape == (4,) and bool(((codes_B >= ENDED) & (codes_B < lm.num_codes)).all())


def greedy_in_turns(lm, prompt, steps):
    """As `greedy`, with the text put in where it is due and no end before its last part."""
    ids, allowed, drawn = prompt.start.tolist(), lm.tokens.output_ids, []
    for _ in range(steps):
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids])).logits[0, -1][allowed]
        if len(drawn) < len(prompt.turns) * prompt.codes:
            logits[0] = -math.inf
        best = int(allowed[int(logits.argmax())])
        if best == lm.tokens.end:
            break
        drawn.append(best - lm.tokens.first)
        ids.append(best)
        if len(drawn) % prompt.codes == 0 and len(drawn) // prompt.codes <= len(prompt.turns):
            ids += prompt.turns[len(drawn) // prompt.codes - 1].tolist()
    return drawn


@pytest.mark.parametrize("family", FAMILIES)
def test_text_comes_while_it_speaks(family):
    lm = token_lm(family)
    lm.card = replace(lm.card, formats=["tts_stream"], turns=(3, 4))
    prompts = [text_prompt(lm, text) for text in ("hello there", "hi", "good day")]
    assert [len(prompt.turns) for prompt in prompts] == [3, 0, 2] and len(prompts[0]) == 12
    found = sample(lm, prompts, SamplingConfig(temperature=0, max_codes=17))
    assert [clip.tolist() for clip in found] == [greedy_in_turns(lm, prompt, 17) for prompt in prompts]
    assert min(len(found[0]) - 12, len(found[2]) - 8) >= 0
    mixed = sample(lm, [prompts[0], speech_prompt(lm)], SamplingConfig(temperature=0, max_codes=17))
    assert torch.equal(mixed[0], found[0]) and mixed[1].tolist() == greedy(lm, speech_prompt(lm), 17)


def drawn_by_units(lm, prompt, place, config):
    """Whole sequence through the model at every step; the end of audio, drawn apart by its own odds and in any case
    after so many codes, brings the next unit while there is one."""
    ids, allowed, drawn, turns = prompt.start.tolist(), lm.tokens.output_ids, [], list(prompt.turns)
    generator = torch.Generator().manual_seed(config.seed * 1_000_003 + place)
    since = 0
    while len(drawn) < config.max_codes:
        with torch.no_grad():
            logits = lm.model(input_ids=torch.tensor([ids])).logits[:, -1][:, allowed]
        if since >= prompt.longest or torch.rand((), generator=generator) < logits.softmax(1)[0, 0]:
            draw(torch.zeros(1, len(allowed)), [generator], config)  # the noise that is drawn in any case
            if not turns:
                break
            ids += [lm.tokens.end, *turns.pop(0).tolist()]
            since = 0
            continue
        logits[0, 0] = -math.inf
        for code in set(drawn[-config.repetition_window :]):
            logits[0, 1 + code] -= math.log(config.repetition_penalty)
        chosen, since = int(allowed[int(draw(logits, [generator], config))]), since + 1
        drawn.append(chosen - lm.tokens.first)
        ids.append(chosen)
    return drawn, turns


@pytest.mark.parametrize("family", FAMILIES)
def test_unit_after_unit(family):
    lm = token_lm(family)
    lm.card = replace(lm.card, formats=["tts_aligned"], units_ahead=1, longest_unit=12)
    prompts = [text_prompt(lm, text) for text in ("<|0.00|> _ <|0.20|> a <|0.30|> b", "_ a b c d e f", "a")]
    assert [len(prompt.turns) for prompt in prompts] == [2, 6, 0]
    assert [lm.tokenizer.decode(turn) for turn in prompts[0].turns] == ["a b", "b"]
    assert len(prompts[0]) == len("_ a") + 1 + 1 + len("a b") + 1 + len("b")
    config = SamplingConfig(temperature=9.0, top_p=1.0, max_codes=60, seed=4, repetition_penalty=3.0)
    found = sample(lm, prompts, config)
    wanted = [drawn_by_units(lm, prompt, place, config) for place, prompt in enumerate(prompts)]
    assert [clip.tolist() for clip in found] == [codes for codes, _ in wanted]
    read = sum(len(prompt.turns) - len(left) for prompt, (_, left) in zip(prompts, wanted, strict=True))
    steps = torch.stack(list(sample_steps(lm, prompts, config)))
    assert int((steps == READING).sum()) == read > 0
    spoken = "".join("x" if code >= 0 else " " for code in steps[:, 1].tolist()).split()
    assert max(len(unit) for unit in spoken[: len(prompts[1].turns)]) <= 12
    held = replace(config, min_codes=60)
    assert [len(clip) for clip in sample(lm, prompts, held)] == [60, 60, 60]  # no end of the last unit before


def test_units_of_several_codebooks_end_between_frames():
    lm = token_lm(codec=replace(CODEC, num_codebooks=2, codebook_size=20))
    lm.card = replace(lm.card, formats=["tts_aligned"], units_ahead=0, longest_unit=5)
    config = SamplingConfig(temperature=2.0, top_p=1.0, max_codes=40)
    prompt = text_prompt(lm, "a b c d")
    codes = sample(lm, [prompt], config)[0]
    assert len(codes) and len(codes) % 2 == 0
    assert bool((codes[0::2] < 20).all()) and bool((codes[1::2] >= 20).all())
    spoken = [int(codes_B[0]) for codes_B in sample_steps(lm, [prompt], config)]
    units = "".join("x" if code >= 0 else " " for code in spoken).split(" ")
    assert len(units) == 4 and all(len(unit) % 2 == 0 for unit in units) and max(map(len, units)) <= 6


def test_units_with_spaces_and_unknown_units():
    lm = token_lm()
    lm.card = replace(lm.card, formats=["tts", "tts_aligned"], units_ahead=0, units=["bye", "hello there"])
    assert len(text_prompt(lm, "<|0.0|> hello there <|0.5|> bye <|0.9|>").turns) == 1
    with pytest.raises(ValueError, match="'hello' is not one of this LM's units"):
        text_prompt(lm, "hello there")
    with pytest.raises(ValueError, match="the text is empty"):
        text_prompt(lm, "<|0.0|>")


def test_draws_follow_the_softmax():
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    generator = [torch.Generator().manual_seed(0)]
    counts = torch.zeros(4)
    for _ in range(4000):
        counts[draw(logits, generator, SamplingConfig(temperature=1.0, top_p=1.0))] += 1
    assert torch.allclose(counts / 4000, logits.softmax(-1)[0], atol=0.03)
    halved = torch.zeros(4)
    for _ in range(4000):
        halved[draw(logits, generator, SamplingConfig(temperature=0.5, top_p=1.0))] += 1
    assert torch.allclose(halved / 4000, (2 * logits).softmax(-1)[0], atol=0.03)


@pytest.mark.parametrize(
    ("options", "allowed"),
    [
        ({"top_k": 2, "top_p": 1.0}, {1, 2}),
        ({"top_p": 0.6}, {2}),  # the likeliest holds 0.64
        ({"top_p": 0.7}, {1, 2}),
        ({"top_p": 1e-9}, {2}),
    ],
)
def test_top_k_and_top_p(options, allowed):
    logits = torch.tensor([[0.0, 1.0, 2.0, -1.0]])
    generator = [torch.Generator().manual_seed(1)]
    drawn = {int(draw(logits, generator, SamplingConfig(temperature=1.0, **options))) for _ in range(400)}
    assert drawn == allowed


@pytest.mark.parametrize("spread", [0.0, 0.5, 2.0, 6.0])
def test_the_nucleus_is_that_of_sorting_every_column(spread):
    """Flat distributions need all columns, sharp ones a few: the same draws as by a plain sort, from the same seeds."""
    logits = spread * torch.randn(5, 4097, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    for top_p in (0.3, 0.9, 0.98):
        config = SamplingConfig(temperature=1.3, top_p=top_p)
        found = draw(logits, [torch.Generator().manual_seed(row) for row in range(5)], config)
        ordered, places = (logits / 1.3).sort(descending=True)
        shares = ordered.softmax(-1)
        kept = ordered.masked_fill(shares.cumsum(-1) - shares >= top_p, -math.inf)
        uniform = torch.stack([torch.rand(4097, generator=torch.Generator().manual_seed(row)) for row in range(5)])
        noise = -torch.log(-torch.log(uniform.clamp(1e-20, 1 - 1e-7)))
        wanted = (torch.full_like(logits, -math.inf).scatter(1, places, kept) + noise).argmax(-1)
        assert found.tolist() == wanted.tolist()


def test_repetition_penalty_divides_the_odds():
    lm, logits = token_lm(), torch.zeros(5)
    prompt = speech_prompt(lm, torch.tensor([0, 3, 3]))
    ClipState(lm, prompt, SamplingConfig(repetition_penalty=2.0), 0).penalise(logits)
    assert torch.allclose(logits.exp(), torch.tensor([1.0, 0.5, 1.0, 1.0, 0.5]))  # column 0 is the end of audio


def test_min_codes_and_max_codes():
    lm = token_lm()
    config = SamplingConfig(temperature=1.5, top_p=1.0, min_codes=30, max_codes=35)
    lengths = [len(clip) for clip in sample(lm, [speech_prompt(lm)] * 12, config)]
    assert min(lengths) >= 30 and max(lengths) <= 35
    free = [len(clip) for clip in sample(lm, [speech_prompt(lm)] * 12, replace(config, min_codes=0))]
    assert min(free) < 30


def test_codebooks_take_turns():
    lm = token_lm(codec=replace(CODEC, num_codebooks=2, codebook_size=20))
    config = SamplingConfig(temperature=2.0, top_p=1.0, max_codes=16)
    for clip in sample(lm, [speech_prompt(lm, torch.tensor([3, 25])), speech_prompt(lm)], config):
        assert len(clip) % 2 == 0 and len(clip) > 0
        assert bool((clip[0::2] < 20).all()) and bool((clip[1::2] >= 20).all())
    with pytest.raises(ValueError, match="inside a frame"):
        sample(lm, [speech_prompt(lm, torch.tensor([3]))], config)


def test_beyond_the_trained_context_there_is_a_warning():
    lm = token_lm("gpt2")
    lm.card = replace(lm.card, max_tokens=32)
    prompt = speech_prompt(lm, random_codes(20)[0])
    with pytest.warns(UserWarning, match="21 tokens and 12 to come, but this LM was trained on 32 at most"):
        sample(lm, [prompt], SamplingConfig(max_codes=12))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sample(lm, [prompt], SamplingConfig(max_codes=11))


def test_what_is_refused():
    lm = token_lm("gpt2")
    with pytest.raises(ValueError, match="a prompt of 101 tokens and 60 to come are more than the 128 positions"):
        sample(lm, [speech_prompt(lm, random_codes(100)[0])], SamplingConfig(max_codes=60))
    with pytest.raises(ValueError, match="the text is empty"):
        text_prompt(lm, "  ")
    with pytest.raises(ValueError, match="no prompt"):
        sample(lm, [], SamplingConfig())
    lm.card = replace(lm.card, formats=["audio"])
    with pytest.raises(ValueError, match="trained on audio, not on text to audio"):
        text_prompt(lm, "hello")
    lm.card = replace(lm.card, formats=["tts"], text_template="{speaker}: {text}")
    with pytest.raises(ValueError, match="name the speaker"):
        text_prompt(lm, "hello")
    assert len(text_prompt(lm, "hi", speaker="al")) == 7
    for bad in (
        {"temperature": -1},
        {"temperature": math.nan},  # would draw the end of every clip
        {"top_p": 0},
        {"repetition_penalty": math.nan},
        {"max_codes": 0},
        {"min_codes": 9, "max_codes": 8},
    ):
        with pytest.raises(ValueError, match="sampling:"):
            SamplingConfig(**bad)
    assert math.isfinite(SamplingConfig().temperature)


def test_a_voice_comes_before_the_text():
    lm = token_lm()
    voice = torch.tensor([4, 5, 6])
    with pytest.raises(ValueError, match="reads no voice before a text; leave the prompt out"):
        text_prompt(lm, "hi", voice_T=voice)
    plain = text_prompt(lm, "hi")
    lm.card = replace(lm.card, voice_seconds=3.0)
    with pytest.raises(ValueError, match="voice of a prompt of 3 s; give one"):
        text_prompt(lm, "hi")
    with pytest.raises(ValueError, match="the text is empty"):
        text_prompt(lm, " ", voice_T=voice)
    prompt = text_prompt(lm, "hi", voice_T=voice)
    ids = [lm.tokens.begin, *(lm.tokens.first + voice).tolist(), lm.tokens.end, *plain.tolist()]
    assert prompt.tolist() == ids
    assert ClipState(lm, prompt, SamplingConfig(), 0).recent == []  # the penalty is for what it says itself
    assert sample(lm, [prompt], SamplingConfig(temperature=0, max_codes=9))[0].tolist() == greedy(lm, prompt, 9)
    lm.card = replace(lm.card, formats=["tts_stream"], turns=(3, 4))
    assert text_prompt(lm, "hello there", voice_T=voice).start[:5].tolist() == ids[:5]
