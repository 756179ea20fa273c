"""io/bad_rows.py: what is allowed, what is said, and when a run stops."""

from __future__ import annotations

import math

import pytest

from llmcodec.io.bad_rows import BadRows, TooManyBad, read_max_bad


@pytest.mark.parametrize(
    ("written", "total", "allowed"),
    [(0, 10, 0), ("0", 10, 0), (20, 10, 20), ("20", None, 20), ("1%", 250, 2), ("1%", 99, 0), ("0.5%", 1000, 5)]
    + [("100%", 7, 7), ("1%", None, math.inf), ("0%", 50, 0)],
)
def test_a_number_or_a_share_rounded_down(written, total, allowed):
    assert BadRows(written, total).allowed == allowed


@pytest.mark.parametrize("written", ["", "-1", "101%", "1 %", "many", "1.5", "nan%", True, "%"])
def test_anything_else_is_refused(written):
    with pytest.raises(ValueError, match=r"--max-bad .*: a number of rows, such as 20, or a share"):
        read_max_bad(written)


def test_the_first_one_too_many_stops_the_run_in_one_line():
    bad = BadRows("1%", total=200)
    bad.add("a", "a.wav: no such audio file")  # its file's name begins with its own
    bad.add("b", "no audio in this row")
    bad.add("a", "the same again counts once")
    assert len(bad) == 2 and bad.lines() == [
        "2 of 200 clips are left out (--max-bad 1%):",
        "  left out: a.wav: no such audio file",
        "  left out: b: no audio in this row",
    ]
    with pytest.raises(TooManyBad) as caught:
        bad.add("c", "x")
    assert str(caught.value) == (
        "3 of 200 clips are bad, and --max-bad 1% allows 2: a, b, c; the first: a.wav: no such audio file"
    )


def test_none_allowed_says_what_is_wrong_and_how_to_go_on():
    bad = BadRows()
    assert bad.lines() == [] and (bad or None) is bad, "one without rows is there all the same"
    with pytest.raises(TooManyBad, match=r"^a: x \(--max-bad 1% leaves out"):
        bad.add("a", "x")


def test_names_are_listed_up_to_ten():
    bad = BadRows(12, total=20, what="files")
    for number in range(12):
        bad.add(f"f{number}", "x")
    assert bad.lines()[-1] == "  and 2 more" and len(bad.lines()) == 12
    with pytest.raises(TooManyBad, match=r"13 of 20 files are bad.*: f0, .*, f9 and 3 more; the first: f0: x$"):
        bad.add("f12", "x")


def test_a_share_of_an_unknown_number_is_checked_at_the_end():
    bad = BadRows("10%", what="rows")
    for number in range(3):
        bad.add(str(number), "x")
    bad.settle(30)
    with pytest.raises(TooManyBad, match="3 of 29 rows are bad, and --max-bad 10% allows 2"):
        bad.settle(29)
