#!/usr/bin/env python3
"""How many voices does synthetic speech have? Asks a speaker encoder, calibrated on people.

    python examples/count_voices.py corpus/manifest.jsonl --sources kokoro-82m \\
        --people corpus/manifest.jsonl --people-sources asterisk-core-sounds,festvox-ru,tuxpaint-stamps -o voices.json

The clips of each voice are halved. How alike the halves of one voice are, and halves of two voices, is the cosine of
their mean embeddings (Resemblyzer). The threshold between "one voice" and "two" is where voices that are known to
differ are confused as often one way as the other. Voices are then counted in order, pure ones first: one counts if
the encoder tells it from every voice counted before. There are two thresholds:

  people   strict: the people differ in microphone and language too, so that they are easier to tell apart than voices
           of one synthesizer. What counts here sounds like another person.
  pure     lenient: the synthesizer's own pure voices, taken for different. What counts here is as far from the others
           as they are from each other.

Needs from PyPI: llmcodec[perceptual], and `pip install --no-deps resemblyzer==0.1.4`, whose wheel holds the weights.
Test: tests/examples/test_count_voices.py.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from llmcodec.data.manifest import Clip, read_manifest

ONE_PERSON = {"ast_es_allison": "ast_en_allison"}
"""Labels of people who have another label as well."""


def compare_halves(embeddings: Mapping[str, np.ndarray]) -> tuple[list[str], np.ndarray]:
    """Names (V) and similarities (V, V): on the diagonal of the two halves of one voice, elsewhere of two voices.

    Args:
        embeddings: voice -> (N, E) of its clips, at least two. Every other clip is in the same half.
    """
    halves = np.stack([[_unit(clips[::2].mean(0)), _unit(clips[1::2].mean(0))] for clips in embeddings.values()])
    first, second = halves[:, 0], halves[:, 1]
    crossed = first @ second.T
    return list(embeddings), (crossed + crossed.T) / 2


def find_threshold(similarities: np.ndarray) -> tuple[float, float]:
    """Where as many voices are taken for two as pairs of voices for one, and that share.

    Args:
        similarities: (V, V) of `compare_halves`, of voices known to be different.
    """
    same = np.diag(similarities)
    different = similarities[~np.eye(len(similarities), dtype=bool)]
    candidates = np.unique(np.concatenate([same, different]))
    middles = (candidates[1:] + candidates[:-1]) / 2
    misses = np.array([(same < value).mean() for value in middles])
    alarms = np.array([(different >= value).mean() for value in middles])
    gap = np.abs(misses - alarms) + 1e-9 * (misses + alarms)
    best = np.flatnonzero(gap == gap.min())
    index = best[len(best) // 2]
    return float(middles[index]), float(max(misses[index], alarms[index]))


def count_distinct(similarities: np.ndarray, threshold: float) -> list[int]:
    """Indices of the voices that are below `threshold` to every one counted before them."""
    counted: list[int] = []
    for voice in range(len(similarities)):
        if all(similarities[voice, other] < threshold for other in counted):
            counted.append(voice)
    return counted


def identify(embeddings: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Voice -> share of its clips that are nearest to its own centre, which is made without that clip."""
    names = list(embeddings)
    sums = np.stack([clips.sum(0) for clips in embeddings.values()])
    shares = {}
    for index, clips in enumerate(embeddings.values()):
        right = 0
        for clip in clips:
            centres = sums.copy()
            centres[index] -= clip
            centres /= np.linalg.norm(centres, axis=1, keepdims=True)
            right += int(np.argmax(centres @ clip)) == index
        shares[names[index]] = right / len(clips)
    return shares


