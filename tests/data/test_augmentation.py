"""augmentation.py: keyed draws, each effect against its own measure, targets, and the loader that applies it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import soundfile

from llmcodec.data import augmentation
from llmcodec.data.augmentation import Augmentation, augment, level_of, speed_of
from llmcodec.data.clips import ClipDataset
from llmcodec.data.manifest import Clip

from ..speech import speech_like

RATE = 16_000
EVERYTHING = Augmentation(**{name: 1.0 for name in Augmentation.__dataclass_fields__ if name.endswith("_share")})
AUDIBLE = replace(EVERYTHING, silent_share=0.0, silence_share=0.0)
SPEECH_S = speech_like(2.0)


def applied(config: Augmentation, step: int = 0, wav_S: np.ndarray = SPEECH_S) -> tuple[np.ndarray, np.ndarray]:
    return augment(wav_S, RATE, config, 0, step, "clip")


def decibel(ratio: float) -> float:
    return 20 * float(np.log10(ratio))


def test_nothing_happens_by_default():
    heard_S, wanted_S = applied(Augmentation())
    assert not Augmentation().on and heard_S is wanted_S
    np.testing.assert_array_equal(heard_S, SPEECH_S)
    assert speed_of(Augmentation(), 0, 0, "clip") == 1.0


def test_draws_are_keyed_by_seed_step_clip_and_effect():
    first = applied(AUDIBLE)
    np.testing.assert_array_equal(first[0], applied(AUDIBLE)[0])
    assert not np.array_equal(first[0], applied(AUDIBLE, step=1)[0])
    assert not np.array_equal(first[0], augment(SPEECH_S, RATE, AUDIBLE, 1, 0, "clip")[0])
    assert not np.array_equal(first[0], augment(SPEECH_S, RATE, AUDIBLE, 0, 0, "other")[0])
    gain = Augmentation(gain_share=1.0)
    ratio = level_of(applied(gain)[0]) / level_of(SPEECH_S)
    both = applied(replace(gain, dither_share=1.0))[0]  # a second effect leaves the first one's draw alone
    assert level_of(both) / level_of(SPEECH_S) == pytest.approx(ratio, rel=2e-2)


@pytest.mark.parametrize("name", [n for n in Augmentation.__dataclass_fields__ if n.endswith("_share")])
def test_every_effect_keeps_length_type_and_finite_numbers(name):
    config = replace(Augmentation(), **{name: 1.0})
    assert config.on
    for wav_S in (SPEECH_S, SPEECH_S[:1], np.zeros(3000, np.float32)):
        for step in range(6):
            for out_S in applied(config, step, wav_S):
                assert out_S.dtype == np.float32 and out_S.shape == wav_S.shape and np.isfinite(out_S).all()


def test_a_share_is_a_probability():
    config = Augmentation(silent_share=0.3)
    silent = sum(not applied(config, step)[0].any() for step in range(400))
    assert 85 <= silent <= 155  # 120 expected, 4 standard deviations


def test_levels_span_the_range_in_decibels():
    gains = [decibel(level_of(applied(Augmentation(gain_share=1.0), s)[0]) / level_of(SPEECH_S)) for s in range(200)]
    assert -50 <= min(gains) < -45 and 3 < max(gains) <= 6.01 and np.mean(gains) == pytest.approx(-22, abs=3.5)


def test_silence_is_zeros_for_as_long_as_asked_before_after_and_inside():
    places = set()
    for step in range(60):
        quiet = applied(Augmentation(silence_share=1.0, silence_seconds=(0.2, 0.5)), step)[0] == 0.0
        edges = np.flatnonzero(np.diff(np.concatenate([[False], quiet, [False]]).astype(int)))
        runs = [(a, b) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a > 1000]
        (start, stop) = max(runs, key=lambda run: run[1] - run[0])
        assert 0.2 * RATE - 2 <= stop - start <= 0.5 * RATE + 2
        places.add("before" if start == 0 else "after" if stop == len(quiet) else "inside")
    assert places == {"before", "after", "inside"}


def test_dither_is_one_bit_of_sixteen():
    out_S = applied(Augmentation(dither_share=1.0), wav_S=np.zeros(30_000, np.float32))[0]
    assert set(np.unique(out_S)) == {-(2.0**-15), 0.0, 2.0**-15}


def test_noise_has_the_ratio_asked_for():
    heard_S, wanted_S = applied(Augmentation(noise_share=1.0, noise_db=(20.0, 20.0), clean_target_share=1.0))
    np.testing.assert_array_equal(wanted_S, SPEECH_S)
    noise_S = heard_S.astype(np.float64) - wanted_S
    assert decibel(level_of(SPEECH_S) / np.sqrt(np.mean(noise_S**2))) == pytest.approx(20, abs=0.2)


def test_reverberation_rings_on_at_the_same_level():
    click_S = np.zeros(RATE, np.float32)
    click_S[1000] = 1.0
    out_S = applied(Augmentation(reverb_share=1.0), wav_S=click_S)[0]
    assert np.abs(out_S).argmax() == 1000 and np.abs(out_S[2000:4000]).max() > 1e-4
    assert level_of(applied(Augmentation(reverb_share=1.0))[0]) == pytest.approx(level_of(SPEECH_S), rel=1e-3)


def test_noisy_targets_are_the_default_and_a_clean_target_shares_everything_else():
    noisy = Augmentation(noise_share=1.0)
    heard_S, wanted_S = applied(noisy)
    assert heard_S is wanted_S
    heard_S, wanted_S = applied(replace(noisy, clean_target_share=1.0, gain_share=1.0, silence_share=1.0))
    np.testing.assert_array_equal(wanted_S, applied(Augmentation(gain_share=1.0, silence_share=1.0))[0])
    assert np.array_equal(heard_S == 0, wanted_S == 0) or (heard_S != 0).sum() >= (wanted_S != 0).sum()


def test_a_band_limit_takes_what_lies_outside():
    noise_S = np.random.default_rng(0).standard_normal(4 * RATE).astype(np.float32)
    telephones = 0
    for step in range(30):
        power = np.abs(np.fft.rfft(applied(Augmentation(band_share=1.0), step, noise_S)[0])) ** 2
        hertz = np.fft.rfftfreq(len(noise_S), 1 / RATE)
        inside = power[(hertz > 600) & (hertz < 2500)].mean()
        below, above = power[hertz < 150].mean() / inside, power[hertz > 4500].mean() / inside
        telephones += below < 0.1 and above < 0.1
        assert power[hertz > 7900].mean() < 1.1 * inside
    assert 3 <= telephones <= 25


def test_the_equaliser_moves_octaves_and_not_the_level():
    noise_S = np.random.default_rng(0).standard_normal(2 * RATE).astype(np.float32)
    out_S = applied(Augmentation(equaliser_share=1.0), wav_S=noise_S)[0]
    assert level_of(out_S) == pytest.approx(level_of(noise_S), rel=1e-3)
    hertz = np.fft.rfftfreq(len(noise_S), 1 / RATE)
    power = np.abs(np.fft.rfft(out_S)) ** 2
    octaves = [10 * np.log10(power[(hertz > f) & (hertz < 1.3 * f)].mean()) for f in (125, 250, 500, 1000, 2000, 4000)]
    assert 5 < max(octaves) - min(octaves) < 30


def test_lossy_codecs_change_the_sound_and_keep_it_recognisable():
    kinds = set()
    for step in range(12):
        out_S = applied(Augmentation(lossy_share=1.0), step)[0].astype(np.float64)
        spectrum = np.fft.rfft(out_S) * np.conj(np.fft.rfft(SPEECH_S.astype(np.float64)))
        correlation = np.abs(np.fft.irfft(spectrum)).max() / (np.linalg.norm(out_S) * np.linalg.norm(SPEECH_S))
        assert 0.8 < correlation < 0.99999
        kinds.add(round(correlation, 4))
    assert len(kinds) > 3


@pytest.mark.parametrize("rate", [22_050, 32_000, 44_100])
def test_lossy_codecs_take_the_rates_of_other_codecs_too(rate):
    tone_S = (0.3 * np.sin(np.arange(rate) / rate * 2 * np.pi * 440)).astype(np.float32)
    heard_S, wanted_S = augment(tone_S, rate, Augmentation(lossy_share=1.0), 0, 0, "a")
    assert len(heard_S) == rate and 1e-4 < np.abs(heard_S - tone_S).max() < 1.0
    np.testing.assert_array_equal(heard_S, wanted_S)


def test_a_rate_that_no_lossy_codec_takes_is_refused_before_training(clips):
    ClipDataset(clips, 96_000, augmentation=Augmentation(dither_share=1.0))
    with pytest.raises(ValueError, match="neither mp3 nor opus takes 96,000 Hz"):
        ClipDataset(clips, 96_000, augmentation=Augmentation(lossy_share=0.1))


def test_a_clip_is_played_faster_by_reading_it_at_another_rate(tmp_path):
    time = np.arange(4 * RATE) / RATE
    soundfile.write(tmp_path / "tone.wav", 0.3 * np.sin(2 * np.pi * 400 * time), RATE)
    clip = Clip("tone", "tone.wav", 4.0, folder=str(tmp_path))
    config = Augmentation(speed_share=1.0, speed_range=(1.1, 1.1))
    wav_S = ClipDataset([clip], RATE, augmentation=config).batch([0]).wav_BS[0].numpy()
    assert len(wav_S) == pytest.approx(4 * RATE / 1.1, rel=5e-3)
    peak = np.fft.rfftfreq(len(wav_S), 1 / RATE)[np.abs(np.fft.rfft(wav_S)).argmax()]
    assert peak == pytest.approx(440, abs=3)
    crop_S = ClipDataset([clip], RATE, crop_seconds=1.0, augmentation=config).batch([0]).wav_BS[0].numpy()
    peak = np.fft.rfftfreq(len(crop_S), 1 / RATE)[np.abs(np.fft.rfft(crop_S)).argmax()]
    assert len(crop_S) == RATE and peak == pytest.approx(440, abs=3)


def test_batches_carry_targets_where_they_differ_and_do_not_depend_on_their_neighbours(clips):
    off = ClipDataset(clips, RATE, crop_seconds=0.9)
    assert off.batch([0, 1]).target_BS is None
    np.testing.assert_array_equal(
        ClipDataset(clips, RATE, crop_seconds=0.9, augmentation=Augmentation()).batch([0, 1]).wav_BS,
        off.batch([0, 1]).wav_BS,
    )
    config = replace(AUDIBLE, speed_share=0.5, noise_share=0.5, clean_target_share=0.5)
    dataset = ClipDataset(clips, RATE, crop_seconds=0.9, augmentation=config)
    together, alone = dataset.batch([0, 1, 2, 3], 7), dataset.batch([2], 7)
    np.testing.assert_array_equal(together.wav_BS[2], alone.wav_BS[0])
    assert together.target_BS is not None and together.to("cpu").target_BS.shape == together.wav_BS.shape
    np.testing.assert_array_equal(dataset.read(0), off.clips and ClipDataset(clips, RATE, crop_seconds=0.9).read(0))


@pytest.mark.parametrize(
    ("name", "value"),
    [("gain_share", 1.1), ("gain_share", -0.1), ("gain_db", (6.0, -50.0)), ("speed_range", (0.0, 1.0))],
)
def test_settings_that_make_no_sense(name, value):
    with pytest.raises(ValueError, match=f"data.augmentation.{name}"):
        Augmentation(**{name: value})


def test_every_lossy_codec_is_one_that_soundfile_writes():
    for how in augmentation.LOSSY.values():
        assert soundfile.check_format(how["format"], how["subtype"])
