"""The token prior of rate-aware encoding: which codes follow each other, counted on a corpus; and its file.

    prior = FoldedPrior.fit(counted_clips, codec.codebook_size)
    prior.save(folder / PRIOR_FILE, codec)           # what `llmcodec prior` does
    prior = load_prior(folder / PRIOR_FILE, codec)
    prior.leave_out(wav_S)                           # the counts to search this clip by

A clip that is searched by counts with its own pairs in them keeps its codes, because most pairs of codes occur only
once in a corpus. `FoldedPrior` therefore counts in folds and knows its clips by their sound: the prior for a clip that
it has counted is the counts of the other folds. Folds are used rather than the clip's own pairs subtracted, because
they also hold for a part of a clip, for a clip that begins elsewhere in a frame (other codes), and for any scorer.
Shapes: S samples, T frames, P frames tried at once, X codes tried at each, V codes, G pairs that occurred, K folds,
E pairs that occurred in a fold, L landmarks. Test: tests/codec/test_token_prior.py, tests/codec/test_search.py.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from glob import escape
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.codec.landmarks import find_landmarks
from llmcodec.io.digests import digest
from llmcodec.io.structured import parse_json
from llmcodec.io.tensor_check import check_tensors, renewed_digests
from llmcodec.io.tensor_file import read_arrays, write_arrays
from llmcodec.protocol import AdaptableCodec

PRIOR_FILE = "token_prior.safetensors"
FORMAT, OLD_FORMAT = "llmcodec token prior 2", "llmcodec token prior 1"
MAX_PRIOR_BYTES = 1 << 31
FOLDS, MAX_FOLDS = 10, 255
"""With ten, a clip that was counted is searched by nine tenths of the counts, one that was not by all."""


class BigramPrior:
    """p(code | code before), counted, with Witten-Bell back-off to the add-one-half unigram. A `protocol.RateScorer`.

    Args:
        keys_G: sorted, `before * V + code` of every pair that occurred; int64.
        counts_G: how often it did; 0 is allowed.
        unigram_V: how often every code did.
    """

    def __init__(self, keys_G: Tensor, counts_G: Tensor, unigram_V: Tensor):
        self.keys_G, self.counts_G, self.unigram_V = keys_G, counts_G, unigram_V
        size = unigram_V.numel()
        self.unigram_share_V = (unigram_V.double() + 0.5) / (unigram_V.double() + 0.5).sum()
        before_G = keys_G // size
        total_V = torch.zeros_like(self.unigram_share_V).index_add_(0, before_G, counts_G.double())
        self.followers_V = torch.bincount(before_G[counts_G > 0], minlength=size).double().clamp_min(1.0)
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

    def leave_out(self, wav_S: Tensor) -> BigramPrior:
        """Itself: it does not know which clips it has counted. Callers see to it that this is not one of them."""
        return self

    def trial_nats(self, codes_T: Tensor, places_P: Tensor, trials_XP: Tensor) -> Tensor:
        """Nats (X, P) of a trial and of the code behind it; see `protocol.RateScorer`."""
        beside_T = F.pad(codes_T, (1, 1), value=-1)
        return self.nats(beside_T[places_P], trials_XP) + self.nats(trials_XP, beside_T[places_P + 2])

    def state_dict(self) -> dict[str, Tensor]:
        """The counts, by name."""
        return {"keys": self.keys_G, "counts": self.counts_G, "unigram": self.unigram_V}

    @classmethod
    def _of_file(cls, arrays: Mapping[str, np.ndarray], codebook_size: int) -> BigramPrior | None:
        """What was written before there were folds; None where it cannot be that."""
        keys, counts, unigram = (arrays.get(name, np.zeros(0)) for name in ("keys", "counts", "unigram"))
        sound = all(array.dtype in (np.int32, np.int64) and array.ndim == 1 for array in (keys, counts, unigram))
        keys, counts, unigram = (array.astype(np.int64) for array in (keys, counts, unigram))
        sound = sound and unigram.size == codebook_size and keys.size == counts.size and bool((np.diff(keys) > 0).all())
        sound = sound and (not keys.size or (keys[0] >= 0 and keys[-1] < codebook_size**2 and counts.min() > 0))
        if not sound or unigram.min() < 0:
            return None
        return cls(*(torch.from_numpy(array) for array in (keys, counts, unigram)))


@dataclass(frozen=True)
class CountedClip:
    """A clip as `FoldedPrior.fit` takes it."""

    id: str
    """As its manifest calls it."""
    landmarks_L: np.ndarray
    """`find_landmarks` of what was encoded."""
    codes_T: Tensor
    """int64."""


class FoldedPrior:
    """Counts of pairs by fold, which know the clips that were counted. A `protocol.RateScorer`.

    Clips go to the folds in turn, so that every fold is a sample of the corpus. Each fold's counts come from its clips
    alone; a prior that is counted again on searched codes must keep it so and search every fold by its own counts.

    Args:
        keys_E: sorted, `(before * V + code) * K + fold` of every pair that occurred in a fold; int64.
        counts_E: how often it did.
        unigram_KV: how often every code did.
        landmarks_L: sorted digests by which the counted clips are recognised (`find_landmarks`), int64.
        landmark_folds_L: the fold that each is of.
        ids: of the clips that were counted; clip i is in fold i mod K.
    """

    def __init__(
        self,
        keys_E: Tensor,
        counts_E: Tensor,
        unigram_KV: Tensor,
        landmarks_L: np.ndarray,
        landmark_folds_L: np.ndarray,
        ids: Sequence[str],
    ):
        self.keys_E, self.counts_E, self.unigram_KV = keys_E, counts_E, unigram_KV
        self.landmarks_L, self.landmark_folds_L, self.ids = landmarks_L, landmark_folds_L, tuple(ids)
        self.folds = len(unigram_KV)
        pairs_E = keys_E // self.folds
        self._fold_E = keys_E - pairs_E * self.folds
        self._pairs_G, self._place_E = torch.unique_consecutive(pairs_E, return_inverse=True)
        self._without: dict[tuple[int, ...], BigramPrior] = {}

    @classmethod
    def fit(cls, clips: Iterable[CountedClip], codebook_size: int, folds: int = FOLDS) -> FoldedPrior:
        """Count clips.

        Raises:
            ValueError: no clip with codes, a code out of range, fewer than two folds or more than 255.
        """
        if not 2 <= folds <= MAX_FOLDS:
            raise ValueError(f"token prior: folds must be 2 to {MAX_FOLDS}, got {folds}")
        ids: list[str] = []
        codes: list[list[Tensor]] = [[] for _ in range(folds)]
        marks: list[list[np.ndarray]] = [[] for _ in range(folds)]
        for number, clip in enumerate(clips):
            ids.append(clip.id)
            codes[number % folds].append(clip.codes_T)
            marks[number % folds].append(clip.landmarks_L)
        keys, counts = [], []
        unigram_KV = torch.zeros(folds, codebook_size, dtype=torch.int64)
        for fold, members in enumerate(codes):
            if any(codes_T.numel() for codes_T in members):
                part = BigramPrior.fit(members, codebook_size)
                keys.append(part.keys_G * folds + fold)
                counts.append(part.counts_G)
                unigram_KV[fold] = part.unigram_V
        if not keys:
            raise ValueError("token prior: no codes to count")
        keys_E, order_E = torch.cat(keys).sort()
        found = [np.unique(np.concatenate(one)) if one else np.zeros(0, np.int64) for one in marks]
        landmarks_L = np.concatenate(found)
        folds_L = np.repeat(np.arange(folds, dtype=np.uint8), [len(one) for one in found])
        order_L = np.argsort(landmarks_L, kind="stable")
        return cls(keys_E, torch.cat(counts)[order_E], unigram_KV, landmarks_L[order_L], folds_L[order_L], ids)

    @property
    def codebook_size(self) -> int:
        """V."""
        return self.unigram_KV.shape[1]

    @property
    def num_pairs(self) -> int:
        """G."""
        return self._pairs_G.numel()

    def folds_of(self, wav_S: np.ndarray) -> tuple[int, ...]:
        """The folds that this sound, or a part of it, was counted in; none for a clip that was not counted."""
        found = find_landmarks(wav_S)
        first, last = (np.searchsorted(self.landmarks_L, found, side) for side in ("left", "right"))
        places = [np.arange(low, high) for low, high in zip(first, last, strict=True)]
        return tuple(sorted({int(fold) for fold in self.landmark_folds_L[np.concatenate([*places, []]).astype(int)]}))

    def leave_out(self, wav_S: Tensor) -> BigramPrior:
        """Everything that was counted, but for the folds that this clip is in; see `protocol.RateScorer`."""
        return self.without(self.folds_of(wav_S.detach().to("cpu", torch.float32).numpy()))

    def without(self, folds: tuple[int, ...]) -> BigramPrior:
        """The counts of all folds but these."""
        if folds not in self._without:
            kept_K = torch.ones(self.folds, dtype=torch.bool, device=self.keys_E.device)
            kept_K[list(folds)] = False
            counts_E = torch.where(kept_K[self._fold_E], self.counts_E, 0)
            counts_G = torch.zeros_like(self._pairs_G).index_add_(0, self._place_E, counts_E)
            self._without[folds] = BigramPrior(self._pairs_G, counts_G, self.unigram_KV[kept_K].sum(0))
        return self._without[folds]

    @property
    def pooled(self) -> BigramPrior:
        """The counts of all folds."""
        return self.without(())

    def trial_nats(self, codes_T: Tensor, places_P: Tensor, trials_XP: Tensor) -> Tensor:
        """Nats (X, P) by everything that was counted; see `protocol.RateScorer`."""
        return self.pooled.trial_nats(codes_T, places_P, trials_XP)

    def to(self, device: torch.device) -> FoldedPrior:
        """The same counts on another device."""
        keys_E, counts_E, unigram_KV = (one.to(device) for one in (self.keys_E, self.counts_E, self.unigram_KV))
        return FoldedPrior(keys_E, counts_E, unigram_KV, self.landmarks_L, self.landmark_folds_L, self.ids)

    def state_dict(self) -> dict[str, Tensor]:
        """What decides its answers, by name."""
        known = {"landmarks": self.landmarks_L, "landmark_folds": self.landmark_folds_L}
        counts = {"keys": self.keys_E, "counts": self.counts_E, "unigram": self.unigram_KV}
        return counts | {name: torch.from_numpy(array.copy()) for name, array in known.items()}

    def save(self, path: Path, codec: AdaptableCodec) -> None:
        """Write the counts, the clips and the codebook that they belong to, whole or not at all."""
        small = np.int32 if self.codebook_size**2 < 1 << 31 else np.int64
        keys_E = self.keys_E.cpu().numpy()
        arrays = {
            "keys": (keys_E // self.folds).astype(small),
            "folds": (keys_E % self.folds).astype(np.uint8),
            "counts": self.counts_E.cpu().numpy().astype(np.int32),
            "unigram": self.unigram_KV.cpu().numpy().astype(np.int32),
            "landmarks": self.landmarks_L,
            "landmark_folds": self.landmark_folds_L,
            "ids": np.frombuffer(json.dumps(self.ids, ensure_ascii=False).encode(), np.uint8),
        }
        with renewed_digests(path.parent, escape(path.name)):
            write_arrays(path, arrays, {"format": FORMAT, "codebook": codebook_hash(codec)})

    @classmethod
    def _of_file(cls, arrays: Mapping[str, np.ndarray], codebook_size: int) -> FoldedPrior | None:
        """What `save` wrote; None where it cannot be that."""
        kinds = {"keys": (np.int32, np.int64), "folds": (np.uint8,), "counts": (np.int32,), "unigram": (np.int32,)}
        kinds |= {"landmarks": (np.int64,), "landmark_folds": (np.uint8,), "ids": (np.uint8,)}
        if any(name not in arrays or arrays[name].dtype not in allowed for name, allowed in kinds.items()):
            return None
        unigram_KV, keys_E = arrays["unigram"].astype(np.int64), arrays["keys"].astype(np.int64)
        if unigram_KV.ndim != 2 or unigram_KV.shape[1] != codebook_size or unigram_KV.min() < 0:
            return None
        folds = len(unigram_KV)
        counted = keys_E, arrays["folds"], arrays["counts"]
        known = arrays["landmarks"], arrays["landmark_folds"]
        if len({one.shape for one in counted}) != 1 or len({one.shape for one in known}) != 1 or keys_E.ndim != 1:
            return None
        if keys_E.size and (keys_E.min() < 0 or keys_E.max() >= codebook_size**2 or arrays["counts"].min() < 1):
            return None
        if any((one >= folds).any() for one in (arrays["folds"], arrays["landmark_folds"])):
            return None
        keys_E = keys_E * folds + arrays["folds"]
        ids = parse_json(arrays["ids"].tobytes(), "ids")
        if not isinstance(ids, list) or (np.diff(keys_E) <= 0).any() or (np.diff(arrays["landmarks"]) < 0).any():
            return None
        counts_E = torch.from_numpy(arrays["counts"].astype(np.int64))
        return cls(torch.from_numpy(keys_E), counts_E, torch.from_numpy(unigram_KV), *known, [str(one) for one in ids])


def load_prior(path: Path, codec: AdaptableCodec) -> FoldedPrior | BigramPrior:
    """Read a prior's file. One of before 0.2 holds no clips; it is read, with a warning, as a `BigramPrior`.

    Raises:
        ValueError: it cannot be read, is damaged, or is the prior of another codebook.
    """
    try:
        arrays, metadata = read_arrays(check_tensors(path), max_bytes=MAX_PRIOR_BYTES)
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror or error})") from error
    if metadata.get("format") not in (FORMAT, OLD_FORMAT):
        raise ValueError(f"{path}: not a token prior; `llmcodec prior` writes one")
    if metadata.get("codebook") != codebook_hash(codec):
        raise ValueError(f"{path}: the token prior of another codec; make this one's with `llmcodec prior`")
    known = metadata["format"] == FORMAT
    read = FoldedPrior._of_file if known else BigramPrior._of_file
    prior = read(arrays, codec.codebook_size)
    if prior is None:
        raise ValueError(f"{path}: damaged: its counts do not fit a codebook of {codec.codebook_size}")
    if not known:
        warnings.warn(
            f"{path}: an old token prior, which does not know the clips it counted: searching those by it changes "
            "hardly a code; count it again with `llmcodec prior`",
            stacklevel=2,
        )
    return prior


def codebook_hash(codec: AdaptableCodec) -> str:
    """16 hex digits of the code vectors."""
    return digest(codec.codebook_VC.detach().to("cpu", torch.float32).contiguous().numpy())
