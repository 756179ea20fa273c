"""Transcripts with times: what is read, what is refused."""

import pytest

from llmcodec.data.timed_text import is_timed, later, timed_units, without_times


def test_units_and_their_times():
    assert timed_units("<|0.00|> _ <|0.21|> p <|1|>l") == [("_", 0.0), ("p", 0.21), ("l", 1.0)]
    assert timed_units(" <|0.5|>two  words<|0.70|> ") == [("two words", 0.5), ("", 0.7)]
    assert timed_units("<|0.0|> <|0.1|> a <|0.1|> b") == [("a", 0.1), ("b", 0.1)]  # a mark without a unit is none
    assert without_times("<|0.00|> _ <|0.21|>p<|0.30|> l <|0.4|>") == "_ p l"
    assert without_times("spaces  stay") == "spaces  stay"


def test_times_of_a_recording_that_starts_later():
    assert later("<|0.00|> _ <|0.21|> p <|1.5|>", 0.2) == "<|0.000|> _ <|0.010|> p <|1.300|>"
    assert later("no times", 0.2) == "no times" and not is_timed("no times") and is_timed("<|0|> a")


@pytest.mark.parametrize("text", ["hello", "", "a <|0.0|> b", "<|0.2|> a <|0.1|> b", "<|-1|> a", "<|x|> a"])
def test_refused(text):
    with pytest.raises(ValueError, match="transcript"):
        timed_units(text)
