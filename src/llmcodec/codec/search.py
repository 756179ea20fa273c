"""Rate-aware encoding: among codes that sound alike, take those that a language model finds cheap, and listen.

The nearest code of a frame is neither the one that sounds best (the decoder reads many frames at once) nor the one that
is easiest to predict. `SearchingCodec` starts from the nearest codes and tries others at every frame: each trial is
decoded, and kept where

    mel distance around the frame  +  weight * (nats of the clip with this code here + repeats)

falls, where every neighbour that has the same code costs `repeat_nats` more. The nats are a `RateScorer`'s, usually a
`token_prior.FoldedPrior`'s: -ln p(code | code before) - ln p(code after | code), counted on a corpus; a clip of that
corpus is searched by the counts of others. Nothing is trained, and codebook, decoder and token files stay as they are:
encoding costs more, decoding nothing.
Analysis by synthesis (Atal & Remde 1982, multi-pulse coding) with the Lagrangian of entropy-constrained quantisation
(Chou, Lookabaugh & Gray 1989). What it gains and costs: docs/search.md.

Shapes: B clips, S samples, T frames, C code dimension, V codes, K nearest codes of a frame, P frames tried at once,
A trials for each. Test: tests/codec/test_search.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec._compat import forward
from llmcodec.codec.cheapest_path import CheapestPath
from llmcodec.codec.fast.cpu_conformer import kernels_run
from llmcodec.codec.fast.engine import InferenceCodec, optimize_for_inference
from llmcodec.codec.inputs import Numbers, check_look_up, clips_of
from llmcodec.codec.listening import Listening
from llmcodec.codec.mel_distance import MelDistance, Wanted
from llmcodec.codec.model import LLMCodec
from llmcodec.codec.neural_prior import NeuralPrior
from llmcodec.codec.outputs import LLMCodecDecoderOutput, LLMCodecEncoderOutput
from llmcodec.precision import Precision
from llmcodec.protocol import PairScorer, RateScorer

if TYPE_CHECKING:
    from llmcodec.codec.streaming.api import CodecStream

FRAMES_ON_GPU = 24_000
"""Frames of all clips that are searched together on a GPU: bounds the memory."""
CONTEXT = 64  # frames on either side of a block that are decoded with it and kept as they are


EFFORTS: dict[str, dict[str, Any]] = {
    "thorough": {},
    "balanced": {"stitch": True, "spacing": 4, "reach": 2, "passes": 1, "rate_factor": 1.5},
    "fast": {"stitch": True, "spacing": 2, "reach": 1, "trials": 1, "passes": 1},
    "path": {"listen": False},
}
"""How much is tried, by name; docs/results/search_effort.md has what each costs and saves."""
DEFAULT_EFFORT = "thorough"


@dataclass(frozen=True)
class SearchConfig:
    """How far the search goes. The defaults are those of `thorough`, chosen on docs/search.md's figures."""

    weight: float = 0.1
    """Mel distance (`MelDistance`, summed over frames) that one nat is worth; 0 only improves the sound."""
    repeat_nats: float = 0.3
    """Surcharge on a code that its neighbour has too: else pauses and vowels run into one code, clips lose variety."""
    candidates: int = 16
    """Nearest codes that may be taken at all."""
    trials: int = 2
    """Codes that are decoded and heard at every frame, besides the present one."""
    trial_weight: float = 0.01
    """Cosine similarity that one nat is worth when the trials are chosen."""
    spacing: int = 6
    """Frames between those that are changed at once: changes must not hear each other."""
    reach: int = 3
    """Frames on either side over which a change is heard."""
    passes: int = 2
    """Times that every frame is visited."""
    rate_factor: float = 1.0
    """What `weight` is multiplied by. Few trials find more sound than rate: this puts the balance right."""
    again: bool = True
    """Codes that were heard in one pass may be heard again in the next, beside other neighbours."""
    stitch: bool = False
    """How the present codes sound is put together from the versions that were taken, and not decoded again."""
    block: int = 1500
    """Frames that are decoded at once: bounds the memory of long clips."""
    listen: bool = True
    """False: nothing is decoded; the cheapest path through the candidates is taken (`CheapestPath`)."""
    path_similarity: float = 0.04
    """Cosine similarity that `weight` times one nat is worth to the path: 0.004 a nat at the default weight."""

    @classmethod
    def of(cls, effort: str | None = None, weight: float | None = None) -> SearchConfig:
        """Of an effort by name, and with another weight; None takes the defaults."""
        return cls(**EFFORTS[effort or DEFAULT_EFFORT] | ({} if weight is None else {"weight": weight}))

    @property
    def effort(self) -> str:
        """Name of these settings, whatever the weight; `custom` if they have none."""
        return next((name for name in EFFORTS if SearchConfig.of(name, self.weight) == self), "custom")

    def __post_init__(self) -> None:
        for name in ("weight", "repeat_nats", "trial_weight", "reach", "rate_factor", "path_similarity"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"search: {name} must be a number, 0 or more, got {getattr(self, name)}")
        if min(self.trials, self.spacing, self.passes) < 1 or self.candidates <= self.trials or self.block < 100:
            raise ValueError(
                "search: trials, spacing and passes must be at least 1, candidates more than trials, block at least "
                f"100; got {self.trials}, {self.spacing}, {self.passes}, {self.candidates}, {self.block}"
            )


