"""Semantic alignment against hand-written float64, and the bank's ring."""

from __future__ import annotations

import math

import pytest
import torch

from llmcodec.objectives.alignment import AlignmentConfig, SemanticAlignment, pool_last, smoothed_cross_entropy

LAYERS, WIDTH = (2, 4), 6


def _states(batch: int, seed: int) -> dict[int, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {layer: torch.randn(batch, WIDTH, generator=generator, dtype=torch.float64) for layer in LAYERS}


def _module(**options) -> SemanticAlignment:
    return SemanticAlignment(LAYERS, WIDTH, AlignmentConfig(**options)).double()


def _cos(a, b):
    return sum(x * y for x, y in zip(a, b, strict=True)) / math.sqrt(sum(x * x for x in a) * sum(y * y for y in b))


def _by_hand(audio, text, keys, past, past_keys, scale=5.0, smoothing=0.1):
    """InfoNCE with smoothing over allowed candidates, scalar by scalar."""
    cosine, contrast, clips = 0.0, 0.0, [b for b, key in enumerate(keys) if key >= 0]
    for b in clips:
        for layer in LAYERS:
            positive = _cos(audio[layer][b].tolist(), text[layer][b].tolist())
            cosine += (1 - positive) / len(LAYERS) / len(clips)
            logits = [scale * positive]
            for slot, key in enumerate(past_keys):
                if key != keys[b]:
                    logits.append(scale * _cos(audio[layer][b].tolist(), past[layer][slot].tolist()))
            norm = math.log(sum(math.exp(z) for z in logits))
            targets = [smoothing / len(logits)] * len(logits)
            targets[0] += 1 - smoothing
            loss = sum(t * (norm - z) for t, z in zip(targets, logits, strict=True))
            contrast += loss / len(LAYERS) / len(clips)
    return cosine, contrast


def test_terms_equal_the_hand_computation():
    module = _module(bank_size=8)
    past, past_keys = _states(5, 1), [10, 11, 12, 13, 14]
    module(_states(5, 0), past, torch.tensor(past_keys))
    audio, text, keys = _states(4, 2), _states(4, 3), [12, 99, -1, 14]  # two texts are in the bank, one clip has none
    terms = module(audio, text, torch.tensor(keys))
    cosine, contrast = _by_hand(audio, text, keys, past, past_keys)
    assert terms["align/cosine"].item() == pytest.approx(cosine, abs=1e-12)
    assert terms["align/contrast"].item() == pytest.approx(contrast, abs=1e-12)


def test_smoothing_equals_torch_when_everything_is_allowed():
    logits = torch.randn(5, 9, dtype=torch.float64)
    ours = smoothed_cross_entropy(logits, torch.ones(5, 9, dtype=torch.bool), 0.1)
    target = torch.zeros(5, dtype=torch.int64)
    theirs = torch.nn.functional.cross_entropy(logits, target, label_smoothing=0.1, reduction="none")
    torch.testing.assert_close(ours, theirs)


def test_gradient_reaches_audio_and_never_text():
    module = _module(bank_size=4)
    module(_states(3, 0), _states(3, 1), torch.tensor([1, 2, 3]))
    audio = {layer: x.requires_grad_() for layer, x in _states(2, 2).items()}
    text = {layer: x.requires_grad_() for layer, x in _states(2, 3).items()}
    terms = module(audio, text, torch.tensor([4, -1]))
    (terms["align/cosine"] + terms["align/contrast"]).backward()
    for layer in LAYERS:
        gradient = audio[layer].grad
        assert gradient is not None and gradient.isfinite().all()
        assert gradient[0].any() and not gradient[1].any(), "a clip without text takes no part"
        assert text[layer].grad is None


def test_a_text_state_that_is_nan_for_want_of_a_text_reaches_nothing():
    text, keys = _states(3, 1), torch.tensor([5, -1, 6])
    results = []
    for missing in (0.5, torch.nan):
        for layer in LAYERS:
            text[layer][1] = missing
        audio, module = {layer: state.requires_grad_() for layer, state in _states(3, 2).items()}, _module()
        for _ in range(2):  # the second time with negatives
            terms = module(audio, text, keys)
        sum(terms.values()).backward()
        results.append([*terms.values(), *(state.grad for state in audio.values()), module.bank_MQH])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def test_contrast_is_gradchecked():
    module = _module(bank_size=4)
    module(_states(3, 0), _states(3, 1), torch.tensor([1, 2, 3]))
    module.eval()
    text = _states(2, 3)
    start = [x.requires_grad_() for x in _states(2, 2).values()]

    def term(*audio):
        return module(dict(zip(LAYERS, audio, strict=True)), text, torch.tensor([2, 9]))["align/contrast"]

    assert torch.autograd.gradcheck(term, start)


def test_an_empty_bank_gives_zero_contrast_and_a_graph():
    module = _module()
    audio = {layer: x.requires_grad_() for layer, x in _states(2, 2).items()}
    term = module(audio, _states(2, 3), torch.tensor([1, 2]))["align/contrast"]
    term.backward()
    assert term.item() == 0.0 and not audio[2].grad.any()


def test_the_bank_keeps_refreshing_layer_by_layer():
    # Pitfall 5: the released bank stands still once full.
    module = _module(bank_size=4)
    keys = iter(range(100))
    for step in range(5):
        text = _states(3, 10 + step)
        module(_states(3, 0), text, torch.tensor([next(keys) for _ in range(3)]))
        last_keys, last_text = module.bank_keys_Q.tolist(), text
    assert sorted(last_keys) == [11, 12, 13, 14], "the ring holds the last four utterances"
    slot = last_keys.index(14)
    for index, layer in enumerate(LAYERS):
        unit = last_text[layer][2] / last_text[layer][2].norm()
        torch.testing.assert_close(module.bank_MQH[index, slot], unit)
    assert int(module.position) == 15


def test_a_batch_larger_than_the_bank_keeps_its_last_clips():
    module = _module(bank_size=4)
    module(_states(7, 0), _states(7, 1), torch.arange(7))
    assert sorted(module.bank_keys_Q.tolist()) == [3, 4, 5, 6]


def test_evaluation_stores_nothing_and_state_is_saved():
    module = _module(bank_size=4)
    module(_states(3, 0), _states(3, 1), torch.tensor([1, 2, 3]))
    before = module.bank_MQH.clone()
    module.eval()
    module(_states(3, 0), _states(3, 5), torch.tensor([4, 5, 6]))
    assert torch.equal(module.bank_MQH, before)
    copy = _module(bank_size=4)
    copy.load_state_dict(module.state_dict())
    for name in ("bank_MQH", "bank_keys_Q", "position"):
        assert torch.equal(getattr(copy, name), getattr(module, name))


def test_the_released_bank_stands_still_and_holds_one_layer_and_batch_means():
    module = _module(bank_size=3, released_bank=True)
    means = []
    for step in range(6):
        text = _states(2, step)
        module(_states(2, 0), text, torch.tensor([1, 2]))
        unit = text[LAYERS[-1]] / text[LAYERS[-1]].norm(dim=-1, keepdim=True)
        means.append(unit.mean(0))
        if step == 2:
            full = module.bank_MQH.clone()
    assert torch.equal(full[:, :2], module.bank_MQH[:, :2]) and not torch.equal(full[:, 2], module.bank_MQH[:, 2])
    assert not module.bank_MQH[0].any(), "only the top layer is kept"
    # By the released rule: average the last slot, then append while there is room.
    queue: list[torch.Tensor] = []
    for mean in means:
        if queue:
            queue[-1] = 0.01 * mean + 0.99 * queue[-1]
        if len(queue) < 3:
            queue.append(mean)
    torch.testing.assert_close(module.bank_MQH[-1], torch.stack(queue))


def test_pool_last_takes_each_clips_own_end():
    hidden = torch.arange(12.0).reshape(2, 3, 2)
    assert pool_last(hidden, torch.tensor([2, 0])).tolist() == [[4.0, 5.0], [6.0, 7.0]]


def _half(rank: int) -> dict[str, torch.Tensor]:
    module = _module(bank_size=5)
    keep = slice(0, 1) if rank == 0 else slice(1, 3)
    for step in range(2):
        audio = {layer: x[keep].requires_grad_() for layer, x in _states(3, 20 + step).items()}
        text = {layer: x[keep] for layer, x in _states(3, 30 + step).items()}
        keys = torch.tensor([3 * step, 3 * step + 1, -1])[keep]
        terms = module(audio, text, keys)
    total = terms["align/cosine"] + terms["align/contrast"]
    total.backward()
    return {"total": total.detach(), "bank": module.bank_MQH, "keys": module.bank_keys_Q, "grad": audio[2].grad}


def test_two_ranks_equal_one(two_ranks):
    first, second = two_ranks(_half)
    module = _module(bank_size=5)
    for step in range(2):
        audio = {layer: x.requires_grad_() for layer, x in _states(3, 20 + step).items()}
        terms = module(audio, _states(3, 30 + step), torch.tensor([3 * step, 3 * step + 1, -1]))
    total = terms["align/cosine"] + terms["align/contrast"]
    total.backward()
    for rank in (first, second):
        assert torch.equal(rank["keys"], module.bank_keys_Q) and torch.equal(rank["bank"], module.bank_MQH)
    torch.testing.assert_close((first["total"] + second["total"]) / 2, total.detach())
    torch.testing.assert_close(torch.cat([first["grad"], second["grad"]]) / 2, audio[2].grad)


def test_errors_say_what_is_wrong():
    with pytest.raises(ValueError, match="bank_size"):
        AlignmentConfig(bank_size=0)
    with pytest.raises(ValueError, match="no layers"):
        SemanticAlignment((), 4)
