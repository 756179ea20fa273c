"""Speech tokens sampled from a token LM: a continuation of a prompt, without a prompt, or from a text.

    config = SamplingConfig(temperature=0.9, top_p=0.95, max_codes=500)
    clips = sample(lm, [speech_prompt(lm, codes_T), text_prompt(lm, "please hold")], config)
    for codes_B in sample_steps(lm, [speech_prompt(lm, codes_T)], config): ...      # one code per clip and step

Prompts of any length share a batch (`decoding/states.py`); every clip has a random generator of its own, keyed by seed
and place, so a batch gives the same samples as single calls. Finished rows leave the batch.
Shapes: B clips, K = V + 1 columns (end of audio, codes). Test: `pytest tests/lm/test_sampling.py`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from llmcodec.data.timed_text import is_timed, timed_units, without_times
from llmcodec.lm.decoding.states import open_states, output_of
from llmcodec.lm.sequences import SPEAKS_TEXT, SequenceBuilder
from llmcodec.lm.token_lm import TokenLM

NUCLEUS = 512
"""Columns that top-p looks at before it sorts all of them."""
ENDED = -1
READING = -2


@dataclass(frozen=True)
class SamplingConfig:
    """How tokens are sampled."""

    temperature: float = 0.9
    """Below 1 sharper, above 1 flatter; 0 always takes the likeliest code."""
    top_k: int = 0
    """Sample from this many likeliest codes; 0 from all."""
    top_p: float = 0.98
    """Sample from the likeliest codes that together have this probability; 1 from all."""
    repetition_penalty: float = 1.0
    """Divide the odds of codes among the last `repetition_window` by this; 1 does nothing."""
    repetition_window: int = 16
    """Number of past codes that the penalty covers."""
    max_codes: int = 500
    """Most codes to sample."""
    min_codes: int = 0
    """No end of audio before this many codes."""
    seed: int = 0
    """Seed of sampling; clip i of a call uses (seed, i)."""

    def __post_init__(self) -> None:
        if not 0 <= self.temperature < math.inf or not 0 < self.top_p <= 1 or self.top_k < 0:
            raise ValueError(
                f"sampling: temperature must be 0 or more, top_p in (0, 1], top_k 0 or more; got {self.temperature}, "
                f"{self.top_p}, {self.top_k}"
            )
        if not 0 < self.repetition_penalty < math.inf or self.repetition_window < 1:
            raise ValueError("sampling: repetition_penalty must be positive and repetition_window at least 1")
        if not 0 <= self.min_codes <= self.max_codes or self.max_codes < 1:
            raise ValueError(f"sampling: {self.min_codes} to {self.max_codes} codes are not a valid range")


@dataclass(frozen=True)
class Turns:
    """A text that is read while it is spoken: text and codes in turn."""

    start: Tensor
    """Ids before the first code, 1-D."""
    turns: tuple[Tensor, ...] = ()
    """Ids that follow later."""
    codes: int | None = 1
    """Codes after which the next turn follows (format tts_stream); None: when the LM ends the audio of a unit
    (tts_aligned)."""
    longest: int | None = None
    """Codes after which a unit ends in any case: a small LM may loop inside a vowel."""

    def due(self, drawn: int) -> Tensor:
        """Ids to insert after this many codes, usually none."""
        turn, inside = divmod(drawn, self.codes) if self.codes else (0, 0)
        return self.start[:0] if inside or not 0 < turn <= len(self.turns) else self.turns[turn - 1]

    def __len__(self) -> int:
        """Number of ids, with the ends between units."""
        ends = 0 if self.codes else len(self.turns)
        return len(self.start) + ends + sum(len(turn) for turn in self.turns)


Prompt = Tensor | Turns


def speech_prompt(lm: TokenLM, codes_T: Tensor | None = None) -> Tensor:
    """Prompt ids for a continuation of codes; without codes, for speech from nothing."""
    begin = torch.tensor([lm.tokens.begin])
    return begin if codes_T is None else torch.cat([begin, lm.tokens.ids(codes_T.cpu())])


def text_prompt(lm: TokenLM, text: str, speaker: str = "", language: str = "", voice_T: Tensor | None = None) -> Prompt:
    """Prompt ids for a text to be spoken, in the template and the format that the LM was trained with.

    Args:
        voice_T: codes of the voice to speak in, for an LM that was trained with voice prompts.

    Raises:
        ValueError: an empty text, an LM that was not trained to speak texts, a voice that is missing or of no use.
    """
    prompt = _without_voice(lm, text, speaker, language)
    seconds = lm.card.voice_seconds
    if seconds is None and voice_T is None:
        return prompt
    if seconds is None or voice_T is None:
        what = (
            "reads no voice before a text" if seconds is None else f"speaks in the voice of a prompt of {seconds:g} s"
        )
        raise ValueError(f"sampling: this LM {what}; {'leave the prompt out' if seconds is None else 'give one'}")
    voice = torch.cat([speech_prompt(lm, voice_T), torch.tensor([lm.tokens.end])])
    if isinstance(prompt, Turns):
        return replace(prompt, start=torch.cat([voice, prompt.start]))
    return torch.cat([voice, prompt])


def _without_voice(lm: TokenLM, text: str, speaker: str, language: str) -> Prompt:
    if not without_times(text).strip():
        raise ValueError("sampling: the text is empty; give some words to speak")
    formats = set(lm.card.formats)
    if formats and not (SPEAKS_TEXT | {"interleaved"}) & formats:
        raise ValueError(
            f"sampling: this LM was trained on {', '.join(lm.card.formats)}, not on text to audio; "
            "see recipes/lm_tts.yaml"
        )
    template = lm.card.text_template
    for name, value in (("speaker", speaker), ("language", language)):
        if f"{{{name}}}" in template and not value:
            raise ValueError(f"sampling: this LM reads {template!r}; name the {name}")
    builder = SequenceBuilder(lm.tokenizer, lm.tokens, lm.max_positions, template)
    begin = torch.tensor([lm.tokens.begin])
    if lm.card.units_ahead is not None:
        builder = replace(builder, units_ahead=lm.card.units_ahead)
        units = [name for name, _ in timed_units(text) if name] if is_timed(text) else text.split()
        unknown = set(units) - set(lm.card.units or units)
        if unknown:
            raise ValueError(
                f"sampling: {sorted(unknown)[0]!r} is not one of this LM's units, which are separated by spaces: "
                f"{' '.join(lm.card.units or [])}"
            )
        first, *rest = builder.unit_turns(units, speaker, language)
        return Turns(torch.cat([first, begin]), tuple(rest), None, lm.card.longest_unit)
    if lm.card.turns is None or {"tts", "interleaved"} & formats:
        return torch.cat([builder.text_ids(text, speaker, language), begin])
    builder = replace(builder, turns=lm.card.turns)
    first, *rest = builder.text_turns(text, speaker, language)
    return Turns(torch.cat([first, begin]), tuple(rest), lm.card.turns[1])


def sample(lm: TokenLM, prompts: Sequence[Prompt], config: SamplingConfig) -> list[Tensor]:
    """New codes for every prompt, 1-D int64, without the prompt's own; empty if the LM ends at once."""
    return clips_of(sample_steps(lm, prompts, config), len(prompts))


