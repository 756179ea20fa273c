"""io/lm_card.py: a card is read back as it was written, and a hostile one is a line."""

from __future__ import annotations

import dataclasses
import json
import resource

import pytest

from llmcodec.io.lm_card import CARD, TokenLMCard, check_template, remember_codec, remembered_codec
from llmcodec.io.token_file import TokenProvenance

CODEC = TokenProvenance("toy", "0" * 64, 16000, 320, 1, 40)
FULL = TokenLMCard(
    codec=CODEC,
    codec_path="/codecs/toy",
    formats=["audio", "tts"],
    loss="somewhere",
    base="smollm2",
    seed=2**40,
    max_tokens=1024,
    text_template="{speaker} ({language}): {text}",
    turns=(7, 20),
    units_ahead=2,
    longest_unit=12,
    units=["a", "b"],
)


def test_written_and_read(tmp_path):
    for card in (FULL, TokenLMCard()):
        card.save(tmp_path)
        assert TokenLMCard.load(tmp_path) == card
    assert TokenLMCard.load(tmp_path / "nowhere") == TokenLMCard()
    facts = dataclasses.asdict(FULL) | {"new": 1}
    del facts["codec_path"]  # as version 0.1 wrote it
    (tmp_path / CARD).write_text(json.dumps(facts))
    assert TokenLMCard.load(tmp_path) == dataclasses.replace(FULL, codec_path="")


def test_a_codec_is_found_where_it_was_and_when_the_tree_has_moved(tmp_path):
    codec, lm = tmp_path / "here" / "codec", tmp_path / "here" / "runs" / "lm"
    codec.mkdir(parents=True), lm.mkdir(parents=True)
    TokenLMCard(codec=CODEC, codec_path=str(codec)).save(lm)
    assert TokenLMCard.load(lm).codec_path == str(codec)
    assert json.loads((lm / CARD).read_text())["codec_relative_path"] == "../../codec"
    (tmp_path / "here").rename(tmp_path / "there")
    moved = tmp_path / "there"
    assert TokenLMCard.load(moved / "runs" / "lm").codec_path == str(moved / "codec")
    (moved / "codec").rename(tmp_path / "elsewhere")
    assert TokenLMCard.load(moved / "runs" / "lm").codec_path == str(codec), "for the message"
    codec.mkdir(parents=True)
    assert TokenLMCard.load(moved / "runs" / "lm").codec_path == str(codec), "the LM alone has moved"


def test_a_folder_of_tokens_remembers_its_codec(tmp_path):
    (tmp_path / "codec").mkdir()
    (tmp_path / "tokens" / "train").mkdir(parents=True)
    remember_codec(tmp_path / "tokens", "bundled")
    assert remembered_codec(tmp_path / "tokens") == "" and not list(tmp_path.rglob("*.json"))
    remember_codec(tmp_path / "tokens", str(tmp_path / "codec"))
    for place in ("tokens", "tokens/train"):
        assert remembered_codec(tmp_path / place) == str(tmp_path / "codec")
    (tmp_path / "tokens" / "codec.json").write_text('{"codec_path": [1]}')
    with pytest.raises(ValueError, match="codec.json: damaged: codec_path must be a text"):
        remembered_codec(tmp_path / "tokens")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"text_template": "{text:>4000000000}"}, r"{text}, {speaker}, {language} as they stand, not {text:..."),
        ({"text_template": "{text.__class__.__mro__}"}, r"not {text.__class__.__mro__..."),
        ({"text_template": "{text[0]}"}, r"not {text\[0\]..."),
        ({"text_template": "{text!r}"}, r"not {text!..."),
        ({"text_template": "{text} {text:{speaker}}"}, r"not {text:..."),
        ({"text_template": "{text} {0}"}, r"not {0..."),
        ({"text_template": "{text} {"}, "as they stand, not"),
        ({"text_template": "words"}, "must contain {text}, got 'words'"),
        ({"text_template": "{text}" * 1000}, "text_template cannot be"),
        ({"text_template": 3}, "text_template cannot be 3"),
        ({"base": ["a"]}, r"base cannot be \['a'\]"),
        ({"base": "a" * 10**6}, "base cannot be"),
        ({"base": "a\0b"}, "base cannot be"),
        ({"seed": 10**400}, "seed cannot be 1000"),
        ({"seed": True}, "seed cannot be True"),
        ({"max_tokens": -1}, "max_tokens cannot be -1"),
        ({"turns": [0, 4]}, r"turns cannot be \[0, 4\]"),
        ({"turns": [1, 10**12]}, "turns cannot be"),
        ({"units_ahead": 1.5}, "units_ahead cannot be 1.5"),
        ({"longest_unit": "many"}, "longest_unit cannot be 'many'"),
        ({"formats": "audio"}, "formats cannot be 'audio'"),
        ({"units": [1]}, r"units cannot be \[1\]"),
        ({"codec": {"codec": "toy"}}, "codec cannot be"),
        ({"codec": dataclasses.asdict(CODEC) | {"codebook_size": 10**30}}, "codec cannot be"),
        ({"codec": dataclasses.asdict(CODEC) | {"weights_sha256": "short"}}, "codec cannot be"),
        ({"codec": dataclasses.asdict(CODEC) | {"more": 1}}, "codec cannot be"),
    ],
)
def test_a_hostile_field_is_one_line(tmp_path, changes, said):
    (tmp_path / CARD).write_text(json.dumps(dataclasses.asdict(FULL) | changes))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=said) as failure:
        TokenLMCard.load(tmp_path)
    assert "\n" not in str(failure.value) and CARD in str(failure.value) and len(str(failure.value)) < 400
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000


@pytest.mark.parametrize(("text", "said"), [("{", "damaged"), ("[]", "damaged"), ('{"a":' + "[" * 10**5, "too deeply")])
def test_a_file_that_is_no_card(tmp_path, text, said):
    (tmp_path / CARD).write_text(text)
    with pytest.raises(ValueError, match=said):
        TokenLMCard.load(tmp_path)


def test_templates_that_are_in_use():
    for template in ("{text}", "<s>{speaker}</s> {text}", "Say in {language}: {text}\n"):
        check_template(template, "here")
