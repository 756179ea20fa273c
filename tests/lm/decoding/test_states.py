"""Cached states against a pass over the whole sequence, for our forward pass and for transformers' own."""

from __future__ import annotations

import pytest
import torch

from llmcodec.lm.decoding import llama
from llmcodec.lm.decoding.states import TransformersStates, open_states

from ..small_token_lm import causal

OURS = ("llama", "qwen3", "qwen3_untied", "llama_plain_heads")


def model_of(family):
    if family != "llama_plain_heads":
        return causal(family).eval()
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = dict(vocab_size=258, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48)
    scaled = {"rope_type": "linear", "rope_theta": 500.0, "factor": 2.0}
    return LlamaForCausalLM(LlamaConfig(**sizes, attention_bias=True, rope_parameters=scaled)).eval()


def ids(*lengths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 258, (length,), generator=generator) for length in lengths]


@torch.no_grad()
def whole(model, row):
    """Hidden states (L, H) of a sequence, read at once without a cache."""
    return model.base_model(input_ids=row[None], use_cache=False).last_hidden_state[0]


def assert_as_whole(model, found_BLH, rows, new):
    for state_LH, row, part in zip(found_BLH, rows, new, strict=True):
        wanted_LH = whole(model, row)[len(row) - len(part) :]
        assert float((state_LH[: len(part)] - wanted_LH).abs().max()) < 3e-6  # of values up to 5


@torch.no_grad()
@pytest.mark.parametrize("family", [*OURS, "gpt2", "transformers"])
def test_rows_of_any_length_grow_take_back_and_leave(family):
    model = model_of("qwen3" if family == "transformers" else family)
    assert llama.knows(model) == (family != "gpt2")
    states = TransformersStates(model) if family == "transformers" else open_states(model)
    assert isinstance(states, llama.LlamaStates) == (family in OURS)
    rows = ids(5, 9, 1)
    assert_as_whole(model, states.read(rows), rows, rows)

    def further(rows, *lengths, seed):
        new = ids(*lengths, seed=seed)
        rows = [torch.cat(pair) for pair in zip(rows, new, strict=True)]
        assert_as_whole(model, states.read(new), rows, new)
        return rows

    rows = further(rows, 1, 1, 1, seed=1)
    rows = further(rows, 4, 1, 3, seed=2)  # several ids, of which some are taken back
    states.forget([2, 0, 3])
    rows = [rows[0][:-2], rows[1], rows[2][:-3]]
    rows = further(rows, 1, 2, 1, seed=3)
    states.keep([0, 2])
    rows = [rows[0], rows[2]]
    for seed in range(4, 30):  # through the growth of the buffers
        rows = further(rows, 1, 1, seed=seed)
    level = [*ids(7, 7, seed=40)]
    states = open_states(model)  # rows of one length need no mask
    assert_as_whole(model, states.read(level), level, level)
    further(level, 1, 1, seed=41)


@torch.no_grad()
def test_layers_with_adapters_are_called_as_they_are():
    peft = pytest.importorskip("peft")
    model = causal("qwen3")
    config = peft.LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM", init_lora_weights=False)
    adapted = peft.get_peft_model(model, config).eval().get_base_model()
    rows = ids(5, 3)
    assert llama.knows(adapted)
    states = open_states(adapted)
    assert_as_whole(adapted, states.read(rows), rows, rows)
    plain = whole(causal("qwen3").eval(), rows[0])
    assert not torch.allclose(plain, whole(adapted, rows[0]), atol=1e-2)  # the adapter does something


@torch.no_grad()
def test_what_our_pass_does_not_know_goes_through_transformers():
    for name, value in (("hidden_act", "gelu"), ("layer_types", ["full_attention", "sliding_attention"])):
        model = causal("qwen3")
        setattr(model.config, name, value)
        assert not llama.knows(model), name
    hooked = causal("qwen3")
    hooked.base_model.layers[0].register_forward_hook(lambda *_: None)
    assert not llama.knows(hooked)
    growing = causal("llama")
    growing.base_model.rotary_emb.rope_type = "dynamic"
    assert not llama.knows(growing)


def test_products_without_the_library_are_the_same(monkeypatch):
    layers = [torch.nn.Linear(16, 8), torch.nn.Linear(16, 24)]
    x = torch.randn(3, 2, 16)
    wanted = torch.cat([layer(x) for layer in layers], -1)
    for available, most in ((True, 1 << 20), (False, 1 << 20), (True, 0)):
        monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda available=available: available)
        monkeypatch.setattr(llama, "MOST_JOINED", most)
        assert torch.allclose(llama.join(*layers)(x), wanted, atol=1e-6)
