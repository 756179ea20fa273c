"""Can the pairs of a consistency suite be told apart at all? Three listeners that are not language models.

    python benchmarks/salmon_answers.py suite

Each compares what is before the joint with what is behind it and calls the side positive whose halves are more alike:
`spectrum` by the statistics of log-mel frames, `voice` by a pretrained speaker encoder (`resemblyzer`, voice parts
only). `half` hears the second half alone and judges by its loudness: pairs are mirrored, so it must get just 50 %.
A part in which the other two are at chance would measure nothing. Figures: docs/results/salmon_suites.md.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
from bench import RATE, markdown, options
from transformers.audio_utils import mel_filter_bank

from llmcodec.metrics.statistics import wilson_interval

VOICE_PARTS = ("speaker_consistency", "gender_consistency")
Alike = Callable[[np.ndarray, np.ndarray], float]
FILTERS = mel_filter_bank(257, 40, 0.0, 8000.0, RATE, norm="slaney", mel_scale="slaney")


def statistics(wav_S: np.ndarray) -> np.ndarray:
    """Mean, 10th and 90th percentile and mean change of 40 log-mel bands (25 ms frames, hop 10 ms)."""
    frames = np.lib.stride_tricks.sliding_window_view(wav_S, 400)[::160] * np.hanning(400)
    log_mel = np.log(np.abs(np.fft.rfft(frames, 512)) ** 2 @ FILTERS + 1e-8)
    change = 3 * np.abs(np.diff(log_mel, axis=0)).mean(0)
    return np.concatenate([log_mel.mean(0), *np.percentile(log_mel, [10, 90], axis=0), change])


def spectrum(a: np.ndarray, b: np.ndarray) -> float:
    return -float(np.abs(statistics(a) - statistics(b)).mean())


def half(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(b).mean())


def voice_listener() -> Alike | None:
    """Cosine of speaker embeddings; None where the package is not installed."""
    try:
        from resemblyzer import VoiceEncoder
    except ImportError:
        return None
    encoder = VoiceEncoder("cpu", verbose=False)

    def alike(a: np.ndarray, b: np.ndarray) -> float:
        return float(encoder.embed_utterance(a.astype(np.float32)) @ encoder.embed_utterance(b.astype(np.float32)))

    return alike


def main() -> None:
    args = options(__doc__, "suite", max_pairs=(0, "only the first pairs of each part; 0 takes all"))
    suite = Path(args.suite)
    parts = json.loads((suite / "suite.json").read_text(encoding="utf-8"))["parts"]
    listeners: dict[str, Alike | None] = {"half": half, "spectrum": spectrum, "voice": voice_listener()}
    lines = []
    for part, rows in parts.items():
        rows = rows[: args.max_pairs or None]
        cells = []
        for name, alike in listeners.items():
            if alike is None or name == "voice" and part not in VOICE_PARTS:
                cells.append("")
                continue
            right = 0.0
            for row in rows:
                scores = []
                for side in (0, 1):
                    wav_S, _ = soundfile.read(suite / part / f"sample_{row['index']}_{side}.wav")
                    joint = round(row["joint_seconds"] * RATE)
                    scores.append(alike(wav_S[:joint], wav_S[joint:]))
                right += 0.5 if scores[0] == scores[1] else float(scores[0] > scores[1])
            share = wilson_interval(right, len(rows))
            cells.append(f"{100 * share.value:.1f} [{100 * share.low:.1f}, {100 * share.high:.1f}]")
        lines.append([part, str(len(rows)), *cells])
    print(markdown(["part", "pairs", *listeners], lines))


if __name__ == "__main__":
    main()
