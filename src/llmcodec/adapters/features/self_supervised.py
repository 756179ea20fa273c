"""WavLM, HuBERT and wav2vec 2.0 of transformers: hidden states of one layer.

Their first frame is centred on sample 200, and what is left of a last frame is dropped: 40 zeros on each side give as
many frames as the codec has, centred as the codec's are.
Shapes: B batch, S samples, U frames, H width. Test: tests/adapters/test_features.py.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.adapters.features.base import SpeechEncoder


class SelfSupervisedEncoder(SpeechEncoder):
    """A model of transformers with a convolutional front end.

    Args:
        model: frozen, in evaluation mode. extractor: its feature extractor (rate, normalisation).
        layer: number of layers whose output is taken, 0 for their input; None: all.

    Raises:
        ValueError: the model has no such layer.
    """

    def __init__(self, model: Any, extractor: Any, layer: int | None, device: torch.device, dtype: torch.dtype):
        config = model.config
        strides, kernels = config.conv_stride, config.conv_kernel
        super().__init__(extractor.sampling_rate, math.prod(strides), config.hidden_size, device, dtype)
        reach = 1 + sum((kernel - 1) * math.prod(strides[:place]) for place, kernel in enumerate(kernels))
        self.edge = (reach - self.hop_samples) // 2
        self.right_edge = reach - self.hop_samples - self.edge
        self.model, self.normalised = model.to(device, dtype), bool(extractor.do_normalize)
        self.layer = check_layer(layer, config.num_hidden_layers)

    def features_of(self, wav_BS: Tensor) -> Tensor:
        if self.normalised:  # as Wav2Vec2FeatureExtractor does
            wav_BS = (wav_BS - wav_BS.mean(1, keepdim=True)) / (wav_BS.var(1, keepdim=True, correction=0) + 1e-7).sqrt()
        padded_BS = F.pad(wav_BS, (self.edge, self.right_edge))
        return self.model(padded_BS, output_hidden_states=True).hidden_states[self.layer]


def check_layer(layer: int | None, num_layers: int) -> int:
    """The layer asked for, the last by default; ValueError where there is none such."""
    if layer is not None and layer > num_layers:
        raise ValueError(f"no layer {layer}: the encoder has {num_layers}")
    return num_layers if layer is None else layer
