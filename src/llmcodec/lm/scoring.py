"""The log-likelihood of speech under a token LM: per file, per second and per token.

    clips = read_clips(lm, ["speech/a.wav", "corpus.jsonl", "tokens/test"])
    rows = score_clips(lm, clips)
    bits_QT = llmcodec.surprisal(heard)          # of each token, under the small LM beside the codec

Test: tests/cli/test_lm.py, tests/codec/test_listening.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from llmcodec.adapters.load import folder_of_codec, load_codec
from llmcodec.assets import BUNDLED
from llmcodec.codec.coded_audio import CodedAudio
from llmcodec.codec.config import LLMCodecConfig
from llmcodec.codec.folder import CONFIG, MAX_JSON_BYTES
from llmcodec.codec.listening import codebook_of
from llmcodec.codec.neural_prior import AUDIO_LM, find_audio_lm
from llmcodec.data.manifest import Clip, read_manifest
from llmcodec.io import audio
from llmcodec.io.bad_rows import BadRows
from llmcodec.io.structured import read_object
from llmcodec.io.token_shards import SHARD_ENDINGS
from llmcodec.lm.small_lm_scorer import SmallLMScorer, load_scorer
from llmcodec.lm.small_lm_training import LikelihoodConfig
from llmcodec.lm.speech import check_codec, codec_of, encode_flat, own_codec
from llmcodec.lm.token_lm import TokenLM, load_token_lm
from llmcodec.metrics.token_statistics import flatten_codes
from llmcodec.protocol import TokenScorer
from llmcodec.transcode.flat_rows import flat_rows


def surprisal(codes: Any, lm: str = BUNDLED) -> np.ndarray:
    """Bits that each token costs a language model which has read the tokens before it: -log2 of its probability.

        heard = codec.reconstruct("speech.wav")
        bits_QT = llmcodec.surprisal(heard)
        bits_QT.sum() / heard.seconds                # bits per second

    Args:
        codes: (Q, T) of one recording, or what `encode_file` and `reconstruct` give.
        lm: the codec that made them, whose run trained a small LM along with it (`bundled`, a run folder); or a token
            LM for these codes, a folder of `llmcodec lm train` or a hub id.

    Returns:
        float64 (Q, T).

    Raises:
        ValueError: another shape, codes of another codec or that the LM does not have, or there is no such LM.
    """
    if isinstance(codes, (str, Path)):
        raise ValueError(f"surprisal: tokens, not a file; llmcodec.load({lm!r}).encode_file({str(codes)!r}) gives them")
    found = np.asarray(getattr(codes, "codes", codes))
    if found.ndim != 2 or found.dtype.kind not in "iu" or not found.size:
        raise ValueError(f"surprisal: codes must be integers (codebooks, frames), got {found.dtype} {found.shape}")
    scorer: SmallLMScorer | TokenLM
    if (file := find_small_lm(lm)) is not None:
        codec = load_codec(str(folder_of_codec(lm)))
        _refuse_other_codebook(codes, codebook_of(codec), lm)
        scorer = load_scorer(file, LikelihoodConfig().max_tokens(codec.frame_rate * codec.num_codebooks))
        num_codes, wanted = scorer.model.vocabulary, codec.num_codebooks
    else:
        config = folder_of_codec(lm) / CONFIG
        if config.is_file() and read_object(config, MAX_JSON_BYTES).get("model_type") == LLMCodecConfig.model_type:
            raise ValueError(f"surprisal: codec {lm} has no {AUDIO_LM} beside it: give a token LM for its tokens")
        scorer = load_token_lm(lm)
        num_codes, wanted = scorer.num_codes, len(found)
        if scorer.card.codec is not None:
            wanted = scorer.card.codec.num_codebooks
            if isinstance(codes, CodedAudio):
                _refuse_other_codebook(codes, codebook_of(load_codec(own_codec(scorer))), lm)
    if len(found) != wanted:
        raise ValueError(f"surprisal: {len(found)} codebooks; {lm} is for codes of {wanted}")
    size = num_codes // len(found)
    if found.min() < 0 or found.max() >= size:
        wrong = found.min() if found.min() < 0 else found.max()
        raise ValueError(f"surprisal: code {wrong} is outside [0, {size}) of {lm}; another codec's tokens?")
    return token_bits(scorer, found, size)


def _refuse_other_codebook(codes: Any, codebook: str, lm: str) -> None:
    """Raise for a recording coded by another codec than the LM's; arrays do not say which codec made them, and codecs
    of others (no digest) are told from each other by their sizes alone."""
    if isinstance(codes, CodedAudio) and codes.codebook != codebook:
        raise ValueError(f"surprisal: these tokens are of another codec than {lm}: name theirs, or their token LM")


def token_bits(scorer: TokenScorer, codes_QT: np.ndarray, codebook_size: int) -> np.ndarray:
    """Surprisal of each token in bits, float64 (Q, T)."""
    (scores,) = scorer.token_log_likelihoods([flatten_codes(torch.from_numpy(codes_QT), codebook_size)])
    return (-scores.double() / math.log(2)).reshape(-1, len(codes_QT)).T.cpu().numpy()


def find_small_lm(place: str) -> Path | None:
    """File of the small LM that was trained along with a codec, beside it."""
    return find_audio_lm(folder_of_codec(place))


@dataclass(frozen=True)
class CodedClip:
    """A clip as an LM scores it: codes are flattened (T Q,) int64."""

    file: str
    codes: Tensor
    token_rate: float
    """Tokens per second."""


def read_clips(
    lm: TokenLM,
    inputs: Iterable[str],
    codec: str | None = None,
    device: str = "cpu",
    bad: BadRows | None = None,
    split: tuple[str, ...] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> list[CodedClip]:
    """Codes of audio files, manifests (.jsonl) and folders of token shards.

    Args:
        codec: codec of the LM, if it was moved; None: the name in the LM's card. device: where it runs.
        bad: takes files that cannot be read; nothing of them is scored. None allows none.
        split: splits of manifests; None: the held-out ones, or all of a manifest that has none.
        say: told how much of a manifest is scored, where it is not all.

    Raises:
        ValueError: no input, too many that cannot be read, one named twice, or tokens of another codec than the LM's.
    """
    clips: list[CodedClip] = []
    files: list[tuple[str, Path | Clip]] = []
    seen: set[Path] = set()
    for place in inputs:
        path = Path(place)
        if path.resolve() in seen:
            raise ValueError(f"{place}: named twice, it would count double")
        seen.add(path.resolve())
        if path.is_dir() or path.suffix in SHARD_ENDINGS:
            provenance, rows = flat_rows(path)
            check_codec(lm, provenance, place)
            rate = provenance.frame_rate * provenance.num_codebooks
            clips += [CodedClip(row.id, torch.as_tensor(row.codes).long(), rate) for row in rows]
        elif path.suffix == ".jsonl":
            clips_of = read_manifest(path, split)
            held_out = [clip for clip in clips_of if clip.held_out] if split is None else []
            if 0 < len(held_out) < len(clips_of):
                say(f"{path}: the {len(held_out)} held-out of {len(clips_of)} clips; choose others with --split")
            files += [(clip.id, clip) for clip in held_out or clips_of]
        else:
            files.append((place, path))
    if files:
        runtime = codec_of(lm, codec, device)
        rate = runtime.identity.frame_rate * runtime.identity.num_codebooks
        sample_rate = runtime.identity.sample_rate
        bad = BadRows() if bad is None else bad
        bad.total = len(files)
        for start in range(0, len(files), 32):
            batch: list[tuple[str, np.ndarray]] = []
            for name, one in files[start : start + 32]:
                try:
                    wav_S = one.load(sample_rate) if isinstance(one, Clip) else audio.load(one, sample_rate)
                    batch.append((name, wav_S))
                except (ValueError, OSError) as error:
                    bad.add(name, error)
            codes = encode_flat(runtime, [wav_S for _, wav_S in batch]) if batch else []
            clips += [CodedClip(name, row, rate) for (name, _), row in zip(batch, codes, strict=True)]
    if not clips and bad is not None and bad.reasons:
        raise ValueError(f"no file can be read; the first: {next(iter(bad.reasons.values()))}")
    if not clips:
        raise ValueError("nothing to score: name audio files, manifests or folders of token shards")
    return clips


def score_clips(lm: TokenLM, clips: Sequence[CodedClip]) -> list[dict[str, Any]]:
    """One row per clip: nats and bits of the negative log-likelihood, and that of every token (`log_likelihoods`)."""
    rows = []
    for clip, scores in zip(clips, lm.token_log_likelihoods([clip.codes for clip in clips]), strict=True):
        nats, seconds = -float(scores.double().sum()), len(scores) / clip.token_rate
        rows.append(
            {
                "file": clip.file,
                "seconds": seconds,
                "tokens": len(scores),
                "nats": nats,
                "nats_per_token": nats / len(scores),
                "bits_per_second": nats / math.log(2) / seconds,
                "log_likelihoods": scores.tolist(),
            }
        )
    return rows
