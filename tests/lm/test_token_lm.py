"""Log-likelihoods of a token LM against a plain float64 computation; loading; bad input."""

from __future__ import annotations

import json
import resource
from dataclasses import replace

import huggingface_hub
import pytest
import torch

from llmcodec.adapters.load import load_codec
from llmcodec.evaluation.wer import load_transcriber
from llmcodec.io.lm_card import TokenLMCard
from llmcodec.lm.backbone import FrozenCausalLM
from llmcodec.lm.bundled import resolve_lm
from llmcodec.lm.prepare import prepare_model
from llmcodec.lm.recipe import LMModelConfig
from llmcodec.lm.token_lm import AUDIO_ROWS, load_token_lm
from llmcodec.protocol import TokenScorer

from .small_token_lm import CODEC, FAMILIES, random_codes, token_lm


def plain(lm, codes, full=False):
    """One clip, one position at a time, in float64, from the model's own logits."""
    model = lm.model.double()
    first, count, nats = lm.tokens.first, lm.num_codes, []
    ids = [lm.tokens.begin]
    for code in codes.tolist():
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0, -1]
        logits = logits if full else logits[first : first + count]
        nats.append(float(logits[code + (first if full else 0)] - torch.logsumexp(logits, 0)))
        ids.append(first + code)
    model.float()
    return torch.tensor(nats, dtype=torch.float64)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("normalise", ["audio", "full"])
def test_likelihood_is_the_plain_float64_one(family, normalise):
    lm = token_lm(family, normalise=normalise)
    codes = random_codes(11)
    oracle = plain(lm, codes[0], full=normalise == "full")
    assert float(oracle.std()) > 0.1  # a flat distribution would agree with anything
    found = lm.token_log_likelihoods(codes)[0]
    assert torch.allclose(found.double(), oracle, atol=2e-5)
    lm.model.double()
    assert torch.allclose(lm.token_log_likelihoods(codes)[0], oracle, atol=1e-10)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_a_batch_gives_every_clip_what_it_gets_alone(family):
    lm = token_lm(family)
    codes = random_codes(1, 30, 7, 7, 19)
    alone = [lm.token_log_likelihoods([clip])[0] for clip in codes]
    for batch_tokens in (4096, 40, 1):
        lm.batch_tokens = batch_tokens
        together = lm.token_log_likelihoods(codes)
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(alone, together, strict=True))
    assert isinstance(lm, TokenScorer)


def test_the_softmax_over_codes_sums_to_one():
    lm = token_lm()
    total = sum(float(lm.token_log_likelihoods([torch.tensor([3, code])])[0][1].exp()) for code in range(lm.num_codes))
    assert total == pytest.approx(1, abs=1e-5)
    full = token_lm(normalise="full").token_log_likelihoods([torch.tensor([3, 4])])[0]
    assert float(full.sum()) < float(lm.token_log_likelihoods([torch.tensor([3, 4])])[0].sum())


def test_a_clip_longer_than_the_model_reads():
    lm = token_lm("gpt2", long_clips="refuse")
    assert lm.max_codes == 127
    codes = random_codes(127, 300)
    lm.token_log_likelihoods(codes[:1])
    with pytest.raises(ValueError, match="clip 1: 300 tokens, but this language model was trained on 127"):
        lm.token_log_likelihoods(codes)
    lm.long_clips = "window"
    scores = lm.token_log_likelihoods(codes)[1]
    assert len(scores) == 300 and bool((scores < 0).all())
    first = lm.token_log_likelihoods([codes[1][:127]])[0]
    assert torch.allclose(scores[:127], first, atol=1e-5)
    window = lm.token_log_likelihoods([codes[1][63:190]])[0]
    assert torch.allclose(scores[127:190], window[64:], atol=1e-5)


def test_positions_that_training_never_showed_are_not_scored():
    lm = token_lm("gpt2")
    lm.card = replace(lm.card, max_tokens=64)
    assert (lm.max_positions, lm.context, lm.max_codes) == (128, 64, 63)
    (codes,) = random_codes(100)
    scores = lm.token_log_likelihoods([codes])[0]
    assert torch.allclose(scores[:63], lm.token_log_likelihoods([codes[:63]])[0], atol=1e-5)
    window = lm.token_log_likelihoods([codes[31:94]])[0]
    assert torch.allclose(scores[63:94], window[32:], atol=1e-5), "as if the clip began half a context earlier"


def test_bad_codes():
    lm = token_lm()
    with pytest.raises(ValueError, match="tokens of another codec"):
        lm.token_log_likelihoods([torch.tensor([3, 40])])
    with pytest.raises(ValueError, match="expected a row of codes"):
        lm.token_log_likelihoods([torch.zeros(0, dtype=torch.int64)])


