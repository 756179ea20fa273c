"""Cost of tokens under a unigram model, the expectation of several tests."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from llmcodec.metrics.token_statistics import UnigramModel


def unigram_cross_entropy(train_codes: Sequence[Tensor], test_codes: Sequence[Tensor], vocabulary: int) -> float:
    """Bits per token of the test clips under a unigram model fitted on the training clips."""
    model = UnigramModel.fit(train_codes, vocabulary)
    return sum(model.clip_bits(clip) for clip in test_codes) / sum(clip.numel() for clip in test_codes)
