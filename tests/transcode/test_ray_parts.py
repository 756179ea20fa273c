"""Parts on actors: what an actor does, and what is made of it; Ray itself runs in tests/integration/test_cluster.py."""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io.bad_rows import BadRows, TooManyBad
from llmcodec.transcode import ray_parts
from llmcodec.transcode.index import INDEX, check_index
from llmcodec.transcode.ray_parts import PartTokenizer, count_parts, import_ray, tokenize_on_ray
from llmcodec.transcode.sharding import Shard
from llmcodec.transcode.tokenize import Tokenized, TokenJob

from ..miniature import miniature_speech
from .test_merge import Loudness, shards


@pytest.fixture(scope="module")
def clips(tmp_path_factory) -> list[Clip]:
    found = read_manifest(miniature_speech(tmp_path_factory.mktemp("speech"), (0.9, 0.6, 0.7, 0.5, 0.8)))
    return [Clip(**{**vars(clip), "split": "valid" if n == 3 else "train"}) for n, clip in enumerate(found)]


class Cluster:
    """Ray as far as `ray_parts` knows it, in this process: two actors take parts in turn, the last ones first."""

    exceptions = SimpleNamespace(RayError=RuntimeError)

    def __init__(self, **there: float) -> None:
        self.there, self.asked = there, dict[str, Any]()
        context = SimpleNamespace(get_current=lambda: SimpleNamespace())
        self.data = SimpleNamespace(DataContext=context, from_items=self.from_items, ActorPoolStrategy=dict)

    def is_initialized(self) -> bool:
        return True

    def cluster_resources(self) -> dict[str, float]:
        return self.there

    def from_items(self, rows: list[dict[str, int]], override_num_blocks: int) -> Cluster:
        assert override_num_blocks == len(rows)
        self.rows = rows
        return self

    def map_batches(self, actor: Any, fn_constructor_args: Any, **asked: Any) -> Cluster:
        self.actors, self.asked = [actor(*fn_constructor_args) for _ in range(2)], asked
        return self

    def iter_rows(self) -> Any:
        for row in reversed(self.rows):
            batch = {"part": np.array([row["part"]])}
            yield {"outcome": self.actors[row["part"] % 2](batch)["outcome"][0]}


@pytest.fixture
def cluster(monkeypatch) -> Cluster:
    there = Cluster(CPU=4)
    monkeypatch.setattr(ray_parts, "import_ray", lambda: there)
    return there


def test_parts_depend_on_the_corpus_alone():
    hour = 3_600_000
    assert [count_parts(np.full(number, hour)) for number in (1, 12, 640, 6400, 1_000_000)] == [1, 12, 64, 640, 10_000]


def test_the_bytes_of_one_run(clips, tmp_path, cluster):
    job = TokenJob.of(Loudness(), clips, clips_per_shard=2)
    job.run(tmp_path / "one")
    shown: list[float] = []
    made = tokenize_on_ray(job, lambda: job, tmp_path / "ray", workers=2, on_progress=shown.append)
    assert shards(tmp_path / "ray") == shards(tmp_path / "one") and len(shards(tmp_path / "one")) == 3
    assert (tmp_path / "ray" / INDEX).read_bytes() == (tmp_path / "one" / INDEX).read_bytes()
    assert not any(is_damaged for _, _, is_damaged in check_index(tmp_path / "ray"))
    assert {path.name: one.clips for path, one in made.items()} == {"train": 4, "valid": 1}
    assert sum(one.seconds for one in made.values()) == pytest.approx(3.5) and shown == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert not list((tmp_path / "ray").glob("part-*"))
    assert tokenize_on_ray(job, lambda: job, tmp_path / "ray") == {}  # merged before
    assert cluster.asked["num_gpus"] is None and cluster.asked["compute"]["size"] == 2


