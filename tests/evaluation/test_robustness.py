"""What a codec does to levels and silence, on a codec of which it is known: sample by sample, louder, with a floor."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import Tensor

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.evaluation.robustness import (
    CONDITIONS,
    Condition,
    RobustnessResult,
    altered,
    compare_robustness,
    level_error,
    measure_robustness,
    silent_signal,
)


class PcmCodec:
    """One 16-bit code a sample; what comes out is `gain` times as loud, and a constant `floor` is added."""

    sample_rate, hop_samples, frame_rate = 16_000, 320, 50.0
    num_codebooks, codebook_size = 320, 65_536

    def __init__(self, gain: float = 1.0, floor: float = 0.0) -> None:
        self.gain, self.floor = gain, floor

    def encode(self, input_values: Tensor, padding_mask: Tensor | None = None) -> SimpleNamespace:
        wav_BS = input_values[:, 0]
        frames = -(-wav_BS.shape[-1] // 320)
        wav_BS = torch.nn.functional.pad(wav_BS, (0, frames * 320 - wav_BS.shape[-1]))
        codes_BQT = ((wav_BS * 32_767).round().long() + 32_768).reshape(-1, frames, 320).transpose(1, 2)
        mask_BS = torch.ones(wav_BS.shape) if padding_mask is None else padding_mask.reshape(len(wav_BS), -1)
        count_B = -(-mask_BS.sum(-1).long() // 320)
        return SimpleNamespace(
            audio_codes=codes_BQT, audio_codes_mask=(torch.arange(frames) < count_B[:, None])[:, None]
        )

    def decode(
        self, audio_codes: Tensor, padding_mask: Tensor | None = None, *, length: int | None = None
    ) -> SimpleNamespace:
        wav_BS = (audio_codes.transpose(1, 2).flatten(1).float() - 32_768) / 32_767 * self.gain + self.floor
        return SimpleNamespace(audio_values=wav_BS[:, None, : length or wav_BS.shape[-1]])


def measured(codec: PcmCodec, clips: list[Clip], *conditions: Condition, **more: int) -> RobustnessResult:
    with EncodedCorpus(codec) as encoded:
        return measure_robustness(encoded, clips, conditions, ("stoi",), num_workers=0, **more)


def test_a_gain_is_the_level_error_and_costs_no_intelligibility(clips: list[Clip]) -> None:
    result = measured(PcmCodec(gain=0.5), clips, *CONDITIONS)
    for condition in CONDITIONS[:9]:
        errors = result.values(condition, "level_error")
        assert len(errors) == len(clips)
        assert list(errors.values()) == pytest.approx([-6.02] * len(clips), abs=0.05), condition.label
    assert result.mean(Condition("level", 6.0), "stoi").value > 0.999
    assert result.loudest(Condition("zeros")) == -140.0 == result.loudest(Condition("pause", 1.0))
    assert result.loudest(Condition("white", -70.0)) == pytest.approx(-76.0, abs=0.3)


def test_what_silence_becomes_is_measured_inside_pauses_too(clips: list[Clip]) -> None:
    result = measured(PcmCodec(floor=0.1), clips, Condition("pause", 0.5), Condition("zeros"), Condition("dither"))
    assert [result.loudest(condition) for condition in result.conditions] == pytest.approx([-20.0] * 3, abs=0.01)
    assert [row.id for row in result.rows if row.condition.kind == "zeros"] == ["draw 0", "draw 1", "draw 2"]


def test_a_floor_hurts_quiet_speech_alone(clips: list[Clip]) -> None:
    """The floor is 34 dB below full scale: loud speech hides it, quiet speech is drowned."""
    loud, quiet = Condition("level"), Condition("level", -40.0)
    result = measured(PcmCodec(floor=0.02), clips, loud, quiet)
    assert abs(result.mean(loud, "level_error").value) < 0.3
    assert result.mean(quiet, "level_error").value > 6
    clean = measured(PcmCodec(), clips, quiet)
    assert compare_robustness(result, clean, quiet, "level_error").difference.value < -6


def test_conditions_do_what_they_say() -> None:
    draw = np.random.default_rng(0)
    wav_S = (0.1 * draw.standard_normal(16_000)).astype(np.float32)
    power = lambda x: float(np.mean(np.square(x, dtype=np.float64)))  # noqa: E731
    louder_S = altered(wav_S, 16_000, Condition("level", -20.0), "a", 0)
    assert np.allclose(louder_S, wav_S / 10)
    paused_S = altered(wav_S, 16_000, Condition("pause", 0.25), "a", 0)
    assert len(paused_S) == 20_000 and not paused_S[8_000:12_000].any() and paused_S[12_000] == wav_S[8_000]
    noisy_S = altered(wav_S, 16_000, Condition("noise", 20.0), "a", 0)
    assert 10 * np.log10(power(wav_S) / power(noisy_S - wav_S)) == pytest.approx(20, abs=0.2)
    assert np.array_equal(noisy_S, altered(wav_S, 16_000, Condition("noise", 20.0), "a", 0))
    assert not np.array_equal(noisy_S, altered(wav_S, 16_000, Condition("noise", 20.0), "b", 0))
    spectrum = np.abs(np.fft.rfft(altered(wav_S, 16_000, Condition("telephone"), "a", 0))) ** 2
    assert spectrum[:150].sum() + spectrum[4_500:].sum() < 1e-3 * spectrum.sum()
    assert set(np.unique(silent_signal(Condition("dither"), 1_000, 0, 0) * 2**15)) == {-1.0, 0.0, 1.0}
    assert not np.array_equal(*(silent_signal(Condition("white", -70.0), 100, draw, 0) for draw in (0, 1)))


def test_level_error_ignores_pauses() -> None:
    sent_S = np.concatenate([np.zeros(8_000), np.sin(np.arange(9_000))]).astype(np.float32)
    came_S = 2 * sent_S
    came_S[:8_000] = 0.5  # noise in the pause
    assert level_error(sent_S, came_S, 16_000) == pytest.approx(6.02, abs=0.1)


@pytest.mark.parametrize(
    ("conditions", "fault"),
    [
        ((Condition("mood"),), "no condition 'mood'"),
        ((Condition("level"),), "no clips"),
        ((Condition("pause", 0.1),), "nothing of it is measured"),
        ((Condition("level", float("nan")),), "not a finite number"),
    ],
)
def test_what_cannot_be_measured_is_refused(conditions: tuple[Condition, ...], fault: str, clips: list[Clip]) -> None:
    with pytest.raises(ValueError, match=fault):
        measured(PcmCodec(), [] if fault == "no clips" else clips, *conditions)
