"""Clips of a mapped manifest are read when their turn comes, in a first run and in one that goes on."""

from __future__ import annotations

import gc

import numpy as np
import pytest

from llmcodec.data.clip_table import write_clips
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io import audio
from llmcodec.io.token_shards import TokenRow, TokenShardWriter
from llmcodec.transcode.index import BEGUN, INDEX, read_index
from llmcodec.transcode.tokenize import TokenJob, split_folders, tokenize_splits

from .test_merge import Loudness

ROWS = 3000


class Counting(Loudness):
    """Stops at the first batch, and says how many clips are in memory then."""

    def encode_batch(self, wavs):
        self.alive = clips_in_memory()
        raise KeyboardInterrupt


def clips_in_memory() -> int:
    return sum(type(one) is Clip for one in gc.get_objects())


@pytest.mark.parametrize(("known", "views"), [(0, 1), (ROWS - 200, 2)])
def test_few_clips_are_in_memory(tmp_path, known, views):
    others = clips_in_memory()
    audio.write(tmp_path / "long.wav", np.full(64_000, 0.1, np.float32), 16_000)
    write_clips(tmp_path / "m.arrow", (Clip(f"clip{n}", "long.wav", 4.0, "text", start=0.0) for n in range(ROWS)))
    runtime = Counting()
    job = TokenJob.of(runtime, read_manifest(tmp_path / "m.arrow"), views=views)
    with TokenShardWriter(tmp_path / "t", runtime.identity, clips_per_shard=1000) as shards:
        for number in range(known):
            for late in ("", "#160")[:views]:
                shards.add(TokenRow(np.zeros((1, 1, 1), int), 320, id=f"clip{number}{late}", text="text"))
    with pytest.raises(KeyboardInterrupt):
        job.run(tmp_path / "t")
    assert 1 < runtime.alive - others < 200


def test_a_split_called_as_the_folder_of_clips_without_one_is_refused():
    clips = [Clip(f"clip{n}", "a.wav", 1.0, split=split) for n, split in enumerate(("", "unsplit", "train"))]
    with pytest.raises(ValueError, match="clips without a split go into a folder 'unsplit'.*rename it in the manifest"):
        split_folders(clips)
    assert split_folders(clips[::2]).keys() == {"unsplit", "train"} == split_folders(clips[1:]).keys()


def test_a_run_without_an_index_goes_on_with_its_own_settings_alone(tmp_path):
    audio.write(tmp_path / "a.wav", np.full(16_000, 0.1, np.float32), 16_000)
    clips = [Clip(f"clip{n}", str(tmp_path / "a.wav"), 1.0) for n in range(5)]

    class Killed(Loudness):
        def encode_batch(self, wavs):
            raise KeyboardInterrupt

    def run(precision, output="t", runtime=None, clips=clips):
        told = {"precision": precision, "runtime": "torch"}
        tokenize_splits(runtime or Loudness(), clips, tmp_path / output, settings=told)

    with pytest.raises(KeyboardInterrupt):
        run("int8", runtime=Killed())
    with pytest.raises(ValueError, match="1 of 1 audio files cannot be read"):  # nothing is there that int8 has made
        run("fp32", clips=[Clip("gone", str(tmp_path / "gone.wav"), 1.0)])
    run("fp32", clips=clips[:3])
    (tmp_path / "t" / INDEX).unlink()
    assert not (tmp_path / "t" / BEGUN).exists()
    with pytest.raises(KeyboardInterrupt), pytest.warns(UserWarning, match="taken as precision fp32, runtime torch"):
        run("fp32", runtime=Killed())  # shards as an earlier version left them
    with pytest.raises(ValueError, match="its tokens were made with precision fp32, not int8; name another folder"):
        run("int8")
    run("fp32")
    assert read_index(tmp_path / "t")["settings"]["precision"] == "fp32" and not (tmp_path / "t" / BEGUN).exists()
