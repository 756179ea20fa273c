"""LLMCodec: waveform <-> tokens. AUV's architecture with exact lengths, masks and batches.

Shapes: B batch, S samples, T frames, D width, C code dimension, V codes. Hugging Face's shapes in the public API:
`input_values (B, 1, S)`, `audio_codes (B, 1, T)`, `audio_values (B, 1, S)`. Test: tests/codec/test_model.py.

    codec = LLMCodec.from_pretrained("folder or hub id")
    codes = codec.encode(wav[None, None]).audio_codes
    wav = codec.decode(codes, length=wav.shape[-1]).audio_values
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils.generic import can_return_tuple

from llmcodec.assets import CODECS, codec_folder
from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.folder import check_folder
from llmcodec.codec.hub import HubCodec, downloaded_folder
from llmcodec.codec.inputs import (
    Numbers,
    check_codes,
    check_latents,
    check_length,
    check_look_up,
    check_mask_fits,
    clips_of,
    is_traced,
    lengths_of,
    mask_of,
    sent,
    to_tensor,
)
from llmcodec.codec.listening import Listening
from llmcodec.codec.network import build_parts
from llmcodec.codec.outputs import LLMCodecDecoderOutput, LLMCodecEncoderOutput, LLMCodecOutput
from llmcodec.codec.stft import frame_lengths
from llmcodec.protocol import CodecEncoding

if TYPE_CHECKING:
    from llmcodec.codec.streaming.api import CodecStream


def ragged(mask_BT: Tensor) -> Tensor | None:
    """The mask, or None where all frames are known to be real."""
    return None if not is_traced() and bool(mask_BT.all()) else mask_BT


def mean_loss(encoding: CodecEncoding) -> Tensor | None:
    """Sum of the losses, mean over real frames; None if there are none."""
    if not encoding.losses:
        return None
    return (sum(encoding.losses.values()) * encoding.mask_BT).sum() / encoding.mask_BT.sum()


class LLMCodec(Listening, HubCodec):
    """Neural audio codec with one codebook. Implements `protocol.AdaptableCodec`."""

    config_class = LLMCodecConfig
    main_input_name = "input_values"
    base_model_prefix = "codec"
    config: LLMCodecConfig
    supports_gradient_checkpointing = True
    _no_split_modules = ["ConformerLayer"]
    _supports_sdpa = True

    def __init__(self, config: LLMCodecConfig):
        super().__init__(config)
        config.check()  # settings may have been changed since they were read
        with torch.random.fork_rng(devices=[]):  # `post_init` draws the same weights, module by module in this order
            self.encoder, self.quantizer, self.decoder = build_parts(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Draw the weights of a new codec as PyTorch does; also those that no file held, or from the meta device."""
        draw: Any = getattr(module, "reset_parameters", None)
        if draw is not None:
            draw()

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> LLMCodec:
        """As in transformers, and the names of `assets.CODECS`; in float32 unless `dtype` says otherwise.

        Raises:
            ValueError: a folder, here or from the hub, whose configuration and weights do not fit each other, or whose
                weights are damaged (`folder.check_folder`). With `output_loading_info=True`, tensors that are missing
                or do not fit are returned by name, as everywhere in transformers, instead.
        """
        asked = kwargs.pop("torch_dtype", None)  # the old name of `dtype`
        if kwargs.get("dtype") is None:
            kwargs["dtype"] = asked or torch.float32
        place = args[0] if args else kwargs.get("pretrained_model_name_or_path")
        if str(place) in CODECS and not Path(str(place)).exists():
            args, kwargs["pretrained_model_name_or_path"] = args[1:], codec_folder(str(place))
            place = kwargs["pretrained_model_name_or_path"]
        partial = bool(kwargs.get("output_loading_info"))
        if place is None or kwargs.get("variant"):
            return super().from_pretrained(*args, **kwargs)
        if Path(place).is_dir():
            check_folder(Path(place, kwargs.get("subfolder") or ""), partial)
            return super().from_pretrained(*args, **kwargs)
        loaded = super().from_pretrained(*args, **kwargs)
        check_folder(downloaded_folder(str(place), kwargs), partial)
        return loaded

    # -- the property contract -------------------------------------------------------------------------------------
    @property
    def sample_rate(self) -> int:
        """Samples per second in and out."""
        return self.config.sample_rate

    @property
    def hop_samples(self) -> int:
        """Samples per frame."""
        return self.config.hop_samples

    @property
    def frame_rate(self) -> float:
        """Frames (tokens) per second."""
        return self.config.frame_rate

    @property
    def num_codebooks(self) -> int:
        """One token per frame."""
        return 1

    @property
    def codebook_size(self) -> int:
        """Number of codes."""
        return self.config.codebook_size

    @property
    def bitrate(self) -> float:
        """Nominal bits per second."""
        return self.frame_rate * math.log2(self.codebook_size)

    @property
    def codebook_VC(self) -> Tensor:
        """Unit-norm code vectors (V, C), with gradient."""
        return self.quantizer.codebook_VC

    @property
    def latent_dim(self) -> int:
        """D: width of the latents."""
        return self.config.hidden_size

    @property
    def context_frames(self) -> tuple[float, float]:
        """Frames on each side that influence a code (encoder) and a decoded frame (decoder); inf: global attention."""
        return max(self.config.encoder_context), max(self.config.decoder_context)

    def __repr__(self) -> str:
        """One line; `print(codec.encoder)` shows layers."""
        kept = f"{str(self.dtype).partition('.')[2]} on {self.device}"
        streams = "causal, " if self.config.causal else ""
        return (
            f"{type(self).__name__}({streams}{self.sample_rate:,} Hz, {self.frame_rate:g} tokens/s of "
            f"{self.codebook_size:,}, {self.bitrate:.0f} bit/s, {self.num_parameters() / 1e6:.1f} M weights, {kept})"
        )

    @property
    def keeps_caches(self) -> bool:
        """Whether a stream goes through caches (`streaming/causal.py`) instead of chunks with context."""
        return self.config.causal

    def num_frames(self, num_samples: int) -> int:
        """Frames for a clip of `num_samples`: ceil(S / hop), or AUV's floor under `auv_floor_frames`."""
        return frame_lengths(num_samples, self.config)

    # -- the differentiable path (training) ------------------------------------------------------------------------
    def encode_latents(
        self,
        wav_BS: Tensor,
        lengths_B: Tensor | None = None,
        partitions: Sequence[tuple[int, int]] | None = None,
        **kept: list[Tensor],
    ) -> CodecEncoding:
        """Waveform (B, S) -> `CodecEncoding`; samples beyond `lengths_B` are ignored.

        `kept` goes to the encoder: `layer_outputs` and `attentions`. Lengths on the CPU let a GPU work on: their values
        are looked at.
        """
        batch, samples = wav_BS.shape
        lengths = [] if lengths_B is None or is_traced() else lengths_B.tolist()
        frames, longest = [self.num_frames(length) for length in lengths], self.num_frames(samples)
        if lengths_B is None or (lengths and set(lengths) == {samples}):
            mask_BT = torch.ones(batch, longest, dtype=torch.bool, device=wav_BS.device)
            latent_BTD = self.encoder(wav_BS, None, None, **kept)
        else:
            sent_B = sent(lengths_B, wav_BS.device)
            wav_BS = wav_BS * mask_of(sent_B, samples)
            mask_BT = mask_of(frame_lengths(sent_B, self.config), max(frames, default=longest))
            latent_BTD = self.encoder(wav_BS, lengths_B, None if len(set(frames)) == 1 else mask_BT, **kept)
        codes_BT, query_BTC, quantized_BTD, losses = self.quantizer(latent_BTD, partitions)
        known = None if is_traced() else frames or [longest] * batch
        return CodecEncoding(codes_BT * mask_BT, mask_BT, query_BTC, latent_BTD, quantized_BTD, losses, lengths=known)

    def decode_latents(
        self, quantized_BTD: Tensor, mask_BT: Tensor | None = None, layer_outputs: list[Tensor] | None = None
    ) -> Tensor:
        """Decoder input (B, T, D) -> waveform (B, T * hop); `layer_outputs` takes the output of every layer."""
        kept = {} if layer_outputs is None else {"layer_outputs": layer_outputs}  # the packed decoder keeps none
        return self.decoder(quantized_BTD, mask_BT, **kept)

    # -- the public edge -------------------------------------------------------------------------------------------
    @torch.no_grad()
    @can_return_tuple  # type: ignore[untyped-decorator]
    def encode(
        self, input_values: Numbers, padding_mask: Numbers | None = None, *, audio_kinds: Sequence[str] | None = None
    ) -> LLMCodecEncoderOutput:
        """Audio -> codes.

        Args:
            input_values: (B, 1, S) mono samples at `sample_rate`, nominally in [-1, 1], or int16, int32 or uint8, which
                are scaled by their full range. Any S >= 1. A tensor, an array or lists.
            padding_mask: (B, S) or (B, 1, S), 1 at real samples; real samples come first.
            audio_kinds: a codebook partition per clip ("speech", "vocal", "music", "audio", "other"); None: all codes.
            return_dict: False returns a tuple, as everywhere in transformers (also in `decode` and `forward`).

        Raises:
            ValueError: wrong shape or type, empty clip, NaN or infinite samples, padding on the left, unknown
                partition; frames that cannot be compared with any code, because weights or audio are broken.
        """
        wav_BS, lengths_B = clips_of(input_values, padding_mask, self.device)
        partitions = self.partitions_of(audio_kinds, wav_BS.shape[0])
        encoding = self.encode_latents(wav_BS, None if padding_mask is None else lengths_B, partitions)
        check_look_up(encoding.codes_BT, encoding.query_BTC, self.codebook_VC, encoding.mask_BT)
        return LLMCodecEncoderOutput(
            encoding.codes_BT[:, None], encoding.mask_BT[:, None], encoding.quantized_BTD.transpose(1, 2)
        )

    @torch.no_grad()
    def encode_features(self, input_values: Numbers, padding_mask: Numbers | None = None) -> Tensor:
        """Audio -> (B, T, D) continuous latents before the quantiser, 0 at padding (`protocol.HasFeatures`)."""
        encoding = self.encode_latents(*clips_of(input_values, padding_mask, self.device))
        return encoding.latent_BTD.float() * encoding.mask_BT[..., None]

    @torch.no_grad()
    @can_return_tuple  # type: ignore[untyped-decorator]
    def decode(
        self,
        audio_codes: Numbers | None = None,
        padding_mask: Numbers | None = None,
        *,
        quantized_representation: Numbers | None = None,
        audio_codes_mask: Numbers | None = None,
        length: int | None = None,
    ) -> LLMCodecDecoderOutput:
        """Codes -> audio.

        Args:
            audio_codes: (B, 1, T) integers in [0, codebook_size), a tensor, an array or lists. Floats (B, D, T) in
                their place are taken as `quantized_representation`, which is the first argument of DacModel.decode.
            quantized_representation: (B, D, T) of `encode`, of any float type, used when there are no codes.
            padding_mask: the one that `encode` was given; the result is as long and silent beyond each clip.
            audio_codes_mask: (B, 1, T), True at real frames (from `encode`), if there is no `padding_mask`.
            length: samples wanted; default T * hop_samples.

        Raises:
            ValueError: wrong shape, padding on the left, a mask of other clips, a code outside the codebook, NaN or
                infinite latents, a length that the codes cannot cover.
        """
        length = check_length(length)
        quantized_BTD = self.decoder_input(audio_codes, quantized_representation)
        batch, num_frames = quantized_BTD.shape[:2]
        mask_BT = samples_B = None
        reach = num_frames
        if padding_mask is not None:
            samples_B, covered = lengths_of(padding_mask, batch, "decode", self.device)
            reach = check_mask_fits(samples_B, covered, num_frames, self.num_frames)
            samples_B = sent(samples_B, quantized_BTD.device)
            mask_BT = mask_of(frame_lengths(samples_B, self.config), num_frames)
            length = covered if length is None else length
        elif audio_codes_mask is not None:
            mask = to_tensor(audio_codes_mask, "decode: audio_codes_mask", self.device)
            if mask.numel() != batch * num_frames:
                raise ValueError(
                    f"decode: audio_codes_mask {tuple(mask.shape)} does not fit {batch} clips of {num_frames} frames"
                )
            mask_BT = mask.reshape(batch, num_frames).bool()
        if length is not None and not is_traced() and self.num_frames(length) > reach:
            have = num_frames * self.hop_samples
            raise ValueError(f"decode: {num_frames} frames give {have} samples, fewer than length={length}")
        return LLMCodecDecoderOutput(self._audio_values(quantized_BTD, mask_BT, samples_B, length))

    def _audio_values(
        self, quantized_BTD: Tensor, mask_BT: Tensor | None, samples_B: Tensor | None, length: int | None
    ) -> Tensor:
        """Decoder input, real frames and samples (None: all) -> (B, 1, S), silent beyond each clip."""
        wav_BS = self.decode_latents(quantized_BTD, None if mask_BT is None else ragged(mask_BT))
        if mask_BT is not None:
            wav_BS = wav_BS * mask_BT.repeat_interleave(self.hop_samples, dim=1)
        if samples_B is not None:
            wav_BS = wav_BS * mask_of(samples_B, wav_BS.shape[1])
        if length is not None:
            # Under auv_floor_frames a last part of less than a hop has no frame.
            missing = self.hop_samples if is_traced() else max(0, length - wav_BS.shape[1])
            wav_BS = F.pad(wav_BS, (0, missing))[:, :length]
        return wav_BS[:, None]

    def decoder_input(self, audio_codes: Numbers | None, quantized_representation: Numbers | None) -> Tensor:
        """Check the arguments of `decode` -> (B, T, D)."""
        if audio_codes is not None:
            audio_codes = to_tensor(audio_codes, "decode: audio_codes", self.device)
        if audio_codes is not None and audio_codes.is_floating_point() and audio_codes.shape[1:2] != (1,):
            audio_codes, quantized_representation = None, audio_codes
        if audio_codes is None:
            if quantized_representation is None:
                raise ValueError("decode: give audio_codes or quantized_representation")
            latent_BDT = check_latents(quantized_representation, self.config.hidden_size, self.device)
            return latent_BDT.transpose(1, 2).to(self.dtype)
        return self.quantizer.embed(check_codes(audio_codes, 1, self.codebook_size)[:, 0])

    @can_return_tuple  # type: ignore[untyped-decorator]
    def forward(
        self,
        input_values: Numbers,
        padding_mask: Numbers | None = None,
        audio_codes: Numbers | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> LLMCodecOutput:
        """Encode (unless `audio_codes` are given) and decode to the input's length, with gradients.

        The samples are those of `decode`; their gradient passes the codes straight through to the encoder.

        Args:
            input_values, padding_mask: as for `encode`.
            audio_codes: (B, 1, T) to decode in place of the input's own.
            output_hidden_states, output_attentions: return the encoder's; default: as the configuration says.
                Attention weights are computed as by `attn_implementation="eager"`, T x T in each layer.
        """
        samples = np.shape(input_values)[-1]
        if audio_codes is not None:
            audio_codes = to_tensor(audio_codes, "decode: audio_codes", self.device)
            decoded = self.decode(audio_codes, padding_mask, length=samples, return_dict=True)
            return LLMCodecOutput(audio_codes, decoded.audio_values)
        kept: dict[str, list[Tensor]] = {}
        if self.config.output_hidden_states if output_hidden_states is None else output_hidden_states:
            kept["layer_outputs"] = []
        if self.config.output_attentions if output_attentions is None else output_attentions:
            kept["attentions"] = []
        wav_BS, lengths_B = clips_of(input_values, padding_mask, self.device)
        encoding = self.encode_latents(wav_BS, None if padding_mask is None else lengths_B, None, **kept)
        check_look_up(encoding.codes_BT, encoding.query_BTC, self.codebook_VC, encoding.mask_BT)
        quantized_BTD = self.quantizer.embed(encoding.codes_BT)
        if torch.is_grad_enabled():  # the value of `embed`, bit by bit; the gradient of the straight-through latents
            through_BTD = encoding.quantized_BTD
            quantized_BTD = quantized_BTD.detach() + (through_BTD - through_BTD.detach())
        mask_BT, samples_B = (
            (None, None) if padding_mask is None else (encoding.mask_BT, sent(lengths_B, wav_BS.device))
        )
        audio_values = self._audio_values(quantized_BTD, mask_BT, samples_B, samples)
        return LLMCodecOutput(
            encoding.codes_BT[:, None],
            audio_values,
            None if mask_BT is None else mask_BT[:, None],
            mean_loss(encoding),
            tuple(kept["layer_outputs"]) if "layer_outputs" in kept else None,
            tuple(kept["attentions"]) if "attentions" in kept else None,
        )

    def streaming(
        self,
        chunk_seconds: float | None = None,
        lookahead_seconds: float | None = None,
        audio_kind: str | None = None,
    ) -> CodecStream:
        """A live stream, `with codec.streaming() as stream:`; `stream.encode(block)` gives the codes that are final so
        far, `finish_encode()` the last; `decode` and `finish_decode` likewise. Arguments as for `CodecStream`."""
        from llmcodec.codec.streaming.api import CodecStream

        return CodecStream(self, chunk_seconds, lookahead_seconds, audio_kind)

    def partitions_of(self, audio_kinds: Sequence[str] | None, batch: int) -> list[tuple[int, int]] | None:
        """Names of codebook partitions -> code ranges per clip."""
        if audio_kinds is None:
            return None
        if len(audio_kinds) != batch:
            raise ValueError(f"encode: {len(audio_kinds)} audio_kinds for {batch} clips; give one per clip")
        known = self.config.codebook_partitions
        for kind in audio_kinds:
            if kind not in known:
                raise ValueError(f"encode: unknown audio kind {kind!r}; this codec knows {', '.join(known)}")
        return [(known[kind][0], known[kind][1]) for kind in audio_kinds]
