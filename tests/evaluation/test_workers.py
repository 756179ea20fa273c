"""Jobs in processes give what they give here; the journal survives a kill; what cannot be read fails by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from llmcodec.evaluation.cache import Journal
from llmcodec.evaluation.workers import ClipRow, Job, job_key, measure_jobs, run_job
from llmcodec.metrics.registry import SUPERB, measure_pair

from ..speech import speech_like


def job(name: str, reference: np.ndarray | str, reconstruction: np.ndarray | str, codes: tuple[int, ...] = ()) -> Job:
    row = ClipRow(name, codes=codes)
    return Job(job_key(name), row, reference, reconstruction, 16_000, ("mel", "sdr"))


def test_processes_give_the_numbers_of_this_process() -> None:
    wav = speech_like(1.0)
    jobs = [Job(str(i), ClipRow(str(i)), wav, wav * (1 - 0.1 * i), 16_000, SUPERB) for i in range(1, 4)]
    there = dict(measure_jobs(iter(jobs), 1))
    assert there == dict(measure_jobs(jobs, 0))
    assert there["2"].metrics == measure_pair(wav, wav * 0.8) and there["2"].seconds == 1.0


def test_files_are_compared_at_the_references_rate(tmp_path: Path) -> None:
    wav = speech_like(1.0)
    soundfile.write(tmp_path / "a.wav", wav, 16_000)
    soundfile.write(tmp_path / "b.wav", np.stack([wav[:-90], wav[:-90]], axis=1), 16_000)  # stereo, a bit short
    soundfile.write(tmp_path / "c.wav", wav[: 16_000 // 2], 16_000)
    _, good = run_job(job("good", str(tmp_path / "a.wav"), str(tmp_path / "b.wav")))
    assert good.metrics["mel"].value == pytest.approx(0.0, abs=1e-3) and good.seconds == pytest.approx(1 - 90 / 16_000)
    _, other = run_job(job("other", str(tmp_path / "a.wav"), str(tmp_path / "c.wav")))
    assert "not the same recording" in other.metrics["mel"].failure
    (tmp_path / "d.wav").write_bytes(b"RIFF....")
    _, broken = run_job(job("broken", str(tmp_path / "a.wav"), str(tmp_path / "d.wav")))
    assert "d.wav" in broken.metrics["sdr"].failure and not broken.metrics["mel"].ok


def test_the_journal_remembers_and_survives_a_cut_line(tmp_path: Path) -> None:
    wav, path = speech_like(0.5), tmp_path / "rows.jsonl"
    journal = Journal(path)
    measured = dict(run_job(job(*one)) for one in (("a", wav, 0.9 * wav, (3, 1)), ("b", wav[:100], 0.9 * wav[:100])))
    for key, row in measured.items():  # mel fails in the second
        journal.add(key, row)
    assert Journal(path).known == measured
    with open(path, "a", encoding="utf-8") as file:
        file.write('{"key": "c", "met')  # killed while writing
    again = Journal(path)
    assert len(again.known) == 2
    key, third = run_job(job("d", wav, 0.5 * wav))
    again.add(key, third)
    assert Journal(path).known[key] == third
    assert all(json.loads(line)["key"] for line in path.read_text().splitlines()[:2])


def test_keys_differ_with_everything_that_matters() -> None:
    assert job_key("a", 1, ("mel",)) == job_key("a", 1, ("mel",))
    assert len({job_key("a", 1), job_key("a", 2), job_key("a1"), job_key("a", "1", "")}) == 4
