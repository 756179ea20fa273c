"""transcode/standard_streams.py: `-` in and out through temporary files that are gone afterwards."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmcodec.transcode import standard_streams
from llmcodec.transcode.standard_streams import StandardStreams


@pytest.fixture
def streams(monkeypatch) -> SimpleNamespace:
    there = SimpleNamespace(
        stdin=SimpleNamespace(buffer=io.BytesIO(b"input")),
        stdout=SimpleNamespace(buffer=io.BytesIO(), isatty=lambda: False),
    )
    monkeypatch.setattr(standard_streams, "sys", there)
    return there


def test_ordinary_paths_are_left_alone(streams):
    with StandardStreams(["a", "b"], "out", ".wav") as one:
        assert (one.inputs, one.output, one.folder) == (["a", "b"], "out", Path("out"))
        assert one.readable("out/a: bad") == "out/a: bad"
    assert not one.writes_output and StandardStreams(["a"], None, ".wav").folder is None


def test_standard_input_becomes_a_file_and_the_result_goes_out(streams):
    with StandardStreams(["-"], None, ".wav") as one:
        place = Path(one.inputs[0])
        assert place.read_bytes() == b"input" and one.folder is None
        assert Path(one.output).name == "standard output.wav"
        Path(one.output).write_bytes(b"result")
        assert one.readable(f"{place}: is empty") == "standard input: is empty"
    assert streams.stdout.buffer.getvalue() == b"result" and not place.parent.exists()


def test_nothing_goes_out_after_an_error(streams):
    with pytest.raises(ValueError), StandardStreams(["-"], "-", ".wav") as one:
        Path(one.output).write_bytes(b"half")
        raise ValueError
    assert streams.stdout.buffer.getvalue() == b"" and not Path(one.output).exists()


def test_what_cannot_be_is_refused(streams):
    with pytest.raises(ValueError, match="stands alone"):
        StandardStreams(["-", "a"], None, ".wav")
    streams.stdout.isatty = lambda: True
    with pytest.raises(ValueError, match="terminal"):
        StandardStreams(["a"], "-", ".wav")
    with StandardStreams(["-"], "a.wav", ".wav") as one:
        assert one.output == "a.wav"
