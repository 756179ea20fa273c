"""Whisper's encoder: from transformers, or a CTranslate2 folder through the package ctranslate2.

Whisper was trained on windows of 30 s: each clip is padded to one, and its own frames are kept. `padded_seconds` makes
the window shorter, and the encoder faster in proportion. Whisper centres frame i on sample 320 i, the codec half a
frame later, so Whisper hears each clip from its 160th sample on.
Shapes: B batch, S samples, F mel bands, U frames, H width. Test: tests/adapters/test_features.py.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from llmcodec.adapters.features.base import SpeechEncoder
from llmcodec.adapters.features.self_supervised import check_layer

SAMPLE_RATE, HOP_SAMPLES, MEL_HOP_SAMPLES = 16_000, 320, 160
LONGEST_SECONDS = 30.0
INSTALL = "pip install ctranslate2 (or `llmcodec[asr]`)"


class WhisperInput:
    """Clips -> log-mel spectrograms of a fixed length, as Whisper reads them.

    Raises:
        ValueError: `padded_seconds` is more than 30 or less than a frame.
    """

    def __init__(self, extractor: Any, padded_seconds: float | None):
        seconds = LONGEST_SECONDS if padded_seconds is None else padded_seconds
        self.num_frames = round(seconds * SAMPLE_RATE / HOP_SAMPLES)
        if not 1 <= self.num_frames <= LONGEST_SECONDS * SAMPLE_RATE / HOP_SAMPLES:
            raise ValueError(f"padded_seconds must be in 0.02..{LONGEST_SECONDS:g} for Whisper, got {padded_seconds:g}")
        self.extractor = extractor

    @property
    def num_samples(self) -> int:
        """Of the window."""
        return self.num_frames * HOP_SAMPLES

    def __call__(self, wav_BS: Tensor) -> Tensor:
        """float32 (B, F, 2 * num_frames). Raises ValueError for clips that are longer than the window."""
        frames = wav_BS.shape[1] // HOP_SAMPLES
        if frames > self.num_frames:
            raise ValueError(
                f"a clip of {frames * HOP_SAMPLES / SAMPLE_RATE:g} s is longer than Whisper's window of "
                f"{self.num_frames * HOP_SAMPLES / SAMPLE_RATE:g} s; set window_seconds or data.crop_seconds below it"
            )
        wavs = wav_BS[:, HOP_SAMPLES // 2 :].float().cpu().numpy()
        with torch.autocast("cpu", enabled=False):  # the extractor computes with PyTorch
            made = self.extractor(
                list(wavs),
                sampling_rate=SAMPLE_RATE,
                max_length=self.num_frames * HOP_SAMPLES,
                return_tensors="pt",
            )
        return made.input_features


class WhisperEncoder(SpeechEncoder):
    """The encoder of transformers' WhisperModel.

    Args:
        model: frozen, in evaluation mode. extractor: its feature extractor.
        layer: number of layers whose output is taken, 0 for their input; None: all, and the last norm.
        padded_seconds: length of the window; None: 30 s.

    Raises:
        ValueError: no such layer, or an impossible window.
    """

    def __init__(
        self,
        model: Any,
        extractor: Any,
        layer: int | None,
        padded_seconds: float | None,
        device: torch.device,
        dtype: torch.dtype,
    ):
        encoder = model.encoder.to(device, dtype)
        super().__init__(SAMPLE_RATE, HOP_SAMPLES, encoder.config.d_model, device, dtype)
        self.layer = check_layer(layer, encoder.config.encoder_layers)
        self.input = WhisperInput(extractor, padded_seconds)
        self.longest_samples = self.input.num_samples
        if self.input.num_frames > encoder.config.max_source_positions:
            raise ValueError(f"padded_seconds must be at most {encoder.config.max_source_positions / 50:g} here")
        positions_UH = encoder.embed_positions.weight[: self.input.num_frames]
        encoder.embed_positions.weight = nn.Parameter(positions_UH, requires_grad=False)
        encoder.embed_positions.num_embeddings = self.input.num_frames
        encoder.config.max_source_positions = self.input.num_frames
        self.encoder = encoder

    def features_of(self, wav_BS: Tensor) -> Tensor:
        mel_BFU = self.input(wav_BS).to(self.device, self.dtype)
        states = self.encoder(mel_BFU, output_hidden_states=True).hidden_states
        return states[self.layer][:, : wav_BS.shape[1] // HOP_SAMPLES]


class CTranslate2WhisperEncoder(SpeechEncoder):
    """The encoder of a Whisper that CTranslate2 has converted, in float32; its last layer.

    Args:
        folder: with `model.bin` and `config.json`.
        padded_seconds: length of the window; None: 30 s.

    Raises:
        ValueError: no such folder, not a Whisper, or ctranslate2 is missing.
    """

    def __init__(self, folder: Path, padded_seconds: float | None, device: torch.device, dtype: torch.dtype):
        from transformers import WhisperFeatureExtractor

        if not (folder / "model.bin").is_file():
            raise ValueError(f"{folder} has no model.bin; give the folder of a Whisper that CTranslate2 has converted")
        try:
            import ctranslate2
        except ModuleNotFoundError:
            raise ValueError(f"the package ctranslate2 is missing: {INSTALL}") from None
        self.storage = ctranslate2.StorageView
        self.on_gpu = device.type == "cuda"
        self.model = ctranslate2.models.Whisper(
            str(folder),
            device="cuda" if self.on_gpu else "cpu",
            device_index=(device.index or 0) if self.on_gpu else 0,
            compute_type="float32",
            intra_threads=torch.get_num_threads(),
        )
        self.input = WhisperInput(WhisperFeatureExtractor(feature_size=self.model.n_mels), padded_seconds)
        self.longest_samples = self.input.num_samples
        width = self._encode(np.zeros((1, self.model.n_mels, 2), np.float32)).shape[2]
        super().__init__(SAMPLE_RATE, HOP_SAMPLES, width, device, dtype)

    def _encode(self, mel_BFU: np.ndarray) -> np.ndarray:
        encoded = self.model.encode(self.storage.from_array(np.ascontiguousarray(mel_BFU)), to_cpu=True)
        return np.array(encoded)

    def features_of(self, wav_BS: Tensor) -> Tensor:
        features_BUH = self._encode(self.input(wav_BS).cpu().numpy())
        return torch.from_numpy(features_BUH[:, : wav_BS.shape[1] // HOP_SAMPLES])
