"""cli/standard_streams.py: `-` in and out through temporary files that are gone afterwards."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmcodec.cli import standard_streams as module
from llmcodec.cli.standard_streams import standard_streams


@pytest.fixture
def streams(monkeypatch) -> SimpleNamespace:
    there = SimpleNamespace(
        stdin=SimpleNamespace(buffer=io.BytesIO(b"input")),
        stdout=SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False),
    )
    monkeypatch.setattr(module, "sys", there)
    return there


def test_ordinary_paths_are_left_alone(streams):
    with standard_streams(["a", "b"], "out", ".wav") as one:
        assert (one.inputs, one.output, one.writes_output) == (["a", "b"], "out", False)
        assert one.readable("out/a: bad") == "out/a: bad"
    with standard_streams(["a"], None, ".wav") as one:
        assert one.output is None and not one.writes_output


def test_standard_input_becomes_a_file_and_the_result_goes_out(streams):
    with standard_streams(["-"], None, ".wav") as one:
        place = Path(one.inputs[0])
        assert place.read_bytes() == b"input" and one.writes_output
        assert Path(one.output).name == "standard output.wav"
        Path(one.output).write_bytes(b"result")
        assert one.readable(f"{place}: is empty") == "standard input: is empty"
    assert streams.stdout.buffer.getvalue() == b"result" and not place.parent.exists()


def test_nothing_goes_out_after_an_error(streams):
    with pytest.raises(ValueError), standard_streams(["-"], "-", ".wav") as one:
        Path(one.output).write_bytes(b"half")
        raise ValueError
    assert streams.stdout.buffer.getvalue() == b"" and not Path(one.output).exists()


def test_what_cannot_be_is_refused(streams):
    with pytest.raises(ValueError, match="must be the only input"), standard_streams(["-", "a"], None, ".wav"):
        pass
    streams.stdout.isatty = lambda: True
    with pytest.raises(ValueError, match="terminal"), standard_streams(["a"], "-", ".wav"):
        pass
    with standard_streams(["-"], "a.wav", ".wav") as one:
        assert one.output == "a.wav"
