"""`llmcodec sweep FILE`: several recipes x several seeds, trained and measured alike, unattended, as one table.

A sweep file names rows; each is an existing codec or recipes to train from. Every (row, seed) is one job
(`sweep_job.py`), measured with the same protocol. Several processes may share a sweep.
With `parts:` everything that learns, tunes or reports has clips of its own, and the reporting clips show only settings
that were in the file when they were first used (docs/explanation/protocol.md).
Test: tests/integration/test_sweep.py, tests/experiments/test_protocol.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from llmcodec.experiments.comparison import System, curves
from llmcodec.experiments.frontier import frontier_table, frontiers, write_frontiers
from llmcodec.experiments.parts import Speech
from llmcodec.experiments.sweep_config import SweepConfig
from llmcodec.experiments.sweep_job import (
    GO_ON,
    MISSING,
    Job,
    ReadRecipe,
    beside,
    claim,
    read_result,
    same_settings,
)
from llmcodec.experiments.sweep_table import lm_tables, sweep_table, write_page
from llmcodec.io.atomic import write_text
from llmcodec.io.run_guard import stopped_in_order
from llmcodec.io.structured import read_object, write_json
from llmcodec.report.figures import Curve, Scatter
from llmcodec.report.files import command_line

SETTINGS = "settings.json"
NOT_FROZEN = f"other settings, or none, were in the sweep file when these clips were first used ({SETTINGS})"


def run_sweep(config: SweepConfig, here: Path, read_recipe: ReadRecipe) -> Path:
    """Do all jobs that nobody has done or is doing, then write `report.html` and return `table.md` (or `parts.md`).

    Args:
        config: rows, seeds, protocol.
        here: folder of the sweep file, where the paths of its recipes start.
        read_recipe: makes a recipe of the options of `llmcodec train`.
    """
    config.results.mkdir(parents=True, exist_ok=True)
    speech_table = ""
    with stopped_in_order(GO_ON):
        jobs = []
        if config.rows:
            speech = Speech.read(config)
            speech_table = speech.table
            print(speech_table, flush=True)
            write_text(config.results / "parts.md", speech_table)
            jobs = plan_jobs(config, speech, here, read_recipe)
        if config.only_parts:
            return config.results / "parts.md"
        frozen = read_settings(config, jobs)
        for job in jobs:
            if is_frozen(frozen, job):
                do_job(job)
            else:
                print(f"sweep: {job.name}, seed {job.seed}, is not measured on the reporting clips: {NOT_FROZEN}")
    done, outdated = finished(jobs, frozen)
    table = sweep_table(done, config.reference) + lm_tables(done, config.reference, config.flat)
    if config.line:
        table += frontier_table(done, config.line)
        write_frontiers(done, config.line, config.results)
    if left_out := sorted({job.place.name for job in jobs if not is_frozen(frozen, job)}):
        table += f"\nLeft out, because {NOT_FROZEN}: {', '.join(left_out)}.\n"
    if outdated:
        reasons = "; ".join(f"{job.name}, seed {job.seed}, {reason}" for job, reason in outdated)
        table += f"\nNot shown, until they are made again: {reasons}.\n"
    text = f"{table}\n{speech_table}"
    if done:
        trained = curves((), [System(job.place.name, str(job.place)) for job in jobs])
        pictures: list[Curve | Scatter] = [*frontiers(done, config.line).values(), *trained]
        write_page(config.results / "report.html", text, pictures, command_line(["sweep", "FILE"]))
    return write_text(config.results / "table.md", text)


def plan_jobs(config: SweepConfig, speech: Speech, here: Path, read_recipe: ReadRecipe) -> list[Job]:
    """Every row with every seed: first seeds first, sources before the rows that are `of` them."""
    later_seeds = replace(config.measurement, probe=None, salmon=None)  # the slow columns, on the first seed only
    jobs = []
    for name, row in config.rows.items():
        for index, seed in enumerate(config.seeds_of(row)):
            protocol = replace(config, measurement=config.measurement if index == 0 else later_seeds)
            job = Job(protocol, name, seed, Path(config.folder), speech, here, read_recipe, index == 0)
            jobs.append((index, row.of is not None, job))
    return [job for *_, job in sorted(jobs, key=lambda entry: entry[:2])]


def read_settings(config: SweepConfig, jobs: Sequence[Job]) -> dict[str, str] | None:
    """Digests of all settings as they were when the reporting clips were first used; None where nothing is fixed."""
    if config.parts is None or config.stage == "tuning" or config.only_train:
        return None
    path = Path(config.folder) / SETTINGS
    if not path.exists():
        write_json(path, {job.place.name: job.settings for job in jobs})
    frozen = read_object(path)
    unknown = [job.place.name for job in jobs if " " in job.settings and " " not in frozen.get(job.place.name, " ")]
    if unknown:
        print(
            f"sweep: {path} is of an older version: whether the files of {', '.join(unknown)} are the same is unknown"
        )
    return frozen


def is_frozen(frozen: Mapping[str, str] | None, job: Job) -> bool:
    """Whether a job may be measured on the reporting clips: its settings are those of `read_settings`."""
    return frozen is None or same_settings(frozen.get(job.place.name), job.settings)


def do_job(job: Job) -> None:
    """Do a job unless it is done, waits for another row, or is being done by another process."""
    if not job.find_stale():
        return
    source = job.row.of
    if source is not None and read_result(job.config.results, source, job.seed) is None:
        print(
            f"sweep: {job.name}, seed {job.seed}, needs {source}, which is not measured yet: start the sweep again then"
        )
        return
    with claim(beside(job.place, ".lock")) as mine:
        if not mine:
            print(f"sweep: {job.name}, seed {job.seed}, is being done by another process")
        elif reason := job.find_stale():
            made_again = "" if reason == MISSING else f": {reason}, made again"
            print(f"sweep: {job.name}, seed {job.seed}{made_again}", flush=True)
            job.run()


def finished(
    jobs: Sequence[Job], frozen: Mapping[str, str] | None
) -> tuple[dict[str, dict[int, Any]], list[tuple[Job, str]]]:
    """Results by row and seed, in the order of the sweep file (with `frozen`, those of settings fixed there), and the
    jobs whose results were made of something else than they would be now, with what that is."""
    done: dict[str, dict[int, Any]] = {}
    outdated = []
    for job in sorted(
        jobs, key=lambda job: (list(job.config.rows).index(job.name), job.config.seeds_of(job.row).index(job.seed))
    ):
        result = read_result(job.config.results, job.name, job.seed)
        if result is None or not is_frozen(frozen, job):
            continue
        if frozen is not None and not same_settings(result.get("settings"), job.settings):
            continue
        if "made_from" in result and (changed := job.changed_facts(result)):
            outdated.append((job, f"made of other {', '.join(changed)}"))
        else:
            done.setdefault(job.name, {})[job.seed] = result
    return done, outdated
