"""lm/speech.py: an LM finds its own codec, and no other."""

from __future__ import annotations

import dataclasses

import huggingface_hub
import numpy as np
import pytest
import soundfile
import torch

from llmcodec.lm.sampling import text_prompt
from llmcodec.lm.speech import codec_of, own_codec, requests_for
from llmcodec.runtime.torch_runtime import identity_of

from ..miniature import miniature_codec
from .small_token_lm import token_lm


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    def no_request(name, **options):
        assert options.get("local_files_only"), f"{name} was looked for on the hub"
        raise OSError("not in the cache")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", no_request)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", no_request)


def speaks(codec, path, name="rate/codec"):
    """A token LM whose card names this codec."""
    identity = identity_of(codec, name)
    lm = token_lm(codec=identity)
    lm.card = dataclasses.replace(lm.card, codec_path=str(path))
    return lm


def test_its_own_codec_is_opened_where_it_was(tmp_path):
    codec = miniature_codec()
    codec.save_pretrained(tmp_path / "rate" / "codec")
    lm = speaks(codec, tmp_path / "rate" / "codec")
    assert own_codec(lm) == str(tmp_path / "rate" / "codec")
    assert codec_of(lm).identity.weights_sha256 == lm.card.codec.weights_sha256


def test_another_codec_in_its_place_is_refused(tmp_path):
    lm = speaks(miniature_codec(), tmp_path)
    other = miniature_codec()
    with torch.no_grad():
        other.quantizer.codebook[0, 0] += 1
    other.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="but this LM speaks the tokens of 'rate/codec'"):
        codec_of(lm)


def test_a_codec_that_is_gone_is_said_and_never_fetched(tmp_path):
    lm = speaks(miniature_codec(), tmp_path / "gone")
    with pytest.raises(
        ValueError, match=f"'rate/codec'.*not on this machine.*--codec .it was in {tmp_path}/gone"
    ) as said:
        codec_of(lm)
    assert "\n" not in str(said.value)


@pytest.mark.parametrize(
    "name", ["owner/name", "owner/name:16", "search:owner/name", "search@0.2:a/b", "auv:a/b", "/gone"]
)
def test_no_name_in_a_card_becomes_a_request(name):
    with pytest.raises(ValueError, match="never fetched from the hub"):
        own_codec(speaks(miniature_codec(), "", name))


def test_names_that_need_no_hub(tmp_path, monkeypatch):
    for name in ("bundled", "search:bundled", "random:dac_16khz"):
        assert own_codec(speaks(miniature_codec(), "", name)) == name
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, local_files_only: str(tmp_path / name))
    assert own_codec(speaks(miniature_codec(), "", "owner/name:16")) == f"{tmp_path}/owner/name:16"
    lm = token_lm()
    lm.card = dataclasses.replace(lm.card, codec=None)
    with pytest.raises(ValueError, match="does not say which codec it speaks: name it with --codec"):
        own_codec(lm)


def test_what_a_request_would_not_read_is_refused(tmp_path):
    codec = miniature_codec()
    codec.save_pretrained(tmp_path)
    lm, wav = speaks(codec, tmp_path), tmp_path / "one.wav"
    runtime = codec_of(lm)
    soundfile.write(wav, np.sin(np.arange(16000) / 9), 16000)
    named = dataclasses.replace(lm.card, text_template="{speaker}|{language}: {text}")
    heard, said = [str(wav)], ["hi"]
    for card, prompts, texts, options, line in (
        (lm.card, [], said, {"speaker": "al"}, "sampling: this LM reads no speaker; leave 'al' out"),
        (lm.card, heard, [], {"language": "de"}, "sampling: this LM reads no language; leave 'de' out"),
        (named, heard, [], {"speaker": "al"}, "sampling: a speaker is read before a text; give one"),
        (named, [], said, {"speaker": "al", "language": "de", "prompt_seconds": 1}, "prompt_seconds 1 are of an audio"),
    ):
        lm.card = card
        with pytest.raises(ValueError, match=line):
            requests_for(lm, runtime, prompts, texts, **options)
    lm.card = named
    made = requests_for(lm, runtime, heard, said, prompt_seconds=0.5, speaker="al", language="de")
    assert [one.name for one in made] == ["one", "text0"] and len(made[0].codes) == 25
    assert torch.equal(made[1].prompt, text_prompt(lm, "hi", "al", "de"))
