"""Phones in tokens against scikit-learn, ABX against loops over all triples."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from llmcodec.data.alignments import Phone
from llmcodec.data.manifest import Clip
from llmcodec.evaluation.abx import Item, item_distances, measure_abx
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.phones import (
    PhoneConfig,
    compare_phones,
    cut_items,
    frame_phones,
    measure_encoder,
    measure_phones,
    named_by_others,
    shared_counts,
    token_phones,
)

from ..fake_codec import LoudnessCodec

SPOKEN = [Phone("a", 0.0, 0.03), Phone("pau", 0.03, 0.05), Phone("b", 0.05, 0.051), Phone("c", 0.051, 0.2)]


def test_a_frame_has_the_phone_at_its_centre():
    assert frame_phones(SPOKEN, 6, 50, ["pau"]) == ["a", "", "b", "c", "c", "c"], "centres 10, 30, 50, 70 ms ..."
    assert frame_phones(SPOKEN, 2, 50, []) == ["a", "pau"]
    assert frame_phones(SPOKEN, 2, 12.5, ["pau"]) == ["", "c"], "centres 40, 120 ms"


def test_shared_counts_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    phone_N = random.integers(0, 7, 500)
    code_N = np.where(random.random(500) < 0.6, phone_N * 2, random.integers(0, 20, 500))
    code_N = np.unique(code_N, return_inverse=True)[1]
    purity, code_purity, bits, entropy = shared_counts(code_N, phone_N)
    table = metrics.cluster.contingency_matrix(code_N, phone_N)
    assert purity == pytest.approx(table.max(1).sum() / 500) and code_purity == pytest.approx(table.max(0).sum() / 500)
    assert bits == pytest.approx(metrics.mutual_info_score(phone_N, code_N) / math.log(2))
    assert bits / entropy == pytest.approx(metrics.homogeneity_score(phone_N, code_N))


def test_codes_that_say_nothing_are_at_chance_and_held_out_names_show_it():
    """One code for each frame has purity 1, and so has it by chance; held out it names no phone."""
    clips = [Clip(f"c{n}", "x", 1.0) for n in range(6)]
    random = np.random.default_rng(1)
    spoken = {c.id: [Phone(str(random.integers(0, 4)), i / 10, (i + 1) / 10) for i in range(10)] for c in clips}
    own = [np.arange(50) + 50 * n for n in range(6)]
    told = token_phones(clips, own, spoken, 50, PhoneConfig())
    assert told.purity == told.chance_purity == 1.0
    assert told.normalised == pytest.approx(1) and told.chance_normalised == pytest.approx(1)
    assert told.accuracy.value < 0.5 and (told.num_frames, told.num_codes, told.num_phones) == (300, 300, 4)
    right = [np.repeat([int(p.name) for p in spoken[c.id]], 5) for c in clips]
    perfect = token_phones(clips, right, spoken, 50, PhoneConfig())
    assert perfect.purity == perfect.code_purity == perfect.accuracy.value == 1.0
    assert perfect.normalised == pytest.approx(1)
    assert perfect.chance_purity < 0.6 and perfect.information_bits == pytest.approx(2, abs=0.1)
    assert compare_phones(told, perfect).difference.value == pytest.approx(1 - told.accuracy.value)
    constant = token_phones(clips, [np.zeros(50, int)] * 6, spoken, 50, PhoneConfig())
    assert constant.normalised == 0 and constant.purity == constant.chance_purity
    with pytest.raises(ValueError, match="no frame of 6 clips has a phone"):
        token_phones(clips, own, {c.id: [] for c in clips}, 50, PhoneConfig())
    with pytest.raises(ValueError, match="one of 6 clips has frames with a phone; accuracy needs two"):
        token_phones(clips, own, {c.id: spoken[c.id] if c.id == "c1" else [] for c in clips}, 50, PhoneConfig())


def test_names_come_from_the_other_half_of_the_clips():
    frames = {"a": [(1, "x"), (1, "x"), (2, "y")], "b": [(1, "y"), (3, "x"), (1, "y")], "c": [(2, "y"), (2, "x")]}
    # from b: code 1 is y, 3 is x, others y; from a and c: 1 is x, 2 is y, others the commonest of x 3, y 2
    assert named_by_others(frames) == {"a": (1, 3), "b": (1, 3), "c": (1, 2)}


def loop_distance(one, other, frame_distance) -> float:
    """Cost and path of the usual table, filled one cell at a time and walked back."""
    table = {(0, 0): (0.0, 0)}
    for t in range(1, len(one) + 1):
        for u in range(1, len(other) + 1):
            before = [table.get(cell, (math.inf, 0)) for cell in ((t - 1, u - 1), (t, u - 1), (t - 1, u))]
            cost, steps = min(before, key=lambda cell: cell[0])
            table[t, u] = cost + frame_distance(one[t - 1], other[u - 1]), steps + 1
    cost, steps = table[len(one), len(other)]
    return cost / steps


def angle(x, y) -> float:
    return math.acos(max(-1.0, min(1.0, float(x @ y / np.linalg.norm(x) / np.linalg.norm(y))))) / math.pi


def loop_errors(items: list[Item], distance, across: bool) -> dict[tuple[str, str], float]:
    """Every triple of the definition, in loops."""
    pairs: dict[tuple[str, str], list[float]] = {}
    phones, speakers = sorted({i.phone for i in items}), sorted({i.speaker for i in items})
    for a in phones:
        for b in phones:
            of_speakers = []
            for speaker in speakers:
                of_contexts = []
                for context in sorted({i.context for i in items}):
                    here = [i for i in items if i.context == context]
                    errors = [
                        1.0 if distance(B, X) < distance(A, X) else 0.5 if distance(B, X) == distance(A, X) else 0.0
                        for A in here
                        for B in here
                        for X in here
                        if (A.phone, B.phone, X.phone) == (a, b, a) and a != b and A is not X
                        if A.speaker == B.speaker == speaker and (X.speaker == speaker) != across
                    ]
                    of_contexts += [np.mean(errors)] if errors else []
                of_speakers += [np.mean(of_contexts)] if of_contexts else []
            if of_speakers:
                pairs.setdefault((min(a, b), max(a, b)), []).append(float(np.mean(of_speakers)))
    return {pair: float(np.mean(both)) for pair, both in pairs.items()}


@pytest.mark.parametrize("kind", ["tokens", "features"])
def test_abx_is_that_of_loops_over_all_triples(kind):
    random = np.random.default_rng(2)
    items = []
    for number in range(26):
        phone, length = "abc"[number % 3], int(random.integers(1, 5))
        frames = random.integers(0, 3, length) + "abc".index(phone)
        if kind == "features":
            frames = np.eye(5)[frames] + 0.5 * random.standard_normal((length, 5))
        items.append(Item(phone, "uv"[int(random.integers(0, 2))], "xy"[number % 2], frames))
    frame_distance = angle if kind == "features" else lambda x, y: float(x != y)
    table = {
        (id(one), id(two)): loop_distance(one.frames, two.frames, frame_distance) for one in items for two in items
    }
    matrix = item_distances([item.frames for item in items])

    def distance(one: Item, two: Item) -> float:
        return (table[id(one), id(two)] + table[id(two), id(one)]) / 2

    expected = np.array([[distance(one, two) for two in items] for one in items])
    off = ~np.eye(len(items), dtype=bool)
    np.testing.assert_allclose(matrix[off], expected[off], atol=1e-6)
    found = measure_abx(items)
    for across, pairs in ((False, found.within_pairs), (True, found.across_pairs)):
        wanted = loop_errors(items, distance, across)
        assert pairs.keys() == wanted.keys() and len(pairs) == 3
        assert all(pairs[pair] == pytest.approx(wanted[pair], abs=1e-9) for pair in wanted)
    assert 0 < found.within.value < 0.5 and found.num_items == 26


def test_items_are_drawn_by_seed_and_keep_their_neighbours():
    clips = [Clip("one", "x", 2.0, speaker="s"), Clip("two", "x", 2.0, speaker="t")]
    spoken = {c.id: [Phone("ab"[i % 2], i / 10, (i + 1) / 10) for i in range(20)] for c in clips}
    rows = [np.arange(100), np.arange(100) + 100]
    items = cut_items(clips, rows, spoken, 50, PhoneConfig(items=3))
    assert len(items) == 12 and {(i.phone, i.speaker, i.context) for i in items} == {
        ("a", "s", ""), ("b", "s", ""), ("a", "t", ""), ("b", "t", "")
    }  # fmt: skip
    assert all(len(item.frames) == 5 and item.frames[0] % 5 == 0 for item in items)
    again = cut_items(clips, rows, spoken, 50, PhoneConfig(items=3))
    other = cut_items(clips, rows, spoken, 50, PhoneConfig(items=3, seed=1))
    assert [i.frames[0] for i in items] == [i.frames[0] for i in again] != [i.frames[0] for i in other]
    within = cut_items(clips, rows, spoken, 50, PhoneConfig(context="within"))
    assert {i.context for i in within if i.phone == "a"} == {"b b", " b"}


class ShownLoudness(LoudnessCodec):
    """Latents that know the loudness."""

    def encode_features(self, input_values, padding_mask=None):
        codes = self.encode(input_values, padding_mask).audio_codes[:, 0].float()
        return torch.stack([codes, torch.full_like(codes, 5.0)], -1)


def test_a_codec_that_hears_loudness_tells_loud_from_quiet(tmp_path: Path):
    random = np.random.default_rng(0)
    clips, spoken = [], {}
    for number in range(4):
        levels = random.permutation([0.02, 0.2] * 10)
        wav = np.concatenate([level * random.standard_normal(1600) for level in levels]).astype(np.float32)
        soundfile.write(tmp_path / f"{number}.wav", wav, 16_000, subtype="FLOAT")
        clips.append(Clip(f"c{number}", f"{number}.wav", 2.0, speaker="s", folder=str(tmp_path)))
        names = {0.02: "quiet", 0.2: "loud"}
        spoken[f"c{number}"] = [Phone(names[level], i / 10, (i + 1) / 10) for i, level in enumerate(levels)]
    clips.append(Clip("unlabelled", "0.wav", 2.0, folder=str(tmp_path)))
    with EncodedCorpus(ShownLoudness()) as encoded:
        result = measure_phones(encoded, clips, spoken)
    assert (
        result.tokens.purity > 0.99 and result.tokens.accuracy.value > 0.95 and set(result.tokens.clips) == set(spoken)
    )
    assert result.token_abx.within.value < 0.2 and result.token_abx.across is None
    assert result.feature_abx.within.value < 0.05 and list(result.feature_abx.within_pairs) == [("loud", "quiet")]

    class Loudness:
        sample_rate, frame_rate = 16_000, 50.0

        def frames_of(self, wav_BS):
            level_BT = wav_BS.unfold(1, 320, 320).square().mean(-1).sqrt()
            return torch.stack([level_BT, torch.full_like(level_BT, 0.1)], -1)

    alone = measure_encoder(Loudness(), clips, spoken)
    assert alone.tokens is None and alone.token_abx is None and alone.feature_abx.within.value < 0.05
    with EncodedCorpus(LoudnessCodec()) as encoded, pytest.raises(ValueError, match="no codebook 2; the codec has 1"):
        measure_phones(encoded, clips, spoken, PhoneConfig(codebook=1))
