"""Masks from lengths."""

from __future__ import annotations

import pytest
import torch

from llmcodec.codec.inputs import mask_of


def test_a_mask_is_true_inside_each_clip() -> None:
    expected = torch.tensor([[True, True, False], [False, False, False], [True, True, True]])
    assert torch.equal(mask_of(torch.tensor([2, 0, 9]), 3), expected)
    with pytest.raises(ValueError, match="lengths"):
        mask_of(torch.tensor([[1]]), 3)
