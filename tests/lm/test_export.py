"""Hand-over: a folder that transformers alone loads, with the likelihoods it had before."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from llmcodec.io.token_text import parse_codec_text
from llmcodec.lm.export import check_layout, export_token_lm
from llmcodec.lm.prepare import prepare_model
from llmcodec.lm.recipe import LMModelConfig
from llmcodec.lm.token_lm import TokenLMCard, load_token_lm

from .small_token_lm import CODEC, NUM_CODES, causal, random_codes, token_lm

RELOAD = """
import sys
class Without:
    # A finder that knows neither us nor peft, as on a machine where they were never installed.
    def __init__(self, finder):
        self.finder = finder
    def find_spec(self, name, path=None, target=None):
        return None if name.split(".")[0] in ("llmcodec", "peft") else self.finder.find_spec(name, path, target)
    def __getattr__(self, name):
        return getattr(self.finder, name)
sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
import json, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, codes = sys.argv[1], json.loads(sys.argv[2])
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
text = "<CODEC_BEGIN>" + "".join(f"<CODEC_{code}>" for code in codes)
ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
first, last = (tokenizer.convert_tokens_to_ids(f"<CODEC_{i}>") for i in (0, 39))
with torch.no_grad():
    logits = model(ids).logits[0, :-1, first : last + 1]
scores = logits.log_softmax(-1).gather(1, ids[0, 1:, None] - first)[:, 0]
drawn = model.generate(ids, max_new_tokens=8, do_sample=False)
print(json.dumps({"scores": scores.tolist(), "text": tokenizer.decode(drawn[0], skip_special_tokens=True),
                  "ours": "llmcodec" in sys.modules}))
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """A LoRA run's folder with weights that matter."""
    from llmcodec.lm.audio_tokens import byte_tokenizer

    folder = tmp_path_factory.mktemp("lora")
    causal("qwen3").save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    prepared = prepare_model(LMModelConfig(base=str(folder / "base"), train="lora", lora_rank=4), NUM_CODES, True)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in prepared.module.trainable_state().values():
            value.add_(0.2 * torch.randn(value.shape, generator=generator))
    return prepared.save(folder / "lm", TokenLMCard(codec=CODEC, formats=["audio"], base=str(folder / "base")))


def test_export_loads_without_us_and_scores_the_same(adapter, tmp_path):
    folder = export_token_lm(str(adapter), str(tmp_path / "out"), dtype="fp32")
    codes = random_codes(9)[0]
    expected = load_token_lm(str(adapter)).token_log_likelihoods([codes])[0]
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(folder), json.dumps(codes.tolist())],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert torch.allclose(torch.tensor(found["scores"]), expected, atol=1e-4) and not found["ours"]
    assert float(expected.std()) > 0.05
    assert parse_codec_text(found["text"], NUM_CODES)[0][: len(codes)] == codes.tolist()
    again = load_token_lm(str(folder))
    assert torch.allclose(again.token_log_likelihoods([codes])[0], expected, atol=1e-4) and again.card.codec == CODEC
    readme = (folder / "README.md").read_text()
    assert "llmcodec decode --codec toy --text" in readme and "AutoModelForCausalLM" in readme
    with pytest.raises(ValueError, match="exists already"):
        export_token_lm(str(adapter), str(folder))


def test_untied_rows_are_both_written(tmp_path):
    lm = token_lm("qwen3_untied")
    lm.model.save_pretrained(tmp_path / "lm")
    lm.tokenizer.save_pretrained(tmp_path / "lm")
    lm.card.save(tmp_path / "lm")
    folder = export_token_lm(str(tmp_path / "lm"), str(tmp_path / "out"), dtype="fp32")
    assert not check_layout(folder)["tied"]
    codes = random_codes(7)
    assert torch.equal(load_token_lm(str(folder)).token_log_likelihoods(codes)[0], lm.token_log_likelihoods(codes)[0])


def test_layout(adapter, tmp_path):
    folder = export_token_lm(str(adapter), str(tmp_path / "out"))
    facts = check_layout(folder)
    assert facts["architecture"] == "Qwen3ForCausalLM" and facts["tied"] and facts["vocab_size"] == 300
    config = json.loads((folder / "config.json").read_text())
    assert config["dtype"] == "bfloat16" and config["use_cache"]
    for change, line in (
        ({"vocab_size": 299}, "vocab_size 299 is not that of the rows"),
        ({"tie_word_embeddings": False}, "tie_word_embeddings is False"),
        ({"auto_map": {}}, "needs custom code"),
        ({"architectures": []}, "names no architecture"),
    ):
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(ValueError, match=line):
            check_layout(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 257}))
    with pytest.raises(ValueError, match="does not stop at end of audio"):
        check_layout(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"tokenizer\.json is missing"):
        check_layout(folder)
