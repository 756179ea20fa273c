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