def clips_of(steps: Iterator[Tensor], num_clips: int) -> list[Tensor]:
    """The codes of each clip from steps (B,), as `sample_steps` yields them."""
    drawn: list[list[int]] = [[] for _ in range(num_clips)]
    for codes_B in steps:
        for clip, code in zip(drawn, codes_B.tolist(), strict=True):
            if code >= 0:
                clip.append(code)
    return [torch.tensor(clip, dtype=torch.int64) for clip in drawn]


@torch.no_grad()
def sample_steps(lm: TokenLM, prompts: Sequence[Prompt], config: SamplingConfig) -> Iterator[Tensor]:
    """Yield one step at a time: codes (B,), ENDED for finished clips, READING for those that read text in this step.

    Stops when all clips are finished.

    Raises:
        ValueError: no prompt, a prompt that ends inside a frame, or more positions than the LM has.
    """
    check_prompts(lm, prompts, config)
    lm.model.eval()
    logits_of = output_of(lm.model, lm.tokens.output_ids.to(lm.device))
    num_codebooks = 1 if lm.card.codec is None else lm.card.codec.num_codebooks
    clips = [ClipState(lm, prompt, config, place) for place, prompt in enumerate(prompts)]
    active = list(clips)
    states = open_states(lm.model)
    new = [clip.start for clip in clips]
    while True:
        hidden_BLH = states.read(new)
        newest_BH = hidden_BLH[torch.arange(len(new)), [len(row) - 1 for row in new]]
        logits_BK = logits_of(newest_BH)
        for logits_K, clip in zip(logits_BK, active, strict=True):
            clip.forbid(logits_K, num_codebooks)
            clip.decide_end(logits_K)
            clip.penalise(logits_K)
        columns = draw(logits_BK, [clip.generator for clip in active], config)
        ids = torch.where(columns > 0, columns - 1 + lm.tokens.first, lm.tokens.end)
        codes_B = torch.full((len(prompts),), ENDED)
        going, new = [], []
        for row, (clip, column) in enumerate(zip(active, columns.tolist(), strict=True)):
            codes_B[clip.place], text = clip.take(column)
            if text is not None:
                going.append(row)
                new.append(torch.cat([ids[row : row + 1], text]))
        if bool((codes_B == ENDED).all()):
            return
        yield codes_B
        if not going:
            return
        if len(going) < len(active):
            active = [active[row] for row in going]
            states.keep(going)


