"""data/sampler.py: every clip once per epoch, resume at every point, shards add up, lengths share batches."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmcodec.data.sampler import ResumableSampler, clip_seed

durations_lists = st.lists(st.floats(0.1, 10.0), min_size=4, max_size=60)
options = st.fixed_dictionaries({"seed": st.integers(0, 5), "bucket_batches": st.integers(1, 4)})


def take(sampler: ResumableSampler, count: int) -> list[list[int]]:
    return [next(sampler) for _ in range(count)]


@given(durations_lists, st.integers(1, 7), options)
@settings(max_examples=60, deadline=None)
def test_batches_of_clips_are_full_and_read_every_clip_equally_often(durations, batch_clips, kwargs):
    sampler = ResumableSampler(durations, batch_clips=batch_clips, **kwargs)
    pool = batch_clips * kwargs["bucket_batches"]
    batches = take(sampler, len(durations) * kwargs["bucket_batches"])  # pool x len clips: whole pools, whole epochs
    assert {len(batch) for batch in batches} == {batch_clips}
    assert set(Counter(sum(batches, [])).values()) == {pool}
    assert sampler.epoch == pool
    if kwargs["bucket_batches"] == 1:
        stream = sum(batches, [])
        for start in range(0, len(stream), len(durations)):
            assert sorted(stream[start : start + len(durations)]) == list(range(len(durations)))


@given(durations_lists, st.integers(1, 7), options, st.integers(0, 25))
@settings(max_examples=80, deadline=None)
def test_resumed_equals_uninterrupted_at_any_point(durations, batch_clips, kwargs, cut):
    kwargs = kwargs | {"batch_clips": batch_clips}
    whole = take(ResumableSampler(durations, **kwargs), cut + 12)
    first = ResumableSampler(durations, **kwargs)
    assert take(first, cut) == whole[:cut]
    state = json.loads(json.dumps(first.state_dict()))
    second = ResumableSampler(durations, **kwargs)
    take(second, 3)  # whatever it did before
    second.load_state_dict(state)
    assert take(second, 12) == whole[cut:] and second.step == cut + 12


@given(st.lists(st.floats(0.1, 5.0), min_size=6, max_size=60), st.integers(1, 3), options)
@settings(max_examples=80, deadline=None)
def test_the_ranks_batches_in_order_are_the_big_batch_of_one_process(durations, world_size, kwargs):
    def sampler(rank: int, ranks: int) -> ResumableSampler:
        return ResumableSampler(durations, rank=rank, world_size=ranks, batch_clips=6 * world_size // ranks, **kwargs)

    one = take(sampler(0, 1), 15)
    shards = [take(sampler(rank, world_size), 15) for rank in range(world_size)]
    assert all(shard for rank in shards for shard in rank)
    assert [sum((list(part) for part in parts), []) for parts in zip(*shards, strict=True)] == one


def test_the_number_of_ranks_may_change_on_resume_but_nothing_else():
    durations = list(np.linspace(1, 5, 40))
    expected = take(ResumableSampler(durations, batch_clips=8, seed=3), 11)[7:]
    first = ResumableSampler(durations, batch_clips=8, seed=3)
    take(first, 7)
    pair = [ResumableSampler(durations, batch_clips=4, seed=3, rank=rank, world_size=2) for rank in (0, 1)]
    for sampler in pair:
        sampler.load_state_dict(first.state_dict())
    assert [next(pair[0]) + next(pair[1]) for _ in range(4)] == expected
    for other in (
        ResumableSampler(durations, batch_clips=8, seed=4),
        ResumableSampler(durations, batch_clips=9, seed=3),
        ResumableSampler(durations[:-1], batch_clips=8, seed=3),
        ResumableSampler([*durations[:-1], 4.0], batch_clips=8, seed=3),
    ):
        with pytest.raises(ValueError, match="cannot be resumed"):
            other.load_state_dict(first.state_dict())


def test_a_corpus_that_grew_goes_on_in_an_order_of_its_own_where_that_is_allowed():
    durations = list(np.linspace(1, 5, 40))
    first = ResumableSampler(durations, seed=3, batch_clips=8)
    take(first, 7)
    grown = ResumableSampler([*durations, 2.0, 3.0], seed=3, batch_clips=8)
    grown.load_state_dict(first.state_dict(), allow_changes=True)
    assert grown.step == 7  # crops and augmentation go on, they do not begin again
    seen = {index for batch in take(grown, 24) for index in batch}
    assert seen == set(range(42))
    same = ResumableSampler(durations, seed=3, batch_clips=8)
    same.load_state_dict(first.state_dict(), allow_changes=True)  # nothing changed: exactly as before
    assert take(same, 9) == take(first, 9)


def test_seeds_and_epochs_give_different_orders_and_the_same_seed_the_same():
    def epochs(seed: int) -> list[list[int]]:
        return take(ResumableSampler([1.0] * 50, batch_clips=50, seed=seed), 2)

    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(1)[1] and epochs(1)[0] != epochs(2)[0]
    # Frozen: a run resumed next year on another NumPy must read on in this order.
    assert epochs(1)[0][:8] == [45, 48, 46, 3, 20, 35, 8, 23]


def test_bucketing_saves_padding():
    durations = list(np.random.default_rng(0).exponential(4.0, 2000) + 0.5)

    def padded_share(bucket_batches: int) -> float:
        sampler = ResumableSampler(durations, batch_clips=16, bucket_batches=bucket_batches)
        real = padded = 0.0
        for batch in take(sampler, 100):
            lengths = [durations[index] for index in batch]
            real, padded = real + sum(lengths), padded + len(lengths) * max(lengths)
        return 1 - real / padded

    assert padded_share(1) > 0.5
    assert padded_share(50) < 0.1


@pytest.mark.parametrize(
    ("kwargs", "words"),
    [
        ({"batch_clips": 0}, "at least 1"),
        ({"batch_clips": 2, "rank": 2, "world_size": 2}, "rank 2"),
    ],
)
def test_impossible_settings_are_refused(kwargs, words):
    with pytest.raises(ValueError, match=words):
        ResumableSampler([1.0, 2.0, 3.0], **kwargs)
    with pytest.raises(ValueError, match="no clip"):
        ResumableSampler([], batch_clips=1)


def test_clip_seeds_are_frozen_63_bit_and_differ_in_every_argument():
    base = clip_seed(1, 2, "a", "crop")
    assert base == clip_seed(np.int64(1), 2, "a", "crop")
    others = [
        clip_seed(2, 2, "a", "crop"),
        clip_seed(1, 3, "a", "crop"),
        clip_seed(1, 2, "b", "crop"),
        clip_seed(1, 2, "a", "x"),
    ]
    assert base not in others and len(set(others)) == 4
    many = np.array([clip_seed(0, step, "clip", "crop") for step in range(4000)], dtype=np.float64) / 2**63
    assert many.min() >= 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.03
