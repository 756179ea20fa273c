"""`llmcodec tokenize --engine ray`: the parts of a corpus on a Ray cluster, merged at the end.

    tokenize_on_ray(job, make_job, Path("tokens"), workers=64)

Ray Data hands out numbers of parts to actors. An actor makes the job once, so that it holds the codec and the manifest,
and does with a part what `--shard` does (`TokenJob.run_part`): audio and tokens never pass through Ray's object store,
and no more than two parts wait for an actor. The part of an actor that dies is given to another one, which goes on
behind the shards that are there. Parts depend on the corpus alone, so the same command continues on a cluster of
another size. Imports ray where it is used. Test: tests/transcode/test_ray_parts.py, tests/integration/test_cluster.py.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.io.bad_rows import BadRows
from llmcodec.io.remote.paths import STAGED, StoreError, bring, is_url, shown
from llmcodec.io.token_shards import in_a_line, shards_in
from llmcodec.transcode.index import INDEX, Plan
from llmcodec.transcode.merge import merge_parts
from llmcodec.transcode.sharding import Shard, is_merged, parts_in
from llmcodec.transcode.tokenize import Progress, Tokenized, TokenJob

PART_HOURS = 10.0
FEWEST_PARTS, MOST_PARTS = 64, 10_000
MakeJob = Callable[[], TokenJob]
"""Makes the job in an actor, maybe on another machine: a function that can be pickled."""


def count_parts(milliseconds: np.ndarray) -> int:
    """Parts of about ten hours, as far as their number is sensible; a function of the corpus alone.

    Args:
        milliseconds: of every clip.
    """
    wanted = math.ceil(float(milliseconds.sum()) / 3.6e6 / PART_HOURS)
    return max(1, min(len(milliseconds), max(FEWEST_PARTS, min(MOST_PARTS, wanted))))


class PartTokenizer:
    """What an actor does.

    Args:
        make_job: makes the job, once.
        plan: what the job must have.
        output: folder of the parts: absolute, or a URL.
        parts: their number.
        max_bad: clips that may be left out.
    """

    def __init__(self, make_job: MakeJob, plan: Plan, output: str, parts: int, max_bad: int) -> None:
        os.environ.pop(STAGED, None)  # that of the process that started Ray
        self.make_job, self.plan, self.output, self.parts, self.max_bad = make_job, plan, output, parts, max_bad

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A column of numbers of parts -> one of outcomes, as JSON."""
        return {"outcome": [json.dumps(self.outcome(int(number))) for number in batch["part"]]}

    @cached_property
    def job(self) -> TokenJob:
        """Made when the first part comes, so that what is wrong with it is an outcome."""
        if not is_url(self.output) and not Path(self.output).is_dir():
            raise ValueError(
                f"{self.output}: not there on {socket.gethostname()}; Ray needs a folder that every machine of the "
                "cluster sees, or a URL"
            )
        job = self.make_job()
        if other := self.plan.difference(job.plan):
            raise ValueError(f"on {socket.gethostname()}: {other}; all machines must see one codec and one manifest")
        return job

    def outcome(self, number: int) -> dict[str, Any]:
        """What was done in every folder and which clips were left out; or `error`, for people."""
        shard, bad = Shard(number, self.parts), BadRows(self.max_bad)
        try:
            job = self.job
            output = bring(self.output, wanted=lambda name: name.startswith((f"{shard.folder_name}/", INDEX)))
            results = job.run_part(output, shard, bad=bad)
        except (ValueError, OSError, StoreError) as error:
            return {"error": shown(error)}
        part = output / shard.folder_name
        folders = {folder.relative_to(part).as_posix(): vars(one) for folder, one in results.items()}
        return {"folders": folders, "left_out": bad.reasons}


