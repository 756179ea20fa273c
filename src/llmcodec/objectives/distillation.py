"""Distillation: a linear projection of a decoder layer towards the features of a frozen speech encoder.

Shapes: B batch, S samples, T frames, D codec width, H teacher's width. Test: tests/objectives/test_distillation.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec.adapters.features.base import SpeechEncoder
from llmcodec.distributed import at_least_float32, masked_mean


@dataclass(frozen=True)
class TeacherConfig:
    """Whose features, and where in the decoder."""

    name: str
    """`wavlm:PLACE`, `hubert:PLACE`, `wav2vec2:PLACE`, `whisper:PLACE` (a hub id or folder; `:N` behind it takes the
    output of layer N instead of the last) or `whisper-ct2:FOLDER` (a Whisper in CTranslate2's format)."""
    decoder_layer: int | None = None
    """The codec's decoder is compared after this many layers; null takes half of them."""
    padded_seconds: float | None = None
    """Whisper pads each clip to this length; null: to 30 s, as it was trained. Shorter is faster in proportion."""

    def __post_init__(self) -> None:
        if self.decoder_layer is not None and self.decoder_layer < 1:
            raise ValueError(f"recipe: teacher.decoder_layer must be at least 1, got {self.decoder_layer}")


class Distillation(nn.Module):
    """The teacher, the layer that it teaches, and the projection in between, which is trained with the codec.

    The teacher is not a submodule: it is in no checkpoint and no optimizer.

    Args:
        width: D. num_layers: of the decoder. seed: of the projection's initial weights.

    Raises:
        ValueError: the decoder has no such layer.
    """

    def __init__(self, teacher: SpeechEncoder, config: TeacherConfig, width: int, num_layers: int, seed: int = 0):
        super().__init__()
        self.layer = max(1, num_layers // 2) if config.decoder_layer is None else config.decoder_layer
        if self.layer > num_layers:
            raise ValueError(f"recipe: teacher.decoder_layer is {self.layer}, but the decoder has {num_layers} layers")
        self._teacher = [teacher]
        self.projection = nn.Linear(width, teacher.width)
        nn.init.normal_(self.projection.weight, std=width**-0.5, generator=torch.Generator().manual_seed(seed))
        nn.init.zeros_(self.projection.bias)

    def features(
        self, wav_BS: Tensor, lengths_B: Tensor, sample_rate: int, hop_samples: int, num_frames: int
    ) -> Tensor:
        """The teacher's features (B, T, H) of clips, without gradient."""
        return self._teacher[0](wav_BS, lengths_B, sample_rate, hop_samples, num_frames)

    def forward(self, hidden_BTD: Tensor, features_BTH: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
        """Raw terms of a decoder layer's output; frames outside the mask do not count."""
        with torch.autocast(hidden_BTD.device.type, enabled=False):
            student_BTH = self.projection(hidden_BTD.to(self.projection.weight.dtype))
            return distillation_terms(student_BTH, features_BTH, mask_BT)


def distillation_terms(student_BTH: Tensor, features_BTH: Tensor, mask_BT: Tensor) -> dict[str, Tensor]:
    """Mean over real frames of the absolute difference (over H) and of 1 - cosine similarity."""
    student_BTH, features_BTH = at_least_float32(student_BTH), at_least_float32(features_BTH)
    distance_BT = (student_BTH - features_BTH).abs().mean(-1)
    similarity_BT = F.cosine_similarity(student_BTH, features_BTH, dim=-1)
    return {"distill/l1": masked_mean(distance_BT, mask_BT), "distill/cosine": masked_mean(1 - similarity_BT, mask_BT)}
