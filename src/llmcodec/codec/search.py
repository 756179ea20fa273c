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

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec._compat import forward
from llmcodec.codec.fast.cpu_conformer import kernels_run
from llmcodec.codec.fast.engine import Choice, InferenceCodec, optimize_for_inference
from llmcodec.codec.inputs import Numbers, check_look_up, clips_of
from llmcodec.codec.listening import Listening
from llmcodec.codec.mel_distance import MelDistance
from llmcodec.codec.model import LLMCodec
from llmcodec.codec.outputs import LLMCodecDecoderOutput, LLMCodecEncoderOutput
from llmcodec.protocol import RateScorer

CONTEXT = 64  # frames on either side of a block that are decoded with it and kept as they are


@dataclass(frozen=True)
class SearchConfig:
    """How far the search goes. The defaults were chosen on docs/search.md's figures."""

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
    block: int = 1500
    """Frames that are decoded at once: bounds the memory of long clips."""

    def __post_init__(self) -> None:
        if min(self.weight, self.repeat_nats, self.trial_weight, self.reach) < 0:
            raise ValueError("search: weight, repeat_nats, trial_weight and reach cannot be negative")
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
            precision: Choice = "int16" if kernels_run(codec.config, codec.device) else "auto"
            self.sketch = optimize_for_inference(codec, precision, only="decoder")
        self.distance = MelDistance(codec.sample_rate, codec.hop_samples, codec.device)

    @torch.inference_mode()
    def encode(self, input_values: Numbers, padding_mask: Numbers | None = None) -> LLMCodecEncoderOutput:
        """(B, 1, S) samples -> `audio_codes` (B, 1, T) and more, as `LLMCodec.encode`; clips are searched one by one.

        Raises:
            ValueError: as `LLMCodec.encode`.
        """
        wav_BS, lengths_B = clips_of(input_values, padding_mask, self.device)
        encoding = self.plain.encode_latents(wav_BS, lengths_B)
        check_look_up(encoding.codes_BT, encoding.query_BTC, self.plain.codebook_VC, encoding.mask_BT)
        codes_BT = encoding.codes_BT.clone()
        frames_B = encoding.mask_BT.sum(1).tolist()
        for clip, (frames, length) in enumerate(zip(frames_B, lengths_B.tolist(), strict=True)):
            found_T = self.search(wav_BS[clip, :length], encoding.query_BTC[clip, :frames], codes_BT[clip, :frames])
            codes_BT[clip, :frames] = found_T
        quantized_BTD = self.plain.decoder_input(codes_BT[:, None], None)
        return LLMCodecEncoderOutput(codes_BT[:, None], encoding.mask_BT[:, None], quantized_BTD.transpose(1, 2))

    def decode(self, *args: Any, **kwargs: Any) -> LLMCodecDecoderOutput:
        """As `LLMCodec.decode`."""
        return self.plain.decode(*args, **kwargs)

    def encode_features(self, input_values: Numbers, padding_mask: Numbers | None = None) -> Tensor:
        """As `LLMCodec.encode_features`: the latents, which no search changes."""
        return self.plain.encode_features(input_values, padding_mask)

    def state_dict(self) -> dict[str, Tensor]:
        """What decides its tokens, besides `config`: the codec's weights and the prior's (for looking up results)."""
        prior = {f"prior.{name}": value for name, value in self.prior.state_dict().items()}
        return {**self.plain.state_dict(), **prior}

    @torch.inference_mode()
    def search(self, wav_S: Tensor, query_TC: Tensor, codes_T: Tensor) -> Tensor:
        """Better codes (T,) for one clip, from its samples, its unit-norm queries and the codes to start from."""
        config, frames, hop = self.config, codes_T.numel(), self.hop_samples
        prior = self.prior.leave_out(wav_S)
        near = (query_TC @ self.plain.codebook_VC.T).topk(min(config.candidates, self.codebook_size))
        codes_T = codes_T.clone()
        wav_S = F.pad(wav_S[: frames * hop], (0, max(0, frames * hop - wav_S.numel())))
        for first in range(0, frames, config.block):
            last = min(frames, first + config.block)
            low, high = max(0, first - CONTEXT), min(frames, last + CONTEXT)
            wanted = self.distance.reference(wav_S[None, low * hop : high * hop])
            for offset in [*range(config.spacing)] * config.passes:
                chosen_P = torch.arange(min(first + offset, last), last, config.spacing, device=codes_T.device)
                if not chosen_P.numel():
                    continue
                trials_XP, nats_XP = self._trials(prior, codes_T, chosen_P, near.values, near.indices)
                codes_XT = codes_T[low:high].repeat(len(trials_XP), 1)
                codes_XT[:, chosen_P - low] = trials_XP
                wav_XS = self.sketch.decode(codes_XT[:, None]).audio_values[:, 0]
                heard_XT = around(self.distance(wav_XS, wanted), config.reach)
                best_P = (heard_XT[:, chosen_P - low] + config.weight * nats_XP).argmin(0)
                codes_T[chosen_P] = trials_XP.gather(0, best_P[None])[0]
        return codes_T

    def _trials(
        self, prior: RateScorer, codes_T: Tensor, chosen_P: Tensor, score_TK: Tensor, near_TK: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The present codes of the chosen frames and the most promising others, (1 + A, P), and what they cost."""
        config = self.config
        beside_T = F.pad(codes_T, (1, 1), value=-1)
        before_P, after_P = beside_T[chosen_P], beside_T[chosen_P + 2]

        def nats(codes_XP: Tensor) -> Tensor:
            repeats_XP = (codes_XP == before_P).float() + (codes_XP == after_P).float()
            return prior.trial_nats(codes_T, chosen_P, codes_XP) + config.repeat_nats * repeats_XP

        now_P, near_KP, promise_KP = codes_T[chosen_P], near_TK[chosen_P].T, score_TK[chosen_P].T
        if config.weight:
            promise_KP = promise_KP - config.trial_weight * nats(near_KP)
        promise_KP = promise_KP.masked_fill(near_KP == now_P, -torch.inf)
        best_AP = promise_KP.topk(min(config.trials, len(near_KP)), dim=0).indices
        trials_XP = torch.cat([now_P[None], near_KP.gather(0, best_AP)])
        return trials_XP, nats(trials_XP)


def around(values_XT: Tensor, reach: int) -> Tensor:
    """Sums over `reach` frames on either side."""
    window = 2 * reach + 1
    return window * F.avg_pool1d(values_XT[:, None], window, 1, reach)[:, 0]


__getattr__ = forward(__name__, dict.fromkeys(("BigramPrior", "PRIOR_FILE"), "llmcodec.codec.token_prior"))
