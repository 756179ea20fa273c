"""The table of rows says of any sequence of additions and removals what a dict would."""

from __future__ import annotations

import numpy as np
import pytest

from llmcodec.io import known_rows
from llmcodec.io.digests import digest_number
from llmcodec.io.known_rows import Facts, KnownRows, row_number, said_number


@pytest.mark.parametrize("newest", [1, 7, 1000])
def test_it_is_a_dict(monkeypatch, newest):
    monkeypatch.setattr(known_rows, "NEWEST", newest)
    noise = np.random.default_rng(newest)
    table, expected = KnownRows(), dict[str, Facts]()
    names = [f"clip/{number}" for number in range(60)]
    for step in range(400):
        name = names[noise.integers(60)]
        if name in expected and step % 3 == 0:
            table.drop([name])
            del expected[name]
        elif name not in expected:
            expected[name] = Facts(said_number(f"text {step}"), step, 16_000 + step, step << 33)
            table.add(name, said_number(f"text {step}"), step, 16_000 + step, step << 33)
        assert len(table) == len(expected) and (name in table) == (name in expected)
        if step % 50 == 0:
            assert [table.facts(one) for one in names] == [expected.get(one) for one in names]
            numbers = np.array([row_number(one) for one in names], np.uint64)
            assert table.holds(numbers).tolist() == [one in expected for one in names]
    assert 5 < len(expected) < 60


def test_numbers_are_those_of_digests_and_of_names_that_are_no_unicode():
    assert row_number("clip é") == digest_number("clip é") and row_number("\udcff") != row_number("\udcfe")
    assert not KnownRows().holds(np.array([1], np.uint64)).any() and "a" not in KnownRows()
    ways = [("a", "b", ""), ("a", "", "b"), ("a", "", ""), ("ab", "", ""), ("", "a", "b")]
    assert len({said_number(*one) for one in ways}) == 5 and said_number("a") == row_number("a")
