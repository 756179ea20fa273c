"""The frozen LM: what flows, what does not, and agreement with Hugging Face's own pass."""

from __future__ import annotations

import pytest
import torch

from llmcodec.lm.backbone import BackboneConfig, FrozenCausalLM, sa_layers, text_key

from .tiny import LetterTokenizer, tiny_gpt2, tiny_llama, tiny_qwen3


def _embeds(batch=2, length=6, hidden=32, dtype=torch.float32):
    return torch.randn(batch, length, hidden, generator=torch.Generator().manual_seed(3)).to(dtype).requires_grad_()


@pytest.mark.parametrize("build", [tiny_qwen3, tiny_llama, tiny_gpt2])
def test_states_are_those_of_hugging_face(build):
    model = build().eval()
    embeds = _embeds()
    with torch.no_grad():
        expected = model(inputs_embeds=embeds, output_hidden_states=True).hidden_states
    backbone = FrozenCausalLM(model)
    output = backbone(embeds, layers=range(backbone.num_layers + 1))
    torch.testing.assert_close(output.last_BLH, expected[-1])
    for layer, states in output.layers.items():
        torch.testing.assert_close(states, expected[layer])
    assert torch.equal(backbone(embeds).last_BLH, output.last_BLH)


@pytest.mark.parametrize("build", [tiny_qwen3, tiny_llama, tiny_gpt2])
def test_the_first_layers_alone(build):
    model = build().eval()
    embeds = _embeds()
    with torch.no_grad():
        inner = model(inputs_embeds=embeds, output_hidden_states=True).hidden_states[1]
    backbone = FrozenCausalLM(model, num_layers=1)
    assert backbone.num_layers == 1
    norm = backbone.model.ln_f if hasattr(backbone.model, "ln_f") else backbone.model.norm
    torch.testing.assert_close(backbone(embeds).last_BLH, norm(inner))
    with pytest.raises(ValueError, match=r"1\.\.1, got 2"):
        FrozenCausalLM(model, num_layers=2)


def test_frozen_for_real():
    class Holder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.backbone = FrozenCausalLM(tiny_gpt2())  # GPT-2 has dropout: training mode would show
            self.layer = torch.nn.Linear(2, 2)

    holder = Holder().train()
    backbone, embeds = holder.backbone, _embeds()
    assert not any(m.training for m in backbone.model.modules())
    assert not any(p.requires_grad for p in backbone.model.parameters())
    assert set(holder.state_dict()) == {"layer.weight", "layer.bias"} and len(list(holder.parameters())) == 2
    before = [p.clone() for p in backbone.model.parameters()]
    first = backbone(embeds).last_BLH
    first.square().sum().backward()
    assert embeds.grad is not None and embeds.grad.abs().sum() > 0
    assert all(p.grad is None for p in backbone.model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(before, backbone.model.parameters(), strict=True))
    assert torch.equal(backbone(embeds).last_BLH, first), "two passes differ: something is random"


def test_the_head_never_runs(monkeypatch):
    model = tiny_qwen3(tie_word_embeddings=False)

    def fail(*_):
        raise AssertionError("the vocabulary head ran")

    model.lm_head.register_forward_pre_hook(fail)
    backbone = FrozenCausalLM(model, LetterTokenizer())
    backbone(_embeds(), layers=(1, 2))
    backbone.text_states(["abc"], [1])


def test_padding_on_the_right_changes_nothing_and_elsewhere_is_refused():
    backbone = FrozenCausalLM(tiny_qwen3())
    embeds = _embeds(1, 6)
    mask = torch.tensor([[True, True, True, True, False, False]])
    torch.testing.assert_close(backbone(embeds, mask).last_BLH[:, :4], backbone(embeds[:, :4]).last_BLH)
    with pytest.raises(ValueError, match="right-padded"):
        backbone(embeds, mask.flip(1))
    with pytest.raises(ValueError, match=r"no hidden state 5, this LM has 0\.\.2"):
        backbone(embeds, layers=(5,))


@pytest.mark.parametrize("build", [tiny_qwen3, tiny_gpt2])
def test_gradient_checkpointing_gives_the_same_gradients(build):
    results = []
    for checkpointing in (False, True):
        backbone = FrozenCausalLM(build(), gradient_checkpointing=checkpointing)
        embeds = _embeds()
        output = backbone(embeds, layers=(1,))
        (output.last_BLH.square().sum() + output.layers[1].sum()).backward()
        assert not any(m.training for m in backbone.model.modules())
        results.append((output.last_BLH.detach(), embeds.grad))
    torch.testing.assert_close(results[1], results[0])