def test_saved_and_loaded(tmp_path):
    lm, codes = token_lm("qwen3"), random_codes(9)
    lm.model.save_pretrained(tmp_path / "lm")
    lm.tokenizer.save_pretrained(tmp_path / "lm")
    lm.card.save(tmp_path / "lm")
    for place in ("lm", ""):  # the run folder will do
        loaded = load_token_lm(str(tmp_path / place))
        assert torch.equal(loaded.token_log_likelihoods(codes)[0], lm.token_log_likelihoods(codes)[0])
        assert loaded.card == lm.card and loaded.card.codec == CODEC
    (tmp_path / "lm" / "token_lm.json").write_text("{")
    with pytest.raises(ValueError, match="damaged"):
        load_token_lm(str(tmp_path / "lm"))


def test_a_card_of_a_newer_version_is_read(tmp_path):
    TokenLMCard(codec=replace(CODEC, codec="mine")).save(tmp_path)
    facts = json.loads((tmp_path / "token_lm.json").read_text())
    (tmp_path / "token_lm.json").write_text(json.dumps(facts | {"new": 1}))
    assert TokenLMCard.load(tmp_path).codec == replace(CODEC, codec="mine")
    assert TokenLMCard.load(tmp_path / "none") == TokenLMCard()


def test_what_is_no_token_lm(tmp_path):
    with pytest.raises(ValueError, match="no such folder"):
        load_token_lm(str(tmp_path / "none"))
    with pytest.raises(ValueError, match="no language model in this folder"):
        load_token_lm(str(tmp_path))
    from llmcodec.lm.audio_tokens import byte_tokenizer

    byte_tokenizer().save_pretrained(tmp_path)
    token_lm().model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="no codec tokens"):
        load_token_lm(str(tmp_path))


def saved(folder, **settings):
    """A token LM's folder with these settings in its config.json."""
    lm = token_lm()
    lm.model.save_pretrained(folder)
    lm.tokenizer.save_pretrained(folder)
    lm.card.save(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))
    return folder


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"num_hidden_layers": 10**6}, r"num_hidden_layers is 1000000, but there are only \d+ tensors in the weights"),
        ({"num_hidden_layers": 10**30}, "contains the number"),
        ({"intermediate_size": 10**12}, "contains the number 1000000000000, more than the"),
        ({"intermediate_size": 10**6}, r"describes a model of \d+ weights, the file has \d+"),
        ({"vocab_size": 10**6}, r"describes a model of \d+ weights"),
        ({"transformers_weights": "other.safetensors"}, "transformers_weights names other weights"),
        ({"attn_implementation": "somebody/kernel"}, "is code from a hub, never run"),
    ],
)
@pytest.mark.parametrize("how", ["token LM", "backbone", "base"])
def test_a_configuration_that_the_weights_do_not_bear_takes_no_memory(tmp_path, settings, said, how):
    folder = saved(tmp_path, **settings)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=said) as failure:
        if how == "token LM":
            load_token_lm(str(folder))
        elif how == "backbone":
            FrozenCausalLM.from_pretrained(str(folder))
        else:
            prepare_model(LMModelConfig(base=str(folder)), 40, True)
    assert "\n" not in str(failure.value) and "config.json" in str(failure.value)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KB


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "token_lm.json", "generation_config.json"])
def test_json_that_is_nested_without_end(tmp_path, name):
    (saved(tmp_path) / name).write_text('{"a": ' + "[" * 100_000)
    with pytest.raises(ValueError, match=f"{name}.*nested too deeply") as failure:
        load_token_lm(str(tmp_path))
    assert "\n" not in str(failure.value)


def test_the_base_that_a_card_names_is_never_fetched(tmp_path, monkeypatch):
    """`runs/base` was a folder when the adapter was trained; on the hub it could be anybody's."""
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_request)
    folder = saved(tmp_path / "lm")
    monkeypatch.setattr("llmcodec.lm.token_lm.check_adapter", lambda folder: None)
    (folder / AUDIO_ROWS).touch()
    for base in ("runs/base", "/gone/base", ""):
        TokenLMCard(base=base).save(folder)
        with pytest.raises(ValueError, match=f"token_lm.json: names the language model '{base}', .*never fetched"):
            load_token_lm(str(folder))


def no_request(name, **options):
    assert options.get("local_files_only"), f"{name} was looked for on the hub"
    raise OSError("not in the cache")


def test_a_folder_that_is_gone_is_never_fetched(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_request)
    (tmp_path / "runs").mkdir()
    loaders = (load_token_lm, FrozenCausalLM.from_pretrained, resolve_lm, load_codec, load_transcriber)
    for load in loaders:
        with pytest.raises(ValueError, match="runs/gone: no such folder. runs/ is here, so this is not looked up"):
            load("runs/gone")
