"""What a language model reads: the formats, their targets, and what is left out by name."""

from __future__ import annotations

import pytest
import torch

from llmcodec.lm.audio_tokens import add_audio_tokens, byte_tokenizer
from llmcodec.lm.sequences import EMPTY_TEXT, NO_SPEAKER, NO_VOICE, TOO_LONG, SequenceBuilder

from .small_token_lm import NUM_CODES, Row, rows


def builder(max_tokens=64, **options):
    tokenizer = byte_tokenizer()
    return SequenceBuilder(tokenizer, add_audio_tokens(tokenizer, NUM_CODES), max_tokens, **options)


def spelled(build, sequence):
    """Tokens as text, those that are targets in brackets."""
    names = build.tokenizer.convert_ids_to_tokens(sequence.ids.tolist())
    pairs = zip(names, sequence.is_target.tolist(), strict=True)
    short = [(name.replace("CODEC_", ""), target) for name, target in pairs]
    return " ".join(f"[{name}]" if target else name for name, target in short)


ROW = Row("a", torch.tensor([3, 0]), "hi", "bob", "en")


@pytest.mark.parametrize(
    ("name", "everywhere", "expected"),
    [
        ("audio", False, "<BEGIN> [<3>] [<0>] [<END>]"),
        ("tts", False, "h i <BEGIN> [<3>] [<0>] [<END>]"),
        ("tts", True, "h [i] [<BEGIN>] [<3>] [<0>] [<END>]"),
        ("asr", False, "<BEGIN> <3> <0> <END> [h] [i] [<END_OF_TEXT>]"),
        ("asr", True, "<BEGIN> [<3>] [<0>] [<END>] [h] [i] [<END_OF_TEXT>]"),
    ],
)
def test_formats(name, everywhere, expected):
    build = builder(everywhere=everywhere)
    assert spelled(build, build.build([ROW], [name]).sequences[0]) == expected


def test_text_and_voice_in_turn():
    build = builder(text_template="{speaker}: {text}.", turns=(3, 2))
    clip = Row("a", torch.tensor([3, 0, 7, 7, 1]), "hello", "al")
    spoken = "a l : <s> h e l <BEGIN> [<3>] [<0>] l o . [<7>] [<7>] [<1>] [<END>]".replace("<s>", "Ġ")
    assert spelled(build, build.build([clip], ["tts_stream"]).sequences[0]).replace("<SPACE>", "Ġ") == spoken
    fast = Row("b", torch.tensor([3]), "hello", "al")  # the voice ends before the text
    built = build.build([fast, Row("c", torch.tensor([1]), " ")], ["tts_stream"])
    assert spelled(build, built.sequences[0]).endswith("h e l <BEGIN> [<3>] [<END>]")
    assert "1 x empty transcript" in built.report() and "1 x text cut" in built.report()
    longer = builder(max_tokens=8).build([clip, Row("d", torch.tensor([1]), "x")], ["tts_stream"])
    assert longer.left_out[TOO_LONG] == 1 and longer.sequences[0].id == "d"


