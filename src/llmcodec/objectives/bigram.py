"""The bigram term: what a frame's code is expected to cost beside its neighbours, under counts of other clips.

    R = mean_t sum_k q_t(k) [ -log p(k | c_(t-1)) - log p(c_(t+1) | k) ]      nats per frame, k over the K nearest codes

q_t = softmax(similarity_t / tau) over these K codes; the neighbours c are the hard codes, without gradient. p is a
`FoldedPrior` that stays as it is: counted once, at best on searched codes, so that the encoder learns by itself, at no
cost, to choose what search would choose. A clip that was counted is judged by the folds that it is not in.

A fixed p does not follow the codec, as the LM of the rate term does, and so does not reward what the codec does ever
more often. It still lowers the entropy of the tokens: watch `codes/perplexity`.
Related: entropy-constrained quantisation (Chou, Lookabaugh and Gray, 1989), here with conditional probabilities.

Shapes: B batch, T frames, N real frames, K candidates, V codes, C code dimension.
Test: tests/objectives/test_bigram.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmcodec import assets
from llmcodec.codec.token_prior import BigramPrior, FoldedPrior, load_prior
from llmcodec.distributed import at_least_float32, mean_count
from llmcodec.io.digests import digest
from llmcodec.protocol import AdaptableCodec, CodecEncoding

ROWS = 4096
"""Frames whose similarities to all codes are in memory at once."""


@dataclass(frozen=True)
class BigramConfig:
    """Whose counts, and among which codes a frame may choose."""

    prior: str
    """A file of `llmcodec prior`, counted with the codec that training starts from; `bundled`: the bundled codec's."""
    candidates: int = 16
    """K: the nearest codes, between which a frame is divided."""
    tau: float = 0.02
    """Temperature of q = softmax(cosine similarity / tau)."""

    def __post_init__(self) -> None:
        if self.candidates < 2 or not self.tau > 0:
            raise ValueError(
                f"recipe: bigram.candidates must be at least 2 and bigram.tau positive, got {self.candidates} and "
                f"{self.tau}"
            )


class BigramTerm(nn.Module):
    """Computes `codes/bigram` for batches of clips with ids.

    Args:
        prior: the counts. A clip that it knows by its id is judged without the fold that holds it.
    """

    known: Tensor

    def __init__(self, prior: FoldedPrior, config: BigramConfig):
        super().__init__()
        self.config, self.prior = config, prior
        self.fold_of = {clip_id: number % prior.folds for number, clip_id in enumerate(prior.ids)}
        name = digest(*(tensor.cpu().contiguous().numpy() for tensor in prior.state_dict().values()), size=7)
        self.register_buffer("known", torch.tensor(int(name, 16)))
        self.register_load_state_dict_pre_hook(_refuse_another)  # type: ignore[no-untyped-call]

    @classmethod
    def from_file(cls, config: BigramConfig, codec: AdaptableCodec) -> BigramTerm:
        """The term with the counts in `config.prior`.

        Raises:
            ValueError: it cannot be read, is another codec's, or does not know the clips that it has counted.
        """
        bundled = assets.codec_folder() / "token_prior.safetensors"
        prior = load_prior(bundled if config.prior == assets.BUNDLED else Path(config.prior), codec)
        if isinstance(prior, BigramPrior):
            raise ValueError(
                f"{config.prior}: an old token prior, which does not know the clips it counted, and would praise them "
                "for being themselves; count it again with `llmcodec prior`"
            )
        return cls(prior, config)

    def _apply(self, move: Any, recurse: bool = True) -> BigramTerm:
        super()._apply(move, recurse)  # type: ignore[no-untyped-call]
        self.prior = self.prior.to(self.known.device)
        return self

    def forward(
        self, encoding: CodecEncoding, codebook_VC: Tensor, ids: Sequence[str], partition: tuple[int, int] | None = None
    ) -> Tensor:
        """Mean nats per frame, see the module docstring; gradient goes to query and codebook.

        Args:
            encoding: of the batch. codebook_VC: unit-norm code vectors. ids: of the clips.
            partition: range of the codes that frames may take; None: all.
        """
        mask_BT, places = encoding.mask_BT, encoding.places
        codes_BT = torch.where(mask_BT, encoding.codes_BT, -1)
        before_BT, after_BT = F.pad(codes_BT, (1, 0), value=-1)[:, :-1], F.pad(codes_BT, (0, 1), value=-1)[:, 1:]
        query_NC, codebook_VC = at_least_float32(encoding.query_BTC[places]), at_least_float32(codebook_VC)
        first, last = partition or (0, codebook_VC.shape[0])
        nearest_NK = nearest_codes(query_NC.detach(), codebook_VC.detach()[first:last], self.config.candidates) + first
        similarity_NK = torch.einsum("nc,nkc->nk", query_NC, codebook_VC[nearest_NK])
        lengths = encoding.lengths or mask_BT.sum(1).tolist()
        per_clip = (rows.split(lengths) for rows in (before_BT[places][:, None], nearest_NK, after_BT[places][:, None]))
        costs = []
        for clip_id, before, near, after in zip(ids, *per_clip, strict=True):
            fold = self.fold_of.get(clip_id)
            prior = self.prior.without(() if fold is None else (fold,))
            costs.append(prior.nats(before, near) + prior.nats(near, after))
        nats_NK = torch.cat(costs).to(similarity_NK.dtype)
        expected_N = ((similarity_NK / self.config.tau).softmax(-1) * nats_NK).sum(-1)
        return (expected_N.sum() / mean_count(mask_BT).clamp_min(1e-9)).to(expected_N.dtype)


def nearest_codes(query_NC: Tensor, codebook_VC: Tensor, count: int) -> Tensor:
    """Indices (N, K) of the most similar codes, nearest first."""
    count = min(count, codebook_VC.shape[0])
    return torch.cat([(rows @ codebook_VC.T).topk(count, dim=-1).indices for rows in query_NC.split(ROWS)])


def _refuse_another(module: BigramTerm, state: dict[str, Tensor], prefix: str, *rest: Any) -> None:
    """Add to the errors of `load_state_dict` that a checkpoint was made with other counts."""
    saved = state.get(f"{prefix}known")
    if saved is not None and int(saved) != int(module.known):
        rest[-1].append(f"bigram.prior: {module.config.prior} has other counts now than when the run began")