class ClipState:
    """Sampling state of one prompt: codes so far, codes allowed next, and text to insert."""

    def __init__(self, lm: TokenLM, prompt: Prompt, config: SamplingConfig, place: int):
        self.prompt = Turns(prompt) if isinstance(prompt, Tensor) else prompt
        self.start, self.by_unit = self.prompt.start, self.prompt.codes is None
        self.config, self.place = config, place
        self.generator = torch.Generator().manual_seed(config.seed * 1_000_003 + place)
        began = int((self.start == lm.tokens.begin).nonzero()[-1]) if lm.tokens.begin in self.start else 0
        self.recent: list[int] = lm.tokens.codes(self.start[began:]).tolist()[-config.repetition_window :]
        self.drawn, self.read, self.in_unit = 0, 0, 0  # codes, further units, codes of the unit

    @property
    def more_units(self) -> bool:
        return self.by_unit and self.read < len(self.prompt.turns)

    def decide_end(self, logits_K: Tensor) -> None:
        """Whether the unit ends here, sampled from the LM's own probability: the temperature is meant for codes and
        would stretch or cut the unit (so would 0, at which nothing else is sampled)."""
        if self.by_unit and math.isfinite(logits_K[0]):
            longest = math.inf if self.prompt.longest is None else self.prompt.longest
            odds = logits_K.softmax(0)[0]
            ends = self.in_unit >= longest or bool(torch.rand((), generator=self.generator) < odds)
            logits_K[1:] = logits_K[1:].masked_fill(torch.tensor(ends), -math.inf)
            logits_K[0] = 0.0 if ends else -math.inf

    def forbid(self, logits_K: Tensor, num_codebooks: int) -> None:
        """Mask invalid columns: end of audio only between frames, not before `min_codes` or while tts_stream has text
        left; each position of a frame has its own codebook. The end of a unit is always allowed."""
        place = self.drawn % num_codebooks
        early = self.drawn < self.config.min_codes and not self.more_units
        unread = self.drawn < len(self.prompt.turns) * (self.prompt.codes or 0)
        if place or early or unread:
            logits_K[0] = -math.inf
        if num_codebooks > 1:
            size = (len(logits_K) - 1) // num_codebooks
            logits_K[1 : 1 + place * size] = -math.inf
            logits_K[1 + (place + 1) * size :] = -math.inf

    def penalise(self, logits_K: Tensor) -> None:
        if self.config.repetition_penalty != 1.0 and self.recent:
            logits_K[torch.tensor(sorted(set(self.recent))) + 1] -= math.log(self.config.repetition_penalty)

    def take(self, column: int) -> tuple[int, Tensor | None]:
        """A sampled column: its code, ENDED or READING, and the text that follows; None if the clip is finished."""
        if column:
            self.drawn, self.in_unit = self.drawn + 1, self.in_unit + 1
            self.recent = [*self.recent, column - 1][-self.config.repetition_window :]
            return column - 1, self.prompt.due(self.drawn) if self.drawn < self.config.max_codes else None
        if not self.more_units:
            return ENDED, None
        self.read, self.in_unit = self.read + 1, 0
        return READING, self.prompt.turns[self.read - 1]


