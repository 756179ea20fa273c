"""Speculative sampling with a token LM's own draft heads (Medusa; Cai et al. 2024): the LM reads several codes at once.

    counts = DraftCounts(lm.heads.num_heads)
    for codes_B in speculative_steps(lm, prompts, config, counts): ...     # as `sampling.sample_steps`

In a round the heads draft one code each from the last state, the LM reads them all in one pass, and each is accepted
with probability min(1, p / q) until one is not; that one is drawn again from what p has more than q (Leviathan et al.
2023). Every code then has exactly the distribution p of plain sampling, whatever the heads q; the draws themselves
differ from plain ones, except at temperature 0. Temperature, top-k, top-p, penalty and forbidden columns shape both.
Shapes: B clips, N drafts, K columns. Test: tests/lm/decoding/test_speculative.py.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor

from llmcodec.lm.decoding.states import open_states, output_of
from llmcodec.lm.logits import finish_logits
from llmcodec.lm.prediction_heads import PredictionHeads
from llmcodec.lm.sampling import ENDED, READING, ClipState, Prompt, SamplingConfig, check_prompts, draw, filtered
from llmcodec.lm.token_lm import TokenLM


@dataclass
class DraftCounts:
    """How the drafts of each head fared."""

    num_heads: int
    drafted: list[int] = field(init=False)
    """Drafts of each head that were looked at: all before it had been accepted."""
    accepted: list[int] = field(init=False)
    passes: int = 0
    """Clips that the LM read, summed over its passes; plain sampling reads a clip once for every code."""

    def __post_init__(self) -> None:
        self.drafted, self.accepted = [0] * self.num_heads, [0] * self.num_heads

    def in_words(self) -> str:
        """Share of accepted drafts, head by head."""
        shares = [
            f"head {number} {accepted / max(1, drafted):.0%} of {drafted}"
            for number, (drafted, accepted) in enumerate(zip(self.drafted, self.accepted, strict=True), start=1)
        ]
        return f"accepted: {', '.join(shares)}; {self.passes} clips read"


@torch.no_grad()
def speculative_steps(
    lm: TokenLM, prompts: Sequence[Prompt], config: SamplingConfig, counts: DraftCounts | None = None
) -> Iterator[Tensor]:
    """As `sampling.sample_steps`; READING also marks clips that have fewer new codes than others in a round.

    Raises:
        ValueError: an LM without draft heads, or a prompt that is read in turns.
    """
    check_prompts(lm, prompts, config)
    if lm.heads is None:
        raise ValueError(
            "sampling: this LM has no draft heads; train them: llmcodec lm train --model.base LM --model.train heads "
            "--model.heads 4"
        )
    if not all(isinstance(prompt, Tensor) for prompt in prompts):
        raise ValueError("sampling: a text that is read in turns with its speech cannot be drafted; sample it plainly")
    lm.model.eval()
    counts = counts or DraftCounts(lm.heads.num_heads)
    num_codebooks = 1 if lm.card.codec is None else lm.card.codec.num_codebooks
    logits_of = output_of(lm.model, lm.tokens.output_ids.to(lm.device))
    active = [ClipState(lm, prompt, config, place) for place, prompt in enumerate(prompts)]
    states = open_states(lm.model)
    starts = [clip.start for clip in active]
    hidden_BLH = states.read(starts)
    newest_BH = hidden_BLH[torch.arange(len(active)), [len(start) - 1 for start in starts]]
    logits_BK = logits_of(newest_BH)
    for logits_K, clip in zip(logits_BK, active, strict=True):
        _shape(logits_K, clip, num_codebooks)
    columns = draw(logits_BK, [clip.generator for clip in active], config).tolist()
    new = [[column] for column in columns]
    while True:
        # The codes of the last round: the last one of a clip is not read yet.
        going = [row for row, clip in enumerate(active) if _take(clip, new[row])]
        yield from _in_steps(len(prompts), active, new)
        if not going:
            return
        if len(going) < len(active):
            states.keep(going)
        active, pending = [active[row] for row in going], [new[row][-1] for row in going]
        newest_BH = newest_BH[going]
        drafts_BN, drafted_BNK = _draft(lm, newest_BH, active, pending, config, num_codebooks)
        # Nothing is read beyond the last code that a clip may have.
        drafts = [row[: config.max_codes - clip.drawn] for row, clip in zip(drafts_BN, active, strict=True)]
        read = [torch.cat([torch.tensor([last]), row]) for last, row in zip(pending, drafts, strict=True)]
        hidden_BLH = states.read([row - 1 + lm.tokens.first for row in read])
        counts.passes += len(active)
        judged_BLK = logits_of(hidden_BLH.flatten(0, 1)).unflatten(0, hidden_BLH.shape[:2])
        for row, clip in enumerate(active):
            _shape_ahead(judged_BLK[row], clip, drafts[row].tolist(), num_codebooks)
        judged_BLK = filtered(judged_BLK.flatten(0, 1), config).softmax(-1).unflatten(0, hidden_BLH.shape[:2])
        new = []
        for row, clip in enumerate(active):
            new.append(accept(judged_BLK[row], drafted_BNK[row], drafts[row].tolist(), clip.generator))
            for number in range(min(len(new[row]), len(drafts[row]))):
                counts.drafted[number] += 1
                counts.accepted[number] += number < len(new[row]) - 1
        states.forget([len(before) - len(columns) for before, columns in zip(read, new, strict=True)])
        newest_BH = hidden_BLH[torch.arange(len(active)), [len(columns) - 1 for columns in new]]


def accept(judged_LK: Tensor, drafted_NK: Tensor, drafts: Sequence[int], generator: torch.Generator) -> list[int]:
    """The accepted drafts and one column more: that of a rejected draft, drawn again, or the one after all of them.

    Args:
        judged_LK: probabilities by the LM before each draft and after the last, L = N + 1.
        drafted_NK: probabilities that the drafts were drawn from.
    """
    for number, draft in enumerate(drafts):
        p_K, q_K = judged_LK[number], drafted_NK[number]
        if float(torch.rand((), generator=generator, dtype=torch.float64)) * float(q_K[draft]) >= float(p_K[draft]):
            return [*drafts[:number], _pick(residual(p_K, q_K), generator)]
    return [*drafts, _pick(judged_LK[len(drafts)], generator)]


def residual(p_K: Tensor, q_K: Tensor) -> Tensor:
    """What p has more than q, as weights to draw from: with min(p, q) of the accepted drafts it makes p."""
    more_K = (p_K - q_K).clamp_min(0)
    return more_K if float(more_K.sum()) > 0 else p_K  # equal but for rounding


def _pick(weights_K: Tensor, generator: torch.Generator) -> int:
    return int(torch.multinomial(weights_K, 1, generator=generator))


def _draft(
    lm: TokenLM,
    hidden_BH: Tensor,
    active: Sequence[ClipState],
    pending: Sequence[int],
    config: SamplingConfig,
    num_codebooks: int,
) -> tuple[Tensor, Tensor]:
    """One column (B, N) from each head, and the probabilities (B, N, K) that it was drawn from."""
    heads = lm.heads
    assert heads is not None
    logits_BNK = F.pad(_head_logits(heads, lm, hidden_BH), (1, 0), value=-torch.inf).cpu()  # no head drafts an end
    for row, clip in enumerate(active):
        # Where each draft would stand; what the heads before it draft is not known yet.
        _shape_ahead(logits_BNK[row], clip, [pending[row]] * (heads.num_heads - 1), num_codebooks)
    q_BNK = filtered(logits_BNK.flatten(0, 1), config).softmax(-1).unflatten(0, logits_BNK.shape[:2])
    picked = [[_pick(q_K, clip.generator) for q_K in q_NK] for q_NK, clip in zip(q_BNK, active, strict=True)]
    return torch.tensor(picked), q_BNK


def _head_logits(heads: PredictionHeads, lm: TokenLM, hidden_BH: Tensor) -> Tensor:
    """(B, N, V) of all heads."""
    pairs = [heads.head(number, hidden_BH) for number in range(1, 1 + heads.num_heads)]
    return finish_logits(lm.model, torch.stack([states @ rows_VH.t() for states, rows_VH in pairs], 1)).float()


def _shape(logits_K: Tensor, clip: ClipState, num_codebooks: int) -> None:
    clip.forbid(logits_K, num_codebooks)
    clip.penalise(logits_K)


def _shape_ahead(logits_LK: Tensor, clip: ClipState, columns: Sequence[int], num_codebooks: int) -> None:
    """Forbid and penalise in each row as if the columns before it had been taken."""
    ahead = copy.copy(clip)
    _shape(logits_LK[0], ahead, num_codebooks)
    for logits_K, column in zip(logits_LK[1:], columns, strict=False):  # behind a shorter row's end is nothing
        ahead.take(column)
        _shape(logits_K, ahead, num_codebooks)


def _take(clip: ClipState, new: list[int]) -> bool:
    """Take the new columns up to the end of the clip, after which no others stay in `new`; whether it goes on."""
    for number, column in enumerate(new):
        if clip.take(column)[1] is None:
            del new[number + 1 :]
            return False
    return True


def _in_steps(num_clips: int, active: Sequence[ClipState], new: Sequence[Sequence[int]]) -> Iterator[Tensor]:
    """The new columns of a round, one of each clip at a time."""
    for number in range(max(map(len, new))):
        codes_B = torch.full((num_clips,), ENDED)
        for clip, columns in zip(active, new, strict=True):
            if number < len(columns):
                codes_B[clip.place] = columns[number] - 1  # column 0 is the end
            elif columns[-1] and clip.drawn < clip.config.max_codes:
                codes_B[clip.place] = READING
        if not bool((codes_B == ENDED).all()):
            yield codes_B
