"""data/loader.py: the same batches with and without the thread, and a position that counts what was consumed."""

from __future__ import annotations

import json
import threading
import time

import numpy as np
import pytest

from llmcodec.data.clips import ClipDataset
from llmcodec.data.loader import ClipLoader
from llmcodec.data.manifest import Clip
from llmcodec.data.sampler import ResumableSampler
from llmcodec.io import audio
from llmcodec.io.bad_rows import BadRows, TooManyBad


@pytest.fixture
def dataset(tmp_path):
    clips = []
    for number in range(7):
        audio.write(tmp_path / f"{number}.wav", np.full(400 + number, number / 10, np.float32), 8000, subtype="FLOAT")
        clips.append(Clip(str(number), f"{number}.wav", (400 + number) / 8000, folder=str(tmp_path)))
    return ClipDataset(clips, 8000, crop_seconds=0.02, seed=5)


def loader(dataset: ClipDataset, prefetch: int) -> ClipLoader:
    return ClipLoader(dataset, ResumableSampler(dataset.durations, batch_clips=2, seed=1), prefetch)


def same(one, other) -> bool:
    return one.ids == other.ids and np.array_equal(one.wav_BS, other.wav_BS)


def test_the_thread_changes_nothing_and_stops(dataset):
    with loader(dataset, 0) as plain, loader(dataset, 3) as ahead:
        for _ in range(12):
            assert same(next(plain), next(ahead))
            assert plain.state_dict() == ahead.state_dict()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clip-reader")]


@pytest.mark.parametrize("prefetch", [0, 1, 4])
@pytest.mark.parametrize("consumed", [0, 1, 5])
def test_resumed_equals_uninterrupted_however_far_the_thread_has_read(dataset, prefetch, consumed):
    with loader(dataset, 0) as plain:
        whole = [next(plain) for _ in range(consumed + 6)]
    with loader(dataset, prefetch) as first:
        for _ in range(consumed):
            next(first)
        time.sleep(0.02)
        state = json.loads(json.dumps(first.state_dict()))
        assert state["step"] == consumed
    with loader(dataset, prefetch) as second:
        next(second)
        second.load_state_dict(state)
        assert all(same(next(second), expected) for expected in whole[consumed:])


def test_close_keeps_the_position(dataset):
    with loader(dataset, 0) as plain, loader(dataset, 3) as ahead:
        for _ in range(4):
            ahead.close()
            assert same(next(plain), next(ahead))


def test_an_error_while_reading_reaches_the_consumer(dataset):
    (dataset.clips[3].path).write_text("broken")
    with loader(dataset, 2) as ahead, pytest.raises(ValueError, match=r"3\.wav"):
        for _ in range(8):
            next(ahead)
    with pytest.raises(ValueError, match="prefetch"):
        loader(dataset, -1)


def broken(dataset: ClipDataset, *numbers: int, **limit) -> ClipDataset:
    """The same clips, some of which are text now."""
    for number in numbers:
        dataset.clips[number].path.write_text("no audio")
    return ClipDataset(dataset.clips, 8000, crop_seconds=0.02, seed=5, bad=BadRows(total=7, **limit))


def test_the_next_shorter_clip_that_can_be_read_stands_in_for_a_bad_one(dataset):
    wanted = [3, 4, 0, 6]
    whole = dataset.batch([2, 2, 1, 6], step=9)  # 3 and 4 are bad, so is 0, which has no shorter one
    damaged = broken(dataset, 3, 4, 0, max_bad="43%")
    batch = damaged.batch(wanted, step=9)
    assert batch.ids == ["2", "2", "1", "6"] and same(batch, whole)
    assert set(damaged.bad.reasons) == {"0", "3", "4"} and "3 of 7 clips are left out" in damaged.bad.lines()[0]


def test_with_bad_clips_resumed_equals_uninterrupted(dataset):
    damaged = broken(dataset, 1, 5, max_bad=2)
    with loader(damaged, 0) as plain:
        whole = [next(plain) for _ in range(12)]
    assert not {"1", "5"} & {name for batch in whole for name in batch.ids}
    for consumed in (1, 4, 7):
        fresh = broken(dataset, max_bad=2)  # a process that has not met the bad ones
        with loader(fresh, 3) as first:
            for _ in range(consumed):
                next(first)
            saved = json.loads(json.dumps(first.state_dict()))
        with loader(broken(dataset, max_bad=2), 2) as second:
            second.load_state_dict(saved)
            assert all(same(next(second), batch) for batch in whole[consumed:])


def test_one_bad_clip_too_many_stops_the_run_by_name(dataset):
    with loader(broken(dataset, 2, max_bad=0), 2) as one, pytest.raises(ValueError, match=r"2.wav: not an audio file"):
        for _ in range(8):
            next(one)
    with (
        loader(broken(dataset, 2, 4, max_bad="15%"), 2) as one,
        pytest.raises(TooManyBad, match=r"2 of 7 clips are bad, and --max-bad 15% allows 1: ., .; the first: "),
    ):
        for _ in range(8):
            next(one)