def draw(logits_BK: Tensor, generators: Sequence[torch.Generator], config: SamplingConfig) -> Tensor:
    """One column per row (B,): temperature, then top-k, then top-p, then a sample by the row's own generator."""
    if config.temperature == 0:
        return logits_BK.argmax(-1)
    logits_BK = _likeliest(logits_BK / config.temperature, config.top_k)
    # Every column has a number of its own, whichever of them top-k and top-p leave.
    uniform_BK = torch.empty(logits_BK.shape)
    for uniform_K, generator in zip(uniform_BK, generators, strict=True):
        torch.rand(len(uniform_K), generator=generator, out=uniform_K)
    # Gumbel-max trick: the argmax of logit plus noise is a sample from the softmax.
    noise_BK = uniform_BK.clamp_(1e-20, 1 - 1e-7).log_().neg_().log_().neg_()
    drawn_B = (logits_BK + noise_BK).argmax(-1)
    if config.top_p < 1:
        # The argmax over all columns is nearly always one that top-p leaves, and then it is theirs, too.
        shares_BK, drawn_B1 = logits_BK.softmax(-1), drawn_B[:, None]
        likelier_BK = (logits_BK >= logits_BK.gather(1, drawn_B1)).scatter_(1, drawn_B1, False)
        outside = ((shares_BK * likelier_BK).sum(-1) >= config.top_p).nonzero()[:, 0]
        if len(outside):
            left = _nucleus(logits_BK[outside], config.top_p)
            drawn_B[outside] = (left + noise_BK[outside]).argmax(-1)
    return drawn_B


def filtered(logits_BK: Tensor, config: SamplingConfig) -> Tensor:
    """Logits (B, K) whose softmax is what `draw` samples from."""
    if config.temperature == 0:
        least = torch.full_like(logits_BK, -math.inf)
        return least.scatter_(1, logits_BK.argmax(-1, keepdim=True), 0.0)
    logits_BK = _likeliest(logits_BK / config.temperature, config.top_k)
    return _nucleus(logits_BK, config.top_p) if config.top_p < 1 else logits_BK


def _likeliest(logits_BK: Tensor, top_k: int) -> Tensor:
    """Logits with -inf outside the k likeliest columns."""
    if not 0 < top_k < logits_BK.shape[1]:
        return logits_BK
    return logits_BK.masked_fill(logits_BK < logits_BK.topk(top_k).values[:, -1:], -math.inf)


def _nucleus(logits_BK: Tensor, top_p: float) -> Tensor:
    """Logits with -inf outside the likeliest columns that together have this probability."""
    columns, norm_B1 = logits_BK.shape[1], logits_BK.logsumexp(-1, keepdim=True)
    for size in (NUCLEUS, columns):  # the first few hundred nearly always have the probability
        ordered_BN, places_BN = logits_BK.topk(size) if size < columns else logits_BK.sort(descending=True)
        shares_BN = (ordered_BN - norm_B1).exp()
        reached_BN = shares_BN.cumsum(-1)
        if size >= columns or bool((reached_BN[:, -1] >= top_p).all()):
            break
    beyond_BN = reached_BN - shares_BN >= top_p  # the first column stays whatever top_p is
    left_BK = torch.full_like(logits_BK, -math.inf)
    return left_BK.scatter_(1, places_BN, ordered_BN.masked_fill(beyond_BN, -math.inf))


def check_prompts(lm: TokenLM, prompts: Sequence[Prompt], config: SamplingConfig) -> None:
    if not prompts:
        raise ValueError("sampling: no prompt; `speech_prompt(lm)` starts from nothing")
    longest = max(len(prompt) for prompt in prompts)
    if longest + config.max_codes > lm.max_positions:
        raise ValueError(
            f"sampling: a prompt of {longest} tokens and {config.max_codes} to come are more than the "
            f"{lm.max_positions} positions of this LM; shorten the prompt or ask for less"
        )
    if longest + config.max_codes > lm.context:
        warnings.warn(
            f"sampling: a prompt of {longest} tokens and {config.max_codes} to come, but this LM was trained on "
            f"{lm.context} at most; do not trust what it says beyond: shorten the prompt or ask for less",
            stacklevel=3,
        )
    if lm.card.codec is not None and lm.card.codec.num_codebooks > 1:
        for prompt in prompts:
            if isinstance(prompt, Tensor) and int(lm.tokens.is_code(prompt).sum()) % lm.card.codec.num_codebooks:
                raise ValueError("sampling: the prompt stops inside a frame of codebooks; give whole frames")
