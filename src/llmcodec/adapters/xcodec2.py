"""X-codec 2 (`HKUSTAudio/xcodec2-hf`) and NeuCodec (`neuphonic/neucodec`) through transformers.

Both read the waveform and, for a wav2vec2-BERT, Kaldi filter banks of the same clip, which kaldi_fbank.py computes:
the models' own feature extractors need torchaudio. Paddings are those of the extractors; the frame that covers nothing
but padding is not kept. The decoders cannot take a single frame: it is decoded as two equal ones and cut.
NeuCodec listens at 16 kHz and speaks at 24 kHz. A codec has one rate here, that of its speech: input is resampled.
Source: arXiv 2502.04128, 2509.09550. Test: tests/adapters/test_semantic.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.adapters.base import CodecAdapterWithFeatures, check_num_codebooks, output_of
from llmcodec.adapters.family import transformers_family
from llmcodec.adapters.networks.kaldi_fbank import kaldi_fbank
from llmcodec.io import audio

if TYPE_CHECKING:
    from transformers import NeuCodecModel, Xcodec2Model

STRIDE = 2  # filter-bank frames per frame of the wav2vec2-BERT


class Xcodec2Codec(CodecAdapterWithFeatures):
    """One codebook of scalar-quantised codes."""

    min_frames = 2  # PyTorch's group norm refuses a single value per channel

    def __init__(self, model: Xcodec2Model, num_codebooks: int | None = None):
        check_num_codebooks("xcodec2", num_codebooks, 1, 1)
        config = model.config
        super().__init__(model, config.sampling_rate, config.hop_length, 1, math.prod(config.quantization_levels))

    def padded_samples(self, num_samples: int) -> int:
        """The extractor appends a sample and fills the frame."""
        return (num_samples // self.hop_samples + 1) * self.hop_samples

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        return self._encode(wav_BS, F.pad(wav_BS, (self.hop_samples // 2, self.hop_samples // 2)))

    def latents_of(self, wav_BS: Tensor) -> Tensor:
        return output_of(self.model.fc_encoder, lambda: self.codes_of(wav_BS))

    def audio_of(self, codes_BQT: Tensor) -> Tensor:
        return self.model.decode(audio_codes=codes_BQT).audio_values[:, 0]

    def _encode(self, wav_BS: Tensor, heard_BS: Tensor) -> Tensor:
        features_BTF = torch.stack([semantic_features(wav_S) for wav_S in heard_BS])
        mask_BT = torch.ones(features_BTF.shape[:2], dtype=torch.int64, device=wav_BS.device)
        encoded = self.model.encode(wav_BS[:, None], features_BTF, input_features_mask=mask_BT)
        return encoded.audio_codes.long()


class NeuCodecCodec(Xcodec2Codec):
    """As X-codec 2, with another rate for each direction; clips are zero-padded to whole frames."""

    def __init__(self, model: NeuCodecModel, num_codebooks: int | None = None):
        check_num_codebooks("NeuCodec", num_codebooks, 1, 1)
        config = model.config
        vocabulary = math.prod(config.quantization_levels)
        CodecAdapterWithFeatures.__init__(self, model, config.output_sampling_rate, config.hop_length, 1, vocabulary)

    def padded_samples(self, num_samples: int) -> int:
        return self.num_frames(num_samples) * self.hop_samples

    def codes_of(self, wav_BS: Tensor) -> Tensor:
        config = self.model.config
        rates = config.output_sampling_rate, config.input_sampling_rate
        rows = [audio.resample(wav_S.cpu().numpy(), *rates) for wav_S in wav_BS]
        samples = self.num_frames(wav_BS.shape[1]) * config.encoder_hop_length
        heard = torch.from_numpy(np.stack(rows)).to(wav_BS.device)[:, :samples]
        # The extractor appends a sample and fills the frame; that frame is lost again among the filter banks.
        heard = F.pad(heard, (0, samples - heard.shape[1] + config.encoder_hop_length))
        return self._encode(heard, heard)


def semantic_features(wav_S: Tensor) -> Tensor:
    """Samples -> normalised filter banks (T, 160), two frames of 10 ms side by side."""
    fbank_TF = kaldi_fbank(wav_S * 2**15)
    fbank_TF = (fbank_TF - fbank_TF.mean(0)) / (fbank_TF.var(0, unbiased=True) + 1e-7).sqrt()
    frames = fbank_TF.shape[0] // STRIDE
    return fbank_TF[: frames * STRIDE].reshape(frames, -1)


FAMILY = transformers_family("xcodec2", "Xcodec2", Xcodec2Codec, {"xcodec2": {}})
NEUCODEC = transformers_family("NeuCodec", "NeuCodec", NeuCodecCodec, {"neucodec": {}})
