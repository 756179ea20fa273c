"""What a speech encoder is: a waveform to frames (B, U, H) at a known rate, or at the frames of a codec.

It teaches a codec (`objectives/distillation.py`), is measured beside codecs (`evaluate phones --features`), and its
frames become tokens (`units.py`).
Shapes: B batch, S samples, T frames of the codec, U frames of the encoder, H its width.
Test: tests/adapters/test_features.py.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.codec.inputs import mask_of, sent
from llmcodec.io.audio import resample


class SpeechEncoder(ABC):
    """A frozen speech encoder. `frames_of` gives its own frames, a call those of a codec.

    Args:
        sample_rate: of the audio it reads. hop_samples: samples per frame. width: H.
        device: where it runs. dtype: float32, or float64 in tests; autocast around the call reaches it.
    """

    longest_samples: int | None = None
    """The longest clip that it can hear at once; None: any."""

    def __init__(self, sample_rate: int, hop_samples: int, width: int, device: torch.device, dtype: torch.dtype):
        self.sample_rate, self.hop_samples, self.width = sample_rate, hop_samples, width
        self.device, self.dtype = device, dtype

    @abstractmethod
    def features_of(self, wav_BS: Tensor) -> Tensor:
        """Clips of equal length, a multiple of the hop, at the encoder's rate -> (B, S / hop, H).

        Frame i is about the samples from i * hop to (i + 1) * hop: its centre is theirs, as in the codec.
        """

    @property
    def frame_rate(self) -> float:
        """Frames per second."""
        return self.sample_rate / self.hop_samples

    @torch.no_grad()
    def frames_of(self, wav_BS: Tensor) -> Tensor:
        """Clips of equal length at the encoder's rate -> (B, ceil(S / hop), H) float32, without gradient.

        What is longer than the encoder can hear is cut into windows that do not overlap, each heard by itself.
        """
        wav_BS = wav_BS.to(self.device, self.dtype)
        wav_BS = F.pad(wav_BS, (0, -wav_BS.shape[1] % self.hop_samples))
        windows = wav_BS.split(self.longest_samples or wav_BS.shape[1], 1)
        return torch.cat([self.features_of(window_BS).float() for window_BS in windows], 1)

    @torch.no_grad()
    def __call__(
        self, wav_BS: Tensor, lengths_B: Tensor, sample_rate: int, hop_samples: int, num_frames: int
    ) -> Tensor:
        """Features of every clip at the codec's frames, without gradient.

        Each clip is zero-padded to whole frames of the codec and heard with clips of its own length alone, so that its
        features do not depend on its company. Where frame rates differ, `alignment` says how features are averaged.

        Args:
            wav_BS: samples at `sample_rate`, anything behind each clip's end.
            lengths_B: samples of each clip.
            hop_samples: of the codec. num_frames: T, rows wanted.

        Returns:
            (B, T, H) in at least float32, 0 behind each clip's last frame.

        Raises:
            ValueError: a clip is longer than the encoder can hear.
        """
        frames = [math.ceil(length / hop_samples) for length in lengths_B.tolist()]
        inside = mask_of(sent(lengths_B, wav_BS.device), wav_BS.shape[1])
        wav_BS = F.pad(wav_BS * inside, (0, max(0, max(frames) * hop_samples - wav_BS.shape[1])))
        features_BTH = torch.zeros(len(frames), num_frames, self.width, dtype=self.dtype, device=wav_BS.device)
        for count in sorted(set(frames)):
            rows = [row for row, own in enumerate(frames) if own == count]
            heard_BS = self._at_own_rate(wav_BS[rows, : count * hop_samples], sample_rate)
            with torch.random.fork_rng(devices=[]):  # older transformers draw for layer drop, though it is off
                features_BUH = self.features_of(heard_BS).to(features_BTH)
            assert features_BUH.shape[1:] == (heard_BS.shape[1] // self.hop_samples, self.width)
            step = hop_samples * self.sample_rate / sample_rate / self.hop_samples
            if step != 1.0 or features_BUH.shape[1] != count:
                features_BUH = alignment(count, features_BUH.shape[1], step).to(features_BTH) @ features_BUH
            features_BTH[rows, :count] = features_BUH[:, :num_frames]
        return features_BTH

    def _at_own_rate(self, wav_BS: Tensor, sample_rate: int) -> Tensor:
        """Clips resampled, where the codec has another rate, and zero-padded to whole frames of the encoder."""
        if sample_rate != self.sample_rate:
            wavs = [resample(wav_S, sample_rate, self.sample_rate) for wav_S in wav_BS.float().cpu().numpy()]
            wav_BS = torch.stack([torch.from_numpy(wav_S) for wav_S in wavs])
        wav_BS = wav_BS.to(self.device, self.dtype)
        return F.pad(wav_BS, (0, -wav_BS.shape[1] % self.hop_samples))


def alignment(num_frames: int, num_encoder_frames: int, step: float) -> Tensor:
    """Weights (T, U) of the encoder's frames in each frame of the codec; rows sum to 1.

    A triangle around the centre of the codec's frame, as wide as the longer of both frames to each side: linear
    interpolation where the encoder is as slow or slower, an average where it is faster, the identity at equal rates.
    At the ends the outermost frame counts.

    Args:
        step: length of the codec's frame in frames of the encoder.
    """
    centres_T = (torch.arange(num_frames, dtype=torch.float64) + 0.5) * step - 0.5
    places_U = torch.arange(num_encoder_frames, dtype=torch.float64)
    centres_T = centres_T.clamp(0, num_encoder_frames - 1)
    weights_TU = (1 - (centres_T[:, None] - places_U).abs() / max(1.0, step)).clamp(min=0)
    return weights_TU / weights_TU.sum(1, keepdim=True)
