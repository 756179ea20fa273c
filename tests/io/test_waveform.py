"""Waveforms from Python: integers at their full range, floats as they are, all else refused in one line."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
import torch

from llmcodec.io.waveform import check_waveform


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (np.array([-32768, 0, 16384, 32767], np.int16), [-1, 0, 0.5, 32767 / 32768]),
        (np.array([-32768, 16384], ">i2"), [-1, 0.5]),
        (np.array([-(1 << 31), 0, 1 << 30], np.int32), [-1, 0, 0.5]),
        (np.array([0, 64, 128, 192, 255], np.uint8), [-1, -0.5, 0, 0.5, 127 / 128]),
        (np.array([0.5, -2.0], np.float64), [0.5, -2]),
        (np.array([0.5, -2.0], np.float16), [0.5, -2]),
        ([0.25, -0.25], [0.25, -0.25]),
        ([], []),
    ],
)
def test_samples_are_scaled_by_their_full_range(given, expected):
    wav = check_waveform(given, "clip")
    assert wav.dtype == np.float32 and wav.tolist() == expected


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.float64, torch.int16])
def test_tensors_are_taken_whatever_their_type(kind):
    wav = check_waveform(torch.ones(3).to(kind).requires_grad_(kind.is_floating_point), "clip")
    assert wav.dtype == np.float32 and wav.tolist() == [1.0 if kind.is_floating_point else 1 / 32768] * 3


def test_floats_are_not_copied_and_not_changed():
    wav = np.random.default_rng(0).standard_normal(9).astype(np.float32)
    assert check_waveform(wav, "clip") is wav


@pytest.mark.parametrize("kind", [bool, np.int8, np.uint16, np.uint32, np.int64, np.uint64, np.complex64, str, object])
def test_types_without_a_known_full_scale_are_refused(kind):
    with pytest.raises(ValueError, match="clip 3: samples must be floats .* uint8, int16, int32") as error:
        check_waveform(np.ones(4).astype(kind), "clip 3")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e300])
def test_the_first_sample_that_is_no_number_is_named(bad):
    with pytest.raises(ValueError, match="^clip 3: sample 107 is NaN or infinite") as error:
        check_waveform([0.0] * 7 + [bad, bad], "clip 3", first=100)
    assert "\n" not in str(error.value)


def test_several_channels_are_refused():
    with pytest.raises(ValueError, match=r"clip 3 has shape \(4, 2\); give mono"):
        check_waveform(np.zeros((4, 2)), "clip 3")


@pytest.mark.parametrize("loud", [1e16, -3e25])
def test_what_no_recording_has_is_refused(loud):
    with pytest.raises(ValueError, match=f"^clip 3: sample 101 is {re.escape(f'{loud:.3g}')}, absurdly loud") as error:
        check_waveform([0.0, loud], "clip 3", first=100)
    assert "\n" not in str(error.value)


def test_floats_on_the_scale_of_integers_are_warned_of_once():
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for peak in (1.0, 99.0, 3000.0, -4000.0, 32767.0):
            check_waveform(np.array([peak, 0.0]), "clip")
        check_waveform(np.array([32767, 0], np.int16), "clip")
        with pytest.raises(ValueError, match="NaN"):
            check_waveform([3000.0, np.nan], "clip")
    assert [str(one.message)[:25] for one in shown] == ["samples reach beyond 100,"]
