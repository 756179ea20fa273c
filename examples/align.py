"""Forced alignment: a manifest whose texts say when each phoneme is spoken, for text-to-speech LMs (tts_aligned).

    apt-get install espeak-ng; pip install 'llmcodec[metrics]'        # scipy
    python examples/align.py corpus/manifest.jsonl -o corpus/aligned.jsonl --languages en

Texts become `<|0.00|> _ <|0.21|> p <|0.30|> l ..`: seconds in Whisper's notation, phonemes of espeak-ng, `_` for a
pause. No pretrained model is needed. A phoneme has three Gaussian states, a pause one, and a pause may stand between
any two words. The states of each language are trained on the same clips that are aligned, by Viterbi alignment from a
flat start (the monophone training of speech recognisers: Young et al., The HTK Book, chapter 3). Clips that are too
short for their text, and clips without phonemes, are left out and counted. Everything else of a row stays, paths
included, so write the new manifest beside the old one. If you have aligned speech from another tool (Montreal Forced
Aligner, Whisper), write its times in the same notation instead.

Shapes: B clips, T frames of 10 ms, D features, S states of a chain, K states in all.
Test: tests/examples/test_align.py.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.fft import dct
from tqdm import tqdm

from corpus.listing import Row, read_rows, write_rows
from llmcodec.io import audio
from llmcodec.metrics.spectral import mel_filters_NM
from phonemes import PAUSE, Clauses, key_of, speak_all

RATE, HOP, WINDOW = 16_000, 160, 400
BANDS, TOP_HZ, CEPSTRA = 26, 5_500, 13
STATES = 3  # of a phoneme, one after the other: it lasts 30 ms at least
SHRINK = 200.0  # frames that the common covariance weighs in a state's own
ROUNDS = 14
BATCH_NUMBERS = 20_000_000  # clips x frames x states at once: 160 MB


@dataclass
class Utterance:
    """A clip and the chain of states that it must run through."""

    row: Row
    features_TD: np.ndarray
    states_S: np.ndarray
    optional_S: np.ndarray
    """A pause that may be left out."""
    units: list[tuple[str, int]]
    """Names and first state of what is written."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--languages", nargs="+", help="only these; default: all that espeak-ng speaks")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="of alignment and training")
    options = parser.parse_args()
    by_language: dict[str, list[Row]] = defaultdict(list)
    for row in read_rows(options.manifest):
        language, _ = key_of(row)
        if options.languages is None or language in options.languages:
            by_language[language].append(row)
    done = []
    for language, members in by_language.items():
        utterances = prepare(members, options.manifest.parent)
        print(f"{language or 'no language'}: {len(utterances)} of {len(members)} clips can be aligned")
        if utterances:
            done += align(utterances, options.rounds)
    write_rows(options.output, done)
    print(f"{options.output}: {len(done)} clips")


def prepare(rows: list[Row], folder: Path) -> list[Utterance]:
    """Features and chains of the clips that have phonemes and are long enough for them."""
    spoken = speak_all(rows)
    numbers: dict[str, int] = {PAUSE: 0}
    prepared = []
    for row in tqdm(rows, desc="features"):
        clauses = spoken.get(key_of(row)) or []
        if not any(word for clause in clauses for word in clause):
            continue
        features_TD = cepstra(audio.load(folder / row["audio"], RATE))
        one = Utterance(row, features_TD, *chain(clauses, numbers))
        if len(features_TD) > np.count_nonzero(~one.optional_S):
            prepared.append(one)
    by_speaker: dict[str, list[Utterance]] = defaultdict(list)
    for one in prepared:
        by_speaker[one.row.get("speaker", "")].append(one)
    for members in by_speaker.values():
        together_TD = np.concatenate([one.features_TD for one in members])
        mean_D, scale_D = together_TD.mean(0), together_TD.std(0) + 1e-3
        for one in members:
            one.features_TD = (one.features_TD - mean_D) / scale_D
    return prepared


