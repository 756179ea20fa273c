"""Growing embeddings: the same start for every codec, tied and untied, rows that train alone."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from llmcodec.lm.audio_tokens import add_audio_tokens, byte_tokenizer
from llmcodec.lm.growth import attach_rows, grow_embeddings, is_tied, write_rows

from .small_token_lm import BYTES, FAMILIES, NUM_CODES, causal, random_codes, token_lm


def grown(family, num_codes=NUM_CODES, **options):
    model = causal(family)
    tokens = add_audio_tokens(byte_tokenizer(), num_codes)
    grow_embeddings(model, tokens, **options)
    return model, tokens


@pytest.mark.parametrize("family", FAMILIES)
def test_text_rows_stay_and_code_rows_do_not_depend_on_the_codec(family):
    before = causal(family)
    text = before.get_input_embeddings().weight.detach().clone()
    small, tokens = grown(family)
    large, more = grown(family, num_codes=90)
    for side in ("get_input_embeddings", "get_output_embeddings"):
        a, b = getattr(small, side)().weight, getattr(large, side)().weight
        assert torch.equal(a[tokens.first : tokens.first + NUM_CODES], b[more.first : more.first + NUM_CODES])
        assert torch.equal(a[tokens.begin], b[more.begin])
    assert torch.equal(small.get_input_embeddings().weight[:BYTES], text)
    assert is_tied(small) == is_tied(before) and small.config.vocab_size == BYTES + NUM_CODES + 2


def test_rows_match_mean_and_covariance_of_the_text_rows():
    model, tokens = grown("qwen3_untied", num_codes=8000)
    for module in (model.get_input_embeddings(), model.get_output_embeddings()):
        text, audio = module.weight[:BYTES].detach(), module.weight[tokens.first :].detach()
        spread = text.std(0).mean()
        assert float((text.mean(0) - audio.mean(0)).abs().max()) < 0.1 * spread
        ours, theirs = torch.cov(audio.T), torch.cov(text.T)
        assert float((ours - theirs).norm() / theirs.norm()) < 0.15
    assert not torch.equal(model.get_input_embeddings().weight, model.get_output_embeddings().weight)


def test_rows_of_an_adapted_run(tmp_path):
    rows = {"embedding_VH": torch.randn(NUM_CODES, 32), "start_H": torch.randn(32)}
    save_file(rows, tmp_path / "audio_rows.safetensors")
    model, tokens = grown("llama", audio_rows=str(tmp_path / "audio_rows.safetensors"))
    weight = model.get_input_embeddings().weight
    assert torch.equal(weight[tokens.first : tokens.first + NUM_CODES], rows["embedding_VH"])
    assert torch.equal(weight[tokens.begin], rows["start_H"])
    with pytest.raises(ValueError, match=r"has \(40, 32\) for embedding_VH, .* needs \(41, 32\)"):
        grown("llama", num_codes=41, audio_rows=str(tmp_path / "audio_rows.safetensors"))
    with pytest.raises(ValueError, match="no such file"):
        grown("llama", audio_rows=str(tmp_path / "none"))


@pytest.mark.parametrize("family", FAMILIES)
def test_attached_rows_train_alone_and_are_written_without_a_trace(family):
    lm = token_lm(family)
    model, codes = lm.model, random_codes(9)
    before = lm.token_log_likelihoods(codes)[0]
    matrices = [model.get_input_embeddings().weight, model.get_output_embeddings().weight]
    frozen = [value.detach().clone() for value in matrices]
    model.requires_grad_(False)
    rows = attach_rows(model, lm.tokens)
    assert torch.allclose(lm.token_log_likelihoods(codes)[0], before, atol=1e-6)
    ids = torch.cat([torch.tensor([lm.tokens.begin]), lm.tokens.ids(codes[0])])[None]
    model(input_ids=ids, labels=ids).loss.backward()
    assert all(value.grad is None for value in model.parameters())
    assert all(float(value.grad.norm()) > 0 for value in rows.parameters())
    assert len(list(rows.parameters())) == (1 if family != "qwen3_untied" and is_tied(causal(family)) else 2)
    with torch.no_grad():
        for value in rows.parameters():
            value -= 0.1 * value.grad
    changed, logits = lm.token_log_likelihoods(codes)[0], model(input_ids=ids).logits
    assert float((changed - before).abs().max()) > 1e-4
    for value, old in zip(matrices, frozen, strict=True):
        assert torch.equal(value, old)
    plain = token_lm(family)
    write_rows(plain.model, plain.tokens, dict(rows.named_parameters()))
    assert torch.allclose(plain.token_log_likelihoods(codes)[0], changed, atol=1e-6)
    assert torch.allclose(plain.model(input_ids=ids).logits, logits, atol=1e-5)
    for side, old in zip(("get_input_embeddings", "get_output_embeddings"), frozen, strict=True):
        assert torch.equal(getattr(plain.model, side)().weight[:BYTES], old[:BYTES])
