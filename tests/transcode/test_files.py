"""transcode/files.py: settings that make sense, what exists already, results without a command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmcodec.io.token_file import load_token_file
from llmcodec.transcode.files import Transcoder
from llmcodec.transcode.pipeline import Item

from ..pcm import PCMRuntime


def transcoder(**changes) -> Transcoder:
    return Transcoder(lambda side: PCMRuntime(), **changes)


def items(folder: Path, *names: str) -> list[Item]:
    return [Item(folder / name, folder / f"{name}.out", name) for name in names]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"workers": -1}, "--workers"),
        ({"batch_seconds": 0.0}, "--batch-seconds"),
        ({"batch_seconds": float("nan")}, "--batch-seconds"),
        ({"long_seconds": -1.0}, "--long-seconds"),
        ({"sample_rate": 5}, "--sample-rate 5 Hz"),
    ],
)
def test_settings_that_make_no_sense(changes, said):
    with pytest.raises(ValueError, match=said):
        transcoder(**changes)


def test_what_is_there_is_refused_replaced_or_kept(tmp_path):
    both = items(tmp_path, "a", "b")
    (tmp_path / "a.out").write_bytes(b"whole")
    with pytest.raises(ValueError, match="--resume keeps"):
        transcoder().split_done(both)
    assert transcoder(overwrite=True).split_done(both) == (both, [])
    resumed = transcoder(resume=True)
    assert resumed.split_done(both) == (both[1:], both[:1]) and resumed.report.skipped == 1


def test_resuming_redoes_empty_results_and_clears_half_ones(tmp_path):
    both = items(tmp_path, "a", "b")
    (tmp_path / "a.out").touch()  # what a power failure may leave
    (tmp_path / ".b.out.0123abcd.tmp").write_bytes(b"half")  # what a kill may leave
    resumed = transcoder(resume=True)
    assert resumed.split_done(both) == (both, []) and resumed.report.skipped == 0
    assert not (tmp_path / ".b.out.0123abcd.tmp").exists()


def test_files_go_through_without_a_command_line(tmp_path, clip, capsys):
    source = clip("a.wav", 4000)
    opened = []
    one = Transcoder(lambda side: opened.append(side) or PCMRuntime(), str(tmp_path / "tokens"), workers=3)
    report = one.encode([str(source)])
    assert report is one.report and (report.done, report.failed, opened) == (1, [], ["encoder"])
    assert report.first_target == tmp_path / "tokens" / "a.safetensors"
    assert load_token_file(report.first_target)[0].num_samples == 4000
    assert capsys.readouterr() == ("", "")