def chain(clauses: Clauses, numbers: dict[str, int]) -> tuple[np.ndarray, np.ndarray, list[tuple[str, int]]]:
    """States, which of them may be left out, and units with their first state. New phonemes get the next numbers."""
    states, optional, units = [0], [True], [(PAUSE, 0)]
    for word in (word for clause in clauses for word in clause):
        for sound in word:
            first = numbers.setdefault(sound, 1 + STATES * (len(numbers) - 1))
            units.append((sound, len(states)))
            states += range(first, first + STATES)
            optional += [False] * STATES
        units.append((PAUSE, len(states)))
        states.append(0)
        optional.append(True)
    return np.asarray(states), np.asarray(optional), units


def cepstra(wav_S: np.ndarray) -> np.ndarray:
    """Mel cepstra and their slopes, (T, 2 x CEPSTRA)."""
    padded = np.pad(wav_S, (WINDOW // 2, WINDOW // 2 + HOP))
    frames_TN = np.lib.stride_tricks.sliding_window_view(padded, WINDOW)[::HOP] * np.hamming(WINDOW)
    magnitudes = np.abs(np.fft.rfft(frames_TN, 512))[:, : 1 + 512 * TOP_HZ // RATE]
    filters = mel_filters_NM(2 * (magnitudes.shape[1] - 1), BANDS, 2 * TOP_HZ)[: magnitudes.shape[1]]
    static_TD = dct(np.log(magnitudes @ filters + 1e-4), norm="ortho", axis=1)[:, :CEPSTRA]
    edged = np.pad(static_TD, ((2, 2), (0, 0)), mode="edge")
    slope_TD = (2 * (edged[4:] - edged[:-4]) + edged[3:-1] - edged[1:-3]) / 10
    return np.concatenate([static_TD, slope_TD], 1).astype(np.float32)


def align(utterances: list[Utterance], rounds: int) -> list[Row]:
    """Train and align in turn; rows with timed texts."""
    paths = [flat_start(one) for one in utterances]
    order = sorted(range(len(utterances)), key=lambda place: len(utterances[place].features_TD))
    bar = tqdm(range(rounds), desc="alignment")
    for _ in bar:
        model_KF = estimate(utterances, paths)
        score = 0.0
        for places in batches(order, utterances):
            found, scores_B = viterbi([utterances[place] for place in places], model_KF)
            score += float(scores_B.sum())
            for place, path_T in zip(places, found, strict=True):
                paths[place] = path_T
        bar.set_postfix_str(f"log likelihood a frame {score / sum(len(path) for path in paths):.3f}")
    return [timed(one, path_T) for one, path_T in zip(utterances, paths, strict=True)]


def batches(order: list[int], utterances: list[Utterance]) -> Iterator[list[int]]:
    """Neighbours in `order` (by length) that fit into memory together, one at least."""
    batch: list[int] = []
    for place in order:
        together = [utterances[member] for member in (*batch, place)]
        states = max(len(one.states_S) for one in together)
        if batch and len(together) * len(together[-1].features_TD) * states > BATCH_NUMBERS:
            yield batch
            batch = []
        batch.append(place)
    yield batch


def flat_start(one: Utterance) -> np.ndarray:
    """Places in the chain (T,): pauses at the quiet ends, the phonemes' states evenly between them."""
    loud_T = one.features_TD[:, 0] > np.quantile(one.features_TD[:, 0], 0.9) - 2.5
    first, last = int(loud_T.argmax()), len(loud_T) - int(loud_T[::-1].argmax())
    needed_S = np.flatnonzero(~one.optional_S)
    if last - first < len(needed_S):
        first, last = 0, len(loud_T)
    path_T = np.zeros(len(loud_T), dtype=np.int64)
    path_T[first:last] = needed_S[np.arange(last - first) * len(needed_S) // (last - first)]
    path_T[last:] = len(one.states_S) - 1
    return path_T


def estimate(utterances: list[Utterance], paths: list[np.ndarray]) -> np.ndarray:
    """Gaussians of all states as rows over `expand`'s features: log density = model_KF @ expanded."""
    features_TD = np.concatenate([one.features_TD for one in utterances]).astype(np.float64)
    states_T = np.concatenate([one.states_S[path] for one, path in zip(utterances, paths, strict=True)])
    num_states, width = 1 + max(int(one.states_S.max()) for one in utterances), features_TD.shape[1]
    common = np.cov(features_TD.T) / 2
    rows = []
    order = np.argsort(states_T, kind="stable")
    ends = np.searchsorted(states_T[order], np.arange(num_states + 1))
    for state in range(num_states):
        own_TD = features_TD[order[ends[state] : ends[state + 1]]]
        mean_D = own_TD.sum(0) / (len(own_TD) + 1)
        centred = own_TD - mean_D
        covariance = (centred.T @ centred + SHRINK * common) / (len(own_TD) + SHRINK)
        precision = np.linalg.inv(covariance)
        quadratic = -precision
        quadratic[np.diag_indices(width)] /= 2
        constant = -(mean_D @ precision @ mean_D + np.linalg.slogdet(2 * np.pi * covariance)[1]) / 2
        rows.append(np.concatenate([quadratic[np.triu_indices(width)], precision @ mean_D, [constant]]))
    return np.stack(rows)


def expand(features_TD: np.ndarray) -> np.ndarray:
    """Products of features, features and 1."""
    left, right = np.triu_indices(features_TD.shape[1])
    features_TD = features_TD.astype(np.float64)
    return np.concatenate(
        [features_TD[:, left] * features_TD[:, right], features_TD, np.ones((len(features_TD), 1))], 1
    )


def viterbi(utterances: list[Utterance], model_KF: np.ndarray) -> tuple[list[np.ndarray], np.ndarray]:
    """Likeliest places in the chain of every clip, and their log likelihoods."""
    longest = max(len(one.features_TD) for one in utterances)
    states = max(len(one.states_S) for one in utterances)
    total_TBS = np.full((longest, len(utterances), states), -1e30)
    skip_BS = np.full((len(utterances), states), -1e30)
    for clip, one in enumerate(utterances):
        density_TK = expand(one.features_TD) @ model_KF.T
        total_TBS[: len(density_TK), clip, : len(one.states_S)] = density_TK[:, one.states_S]
        skip_BS[clip, 1 : len(one.states_S)][one.optional_S[:-1]] = 0.0  # over the optional state before
    total_TBS[0, :, 2:] = -1e30
    step_TBS = np.zeros((longest, len(utterances), states), dtype=np.int8)
    for frame in range(1, longest):  # adds the best path before it to each density
        before_BS = np.pad(total_TBS[frame - 1], ((0, 0), (2, 0)), constant_values=-1e30)
        options = np.stack([before_BS[:, 2:], before_BS[:, 1:-1], before_BS[:, :-2] + skip_BS])
        step_TBS[frame] = options.argmax(0)
        total_TBS[frame] += options.max(0)
    paths, scores = [], []
    for clip, one in enumerate(utterances):
        frames, last = len(one.features_TD), len(one.states_S) - 1
        end_S = total_TBS[frames - 1, clip]
        path_T = np.full(frames, last - int(end_S[last - 1] > end_S[last]))  # the pause at the end may be left out
        for frame in range(frames - 1, 0, -1):
            path_T[frame - 1] = path_T[frame] - step_TBS[frame, clip, path_T[frame]]
        paths.append(path_T)
        scores.append(end_S[path_T[-1]])
    return paths, np.asarray(scores)


def timed(one: Utterance, path_T: np.ndarray) -> Row:
    """The row with its text in units and seconds; pauses that were left out are not written."""
    words = []
    for number, (name, first) in enumerate(one.units):
        behind = one.units[number + 1][1] if number + 1 < len(one.units) else len(one.states_S)
        start, end = np.searchsorted(path_T, [first, behind])
        if end > start:
            words.append(f"<|{start * HOP / RATE:.2f}|> {name}")
    return one.row | {"text": " ".join(words)}


if __name__ == "__main__":
    main()
