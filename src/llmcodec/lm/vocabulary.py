"""The audio vocabulary of a frozen LLM: the only embedding rows that train.

Text rows stay in the frozen backbone; audio tokens are rows of a matrix of their own, so the optimizer sees nothing
else. Shapes: B batch, T frames, L = T + 1 LLM positions, V audio vocabulary, H LLM width.
Test: `pytest tests/lm/test_vocabulary.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from llmcodec.lm.backbone import FrozenCausalLM
from llmcodec.lm.embeddings import cooccurrence_rows, sample_rows


@dataclass
class LMInputs:
    """embeds_BLH: what the LLM reads. mask_BL: real positions. last_B: position of the last real audio token."""

    embeds_BLH: Tensor
    mask_BL: Tensor
    last_B: Tensor


class AudioVocabulary(nn.Module):
    """Trainable embedding rows of the V audio tokens and of the start token.

    Args:
        embedding_VH: initial rows. start_H: initial start embedding. Both are copied.
    """

    def __init__(self, embedding_VH: Tensor, start_H: Tensor):
        super().__init__()
        if embedding_VH.ndim != 2 or start_H.shape != embedding_VH.shape[1:]:
            raise ValueError(
                f"AudioVocabulary: rows {tuple(embedding_VH.shape)} and start {tuple(start_H.shape)} must be "
                "(V, H) and (H,)"
            )
        self.embedding_VH = nn.Parameter(embedding_VH.detach().clone())
        self.start_H = nn.Parameter(start_H.detach().clone())

    @classmethod
    def from_backbone(cls, backbone: FrozenCausalLM, codebook_size: int, seed: int = 0) -> AudioVocabulary:
        """Rows sampled from mean and covariance of the LLM's text rows, the same for every codec with one `seed`.

        The start embedding is the LLM's own beginning-of-sequence row if it has one, else the mean of the rows (Qwen).
        """
        statistics = backbone.input_statistics()
        bos = backbone.bos_row()
        start = statistics.mean_H if bos is None else bos.float()
        return cls(sample_rows(statistics, codebook_size, seed), start)

    @torch.no_grad()
    def start_from(self, backbone: FrozenCausalLM, clips: Sequence[Tensor], seed: int = 0) -> None:
        """Start the rows at the co-occurrence of training clips (1-D int64 each), at the scale of the text rows."""
        self.embedding_VH.copy_(cooccurrence_rows(backbone.input_statistics(), clips, self.size, seed))

    @property
    def size(self) -> int:
        """V, number of audio tokens."""
        return self.embedding_VH.shape[0]

    def inputs(self, embeds_BTH: Tensor, mask_BT: Tensor, *, start: bool = True) -> LMInputs:
        """[start, e_0, .., e_(T-1)] with its mask: position t has read the codes before t, position T all of them.

        `start=False` leaves the start embedding out, as the released code of the paper does with LLMs that have no BOS
        token; position t has then already read code t.
        """
        lengths_B = mask_BT.sum(1)
        if not start:
            return LMInputs(embeds_BTH, mask_BT, (lengths_B - 1).clamp_min(0))
        first = self.start_H.to(embeds_BTH.dtype).expand(embeds_BTH.shape[0], 1, -1)
        mask_BL = torch.cat([torch.ones_like(mask_BT[:, :1]), mask_BT], dim=1)
        return LMInputs(torch.cat([first, embeds_BTH], dim=1), mask_BL, lengths_B)
