"""Phones in tokens: does a code mean a phone, and are two renditions of one phone closer than those of two?

    result = measure_phones(encoded, clips, read_alignments("lab", clips))
    print(result.tokens.purity, result.token_abx.within.format())

Token frames are compared with the phone that is spoken at their centre: phone purity, code purity, mutual information
(HuBERT, arXiv 2106.07447). These grow with the number of codes until each frame has its own, so beside them stand their
values by chance, and the accuracy of naming the phones of clips that the names of the codes were not learnt from.
ABX (ZeroSpeech, arXiv 2011.11588): A and X are renditions of one phone, B of another; an error is a B that is closer to
X. Distances are means along the best warping path, of angles between features, or of 0 and 1 for tokens.
Shapes: N frames, T frames of a phone, D width, M items. Test: tests/evaluation/test_phones.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from llmcodec.adapters.features.base import SpeechEncoder
from llmcodec.data.alignments import Phone
from llmcodec.data.manifest import Clip
from llmcodec.evaluation.abx import AbxResult, Item, measure_abx
from llmcodec.evaluation.encoded_corpus import EncodedCorpus
from llmcodec.io.digests import digest_number
from llmcodec.metrics.statistics import Interval, PairedComparison, bootstrap_ratio, compare_shared
from llmcodec.protocol import HasFeatures, has_tokens

PAUSES = ("", "_", "#", "pau", "sil", "SIL", "sp", "spn", "h#", "<eps>")
"""Labels that are no phones: their frames are not counted."""
ROTATIONS = 5
FOLDS = 2
Context = Literal["any", "within"]


@dataclass(frozen=True)
class PhoneConfig:
    """What is compared."""

    codebook: int = 0
    """Of codecs with several, the one whose tokens are taken."""
    context: Context = "any"
    """`within` compares only phones between the same two neighbours, as ZeroSpeech's triphones."""
    items: int = 10
    """At most so many renditions of a phone by one speaker (and in one context), drawn by the seed."""
    pauses: tuple[str, ...] = PAUSES
    seed: int = 0

    def __post_init__(self) -> None:
        if self.items < 2:
            raise ValueError(f"phones: ABX needs at least 2 renditions of a phone, not {self.items}")


@dataclass(frozen=True)
class TokenPhones:
    """How codes and phones go together, frame by frame."""

    num_frames: int
    num_phones: int
    """Different phones that occur."""
    num_codes: int
    """Different codes that occur."""
    purity: float
    """Share of frames whose phone is the commonest of their code."""
    code_purity: float
    """Share of frames whose code is the commonest of their phone."""
    information_bits: float
    """Mutual information of code and phone, of the counts."""
    normalised: float
    """The same as a share of the phones' entropy (PNMI)."""
    chance_purity: float
    """Mean purity and PNMI of the same codes against the phones at another time of the corpus."""
    chance_normalised: float
    clips: dict[str, tuple[int, int]]
    """Clip -> frames whose phone is the one that their code has in the other half of the clips; all frames."""

    @property
    def accuracy(self) -> Interval:
        """Share of frames named rightly by codes of other clips, with a 95 % bootstrap interval over clips."""
        return bootstrap_ratio([right for right, _ in self.clips.values()], [total for _, total in self.clips.values()])


@dataclass(frozen=True)
class PhoneResult:
    """One system; None where it has no tokens or shows no features."""

    tokens: TokenPhones | None
    token_abx: AbxResult | None
    feature_abx: AbxResult | None


def compare_phones(a: TokenPhones, b: TokenPhones) -> PairedComparison:
    """Held-out accuracy of B against A, of the clips that both have."""
    shares = [{name: right / total for name, (right, total) in one.clips.items()} for one in (a, b)]
    return compare_shared(shares[0], shares[1])


