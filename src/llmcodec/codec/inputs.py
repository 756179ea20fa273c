"""Checks of the arguments of `encode` and `decode`: of our codec, of search and of adapters.

Shapes: B batch, S samples, T frames, Q codebooks. Test: tests/codec/test_model.py, tests/adapters/test_base.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmcodec.io.waveform import TOO_LOUD, refuse_sample, scale_of, sound_peaks

Numbers = Tensor | np.ndarray | Sequence[Any]
TORCH_HAS = {"bool", "float16", "float32", "float64"} | {
    f"{kind}{bits}" for kind in ("int", "uint") for bits in (8, 16, 32, 64)
}


class ClipError(ValueError):
    """What is wrong with one clip of a batch, for callers that know it by another number."""

    clip = 0
    """Its place in the batch."""
    what = ""

    @classmethod
    def of(cls, clip: int, what: str) -> ClipError:
        """The error "encode: clip 3 `what`". No constructor of its own: errors are pickled between processes."""
        error = cls(f"encode: clip {clip} {what}")
        error.clip, error.what = clip, what
        return error


def is_traced() -> bool:
    """Whether torch.export, torch.compile or torch.jit.trace records the operations now.

    No value is known then: nothing may depend on one, and none can be checked.
    """
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def to_tensor(values: Numbers, where: str, device: torch.device | None = None) -> Tensor:
    """Arrays and lists as a tensor on `device`; tensors are returned unchanged. Raises ValueError for non-numbers."""
    if isinstance(values, Tensor):
        return values
    if np.ma.is_masked(values):
        raise ValueError(f"{where} has masked values; fill them, or cut them out")
    try:
        array = np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"{where}: rows of different lengths; pad them and give a mask: the codec's feature_extractor() does both"
        ) from error
    if array.dtype.kind == "U":
        raise ValueError(f"{where} must be numbers, got text; encode_file(path) and reconstruct(path) take a file")
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{where} must be numbers, got {array.dtype}")
    if array.dtype.name not in TORCH_HAS:
        raise ValueError(f"{where} are {array.dtype}, which torch does not know; give float32 or float64")
    native = np.array(array, array.dtype.newbyteorder("="), order="C")  # read-only and reversed arrays must be copied
    return torch.from_numpy(native).to(device)


def check_samples(wav: Tensor, where: str, first: int = 0) -> Tensor:
    """Samples (S,) or (B, S) as floats: `io.waveform.check_waveform` for a tensor, which stays on its device.

    Args:
        wav: floats, or integers that are scaled by their full range to float32.
        where: name of the argument, for the message.
        first: position of the first sample in the signal, for the message.

    Raises:
        ValueError: a type that `scale_of` rejects, a sample that is NaN, infinite or beyond TOO_LOUD.
    """
    silence, full = scale_of(wav.dtype, where)
    if full != 1:
        return (wav.float() - silence) / full
    if is_traced():
        return wav
    values = wav.detach().float()
    if not values.numel():
        return wav
    if not sound_peaks(*torch.stack(values.aminmax()).tolist()):  # one wait for a GPU
        place = (values.abs() <= TOO_LOUD).logical_not().nonzero()[0].tolist()
        name = f"{where}: clip {place[0]}" if len(place) > 1 else where
        raise refuse_sample(name, first + place[-1], float(values[tuple(place)]))
    return wav


def clips_of(
    input_values: Numbers, padding_mask: Numbers | None, device: torch.device | None = None
) -> tuple[Tensor, Tensor]:
    """The arguments of `encode` -> samples (B, S) and samples per clip (B,).

    Args:
        input_values: (B, 1, S), floats or integers that are scaled by their full range (`io.waveform`).
        padding_mask: (B, S) or (B, 1, S), ones followed by zeros; None: all samples are real.
        device: for arrays and lists; tensors stay on theirs.

    Raises:
        ValueError: another shape or type, NaN or infinite samples, padding on the left, an empty clip (the last three
            depend on values and are not looked for while `is_traced`).
    """
    input_values = to_tensor(input_values, "encode: input_values", device)
    if input_values.ndim != 3 or input_values.shape[1] != 1:
        way = {1: "one clip is samples[None, None]", 2: "clips of one length are samples[:, None]"}
        raise ValueError(
            f"encode: input_values must be (batch, 1, samples), mono; got {tuple(input_values.shape)}; "
            f"{way.get(input_values.ndim, 'mix several channels first, by their mean')}"
        )
    wav_BS = input_values[:, 0]
    batch, samples = wav_BS.shape
    if is_traced():
        mask = torch.ones_like(wav_BS) if padding_mask is None else padding_mask
        return check_samples(wav_BS, "encode"), lengths_of(mask, batch, "encode")[0]
    lengths_B = torch.full((batch,), samples, device=wav_BS.device)
    if padding_mask is not None:
        lengths_B, covered = lengths_of(padding_mask, batch, "encode", device)
        if covered != samples:
            raise ValueError(f"encode: padding_mask covers {covered} samples, input_values has {samples}")
    if batch == 0:
        raise ValueError("encode: input_values holds no clips")
    if samples == 0 or int(lengths_B.min()) < 1:
        raise ValueError("encode: a clip is empty; every clip needs at least one sample")
    return check_samples(wav_BS, "encode"), lengths_B


def lengths_of(padding_mask: Numbers, batch: int, where: str, device: torch.device | None = None) -> tuple[Tensor, int]:
    """The padding mask of `batch` clips -> real samples of each (B,), and samples with padding.

    Args:
        padding_mask: (B, S) or (B, 1, S), ones followed by zeros.
        where: name of the call, for the message.
        device: for arrays and lists; tensors stay on theirs.

    Raises:
        ValueError: another shape, other values, padding on the left (none is looked for while `is_traced`).
    """
    mask = to_tensor(padding_mask, f"{where}: padding_mask", device)
    if is_traced():
        return (mask.reshape(mask.shape[0], -1) != 0).sum(-1), mask.shape[-1]
    samples = mask.shape[-1] if mask.ndim else 0
    if mask.numel() != batch * samples:
        raise ValueError(f"{where}: padding_mask {tuple(mask.shape)} does not fit {batch} clips")
    mask_BS = mask.reshape(batch, samples)
    real_BS = mask_BS == 1
    if bool((real_BS != (mask_BS != 0)).any()):  # NaN is neither
        raise ValueError(f"{where}: padding_mask must be ones followed by zeros, it has other values")
    lengths_B = real_BS.sum(-1)
    if bool((real_BS != mask_of(lengths_B, samples)).any()):
        raise ValueError(f"{where}: padding_mask must be ones followed by zeros (pad on the right)")
    return lengths_B, samples


def check_mask_fits(lengths_B: Tensor, covered: int, have: int, num_frames: Callable[[int], int]) -> int:
    """Frames of all that a padding mask covers, after a look whether it is the mask of these codes.

    Args:
        lengths_B, covered: real samples of each clip, and samples with padding, as `lengths_of` gives them.
        have: frames of the codes. A mask padded beyond its longest clip has codes of that clip alone; one clip of a
            batch has the frames of the batch.
        num_frames: of the codec.

    Raises:
        ValueError: the codes have fewer frames than the longest clip, or more than all that is covered (nothing is
            looked at while `is_traced`).
    """
    if is_traced():
        return have
    longest = int(lengths_B.max()) if len(lengths_B) else 0
    least, most = num_frames(longest), num_frames(covered)
    if not least <= have <= most:
        raise ValueError(
            f"decode: the longest clip of padding_mask has {longest} of {covered} samples, {least} to {most} frames, "
            f"and audio_codes {have}; give the mask that encode was given (a mask of frames is audio_codes_mask)"
        )
    return most


def sent(values: Tensor, device: torch.device) -> Tensor:
    """A small tensor on a device, which is not waited for; while `is_traced`, all are on one device."""
    return values if is_traced() else values.to(device, non_blocking=True)


def mask_of(lengths_B: Tensor, size: int) -> Tensor:
    """Bool (B, size), True at the first `lengths_B` (B,) places of each row."""
    if lengths_B.ndim != 1:
        raise ValueError(f"mask_of: lengths must have shape (B,), got {tuple(lengths_B.shape)}")
    return torch.arange(size, device=lengths_B.device) < lengths_B[:, None]


def check_length(length: Any) -> int | None:
    """`length` of `decode` as an int: samples wanted, 0 or more. Raises ValueError for anything else."""
    if length is None:
        return None
    if isinstance(length, bool) or not hasattr(type(length), "__index__") or np.ndim(length) != 0 or int(length) < 0:
        raise ValueError(f"decode: length is a number of samples for all clips, 0 or more, not {str(length)[:60]!r}")
    return int(length)


def check_codes(
    audio_codes: Numbers, num_codebooks: int, codebook_size: int, device: torch.device | None = None
) -> Tensor:
    """Codes as int64 (B, Q, T), T at least 1; arrays and lists go to `device`.

    Raises:
        ValueError: another shape, non-integers, a code outside [0, codebook_size).
    """
    audio_codes = to_tensor(audio_codes, "decode: audio_codes", device)
    if audio_codes.ndim != 3 or audio_codes.shape[1] != num_codebooks:
        way = {1: "; one clip of one codebook is codes[None, None]", 2: "; one clip is codes[None]"}
        raise ValueError(
            f"decode: audio_codes must be (batch, {num_codebooks}, frames); got {tuple(audio_codes.shape)}"
            f"{way.get(audio_codes.ndim, '')}"
        )
    if audio_codes.numel() == 0:
        raise ValueError("decode: audio_codes is empty; at least one frame is needed")
    if audio_codes.is_floating_point() or audio_codes.is_complex() or audio_codes.dtype == torch.bool:
        raise ValueError(f"decode: audio_codes must be integers, got {audio_codes.dtype}")
    codes_BQT = audio_codes.long()  # unsigned kinds cannot be compared
    if is_traced():
        return codes_BQT
    low, high = int(codes_BQT.min()), int(codes_BQT.max())
    if low < 0 or high >= codebook_size:
        raise ValueError(
            f"decode: code {low if low < 0 else high} is outside [0, {codebook_size}); another codec's tokens?"
        )
    return codes_BQT


def check_latents(quantized_representation: Numbers, width: int, device: torch.device) -> Tensor:
    """Decoder input (B, D, T), T at least 1; arrays and lists go to `device`.

    Raises:
        ValueError: another shape, NaN or infinite values (not looked for while `is_traced`).
    """
    where = "decode: quantized_representation"
    latent_BDT = to_tensor(quantized_representation, where, device)
    if latent_BDT.ndim != 3 or latent_BDT.shape[1] != width or latent_BDT.shape[2] < 1:
        raise ValueError(f"{where} must be (batch, {width}, frames); got {tuple(latent_BDT.shape)}")
    if not is_traced() and not bool(latent_BDT.isfinite().all()):
        clip, _, frame = latent_BDT.isfinite().logical_not().nonzero()[0].tolist()
        raise ValueError(f"{where}: clip {clip}, frame {frame} is NaN or infinite; what made these latents?")
    return latent_BDT


def check_look_up(codes_BT: Tensor, query_BTC: Tensor, codebook_VC: Tensor, mask_BT: Tensor | None = None) -> None:
    """Raise ClipError where a real frame has an invalid query (NaN or zero), which would silently give code 0.

    Args:
        codes_BT: chosen codes.
        query_BTC: unit-norm queries; NaN, or 0 if the projection was 0.
        codebook_VC: unit-norm code vectors.
        mask_BT: True at real frames; None: all are.
    """
    if is_traced():
        return
    compared_BT = (query_BTC.square().sum(-1) > 0) & (codebook_VC[codes_BT].square().sum(-1) > 0)  # False for NaN
    if mask_BT is not None:
        compared_BT = compared_BT | ~mask_BT
    if not bool(compared_BT.all()):
        missing_B = compared_BT.logical_not().sum(1)
        clip = int(missing_B.argmax())
        raise ClipError.of(
            clip,
            f"has {int(missing_B[clip])} frames that cannot be compared with any code (NaN or all zero): the codec's "
            "weights or the audio are broken",
        )


def check_weights(module: torch.nn.Module) -> None:
    """Raise ValueError naming a tensor that is not finite: after rounding to integers this would go unnoticed."""
    for name, value in module.state_dict().items():
        if value.is_floating_point() and not bool(value.isfinite().all()):
            raise ValueError(f"{name}: NaN or infinite values; the codec's weights are broken")