def test_unit_after_unit_with_its_audio():
    build = builder(text_template="{speaker}: {text}", units_ahead=1, frame_rate=10.0)
    codes = torch.tensor([3, 0, 7, 7, 1, 2])
    clip = Row("a", codes, "<|0.00|> _ <|0.21|> i: <|0.28|> x <|0.40|> _", "al")
    spoken = (
        "a l : <s> _ <s> i : <BEGIN> [<3>] [<0>] [<END>] i : <s> x [<7>] [<END>] "
        "x <s> _ [<7>] [<END>] _ [<1>] [<2>] [<END>]"
    ).replace("<s>", "Ġ")
    built = build.build([clip], ["tts_aligned"])
    assert spelled(build, built.sequences[0]).replace("<SPACE>", "Ġ") == spoken and built.unit_codes == [2, 1, 1, 2]
    # An end mark, times beyond the clip and a late start: every code is spoken, outer ones by the outer units.
    odd = Row("b", codes, "<|0.10|> u <|0.30|> v <|9.00|>", "al")
    spoken = "a l : Ġ u Ġ v <BEGIN> [<3>] [<0>] [<7>] [<END>] v [<7>] [<1>] [<2>] [<END>]"
    assert spelled(build, build.build([odd], ["tts_aligned"]).sequences[0]).replace("<SPACE>", "Ġ") == spoken
    two = builder(units_ahead=0, frame_rate=10.0, num_codebooks=2)  # whole frames of two codes
    pair = Row("c", codes, "<|0.00|> u <|0.10|> v")
    assert spelled(two, two.build([pair], ["tts_aligned"]).sequences[0]) == (
        "u <BEGIN> [<3>] [<0>] [<END>] v [<7>] [<7>] [<1>] [<2>] [<END>]"
    )


def test_unit_after_unit_refuses():
    build = builder(max_tokens=16)
    with pytest.raises(ValueError, match="clip a: transcript 'hi': expected seconds before every unit"):
        build.build([ROW], ["tts_aligned"])
    rows = [
        Row("b", torch.tensor([1]), " "),
        Row("c", torch.zeros(20).long(), "<|0|> u"),
        Row("d", torch.tensor([1]), "<|0|> u"),
    ]
    built = build.build(rows, ["tts_aligned"])
    assert [one.id for one in built.sequences] == ["d"] and built.left_out == {EMPTY_TEXT: 1, TOO_LONG: 1}
    assert build.build([rows[2], Row("e", torch.tensor([1]), "<|0.0|> <|0.5|>")], ["tts_aligned"]).left_out == {
        EMPTY_TEXT: 1
    }


def test_other_formats_read_timed_texts_without_the_times():
    build = builder()
    timed = Row("a", torch.tensor([3]), "<|0.00|> h <|0.02|> i <|0.10|>")
    assert spelled(build, build.build([timed], ["tts"]).sequences[0]) == "h Ġ i <BEGIN> [<3>] [<END>]"


@pytest.mark.parametrize("name", ["tts", "tts_stream", "tts_aligned", "asr"])
def test_a_text_of_nothing_but_times_is_empty(name):
    build = builder(text_template="{language}: {text}")
    timed = Row("b", torch.tensor([1]), "<|0|> u")
    built = build.build([timed, Row("a", torch.tensor([3]), "<|0.00|> <|0.10|>")], [name])
    assert [one.id for one in built.sequences] == ["b"] and built.left_out == {EMPTY_TEXT: 1}


def test_template():
    build = builder(text_template="{language}/{speaker}:{text}")
    assert spelled(build, build.build([ROW], ["tts"]).sequences[0]).startswith("e n / b o b : h i <BEGIN> [<3>]")


def test_interleaved_alternates_clips_of_one_speaker():
    build = builder(max_tokens=200, clips_per_sequence=3)
    clips = [Row(f"{who}{i}", torch.tensor([i]), f"t{i}", who) for i in range(7) for who in ("x", "y")]
    built = build.build(clips, ["interleaved"])
    assert [one.id for one in built.sequences] == ["x0+x1+x2", "x3+x4+x5", "x6", "y0+y1+y2", "y3+y4+y5", "y6"]
    text = " ".join(spelled(build, one) for one in built.sequences)
    assert "[<END_OF_TEXT>]" in text and "[<END>]" in text  # both ways occur
    assert all(bool(one.is_target[1:].all()) and not one.is_target[0] for one in built.sequences)
    assert [one.ids.tolist() for one in build.build(clips, ["interleaved"]).sequences] == [
        one.ids.tolist() for one in built.sequences
    ]


