"""The token prior of rate-aware encoding: which codes follow each other, counted on a corpus; and its file.

    prior = BigramPrior.fit(clips, codec.codebook_size)
    prior.save(folder / PRIOR_FILE, codec)           # what `llmcodec prior` does
    prior = BigramPrior.load(folder / PRIOR_FILE, codec)

Shapes: T frames, P frames tried at once, X codes tried at each, V codes, G pairs that occurred.
Test: tests/codec/test_search.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from glob import escape
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.io.digests import digest
from llmcodec.io.tensor_check import check_tensors, renewed_digests
from llmcodec.io.tensor_file import read_arrays, write_arrays
from llmcodec.protocol import AdaptableCodec

PRIOR_FILE = "token_prior.safetensors"
FORMAT = "llmcodec token prior 1"
MAX_PRIOR_BYTES = 1 << 31


class BigramPrior:
    """p(code | code before), counted, with Witten-Bell back-off to the add-one-half unigram. A `protocol.RateScorer`.

    Args:
        keys_G: sorted, `before * V + code` of every pair that occurred; int64.
        counts_G: how often it did.
        unigram_V: how often every code did.
    """

    def __init__(self, keys_G: Tensor, counts_G: Tensor, unigram_V: Tensor):
        self.keys_G, self.counts_G, self.unigram_V = keys_G, counts_G, unigram_V
        size = unigram_V.numel()
        self.unigram_share_V = (unigram_V.double() + 0.5) / (unigram_V.double() + 0.5).sum()
        before_G = keys_G // size
        total_V = torch.zeros_like(self.unigram_share_V).index_add_(0, before_G, counts_G.double())
        self.followers_V = torch.bincount(before_G, minlength=size).double().clamp_min(1.0)
        self.weight_V = total_V + self.followers_V

    @classmethod
    def fit(cls, clips: Sequence[Tensor], codebook_size: int) -> BigramPrior:
        """Count the codes of clips, 1-D int64 each. Raises ValueError without a clip, or for a code out of range."""
        clips = [codes for codes in clips if codes.numel()]
        if not clips:
            raise ValueError("token prior: no codes to count")
        codes = torch.cat(clips)
        if int(codes.min()) < 0 or int(codes.max()) >= codebook_size:
            raise ValueError(f"token prior: codes must be in [0, {codebook_size}), got {int(codes.max())}")
        pairs = torch.cat([codes[:-1] * codebook_size + codes[1:] for codes in clips])
        keys_G, counts_G = torch.unique(pairs, return_counts=True)
        return cls(keys_G, counts_G, torch.bincount(codes, minlength=codebook_size))

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.unigram_V.numel()

    def to(self, device: torch.device) -> BigramPrior:
        """The same counts on another device."""
        return BigramPrior(self.keys_G.to(device), self.counts_G.to(device), self.unigram_V.to(device))

    def nats(self, before: Tensor, code: Tensor) -> Tensor:
        """-ln p(code | before) of int64 tensors that broadcast, float32.

        A negative code means none: before = -1 asks for the unigram, code = -1 costs nothing.
        """
        before, code = torch.broadcast_tensors(before, code)
        known = before.clamp_min(0), code.clamp_min(0)
        share = self.unigram_share_V[known[1]]
        counts = torch.zeros_like(share)
        if self.keys_G.numel():
            wanted = (known[0] * self.codebook_size + known[1]).contiguous()
            place = torch.searchsorted(self.keys_G, wanted).clamp_max(self.keys_G.numel() - 1)
            counts = torch.where(self.keys_G[place] == wanted, self.counts_G[place].double(), counts)
        follows = (counts + self.followers_V[known[0]] * share) / self.weight_V[known[0]]
        nats = -torch.where(before >= 0, follows, share).log()
        return torch.where(code >= 0, nats, torch.zeros_like(nats)).float()

    def trial_nats(self, codes_T: Tensor, places_P: Tensor, trials_XP: Tensor) -> Tensor:
        """Nats (X, P) of a trial and of the code behind it; see `protocol.RateScorer`."""
        beside_T = F.pad(codes_T, (1, 1), value=-1)
        return self.nats(beside_T[places_P], trials_XP) + self.nats(trials_XP, beside_T[places_P + 2])

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, by name."""
        return {"keys": self.keys_G, "counts": self.counts_G, "unigram": self.unigram_V}

    def save(self, path: Path, codec: AdaptableCodec) -> None:
        """Write the counts and the codebook that they belong to, whole or not at all."""
        small = torch.int32 if self.codebook_size**2 < 1 << 31 else torch.int64
        arrays = {"keys": self.keys_G.to(small), "counts": self.counts_G.to(torch.int32), "unigram": self.unigram_V}
        metadata = {"format": FORMAT, "codebook": codebook_hash(codec)}
        with renewed_digests(path.parent, escape(path.name)):
            write_arrays(path, {name: array.cpu().numpy() for name, array in arrays.items()}, metadata)

    @classmethod
    def load(cls, path: Path, codec: AdaptableCodec) -> BigramPrior:
        """Read what `save` wrote.

        Raises:
            ValueError: it cannot be read, is damaged, or is the prior of another codebook.
        """
        try:
            arrays, metadata = read_arrays(check_tensors(path), max_bytes=MAX_PRIOR_BYTES)
        except OSError as error:
            raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
        if metadata.get("format") != FORMAT:
            raise ValueError(f"{path}: not a token prior; `llmcodec prior` writes one")
        if metadata.get("codebook") != codebook_hash(codec):
            raise ValueError(f"{path}: the token prior of another codec; make this one's with `llmcodec prior`")
        keys, counts, unigram = (arrays.get(name, np.zeros(0)) for name in ("keys", "counts", "unigram"))
        size = codec.codebook_size
        sound = all(array.dtype in (np.int32, np.int64) and array.ndim == 1 for array in (keys, counts, unigram))
        keys, counts, unigram = (array.astype(np.int64) for array in (keys, counts, unigram))
        sound = sound and unigram.size == size and keys.size == counts.size and bool((np.diff(keys) > 0).all())
        sound = sound and (not keys.size or (keys[0] >= 0 and keys[-1] < size * size and counts.min() > 0))
        if not sound or unigram.min() < 0:
            raise ValueError(f"{path}: damaged: its counts do not fit a codebook of {size}")
        return cls(*(torch.from_numpy(array) for array in (keys, counts, unigram)))


def codebook_hash(codec: AdaptableCodec) -> str:
    """16 hex digits of the code vectors."""
    return digest(codec.codebook_VC.detach().to("cpu", torch.float32).contiguous().numpy())
