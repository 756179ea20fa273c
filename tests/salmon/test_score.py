"""salmon/score.py: counting by hand, ties, Wilson, the code cache, and a scorer that knows the answer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from llmcodec.io import audio
from llmcodec.metrics.statistics import wilson_interval
from llmcodec.salmon import score
from llmcodec.salmon.score import PairScore, PartScore, SalmonResult, compare_salmon, salmon_accuracy

from ..fake_codec import LoudnessCodec

RATE = 16_000


class CountingCodec(LoudnessCodec, nn.Module):
    """The loudness codec as a module with one weight, counting its calls."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.context = 0
        self.weight = nn.Parameter(torch.zeros(1))
        self.batches: list[tuple[int, ...]] = []

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None):  # type: ignore[no-untyped-def]
        self.batches.append(tuple(input_values.shape))
        return super().encode(input_values, padding_mask)

    state_dict = nn.Module.state_dict


class Likes:
    """A scorer: every token gets minus its distance from the token before it, so steady clips are more likely."""

    def token_log_likelihoods(self, codes: list[Tensor]) -> list[Tensor]:
        return [-torch.diff(clip.double(), prepend=clip[:1].double()).abs() for clip in codes]


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    """Steady loudness against a change in the middle; pair 3 is a tie, pair 4 the wrong way round."""
    steady, change = [0.1] * 10, [0.1] * 5 + [0.2] * 5
    pairs = [(steady, change)] * 3 + [(steady, steady), (change, steady)]
    for index, pair in enumerate(pairs):
        for side, levels in enumerate(pair):
            wav = np.repeat(np.float32(levels), 320)
            audio.write(tmp_path / "suite" / "bg_all_consistency" / f"sample_{index}_{side}.wav", wav, RATE)
    wav = np.repeat(np.float32(steady), 320)
    for side, length in enumerate((3200, 1600)):
        audio.write(tmp_path / "suite" / "rir_consistency" / f"sample_0_{side}.wav", wav[:length], RATE)
    return tmp_path / "suite"


def test_shares_ties_and_intervals(suite):
    shown: list[float] = []
    result = salmon_accuracy(CountingCodec(), Likes(), suite, on_progress=lambda part, share: shown.append(share))
    part = result.parts["bg_all_consistency"]
    assert part.outcomes() == [1, 1, 1, 0.5, 0] and part.ties == 1
    assert part.mean == wilson_interval(3.5, 5) == part.sum and part.mean.value == 0.7
    assert result.overall == wilson_interval(4.0, 6) and result.average == pytest.approx((0.7 + 0.5) / 2)
    assert shown == sorted(shown) and shown[-1] == 1.0
    assert result.to_json()["parts"]["bg_all_consistency"]["pairs"][4]["index"] == 4
    with pytest.raises(ValueError, match="max_pairs must be at least 1"):
        salmon_accuracy(CountingCodec(), Likes(), suite, max_pairs=-1)  # would leave the last pair out
    assert salmon_accuracy(CountingCodec(), Likes(), suite, max_pairs=3).parts["bg_all_consistency"].mean.value == 1


def test_mean_and_sum_differ_where_lengths_do():
    pair = PairScore(0, positive_sum=-10.0, negative_sum=-8.0, positive_tokens=10, negative_tokens=5)
    assert pair.outcome(mean=True) == 1.0 and pair.outcome(mean=False) == 0.0
    part = PartScore([pair])
    assert part.mean.value == 1.0 and part.sum.value == 0.0


def test_clips_of_one_length_share_a_batch_and_codes_are_those_of_single_clips(suite):
    codec = CountingCodec()
    salmon_accuracy(codec, Likes(), suite, ["bg_all_consistency"])
    assert codec.batches == [(10, 1, 3200)]
    few = CountingCodec()
    salmon_accuracy(few, Likes(), suite, ["bg_all_consistency"], cache=suite / "elsewhere", batch_seconds=0.5)
    assert [shape[0] for shape in few.batches] == [2, 2, 2, 2, 2]


def test_codes_of_another_version_are_not_taken(suite, monkeypatch):
    salmon_accuracy(CountingCodec(), Likes(), suite)
    monkeypatch.setattr(score, "__version__", "later")
    later = CountingCodec()
    salmon_accuracy(later, Likes(), suite)
    assert later.batches


def test_codes_are_kept_until_codec_or_suite_change(suite):
    first = CountingCodec()
    result = salmon_accuracy(first, Likes(), suite)
    again = CountingCodec()
    assert salmon_accuracy(again, Likes(), suite) == result and not again.batches
    changed = CountingCodec()
    nn.init.ones_(changed.weight)
    salmon_accuracy(changed, Likes(), suite)
    assert changed.batches
    audio.write(suite / "rir_consistency" / "sample_0_1.wav", np.zeros(3200, np.float32), RATE)
    salmon_accuracy(again, Likes(), suite)
    assert again.batches == [(2, 1, 3200)]  # of the changed part alone
    for path in (suite / ".codes").iterdir():
        path.write_bytes(b"damaged")
    damaged = CountingCodec()
    salmon_accuracy(damaged, Likes(), suite)
    assert damaged.batches
    without_weights = LoudnessCodec()
    without_weights.state_dict = dict  # type: ignore[method-assign]
    assert salmon_accuracy(without_weights, Likes(), suite, cache=suite / "new").overall.num == 6
    assert not (suite / "new").exists()


def test_a_scorer_must_speak_about_every_token(suite):
    class Short(Likes):
        def token_log_likelihoods(self, codes: list[Tensor]) -> list[Tensor]:
            return [row[1:] for row in super().token_log_likelihoods(codes)]

    with pytest.raises(ValueError, match="gave 9 log-likelihoods for 10 tokens"):
        salmon_accuracy(CountingCodec(), Short(), suite, ["bg_all_consistency"])


def test_a_model_that_does_not_look_across_the_joint_gets_exactly_half():
    """Mirrored pairs: x|x against x|y and y|y against y|x. Whatever the halves are worth, one of the two is right."""
    rng = np.random.default_rng(0)
    pairs = []
    for number in range(50):
        x, y = (torch.from_numpy(rng.integers(0, 64, 20)) for _ in range(2))
        worth = torch.from_numpy(rng.standard_normal(64))
        for index, (a, b) in enumerate(((x, y), (y, x))):
            score = [float(worth[torch.cat(clip)].sum()) for clip in ((a, a), (a, b))]
            pairs.append(PairScore(2 * number + index, score[0], score[1], 40, 40))
    assert PartScore(pairs).mean.value == 0.5


def test_two_results_are_compared_pair_by_pair():
    def result(scores: list[float]) -> SalmonResult:
        return SalmonResult({"p": PartScore([PairScore(i, s, 0.0, 5, 5) for i, s in enumerate(scores)])})

    worse, better = result([1.0, -1.0] * 20), result([1.0, 1.0] * 19 + [1.0, -1.0])
    paired = compare_salmon(worse, better)
    assert paired.difference.value == pytest.approx(0.475) and paired.real and paired.num == 40
    with pytest.raises(ValueError, match="different pairs"):
        compare_salmon(worse, result([1.0]))
