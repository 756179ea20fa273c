"""Masks from lengths, and samples as tensors."""

from __future__ import annotations

import warnings

import pytest
import torch

from llmcodec.codec.inputs import check_samples, mask_of


def test_a_mask_is_true_inside_each_clip() -> None:
    expected = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    assert torch.equal(mask_of(torch.tensor([2, 0, 9]), 3), expected)
    with pytest.raises(ValueError, match="lengths"):
        mask_of(torch.tensor([[1]]), 3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_sample_that_no_recording_has_is_named(dtype: torch.dtype) -> None:
    wav = torch.zeros(2, 9, dtype=dtype)
    for bad, kind in ((torch.nan, "NaN or infinite"), (-torch.inf, "NaN or infinite"), (2e16, "2e.16, absurdly loud")):
        wav[1, 7] = bad
        with pytest.raises(ValueError, match=f"^encode: clip 1: sample 7 is {kind}"):
            check_samples(wav, "encode")
        with pytest.raises(ValueError, match=f"^stream: sample 107 is {kind}"):
            check_samples(wav[1], "stream", 100)


def test_tensors_on_the_scale_of_integers_are_warned_of_once_and_not_changed() -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("default")
        for peak in (1.0, 3000.0, -4000.0):
            wav = torch.tensor([[peak, 0.0]], requires_grad=True)
            assert check_samples(wav, "encode") is wav
        assert check_samples(wav[:, :0], "encode").shape == (1, 0)
    assert [str(one.message)[:25] for one in shown] == ["samples reach beyond 100,"]
