"""View consistency: a slightly perturbed copy of the same speech should get the same codes.

Part of what makes tokens unpredictable is how the frame grid happens to fall on the waveform, and inaudible noise.
`codes/view` encodes a perturbed copy (shifted by less than a hop, scaled, with faint noise) and pulls its look-up
queries to the codes of the original: the term is a cross-entropy of softmax(similarity / tau) to the original's hard
code. After Liu et al., ACL 2025 (arXiv 2409.19283), who do this with slices.

Shapes: B batch, S samples, T frames, V codes, C code dimension. Test: `pytest tests/objectives/test_views.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.distributed import at_least_float32, mean_count
from llmcodec.objectives.chunked import linear_cross_entropy
from llmcodec.protocol import CodecEncoding


@dataclass(frozen=True)
class ViewConfig:
    """How the second view differs. Every clip draws its own values, keyed by seed, step and clip id."""

    max_shift_samples: int = 80
    """Largest time shift, to either side."""
    max_gain_db: float = 3.0
    """Largest change of level, to either side."""
    noise_db: float = 40.0
    """White noise this far below the clip's level."""
    tau: float = 0.1
    """Temperature of the cross-entropy."""

    def __post_init__(self) -> None:
        if self.max_shift_samples < 0 or self.max_gain_db < 0 or not self.tau > 0:
            raise ValueError(
                "ViewConfig: max_shift_samples and max_gain_db cannot be negative and tau must be positive, got "
                f"{self.max_shift_samples}, {self.max_gain_db}, {self.tau}"
            )


def perturb(wav_BS: Tensor, lengths_B: Tensor, seeds_B: Sequence[int], config: ViewConfig) -> Tensor:
    """The second view (B, S): every clip shifted, scaled and with noise; zero beyond its length, as before."""
    views = []
    for wav_S, length, seed in zip(wav_BS, lengths_B.tolist(), seeds_B, strict=True):
        generator = torch.Generator().manual_seed(seed)
        draw = torch.rand(2, generator=generator)
        noise_S = torch.randn(length, generator=generator).to(wav_S, non_blocking=True)
        shift = int(torch.round((2 * draw[0] - 1) * min(config.max_shift_samples, length - 1)))
        gain = 10.0 ** (float(2 * draw[1] - 1) * config.max_gain_db / 20)
        real_S = wav_S[:length]
        moved_S = F.pad(real_S[max(0, shift) : length + min(0, shift)], (max(0, -shift), max(0, shift)))
        level = real_S.square().mean().sqrt() * 10.0 ** (-config.noise_db / 20)
        views.append(F.pad(gain * (moved_S + level * noise_S), (0, wav_S.numel() - length)))
    return torch.stack(views)


def view_term(original: CodecEncoding, view: CodecEncoding, codebook_VC: Tensor, tau: float) -> Tensor:
    """Mean over real frames of -log softmax(view's query @ codebook^T / tau) at the original's code, in nats.

    Gradient goes to the view's encoder and to the codebook; the original's codes are the target.
    """
    query_NC = at_least_float32(view.query_BTC[view.places])
    codes_N = original.codes_BT[original.places]
    total, _ = linear_cross_entropy(query_NC / tau, at_least_float32(codebook_VC), codes_N)
    return (total / mean_count(original.mask_BT).clamp_min(1e-9)).to(total.dtype)
