"""The cheapest path through the nearest codes of every frame: search that listens to nothing, and so costs nothing.

    path = CheapestPath(prior, weight=0.004, repeat_nats=0.3)
    codes_T = torch.cat([path.push(similar_TK, near_TK), path.finish()])    # as many pieces as you like
    CheapestPath(prior, 0.004, 0.3, delay=8)                                # gives a code once 8 more frames are known

Minimises the sum over frames of 1 - cosine similarity + weight * nats of each code after the one before it, by
Viterbi's algorithm (1967), as Chou, Lookabaugh & Gray (1989) do for quantisers under an entropy constraint. With a
delay, the code of a frame is the one on the path that is best once `delay` more frames are known; later ones cannot
change it.
Shapes: T frames, K nearest codes of a frame. Test: tests/codec/test_cheapest_path.py.
"""

from __future__ import annotations

from collections import deque

import numpy as np
import torch
from torch import Tensor

from llmcodec.protocol import PairScorer

PIECE = 1500  # frames whose pairs are priced at once: bounds the memory of long clips


class CheapestPath:
    """Of one clip or stream.

    Args:
        prior: nats of pairs of codes.
        weight: cosine similarity that one nat is worth.
        repeat_nats: surcharge on a code that is the one before it.
        delay: frames that are waited for before a code is given; None: the whole clip.
    """

    def __init__(self, prior: PairScorer, weight: float, repeat_nats: float = 0.0, delay: int | None = None):
        if delay is not None and delay < 0:
            raise ValueError(f"delay must be at least 0 frames, got {delay}")
        self.prior, self.weight, self.repeat_nats, self.delay = prior, weight, repeat_nats, delay
        self.last_K: Tensor | None = None
        self.total_K = np.zeros(1)
        self.open: deque[tuple[np.ndarray, np.ndarray]] = deque()
        """Codes (K,) of every frame that is not given yet, and the place on the frame before that each came from."""

    def push(self, similar_TK: Tensor, near_TK: Tensor) -> Tensor:
        """Similarities of the nearest codes, and the codes -> codes (t,) that are final now, int64 on the CPU."""
        pieces = zip(similar_TK.split(PIECE), near_TK.long().split(PIECE), strict=True)
        given = [code for piece in pieces if len(piece[0]) for code in self._push(*piece)]
        return torch.tensor(given, dtype=torch.int64)

    def _push(self, similar_TK: Tensor, near_TK: Tensor) -> list[int]:
        """A piece of at least one frame -> codes that are final now."""
        start_1K = near_TK.new_full((1, 1), -1) if self.last_K is None else self.last_K[None].to(near_TK.device)
        costs = [self._costs(start_1K, near_TK[:1]), self._costs(near_TK[:-1], near_TK[1:])]
        self.last_K, given = near_TK[-1], []
        far_TK, codes_TK = (1 - similar_TK.double()).cpu().numpy(), near_TK.cpu().numpy()
        for far_K, codes_K, cost_KK in zip(far_TK, codes_TK, (one for part in costs for one in part), strict=True):
            reached_KK = self.total_K[:, None] + cost_KK
            came_K = reached_KK.argmin(0)
            self.total_K = reached_KK[came_K, np.arange(len(came_K))] + far_K
            self.open.append((codes_K, came_K))
            if self.delay is not None and len(self.open) > self.delay:
                given.append(self._give())
        return given

    def finish(self) -> Tensor:
        """The codes (t,) that were still open."""
        codes, place = [], int(self.total_K.argmin())
        for codes_K, came_K in reversed(self.open):
            codes.append(int(codes_K[place]))
            place = int(came_K[place])
        self.open.clear()
        return torch.tensor(codes[::-1], dtype=torch.int64)

    def _costs(self, before_TJ: Tensor, near_TK: Tensor) -> np.ndarray:
        """Weighted nats (T, J, K) of every pair."""
        before_TJ1, near_T1K = before_TJ[:, :, None], near_TK[:, None]
        nats = self.prior.nats(before_TJ1, near_T1K).double() + self.repeat_nats * (before_TJ1 == near_T1K)
        return (self.weight * nats).cpu().numpy()

    def _give(self) -> int:
        """The oldest open code, by the path that is best now; paths without it end."""
        places_K = np.arange(len(self.total_K))
        for _, came_K in list(self.open)[:0:-1]:
            places_K = came_K[places_K]
        place = places_K[int(self.total_K.argmin())]
        self.total_K = np.where(places_K == place, self.total_K, np.inf)
        codes_K, _ = self.open.popleft()
        return int(codes_K[place])