class SearchingCodec(Listening):
    """An `LLMCodec` that searches while it encodes; a `protocol.Codec`, for inference only.

    Args:
        codec: encodes and decodes as it did before; trials are decoded by a packed copy.
        prior: says what codes cost, for this codec's tokens.
        config: how far the search goes.

    Raises:
        ValueError: the prior has another number of codes.
    """

    def __init__(self, codec: LLMCodec, prior: RateScorer, config: SearchConfig | None = None):
        if prior.codebook_size != codec.codebook_size:
            raise ValueError(f"search: a prior of {prior.codebook_size} codes, a codec of {codec.codebook_size}")
        self.plain, self.prior, self.config = codec, prior.to(codec.device), config or SearchConfig()
        self.device = codec.device
        self.sample_rate, self.hop_samples, self.frame_rate = codec.sample_rate, codec.hop_samples, codec.frame_rate
        self.num_codebooks, self.codebook_size = codec.num_codebooks, codec.codebook_size
        self.sketch = codec
        if not isinstance(codec, InferenceCodec):
            # Trials are only compared with each other, so they may be rounded a little; int8 would choose worse.
            precision: Precision = "int16" if kernels_run(codec.config, codec.device) else "auto"
            self.sketch = optimize_for_inference(codec, encoder="fp32", decoder=precision)
        self.distance = MelDistance(codec.sample_rate, codec.hop_samples, codec.device)

    def __repr__(self) -> str:
        by = ", by a language model" if isinstance(self.prior, NeuralPrior) else ""
        return f"SearchingCodec({self.plain!r}, weight {self.config.weight:g}, effort {self.config.effort}{by})"

    @torch.no_grad()
    def encode(self, input_values: Numbers, padding_mask: Numbers | None = None) -> LLMCodecEncoderOutput:
        """(B, 1, S) samples -> `audio_codes` (B, 1, T) and more, as `LLMCodec.encode`.

        Raises:
            ValueError: as `LLMCodec.encode`.
        """
        wav_BS, lengths_B = clips_of(input_values, padding_mask, self.device)
        encoding = self.sketch.encode_latents(wav_BS, lengths_B)
        check_look_up(encoding.codes_BT, encoding.query_BTC, self.plain.codebook_VC, encoding.mask_BT)
        codes_BT = encoding.codes_BT.clone()
        frames_B, lengths = encoding.mask_BT.sum(1).tolist(), lengths_B.tolist()
        for clips in self._batches(frames_B):
            found = self.search(
                [wav_BS[clip, : lengths[clip]] for clip in clips],
                [encoding.query_BTC[clip, : frames_B[clip]] for clip in clips],
                [codes_BT[clip, : frames_B[clip]] for clip in clips],
            )
            for clip, found_T in zip(clips, found, strict=True):
                codes_BT[clip, : frames_B[clip]] = found_T
        quantized_BTD = self.plain.decoder_input(codes_BT[:, None], None)
        return LLMCodecEncoderOutput(codes_BT[:, None], encoding.mask_BT[:, None], quantized_BTD.transpose(1, 2))

    @property
    def context_frames(self) -> tuple[float, float]:
        """As `LLMCodec.context_frames`; a search is influenced by all that stands beside a code."""
        return math.inf, max(self.plain.config.decoder_context)

    def _batches(self, frames_B: Sequence[int]) -> Iterator[list[int]]:
        """Clips that are searched together: one on a CPU, where more bring nothing; on a GPU as many as fill it."""
        if self.device.type == "cpu":
            yield from ([clip] for clip in range(len(frames_B)))
            return
        order = sorted(range(len(frames_B)), key=lambda clip: frames_B[clip])
        while order:
            most = max(1, FRAMES_ON_GPU // max(1, min(self.config.block, frames_B[order[-1]])))
            yield order[-most:]  # of like lengths, the longest first
            del order[-most:]

    def decode(self, *args: Any, **kwargs: Any) -> LLMCodecDecoderOutput:
        """As `LLMCodec.decode`."""
        return self.plain.decode(*args, **kwargs)

    def encode_features(self, input_values: Numbers, padding_mask: Numbers | None = None) -> Tensor:
        """As `LLMCodec.encode_features`: the latents, which no search changes."""
        return self.plain.encode_features(input_values, padding_mask)

    def streaming(
        self, chunk_seconds: float | None = None, lookahead_seconds: float | None = None, delay_frames: int = 2
    ) -> CodecStream:
        """A live stream as `LLMCodec.streaming`, whose codes come `delay_frames` later: with effort=path.

        The stream is taken for one that the prior has not counted.

        Raises:
            ValueError: another effort, which hears a frame together with the frames after it.
        """
        from llmcodec.codec.streaming.api import CodecStream

        if self.config.listen:
            raise ValueError(f"search: effort={self.config.effort} hears what comes later; streams take effort=path")
        everything: RateScorer = getattr(self.prior, "pooled", self.prior)  # what a stream is, is not known beforehand
        stream = CodecStream(self.plain, chunk_seconds, lookahead_seconds)
        stream.search(self._path(everything, delay_frames), self.config.candidates)
        return stream

    def state_dict(self) -> dict[str, Tensor]:
        """What decides its tokens, besides `config`: the codec's weights and the prior's (for looking up results)."""
        prior = {f"prior.{name}": value for name, value in self.prior.state_dict().items()}
        return {**self.plain.state_dict(), **prior}

    @torch.no_grad()
    def search(self, wavs_S: Sequence[Tensor], queries_TC: Sequence[Tensor], codes_T: Sequence[Tensor]) -> list[Tensor]:
        """Better codes (T,) for clips, from their samples, their unit-norm queries and the codes to start from."""
        with torch.autocast(self.device.type, enabled=False):  # costs and distances are compared in float32
            config, codebook_VC = self.config, self.plain.codebook_VC.float()  # the sketch's queries are float32
            clips = [
                _Clip(
                    wav_S.float(), self.prior.leave_out(wav_S), (query_TC @ codebook_VC.T).topk(most), start_T.clone()
                )
                for wav_S, query_TC, start_T in zip(wavs_S, queries_TC, codes_T, strict=True)
                for most in [min(config.candidates, self.codebook_size)]
            ]
            if not config.listen:
                paths = [self._path(clip.prior) for clip in clips]
                found = [
                    torch.cat([path.push(*clip.near), path.finish()]) for path, clip in zip(paths, clips, strict=True)
                ]
                return [codes_T.to(self.device) for codes_T in found]
            for first in range(0, max((len(clip.codes_T) for clip in clips), default=0), config.block):
                self._search_block([clip for clip in clips if len(clip.codes_T) > first], first)
            return [clip.codes_T for clip in clips]

    def _path(self, prior: RateScorer, delay: int | None = None) -> CheapestPath:
        """ValueError: the prior is not one of pairs."""
        if not isinstance(prior, PairScorer):
            raise ValueError("search: effort=path needs a prior of pairs of codes; `llmcodec prior` counts one")
        return CheapestPath(prior, self.config.path_similarity * self.config.weight, self.config.repeat_nats, delay)

    def _search_block(self, clips: Sequence[_Clip], first: int) -> None:
        """Frames `first` to `first + block` of every clip, in place."""
        config, hop = self.config, self.hop_samples
        parts = []
        for clip in clips:
            frames = len(clip.codes_T)
            last = min(frames, first + config.block)
            low, high = max(0, first - CONTEXT), min(frames, last + CONTEXT)
            wav_S = clip.wav_S[low * hop : high * hop]
            wav_S = F.pad(wav_S, (0, (high - low) * hop - len(wav_S)))
            parts.append(_Part(clip, first, last, low, high, self.distance.reference(wav_S[None])))
        if config.stitch:
            for part, heard_XT in zip(parts, self._hear([part.codes_T[None] for part in parts], parts), strict=True):
                part.heard_T = heard_XT[0]
        for offset in [*range(config.spacing)] * config.passes:
            visited = [part for part in parts if first + offset < part.last]
            if not visited:
                continue
            trials = [part.choose(offset, config) for part in visited]
            heard = self._hear([self._versions(*pair) for pair in zip(visited, trials, strict=True)], visited)
            for part, trial, heard_XT in zip(visited, trials, heard, strict=True):
                part.take(*trial, heard_XT, config)

    def _versions(self, part: _Part, trial: _Trial) -> Tensor:
        """Codes (X, T) of a part with every trial in its place; first the present ones, unless they are stitched."""
        places_P, trials_XP, _ = trial
        trials_XP = trials_XP[1:] if self.config.stitch else trials_XP
        codes_XT = part.codes_T.repeat(len(trials_XP), 1)
        codes_XT[:, places_P - part.low] = trials_XP
        return codes_XT

    def _hear(self, codes: Sequence[Tensor], parts: Sequence[_Part]) -> list[Tensor]:
        """Distances (X, T) of versions (X, T) of every part; all are decoded in one call."""
        if len(parts) == 1:
            wavs = [self.sketch.decode(codes[0][:, None]).audio_values[:, 0]]
        else:
            longest = max(codes_XT.shape[1] for codes_XT in codes)
            together_XT = torch.cat([F.pad(codes_XT, (0, longest - codes_XT.shape[1])) for codes_XT in codes])
            frames_X = torch.tensor([len(row) for codes_XT in codes for row in codes_XT], device=self.device)
            mask_XT = torch.arange(longest, device=self.device) < frames_X[:, None]
            decoded = self.sketch.decode(together_XT[:, None], audio_codes_mask=mask_XT[:, None]).audio_values[:, 0]
            rows = decoded.split([len(codes_XT) for codes_XT in codes])
            wavs = [
                wav_XS[:, : codes_XT.shape[1] * self.hop_samples] for wav_XS, codes_XT in zip(rows, codes, strict=True)
            ]
        return [self.distance(wav_XS, part.wanted) for wav_XS, part in zip(wavs, parts, strict=True)]


@dataclass
class _Clip:
    """A clip that is being searched."""

    wav_S: Tensor
    prior: RateScorer
    near: Any
    """Values and indices (T, K) of its nearest codes."""
    codes_T: Tensor
    tried_TK: Tensor | None = None
    """Which of the nearest codes have been heard."""


_Trial = tuple[Tensor, Tensor, Tensor]
"""Places (P,) that are tried at once, their present codes and others (1 + A, P), and what each costs in nats."""


@dataclass
class _Part:
    """The frames of a clip that are decoded at once."""

    clip: _Clip
    first: int
    last: int
    low: int
    high: int
    wanted: Sequence[Wanted]
    heard_T: Tensor | None = None
    """Distances of the present codes, put together from those of the versions that were taken."""

    @property
    def codes_T(self) -> Tensor:
        """The present codes."""
        return self.clip.codes_T[self.low : self.high]

    def choose(self, offset: int, config: SearchConfig) -> _Trial:
        """The present codes of every `spacing`-th frame and the most promising others."""
        clip = self.clip
        places_P = torch.arange(self.first + offset, self.last, config.spacing, device=clip.codes_T.device)
        beside_T = F.pad(clip.codes_T, (1, 1), value=-1)
        before_P, after_P = beside_T[places_P], beside_T[places_P + 2]

        def nats(codes_XP: Tensor) -> Tensor:
            repeats_XP = (codes_XP == before_P).float() + (codes_XP == after_P).float()
            return clip.prior.trial_nats(clip.codes_T, places_P, codes_XP) + config.repeat_nats * repeats_XP

        now_P, near_KP, promise_KP = clip.codes_T[places_P], clip.near.indices[places_P].T, clip.near.values[places_P].T
        if config.weight:
            promise_KP = promise_KP - config.trial_weight * nats(near_KP)
        promise_KP = promise_KP.masked_fill(near_KP == now_P, -torch.inf)
        if not config.again:
            if clip.tried_TK is None:
                clip.tried_TK = torch.zeros_like(clip.near.indices, dtype=torch.bool)
            promise_KP = promise_KP.masked_fill(clip.tried_TK[places_P].T, -torch.inf)
        best_AP = promise_KP.topk(min(config.trials, len(near_KP)), dim=0).indices
        if clip.tried_TK is not None:
            clip.tried_TK[places_P] |= torch.zeros_like(near_KP, dtype=torch.bool).scatter_(0, best_AP, True).T
        trials_XP = torch.cat([now_P[None], near_KP.gather(0, best_AP)])
        return places_P, trials_XP, nats(trials_XP)

    def take(
        self, places_P: Tensor, trials_XP: Tensor, nats_XP: Tensor, heard_XT: Tensor, config: SearchConfig
    ) -> None:
        """Put the best code in every place, by the distances of the versions that `_versions` made."""
        if self.heard_T is not None:
            heard_XT = torch.cat([self.heard_T[None], heard_XT])
        near_XP = around(heard_XT, config.reach)[:, places_P - self.low]
        best_P = (near_XP + config.rate_factor * config.weight * nats_XP).argmin(0)
        self.clip.codes_T[places_P] = trials_XP.gather(0, best_P[None])[0]
        if self.heard_T is not None:  # each frame as in the version that the nearest place took
            frame_T = torch.arange(self.low, self.high, device=places_P.device)
            nearest_T = ((frame_T - places_P[0] + config.spacing // 2) // config.spacing).clamp(0, len(places_P) - 1)
            self.heard_T = heard_XT.gather(0, best_P[nearest_T][None])[0]


def around(values_XT: Tensor, reach: int) -> Tensor:
    """Sums over `reach` frames on either side."""
    window = 2 * reach + 1
    return window * F.avg_pool1d(values_XT[:, None], window, 1, reach)[:, 0]


__getattr__ = forward(__name__, dict.fromkeys(("BigramPrior", "PRIOR_FILE"), "llmcodec.codec.token_prior"))
