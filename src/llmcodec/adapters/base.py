"""What every adapter of another codec shares: lengths, masks, batches and checks, so that an adapter is a few lines.

An adapter subclasses `CodecAdapter` and writes two functions over clips of equal length, `codes_of` and `audio_of`;
with a third, `latents_of`, it subclasses `CodecAdapterWithFeatures`. The rest is here:

- a clip of S samples has ceil(S / hop) frames, and `decode(codes, length=S)` gives S samples;
- clips of one padded length run together and clips of different lengths apart, because zeros behind a clip change the
  tokens of nearly all these models: a batch gives every clip the codes it has alone;
- codes outside a codebook, empty clips and padding on the left are refused.

Shapes: B batch, S samples, Q codebooks, T frames, D width. Test: tests/adapters/test_base.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import chain
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec._compat import forward
from llmcodec.codec.inputs import Numbers, check_codes, check_length, check_mask_fits, clips_of, lengths_of, mask_of
from llmcodec.codec.listening import Listening
from llmcodec.codec.outputs import LLMCodecDecoderOutput, LLMCodecEncoderOutput


class CodecAdapter(Listening, nn.Module):
    """Another project's codec behind `protocol.Codec`. Inputs may lie on any device; results lie on the model's.

    Args:
        model: the published model, in evaluation mode from here on.
        sample_rate: samples per second in and out.
        hop_samples: samples per frame.
        num_codebooks: tokens per frame.
        codebook_size: codes in each codebook.
    """

    model: Any
    """The published model, to be called as its own project calls it."""
    min_samples = 1
    """Shorter clips are padded with zeros to this length, because the model cannot take them."""
    can_decode = True
    """False for tokenizers: their codes can be made and measured, not played."""
    min_frames = 1
    """To decode fewer frames the last one is repeated, because the model cannot take them; the surplus is cut."""

    def __init__(self, model: nn.Module, sample_rate: int, hop_samples: int, num_codebooks: int, codebook_size: int):
        super().__init__()
        self.model = model
        self.sample_rate = int(sample_rate)
        self.hop_samples = int(hop_samples)
        self.num_codebooks = int(num_codebooks)
        self.codebook_size = int(codebook_size)
        self.eval()

    def __repr__(self) -> str:
        """One line; `print(codec.model)` shows layers."""
        return (
            f"{type(self).__name__}({self.sample_rate:,} Hz, {self.frame_rate:g} frames/s of {self.num_codebooks} x "
            f"{self.codebook_size:,} codes, {self.bitrate:.0f} bit/s, on {self.device})"
        )

    # -- what an adapter writes ------------------------------------------------------------------------------------
    def codes_of(self, wav_BS: Tensor) -> Tensor:
        """Clips of one length without padding -> codes (B, Q, T) with at least ceil(S / hop) frames."""
        raise NotImplementedError

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        """Codes -> (B, S) with S near T * hop_samples."""
        raise NotImplementedError

    def padded_samples(self, num_samples: int) -> int:
        """The length a clip is padded to with zeros before `codes_of`; whole frames unless overridden."""
        return -(-max(num_samples, self.min_samples) // self.hop_samples) * self.hop_samples

    # -- the property contract -------------------------------------------------------------------------------------
    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_samples

    @property
    def bitrate(self) -> float:
        """Nominal bits per second, all codebooks counted."""
        return self.frame_rate * self.num_codebooks * math.log2(self.codebook_size)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        tensors = chain(self.model.parameters(), self.model.buffers())
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def num_frames(self, num_samples: int) -> int:
        """Frames of a clip of `num_samples`: ceil(S / hop)."""
        return -(-num_samples // self.hop_samples)

    # -- the public edge -------------------------------------------------------------------------------------------
    @torch.no_grad()
    def encode(self, input_values: Numbers, padding_mask: Tensor | None = None) -> LLMCodecEncoderOutput:
        """(B, 1, S) samples, `padding_mask` (B, S) or (B, 1, S) with 1 at real samples -> codes and their mask.

        Raises:
            ValueError: wrong shape, empty clip, padding on the left.
        """
        wav_BS, lengths = self._clips(input_values, padding_mask)
        frames = [self.num_frames(length) for length in lengths]
        codes_BQT = torch.zeros(len(frames), self.num_codebooks, max(frames), dtype=torch.int64, device=self.device)
        for rows, clips_BS in self._equal_clips(wav_BS, lengths):
            codes = self.codes_of(clips_BS)
            for row, codes_QT in zip(rows, codes, strict=True):
                assert codes_QT.shape[-1] >= frames[row], (type(self).__name__, codes_QT.shape, frames[row])
                codes_BQT[row, :, : frames[row]] = codes_QT[:, : frames[row]]
        return LLMCodecEncoderOutput(codes_BQT, mask_of(torch.tensor(frames, device=self.device), max(frames))[:, None])

    @torch.no_grad()
    def decode(
        self,
        audio_codes: Numbers,
        padding_mask: Tensor | None = None,
        *,
        audio_codes_mask: Tensor | None = None,
        length: int | None = None,
    ) -> LLMCodecDecoderOutput:
        """(B, Q, T) codes -> (B, 1, S) samples, silent beyond each clip.

        `padding_mask`: the one that `encode` was given (the result is as long), or `audio_codes_mask`, (B, 1, T) as
        `encode` gave it. `length`: samples wanted; default T * hop_samples.

        Raises:
            ValueError: wrong shape, a mask of other clips, a code outside the codebook, a length that the codes cannot
                cover; a tokenizer without decoder.
        """
        if not self.can_decode:
            raise ValueError(
                f"{type(self).__name__.removesuffix('Codec')} has no decoder: its tokens can be made and measured "
                "(encode, tokenize, evaluate predictability), not played"
            )
        codes_BQT = check_codes(audio_codes, self.num_codebooks, self.codebook_size).to(self.device)
        batch, _, total = codes_BQT.shape
        length = check_length(length)
        lengths, reach = [total * self.hop_samples] * batch, total
        if padding_mask is not None:
            samples_B, covered = lengths_of(padding_mask, batch, "decode")
            lengths, length = samples_B.tolist(), covered if length is None else length
            reach = check_mask_fits(samples_B, covered, total, self.num_frames)
        elif audio_codes_mask is not None:
            lengths = [int(n) * self.hop_samples for n in audio_codes_mask.reshape(batch, -1).sum(-1)]
        length = max(lengths) if length is None else length
        lengths = [min(n, length) for n in lengths]
        if self.num_frames(max(length, *lengths)) > reach:
            raise ValueError(
                f"decode: {total} frames give {total * self.hop_samples} samples, fewer than length={length}"
            )
        wav_BS = torch.zeros(batch, length, device=self.device)
        # Frames that only other clips of the batch have must not be heard by the model.
        frames = [total if padding_mask is None and audio_codes_mask is None else self.num_frames(n) for n in lengths]
        for count, rows in _by_value(frames).items():
            codes = codes_BQT[rows, :, :count]
            short = max(0, self.min_frames - count)
            codes = torch.cat([codes, codes[..., -1:].expand(-1, -1, short)], -1)
            for row, wav_S in zip(rows, self.audio_of(codes), strict=True):
                wav_BS[row, : lengths[row]] = fit(wav_S, lengths[row])
        return LLMCodecDecoderOutput(wav_BS[:, None])

    def forward(self, input_values: Tensor, padding_mask: Tensor | None = None) -> LLMCodecDecoderOutput:
        """Encode and decode to the input's length."""
        codes = self.encode(input_values, padding_mask).audio_codes
        assert codes is not None
        return self.decode(codes, padding_mask, length=input_values.shape[-1])

    # -- helpers ---------------------------------------------------------------------------------------------------
    def _clips(self, input_values: Numbers, padding_mask: Tensor | None) -> tuple[Tensor, list[int]]:
        wav_BS, lengths_B = clips_of(input_values, padding_mask)
        return wav_BS.to(self.device, torch.float32), lengths_B.tolist()

    def _equal_clips(self, wav_BS: Tensor, lengths: Sequence[int]) -> list[tuple[list[int], Tensor]]:
        """Rows grouped by padded length, with their samples and zeros behind."""
        groups = _by_value([self.padded_samples(n) for n in lengths])
        return [
            (rows, torch.stack([fit(wav_BS[row, : lengths[row]], samples) for row in rows]))
            for samples, rows in groups.items()
        ]


