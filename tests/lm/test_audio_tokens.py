"""Audio tokens in tokenizers: added, recognised, refused."""

from __future__ import annotations

import pytest
import torch

from llmcodec.io.token_text import codes_to_text, parse_codec_text
from llmcodec.lm.audio_tokens import add_audio_tokens, byte_tokenizer, find_audio_tokens


def test_codes_become_ids_and_back():
    tokenizer = byte_tokenizer()
    tokens = add_audio_tokens(tokenizer, 40)
    codes = torch.tensor([0, 39, 7])
    assert tokenizer.convert_ids_to_tokens(tokens.ids(codes).tolist()) == ["<CODEC_0>", "<CODEC_39>", "<CODEC_7>"]
    mixed = torch.cat([torch.tensor([5, tokens.begin]), tokens.ids(codes), torch.tensor([tokens.end])])
    assert tokens.codes(mixed).tolist() == codes.tolist()
    assert sorted(tokens.all_ids.tolist()) == list(range(258, 300)) and tokens.output_ids[0] == tokens.end


def test_text_of_a_server_decodes():
    tokenizer = byte_tokenizer()
    tokens = add_audio_tokens(tokenizer, 40)
    ids = [tokens.begin, *tokens.ids(torch.tensor([3, 4, 0])).tolist(), tokens.end]
    for skip in (True, False):  # servers skip special tokens unless told otherwise: the codes must not be special
        assert parse_codec_text(tokenizer.decode(ids, skip_special_tokens=skip), 40) == [[3, 4, 0]]
    assert tokenizer(codes_to_text([3, 4], markers=True))["input_ids"] == [258, 263, 264, 259]


def test_a_tokenizer_that_has_the_tokens_stays_as_it_is(tmp_path):
    tokenizer = byte_tokenizer()
    assert find_audio_tokens(tokenizer) is None
    first = add_audio_tokens(tokenizer, 40)
    size = len(tokenizer)
    assert add_audio_tokens(tokenizer, 40) == first and len(tokenizer) == size
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    assert find_audio_tokens(AutoTokenizer.from_pretrained(tmp_path)) == first


@pytest.mark.parametrize("other", [39, 41])
def test_a_tokenizer_with_the_tokens_of_another_codec(other):
    tokenizer = byte_tokenizer()
    add_audio_tokens(tokenizer, 40)
    with pytest.raises(ValueError, match=f"not the {other} of this codec"):
        add_audio_tokens(tokenizer, other)


def test_codec_tokens_of_others_without_markers_are_recognised():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens([f"<CODEC_{code}>" for code in range(40)])
    with pytest.raises(ValueError, match="no <CODEC_BEGIN>"):
        find_audio_tokens(tokenizer)
    tokens = add_audio_tokens(tokenizer, 40)
    assert tokens.first == 258 and tokens.begin == 298


def test_tokens_that_are_not_consecutive():
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<CODEC_0>", "other", "<CODEC_1>"])
    with pytest.raises(ValueError, match="not consecutive"):
        add_audio_tokens(tokenizer, 2)


def test_codes_of_another_codec():
    tokens = add_audio_tokens(byte_tokenizer(), 40)
    for wrong in (torch.tensor([3, 40]), torch.tensor([-1])):
        with pytest.raises(ValueError, match="tokens of another codec"):
            tokens.ids(wrong)
    with pytest.raises(ValueError, match="one row"):
        tokens.ids(torch.zeros(1, 3))


def test_bytes_carry_any_text():
    tokenizer = byte_tokenizer()
    for text in ("grüße, 42!", "Привет  мир", " <CODEC_x> \n"):
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text.encode()) and tokenizer.decode(ids) == text