def tokenize_on_ray(
    job: TokenJob,
    make_job: MakeJob,
    output: Path,
    *,
    workers: int | None = None,
    use_gpus: bool = True,
    on_progress: Progress | None = None,
    bad: BadRows | None = None,
) -> dict[Path, Tokenized]:
    """Tokenize a corpus on the Ray cluster that is there, or on this machine: `output` gets the bytes of `job.run`.

    Args:
        job: of the whole corpus.
        make_job: makes the same job in every actor.
        output: folder that every machine sees, or what stands for a URL.
        workers: actors; None: one for every GPU of the cluster, or for every CPU core where it has none.
        use_gpus: whether actors may take GPUs; several share one where there are more of them.
        on_progress: takes the share that is done.
        bad: takes clips that cannot be read.

    Returns:
        What was done in each folder of `output`; nothing if everything was there before.

    Raises:
        ValueError: Ray is missing or fails, the folder holds something else, or as `TokenJob.run_part`.
    """
    ray = import_ray()
    bad = BadRows(total=job.num_clips) if bad is None else bad
    if is_merged(output, job.plan):
        return {}
    parts = count_parts(job.milliseconds)
    _refuse_others(output, parts)
    output.mkdir(parents=True, exist_ok=True)
    place = shown(output.absolute())
    results: dict[Path, Tokenized] = {}
    arguments = (make_job, job.plan, place, parts, int(bad.allowed))
    try:
        with _cluster(ray):
            for number, outcome in enumerate(_outcomes(ray, arguments, workers, use_gpus)):
                if "error" in outcome:
                    raise ValueError(outcome["error"])
                for name, one in outcome["folders"].items():
                    _sum_up(results.setdefault(output / name, Tokenized()), Tokenized(**one))
                for name, reason in outcome["left_out"].items():
                    bad.add(name, reason)
                if on_progress is not None:
                    on_progress((number + 1) / parts)
    except ray.exceptions.RayError as error:
        raise ValueError(
            f"--engine ray: {in_a_line(error)}; finished shards stay, the same command goes on behind them"
        ) from error
    bring(place)
    merge_parts([output], output, remove_parts=True)
    return dict(sorted(results.items()))


def import_ray() -> Any:
    """Ray with Ray Data, without its telemetry. Raises ValueError that says how to install it."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # what else fails is raised
    try:
        import ray
        import ray.data
    except ImportError as error:
        raise ValueError("--engine ray needs one more package: pip install 'llmcodec[ray]'") from error
    return ray


def _refuse_others(output: Path, parts: int) -> None:
    """Raise ValueError where a folder holds parts of another number, or shards of a run without parts."""
    there = parts_in(output)
    if foreign := [part for part in there if not part.name.endswith(f"-of-{parts:05d}")]:
        raise ValueError(
            f"{output}: holds {foreign[0].name}, Ray would make {parts} parts; finish them with --shard and "
            "`llmcodec tokens merge`, or name another folder"
        )
    inside = [output, *output.iterdir()] if output.is_dir() else []
    if not there and (shards := [path for folder in inside if folder.is_dir() for path in shards_in(folder)]):
        raise ValueError(
            f"{output}: holds shards of a run on one machine ({shards[0].name}); go on without --engine ray, or name "
            "another folder"
        )


@contextmanager
def _cluster(ray: Any) -> Iterator[None]:
    """The cluster of RAY_ADDRESS or of `ray start`, one of this machine where there is none, or the caller's."""
    if ray.is_initialized():
        yield
        return
    in_main = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    ray.init(include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    if in_main:
        signal.signal(signal.SIGTERM, handler)  # Ray puts its own there
    try:
        yield
    finally:
        ray.shutdown()


def _outcomes(ray: Any, arguments: tuple[Any, ...], workers: int | None, use_gpus: bool) -> Iterator[dict[str, Any]]:
    """Outcome of every part, in the order in which they come."""
    parts = arguments[3]
    there = ray.cluster_resources()
    gpus = int(there.get("GPU", 0)) if use_gpus else 0
    workers = min(parts, workers or gpus or int(there.get("CPU", 1)))
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)  # it warns that its progress bars are off
    outcomes = ray.data.from_items(
        [{"part": number} for number in range(parts)], override_num_blocks=parts
    ).map_batches(
        PartTokenizer,
        fn_constructor_args=arguments,
        compute=ray.data.ActorPoolStrategy(size=workers, max_tasks_in_flight_per_actor=2),
        batch_size=1,
        num_cpus=1,
        num_gpus=min(1.0, gpus / workers) if gpus else None,
    )
    for row in outcomes.iter_rows():
        yield json.loads(row["outcome"])


def _sum_up(total: Tokenized, one: Tokenized) -> None:
    for field in dataclasses.fields(Tokenized):
        setattr(total, field.name, getattr(total, field.name) + getattr(one, field.name))