class CodecAdapterWithFeatures(CodecAdapter):
    """An adapter that also shows its latents (`protocol.HasFeatures`)."""

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        """Clips of one length without padding -> what the quantiser reads, (B, T, D), one row per frame."""
        raise NotImplementedError

    @torch.no_grad()
    def encode_features(self, input_values: Tensor, padding_mask: Tensor | None = None) -> Tensor:
        """(B, 1, S) samples -> (B, T, D) float32 latents before quantisation, 0 at padding."""
        return self.padded_latents(*self._clips(input_values, padding_mask)).float()

    def padded_latents(self, wav_BS: Tensor, lengths: Sequence[int]) -> Tensor:
        """Clips of these lengths -> (B, T, D), 0 at padding, with gradient."""
        frames = [self.num_frames(length) for length in lengths]
        latents: dict[int, Tensor] = {}
        for rows, clips_BS in self._equal_clips(wav_BS, lengths):
            for row, latent_TD in zip(rows, self.latents_of(clips_BS), strict=True):
                latents[row] = F.pad(latent_TD[: frames[row]], (0, 0, 0, max(frames) - frames[row]))
        return torch.stack([latents[row] for row in range(len(frames))])


def check_num_codebooks(codec: str, asked: int | None, usual: int, available: int, fewest: int = 1) -> int:
    """How many codebooks of a codec to use.

    Args:
        codec: what messages call it.
        asked: the number asked for; None takes the usual one.
        usual, available, fewest: of this codec.

    Raises:
        ValueError: the codec cannot use that many.
    """
    if asked is None:
        return usual
    if not fewest <= asked <= available:
        some = str(available) if fewest == available else f"{fewest} to {available}"
        raise ValueError(f"{codec} here has {some} codebooks: {asked} cannot be used")
    return asked


def fit(wav_S: Tensor, num_samples: int) -> Tensor:
    """Cut or zero-pad at the end."""
    return F.pad(wav_S[:num_samples], (0, max(0, num_samples - wav_S.shape[0])))


def output_of(module: nn.Module, run: Callable[[], object]) -> Tensor:
    """What `module` returned while `run` ran the model around it."""
    seen: list[Tensor] = []
    handle = module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
    try:
        run()
    finally:
        handle.remove()
    return seen[-1]


def _by_value(values: Sequence[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = {}
    for index, value in enumerate(values):
        groups.setdefault(value, []).append(index)
    return groups


__getattr__ = forward(
    __name__,
    {
        "PeerCodec": "llmcodec.adapters.base:CodecAdapter",
        "PeerCodecWithFeatures": "llmcodec.adapters.base:CodecAdapterWithFeatures",
    },
)