def test_compiled_layers_give_the_same_states_and_keep_their_names(monkeypatch):
    compiled = []

    def instead(layer: torch.nn.Module, **options: object) -> None:  # a compiler takes longer than all other tests here
        assert options == {"dynamic": True}  # not again for every length
        compiled.append(layer)
        layer._compiled_call_impl = layer._call_impl

    monkeypatch.setattr(torch.nn.Module, "compile", instead)
    plain, backbone = FrozenCausalLM(tiny_qwen3()), FrozenCausalLM(tiny_qwen3(), compile_layers=True)
    assert compiled == list(backbone.model.layers) and list(backbone.model.state_dict()) == list(
        plain.model.state_dict()
    )
    assert torch.equal(backbone(_embeds()).last_BLH, plain(_embeds()).last_BLH)


def test_gradient_checkpointing_recomputes():
    calls = []
    backbone = FrozenCausalLM(tiny_qwen3(), gradient_checkpointing=True)
    backbone.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    backbone(_embeds()).last_BLH.sum().backward()
    assert len(calls) == 2


def test_bf16_weights_and_float64_for_tests():
    exact = FrozenCausalLM(tiny_qwen3()).double()
    rough = FrozenCausalLM(tiny_qwen3()).to(torch.bfloat16)
    embeds = _embeds(dtype=torch.float64)
    assert exact(embeds).last_BLH.dtype is torch.float64
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert exact(embeds).last_BLH.dtype is torch.float64, "autocast must not touch the frozen LM"
    output = rough(embeds).last_BLH
    assert output.dtype is torch.bfloat16 and all(p.dtype is torch.bfloat16 for p in rough.model.parameters())
    assert (output.double() - exact(embeds).last_BLH).norm() < 0.05 * output.double().norm()
    output.float().sum().backward()
    assert embeds.grad is not None and embeds.grad.dtype is torch.float64


def test_text_states_are_the_last_tokens_and_cached():
    tokenizer = LetterTokenizer()
    backbone = FrozenCausalLM(tiny_qwen3(), tokenizer)
    texts = ["hello", "a longer line of text", "hello"]
    states = backbone.text_states(texts, (1, 2))
    assert set(states) == {1, 2} and states[1].shape == (3, 32) and not states[1].requires_grad
    for row, text in enumerate(texts):
        ids = torch.tensor([LetterTokenizer()(text)["input_ids"]])
        alone = backbone.model(input_ids=ids, output_hidden_states=True).hidden_states
        for layer in (1, 2):
            torch.testing.assert_close(states[layer][row], alone[layer][0, -1])
    assert tokenizer.calls == 2
    again = backbone.text_states(texts[::-1], (2, 1))
    assert tokenizer.calls == 2 and torch.equal(again[1], states[1].flip(0))
    backbone.text_states(["hello"], (0,))  # a layer not kept yet
    assert tokenizer.calls == 3
    backbone.text_states(["hello"], (0, 1, 2))
    assert tokenizer.calls == 3


def test_the_text_cache_is_bounded():
    tokenizer = LetterTokenizer()
    backbone = FrozenCausalLM(tiny_qwen3(), tokenizer, text_cache_mb=0)  # room for one entry, the least there is
    backbone.text_states(["one", "two"], (1,))
    backbone.text_states(["two"], (1,))
    assert tokenizer.calls == 2
    states = backbone.text_states(["one"], (1,))
    assert tokenizer.calls == 3 and states[1].isfinite().all()


def test_text_states_refuse_empty_texts_and_a_missing_tokenizer():
    with pytest.raises(ValueError, match="empty text"):
        FrozenCausalLM(tiny_qwen3(), LetterTokenizer()).text_states(["  "], (1,))
    with pytest.raises(ValueError, match="tokenizer"):
        FrozenCausalLM(tiny_qwen3()).text_states(["a"], (1,))
    assert text_key(" ") == -1 and 0 <= text_key("a") < 2**63 and text_key("a") == text_key("a") != text_key("b")


def test_sa_layers():
    assert sa_layers(36) == tuple(range(13, 29))  # layer outputs 12 .. 27 counted from 0
    assert sa_layers(10) == (4, 5, 6, 7, 8)
    assert sa_layers(2) == (1,) and sa_layers(1) == (1,)


def test_by_path_with_its_own_tokenizer(tmp_path):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"[UNK]": 0, "hello": 1, "there": 2}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="[UNK]").save_pretrained(tmp_path)
    tiny_qwen3(layers=3).save_pretrained(tmp_path)
    config = BackboneConfig(name=str(tmp_path), num_layers=2, dtype="bf16")
    backbone = FrozenCausalLM.from_pretrained(config)
    assert backbone.num_layers == 2 and backbone.dtype is torch.bfloat16 and backbone.bos_row() is None
    assert backbone.text_states(["hello there"], (2,))[2].shape == (1, 32)
    with pytest.raises(ValueError, match="fp32, bf16"):
        FrozenCausalLM.from_pretrained(BackboneConfig(name=str(tmp_path), dtype="int8"))  # type: ignore[arg-type]