def report(voices: Mapping[str, np.ndarray], people: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The figures of the table, by kind of voice (people, pure, mixtures)."""
    names, similarities = compare_halves(voices)
    pure = [index for index, name in enumerate(names) if "mix:" not in name]
    thresholds = {
        "people": find_threshold(compare_halves(people)[1]),
        "pure": find_threshold(similarities[np.ix_(pure, pure)]),
    }
    counted = {name: count_distinct(similarities, threshold) for name, (threshold, _) in thresholds.items()}
    shares = identify(voices)
    nearest = np.where(np.eye(len(names), dtype=bool), -1.0, similarities).max(1)
    result: dict[str, Any] = {"thresholds": thresholds, "people": len(people)}
    for kind, mixed in (("pure", False), ("mixtures", True)):
        own = [index for index, name in enumerate(names) if ("mix:" in name) == mixed]
        if own:
            result[kind] = {
                "voices": len(own),
                "own_halves": float(np.diag(similarities)[own].mean()),
                "nearest_other": float(nearest[own].mean()),
                "identified": float(np.mean([shares[names[index]] for index in own])),
                "counted": {name: len(set(found) & set(own)) for name, found in counted.items()},
            }
    result["counted"] = {name: [names[index] for index in found] for name, found in counted.items()}
    return result


def _unit(vector: np.ndarray) -> np.ndarray:
    unit: np.ndarray = vector / np.linalg.norm(vector)
    return unit


def choose_clips(clips: Sequence[Clip], per_voice: int, min_seconds: float) -> dict[str, list[Clip]]:
    """Voice -> its first `per_voice` clips that are long enough; voices with fewer than two are left out, and named."""
    found: dict[str, list[Clip]] = defaultdict(list)
    for clip in clips:
        speaker = ONE_PERSON.get(clip.speaker, clip.speaker)
        chosen = found[speaker]  # also of a voice without a long clip, to be named below
        if clip.duration >= min_seconds and len(chosen) < per_voice:
            chosen.append(clip)
    few = sorted(speaker for speaker, own in found.items() if len(own) < 2)
    if few:
        print(f"left out, fewer than two clips of {min_seconds} s: {', '.join(few)}", file=sys.stderr)
    pure_first = sorted(found, key=lambda speaker: ("mix:" in speaker, speaker))
    return {speaker: found[speaker] for speaker in pure_first if speaker not in few}


def embed(chosen: Mapping[str, Sequence[Clip]]) -> dict[str, np.ndarray]:
    """Voice -> (N, 256) unit embeddings of its clips."""
    from resemblyzer import VoiceEncoder, preprocess_wav

    encoder = VoiceEncoder("cpu", verbose=False)
    return {
        voice: np.stack([encoder.embed_utterance(preprocess_wav(clip.load(16000), source_sr=16000)) for clip in clips])
        for voice, clips in chosen.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest", help="manifest of the synthetic speech")
    parser.add_argument("--sources", default="kokoro-82m", help="which of its sources, joined by commas")
    parser.add_argument("--people", required=True, help="manifest of people, on whom the threshold is found")
    parser.add_argument("--people-sources", default="asterisk-core-sounds,festvox-ru,tuxpaint-stamps")
    parser.add_argument("--clips", type=int, default=4, help="clips of each voice")
    parser.add_argument("--min-seconds", type=float, default=2.0, help="shortest clip")
    parser.add_argument("-o", "--output", type=Path, help="also write the figures as JSON")
    arguments = parser.parse_args()
    embeddings = [
        embed(choose_clips(read_manifest(manifest, sources=names.split(",")), arguments.clips, arguments.min_seconds))
        for manifest, names in ((arguments.manifest, arguments.sources), (arguments.people, arguments.people_sources))
    ]
    figures = report(*embeddings)
    for name, (threshold, error) in figures["thresholds"].items():
        print(f"threshold {threshold:.3f} on {name}, of whom {error:.1%} are confused")
    print("\n| kind | voices | own halves | nearest other | clips identified | counted: people | counted: pure |")
    print("|---|---|---|---|---|---|---|")
    for kind in ("pure", "mixtures"):
        if row := figures.get(kind):
            print(f"| {kind} | {row['voices']} | {row['own_halves']:.3f} | {row['nearest_other']:.3f} ", end="")
            print(f"| {row['identified']:.0%} | {row['counted']['people']} | {row['counted']['pure']} |")
    if arguments.output:
        arguments.output.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except ValueError as error:
        sys.exit(f"error: {error}")