@pytest.mark.parametrize(("workers", "size", "share"), [(None, 2, 1.0), (1, 1, 1.0), (4, 4, 0.5)])
def test_actors_share_the_gpus(clips, tmp_path, cluster, workers, size, share):
    cluster.there["GPU"] = 2
    job = TokenJob.of(Loudness(), clips)
    tokenize_on_ray(job, lambda: job, tmp_path / "gpu", workers=workers)
    assert (cluster.asked["compute"]["size"], cluster.asked["num_gpus"]) == (size, share)
    tokenize_on_ray(job, lambda: job, tmp_path / "cpu", workers=workers, use_gpus=False)
    assert cluster.asked["num_gpus"] is None


def test_a_run_that_was_stopped_goes_on_behind_its_parts(clips, tmp_path, cluster):
    job = TokenJob.of(Loudness(), clips)
    for number in (0, 3):
        job.run_part(tmp_path, Shard(number, 5))
    made = tokenize_on_ray(job, lambda: job, tmp_path)
    assert [(one.clips, one.known) for one in made.values()] == [(2, 2), (1, 0)]


def test_bad_clips_are_counted_over_all_parts(clips, tmp_path, cluster):
    (tmp_path / "bad.wav").write_bytes(b"no audio")
    bad = [Clip(f"bad{n}", str(tmp_path / "bad.wav"), 0.7, split="train") for n in range(2)]
    job = TokenJob.of(Loudness(), [bad[0], *clips, bad[1]])
    limit = BadRows("15%", job.num_clips)  # one
    with pytest.raises(TooManyBad, match="2 of 7 clips are bad"):
        tokenize_on_ray(job, lambda: job, tmp_path / "t", bad=limit)
    assert not (tmp_path / "t" / INDEX).exists()
    job = TokenJob.of(Loudness(), [bad[0], *clips])
    tokenize_on_ray(job, lambda: job, tmp_path / "ray", bad=(found := BadRows("20%", 6)))
    job.run(tmp_path / "one", bad=BadRows("20%", 6))
    assert (tmp_path / "ray" / INDEX).read_bytes() == (
        tmp_path / "one" / INDEX
    ).read_bytes() and "bad0" in found.reasons


def test_what_is_wrong_is_said_in_a_line(clips, tmp_path, cluster):
    job = TokenJob.of(Loudness(), clips)
    other = TokenJob.of(Loudness(100), clips)
    with pytest.raises(ValueError, match="^on .*codec 'loud', weights_sha256.*must see one codec and one manifest$"):
        tokenize_on_ray(job, lambda: other, tmp_path / "t")
    gone = PartTokenizer(lambda: job, job.plan, str(tmp_path / "elsewhere"), 5, 0)
    said = json.loads(gone({"part": np.array([0])})["outcome"][0])["error"]
    assert "elsewhere: not there on " in said and "a folder that every machine of the cluster sees" in said
    assert not (tmp_path / "elsewhere").exists()
    job.run_part(tmp_path / "halves", Shard(0, 2))
    with pytest.raises(ValueError, match="holds part-00000-of-00002, Ray would make 5 parts"):
        tokenize_on_ray(job, lambda: job, tmp_path / "halves")
    job.run(tmp_path / "local")
    (tmp_path / "local" / INDEX).unlink()
    with pytest.raises(ValueError, match="holds shards of a run on one machine"):
        tokenize_on_ray(job, lambda: job, tmp_path / "local")

    def fail() -> Any:
        raise RuntimeError("The actor died\nunexpectedly")

    cluster.iter_rows = fail  # type: ignore[method-assign]
    with pytest.raises(ValueError, match="--engine ray: The actor died unexpectedly; finished shards stay"):
        tokenize_on_ray(job, lambda: job, tmp_path / "u")


def test_a_missing_ray_is_a_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"^--engine ray needs one more package: pip install 'llmcodec\[ray\]'$"):
        import_ray()


def test_what_was_done_adds_up():
    one = Tokenized(1, 2.0, 3, 0, ["a"], [])
    ray_parts._sum_up(one, Tokenized(1, 1.0, 1, 0, ["b"], ["c"]))
    assert one == Tokenized(2, 3.0, 4, 0, ["a", "b"], ["c"])  # every field