def test_interleaved_joins_neither_strangers_nor_views_of_one_clip():
    build = builder(max_tokens=200, clips_per_sequence=3)
    views = [Row(f"{clip}{view}", torch.tensor([1]), "", "x") for clip in "ab" for view in ("", "#80", "#160")]
    strangers = [Row(name, torch.tensor([1]), "", "") for name in ("s", "t")]
    built = build.build([*views, *strangers], ["interleaved"])
    assert [one.id for one in built.sequences] == ["a+b", "a#80+b#80", "a#160+b#160"]
    assert built.left_out == {NO_SPEAKER: 2}


def test_long_audio_is_cut_and_nothing_of_it_is_lost():
    build = builder(max_tokens=5)
    built = build.build([Row("a", torch.arange(10))], ["audio"])
    codes = torch.cat([build.tokens.codes(one.ids) for one in built.sequences])
    assert codes.tolist() == list(range(10)) and all(len(one) <= 5 for one in built.sequences)
    assert built.sequences[-1].ids[-1] == build.tokens.end and built.report() == "1 x clips cut into pieces of 4 tokens"
    exactly = build.build([Row("a", torch.arange(4))], ["audio"]).sequences  # a lone end token is no sequence
    assert [len(one) for one in exactly] == [5]


def test_what_is_left_out_is_counted():
    clips = [ROW, Row("e", torch.tensor([1]), "  "), Row("l", torch.arange(40), "long"), Row("n", torch.tensor([1]))]
    built = builder(max_tokens=12).build(clips, ["tts"])
    assert len(built.sequences) == 1 and built.left_out == {EMPTY_TEXT: 2, TOO_LONG: 1}
    with pytest.raises(ValueError, match="no sequence for asr from 1 clips: 1 x empty transcript"):
        builder().build([Row("e", torch.tensor([1]))], ["asr"])


def test_bad_input():
    with pytest.raises(ValueError, match="clip a: codes from 3 to 40, .* tokens of another codec"):
        builder().build([Row("a", torch.tensor([3, 40]))], ["audio"])
    with pytest.raises(ValueError, match="choose from audio, tts"):
        builder().build(rows(2), ["sing"])


def test_a_text_is_spoken_behind_other_speech_of_its_speaker():
    """Of the speaker's other clips, also put together, never of the clip or a view of it; too little is named."""
    clips = [
        Row("a", torch.tensor([3, 0]), "hi", "bob", "en"),
        Row("a#80", torch.tensor([9, 9, 9]), "hi", "bob", "en"),
        Row("b", torch.tensor([5, 6]), "ho", "bob", "en"),
        Row("c", torch.tensor([7, 8]), "hu", "bob", "en"),
        Row("d", torch.tensor([1, 1, 1]), "x", "eve", "en"),
    ]
    build = builder(voice_codes=3)
    built = build.build(clips, ["tts"])
    found = {one.id: spelled(build, one) for one in built.sequences}
    assert found["a"] in {f"<BEGIN> {v} <END> h i <BEGIN> [<3>] [<0>] [<END>]" for v in ("<5> <6> <7>", "<7> <8> <5>")}
    assert set(found) == {"a", "a#80", "b", "c"} and "<9>" not in found["a"]
    assert built.left_out == {NO_VOICE: 1}
    again = {one.id: spelled(build, one) for one in build.build(clips, ["tts"]).sequences}
    assert again == found
    heard = build.build(clips, ["asr"]).sequences[0]
    assert spelled(build, heard).startswith("<BEGIN> <3> <0> <END> [h]")  # nothing is spoken there
    timed = [Row(n, torch.arange(4), "<|0.0|> u <|0.04|> v <|0.08|>", "bob", "en") for n in "ab"]
    aligned = builder(voice_codes=2, units_ahead=0).build(timed, ["tts_aligned"]).sequences[0]
    assert spelled(build, aligned) == "<BEGIN> <0> <1> <END> u <BEGIN> [<0>] [<1>] [<END>] v [<2>] [<3>] [<END>]"
