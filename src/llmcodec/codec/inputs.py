"""What `encode` and `decode` are given, checked: ours, the search's and those of other people's codecs.

Shapes: B batch, S samples, T frames, Q codebooks. Test: tests/codec/test_model.py, tests/adapters/test_base.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def clips_of(input_values: Tensor, padding_mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """The arguments of `encode` -> samples (B, S) and samples per clip (B,).

    Args:
        input_values: (B, 1, S).
        padding_mask: (B, S) or (B, 1, S), ones followed by zeros; None: all samples are real.

    Raises:
        ValueError: another shape, padding on the left, an empty clip.
    """
    if input_values.ndim != 3 or input_values.shape[1] != 1:
        raise ValueError(f"encode: input_values must be (batch, 1, samples), mono; got {tuple(input_values.shape)}")
    wav_BS = input_values[:, 0]
    batch, samples = wav_BS.shape
    if padding_mask is None:
        lengths_B = torch.full((batch,), samples, device=wav_BS.device)
    else:
        if padding_mask.numel() != wav_BS.numel():
            raise ValueError(
                f"encode: padding_mask {tuple(padding_mask.shape)} does not fit {batch} clips of {samples} samples"
            )
        flat_BS = padding_mask.reshape(batch, samples).bool()
        lengths_B = flat_BS.sum(-1)
        if bool((flat_BS != mask_of(lengths_B, samples)).any()):
            raise ValueError("encode: padding_mask must be ones followed by zeros (pad on the right)")
    if samples == 0 or int(lengths_B.min()) < 1:
        raise ValueError("encode: a clip is empty; every clip needs at least one sample")
    return wav_BS, lengths_B


def mask_of(lengths_B: Tensor, size: int) -> Tensor:
    """Bool (B, size), True at the first `lengths_B` places of each row."""
    return torch.arange(size, device=lengths_B.device) < lengths_B[:, None]


def check_codes(audio_codes: Tensor, num_codebooks: int, codebook_size: int) -> None:
    """Raise ValueError unless `audio_codes` is (B, Q, T), T at least 1, with codes in [0, codebook_size)."""
    if audio_codes.ndim != 3 or audio_codes.shape[1] != num_codebooks:
        raise ValueError(
            f"decode: audio_codes must be (batch, {num_codebooks}, frames); got {tuple(audio_codes.shape)}"
        )
    if audio_codes.numel() == 0:
        raise ValueError("decode: audio_codes is empty; at least one frame is needed")
    codes_BQT = audio_codes.long()  # unsigned kinds cannot be compared
    low, high = int(codes_BQT.min()), int(codes_BQT.max())
    if low < 0 or high >= codebook_size:
        raise ValueError(
            f"decode: code {low if low < 0 else high} is outside [0, {codebook_size}); another codec's tokens?"
        )
