"""Aligned phones: every format gives the same phones; what does not fit its clip is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcodec.data.alignments import Phone, read_alignments
from llmcodec.data.clip import Clip

CLIP = Clip("sub/one", "one.wav", 0.8, speaker="s")
PHONES = [Phone("pau", 0.0, 0.25), Phone("k", 0.25, 0.4), Phone('a"', 0.4, 0.75)]
TEXT_GRID = """File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 0.8
tiers? <exists>
size = 3
item []:
    item [1]:
        class = "IntervalTier"
        name = "words"
        xmin = 0
        xmax = 0.8
        intervals: size = 1
        intervals [1]:
            xmin = 0
            xmax = 0.8
            text = "ka 12"
    item [2]:
        class = "TextTier"
        name = "notes"
        xmin = 0
        xmax = 0.8
        points: size = 1
        points [1]:
            number = 0.1
            mark = "click"
    item [3]:
        class = "IntervalTier"
        name = "phones"
        xmin = 0
        xmax = 0.8
        intervals: size = 4
        intervals [1]:
            xmin = 0
            xmax = 0.25
            text = "pau"
        intervals [2]:
            xmin = 0.25
            xmax = 0.4
            text = "k"
        intervals [3]:
            xmin = 0.4
            xmax = 0.75
            text = "a\"\""
        intervals [4]:
            xmin = 0.75
            xmax = 0.8
            text = ""
"""
SHORT = "\n".join(
    ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "0", "0.8", "<exists>", "1", '"IntervalTier"']
    + ['"phones"', "0", "0.8", "3", "0", "0.25", '"pau"', "0.25", "0.4", '"k"', "0.4", "0.75", '"a"""', ""]
)
FESTIVAL = 'separator ;\nnfields 1\n#\n 0.25 125 pau\n 0.4 125 k\n 0.75 125 a"\n'
HTK = '0 2500000 pau\n2500000 4000000 k\n4000000 7500000 a"\n'


@pytest.mark.parametrize(
    ("name", "text"),
    [("one.TextGrid", TEXT_GRID), ("sub/one.TextGrid", SHORT), ("deep/er/one.lab", FESTIVAL), ("sub/one.lab", HTK)],
)
def test_every_format_gives_the_same_phones(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text(text)
    assert read_alignments(str(tmp_path), [CLIP, Clip("other", "o.wav", 1.0)]) == {"sub/one": PHONES}


def test_a_ctm_and_timed_texts(tmp_path: Path) -> None:
    ctm = tmp_path / "all.ctm"
    ctm.write_text(";; comment\nsub/one 1 0.0 0.25 pau\nsub/one 1 0.25 0.125 k 0.9\nother 1 0 1 x\n")
    assert read_alignments(str(ctm), [CLIP]) == {"sub/one": [PHONES[0], Phone("k", 0.25, 0.375)]}
    timed = [Clip("a", "a.wav", 0.8, '<|0.00|> pau <|0.25|> k <|0.40|> a" <|0.75|>'), Clip("b", "b.wav", 1, "plain")]
    timed.append(Clip("c", "c.wav", 0.8, "<|0.10|> k <|0.40|> a"))
    assert read_alignments(None, timed) == {"a": PHONES, "c": [Phone("k", 0.1, 0.4), Phone("a", 0.4, 0.8)]}


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        (
            "one.lab",
            "#\n 0.25 125 pau\n 1.2 125 k\n",
            "ends at 1.2 s, but the clip lasts 0.8 s: aligned was another cut",
        ),
        ("one.lab", "#\n 0.5 1 a\n 0.4 1 b\n 0.45 1 c\n", "b is from 0.5 to 0.4 s"),
        ("one.lab", "0 4000000 a\n3000000 5000000 b\n", "b at 0.3 s begins before a ends"),
        ("one.lab", "#\n nan 1 a\n", "a is from 0 to nan s"),
        ("one.lab", "#\n nonsense\n", "one.lab: not an alignment that can be read"),
        ("one.TextGrid", TEXT_GRID.replace('"phones"', '"letters"'), "no tier `phones`; it has words, letters"),
        ("one.TextGrid", "hello", "no tier `phones`; it has no interval tier"),
        ("two.lab", FESTIVAL, "none of 1 clips has one; see .*, or give --alignments PLACE"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path: Path, name: str, text: str, message: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_alignments(str(tmp_path), [CLIP])
    assert "\n" not in str(caught.value)


def test_places_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no such file or folder"):
        read_alignments(str(tmp_path / "no.ctm"), [CLIP])
    bad = tmp_path / "bad.ctm"
    bad.write_text("sub/one 1 0.0\n")
    with pytest.raises(ValueError, match="line 1: a line of a CTM is CLIP CHANNEL START DURATION PHONE"):
        read_alignments(str(bad), [CLIP])
    with pytest.raises(ValueError, match=r"their texts have no times \(examples/align.py makes them\)"):
        read_alignments(None, [CLIP])
    (tmp_path / "one.lab").write_text(FESTIVAL)
    with pytest.raises(ValueError, match="could be of 2 clips called one"):
        read_alignments(str(tmp_path), [CLIP, Clip("by/one", "one.wav", 0.8)])


def test_two_files_of_one_name_are_not_guessed_between(tmp_path: Path) -> None:
    for speaker in ("a", "b"):
        (tmp_path / speaker).mkdir()
        (tmp_path / speaker / "one.lab").write_text(FESTIVAL)
    with pytest.raises(ValueError, match="sub/one could have .*a/one.lab or .*b/one.lab"):
        read_alignments(str(tmp_path), [CLIP])
    assert read_alignments(str(tmp_path), [Clip("b/one", "one.wav", 0.8)]) == {"b/one": PHONES}
    (tmp_path / "b" / "one.lab").write_bytes(TEXT_GRID.encode("utf-16"))
    with pytest.raises(ValueError, match="b/one.lab: not an alignment that can be read"):
        read_alignments(str(tmp_path), [Clip("b/one", "one.wav", 0.8)])