def measure_phones(
    encoded: EncodedCorpus,
    clips: Sequence[Clip],
    spoken: Mapping[str, Sequence[Phone]],
    config: PhoneConfig | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> PhoneResult:
    """Tokens and latents of a codec against the phones.

    Args:
        encoded: the codec.
        clips: those without an alignment are left out.
        spoken: clip id -> its phones (`read_alignments`).

    Raises:
        ValueError: a codec without tokens, no such codebook, or no frame with a phone.
    """
    config, codec = config or PhoneConfig(), encoded.codec
    if not has_tokens(codec):
        raise ValueError(f"{type(codec).__name__} has no tokens that could mean phones")
    if not 0 <= config.codebook < codec.num_codebooks:
        raise ValueError(f"phones: no codebook {config.codebook + 1}; the codec has {codec.num_codebooks}")
    clips = [clip for clip in clips if clip.id in spoken]
    codes = [codes_QT[config.codebook].numpy() for codes_QT in encoded.codes(clips, on_progress)]
    tokens = token_phones(clips, codes, spoken, codec.frame_rate, config)
    items = cut_items(clips, codes, spoken, codec.frame_rate, config)
    latents = None
    if isinstance(codec, HasFeatures):
        arrays = (latent_TD.numpy() for latent_TD in encoded.latents(clips))
        latents = measure_abx(cut_items(clips, arrays, spoken, codec.frame_rate, config))
    return PhoneResult(tokens, measure_abx(items), latents)


def measure_encoder(
    encoder: SpeechEncoder,
    clips: Sequence[Clip],
    spoken: Mapping[str, Sequence[Phone]],
    config: PhoneConfig | None = None,
    on_progress: Callable[[float], None] | None = None,
) -> PhoneResult:
    """ABX of a speech encoder's frames; raises ValueError as `measure_phones`."""
    import torch

    config = config or PhoneConfig()
    clips = [clip for clip in clips if clip.id in spoken]

    def frames() -> Iterable[np.ndarray]:
        for number, clip in enumerate(clips, 1):
            yield encoder.frames_of(torch.from_numpy(clip.load(encoder.sample_rate))[None])[0].cpu().numpy()
            if on_progress is not None:
                on_progress(number / len(clips))

    return PhoneResult(None, None, measure_abx(cut_items(clips, frames(), spoken, encoder.frame_rate, config)))


def frame_phones(phones: Sequence[Phone], num_frames: int, frame_rate: float, pauses: Sequence[str]) -> list[str]:
    """The phone at the centre of every frame; empty at pauses and where there is none."""
    names = [""] * num_frames
    for phone in phones:
        if phone.name not in pauses:
            first, last = frame_span(phone, frame_rate, num_frames)
            names[first:last] = [phone.name] * (last - first)
    return names


def frame_span(phone: Phone, frame_rate: float, num_frames: int) -> tuple[int, int]:
    """The frames whose centres lie in a phone, from its start on and before its end."""
    first, last = (
        min(num_frames, max(0, int(np.ceil(round(t * frame_rate - 0.5, 6))))) for t in (phone.start, phone.stop)
    )
    return first, max(first, last)


def token_phones(
    clips: Sequence[Clip],
    codes: Sequence[np.ndarray],
    spoken: Mapping[str, Sequence[Phone]],
    frame_rate: float,
    config: PhoneConfig,
) -> TokenPhones:
    """Statistics of the codes (T,) of every clip against its phones.

    Raises:
        ValueError: fewer than two clips have frames with a phone: each is named by what others say.
    """
    frames = {
        clip.id: [
            (int(code), name)
            for code, name in zip(
                codes_T, frame_phones(spoken[clip.id], len(codes_T), frame_rate, config.pauses), strict=True
            )
            if name
        ]
        for clip, codes_T in zip(clips, codes, strict=True)
    }
    pairs = [pair for clip_pairs in frames.values() for pair in clip_pairs]
    if not pairs:
        raise ValueError(f"phones: no frame of {len(clips)} clips has a phone that is not a pause")
    if sum(map(bool, frames.values())) < 2:
        raise ValueError(
            f"phones: one of {len(clips)} clips has frames with a phone; accuracy needs two, one half each"
        )
    names = sorted({name for _, name in pairs})
    code_N = np.unique([code for code, _ in pairs], return_inverse=True)[1]
    phone_N = np.searchsorted(names, [name for _, name in pairs])
    purity, code_purity, bits, entropy = shared_counts(code_N, phone_N)
    shifts = np.random.default_rng(config.seed).integers(1, max(2, len(pairs)), ROTATIONS)
    by_chance = [shared_counts(code_N, np.roll(phone_N, shift)) for shift in shifts]
    return TokenPhones(
        len(pairs),
        len(names),
        int(code_N.max()) + 1,
        purity,
        code_purity,
        bits,
        bits / entropy if entropy else 0.0,
        float(np.mean([one[0] for one in by_chance])),
        float(np.mean([one[2] for one in by_chance])) / entropy if entropy else 0.0,
        named_by_others({name: pairs for name, pairs in frames.items() if pairs}),
    )


def shared_counts(code_N: np.ndarray, phone_N: np.ndarray) -> tuple[float, float, float, float]:
    """Phone purity, code purity, mutual information and entropy of the phones in bits."""
    counts = np.zeros((code_N.max() + 1, phone_N.max() + 1))
    np.add.at(counts, (code_N, phone_N), 1)
    joint = counts / len(code_N)
    codes, phones = joint.sum(1, keepdims=True), joint.sum(0, keepdims=True)
    there = joint > 0
    bits = float((joint[there] * np.log2(joint[there] / (codes * phones)[there])).sum())
    seen = phones[phones > 0]
    purity, code_purity = (float(counts.max(axis).sum()) / len(code_N) for axis in (1, 0))
    return purity, code_purity, max(0.0, bits), max(0.0, float(-(seen * np.log2(seen)).sum()))


def named_by_others(frames: Mapping[str, Sequence[tuple[int, str]]]) -> dict[str, tuple[int, int]]:
    """Clip -> its frames named rightly, and all: a code has the commonest phone of the clips of the other fold.

    A code that does not occur there has the commonest phone of all.
    """
    folds = {name: place % FOLDS for place, name in enumerate(frames)}
    found = {}
    for fold in range(FOLDS):
        seen: dict[int, Counter[str]] = {}
        for name, pairs in frames.items():
            if folds[name] != fold:
                for code, phone in pairs:
                    seen.setdefault(code, Counter())[phone] += 1
        total = sum(seen.values(), Counter[str]())
        usual = min(total, key=lambda phone: (-total[phone], phone), default="")
        names = {code: min(count, key=lambda phone: (-count[phone], phone)) for code, count in seen.items()}
        for name, pairs in frames.items():
            if folds[name] == fold:
                found[name] = sum(names.get(code, usual) == phone for code, phone in pairs), len(pairs)
    return {name: found[name] for name in frames}


def cut_items(
    clips: Sequence[Clip],
    frames: Iterable[np.ndarray],
    spoken: Mapping[str, Sequence[Phone]],
    frame_rate: float,
    config: PhoneConfig,
) -> list[Item]:
    """Renditions of phones with their frames, (T,) codes or (T, D) features; at most `config.items` of a kind.

    The same ones for every system of the same frame rate: which are drawn depends on seed, clip and place alone.
    """
    kinds: dict[tuple[str, str, str], list[tuple[int, Item]]] = {}
    for clip, rows in zip(clips, frames, strict=True):
        phones = spoken[clip.id]
        for place, phone in enumerate(phones):
            first, last = frame_span(phone, frame_rate, len(rows))
            if phone.name in config.pauses or first == last:
                continue
            near = [phones[i].name if 0 <= i < len(phones) else "" for i in (place - 1, place + 1)]
            context = " ".join(near) if config.context == "within" else ""
            drawn = digest_number(config.seed, clip.id, place)
            kept = kinds.setdefault((phone.name, clip.speaker, context), [])
            kept.append((drawn, Item(phone.name, clip.speaker, context, np.array(rows[first:last]))))
            if len(kept) > 4 * config.items:  # a bounded number of frames in memory
                kept.sort(key=lambda one: one[0])
                del kept[config.items :]
    chosen = [sorted(kept, key=lambda one: one[0])[: config.items] for kept in kinds.values()]
    return [item for kept in chosen for _, item in kept]
