"""Codec-SUPERB's six metrics on 200 clips: ours, in processes, against the published packages one clip at a time.

    python benchmarks/evaluate_speed.py                  # 200 clips, 2 processes, three rounds; medians and the ratio
    python benchmarks/evaluate_speed.py --clips 40 --rounds 1

The pairs are real recordings of the bundled corpus and what the bundled codec makes of them, made before the clock
starts. Peer: librosa STFT and mel filters for the Mel and the STFT loss (each computes its own spectrograms, as the
published code does), `pesq`, `pystoi`, Praat through `parselmouth` with librosa warping. Ours: `measure_jobs`, with the
start of its worker processes. Processor time is that of one process on all pairs: other people's work on the machine
hardly changes it. The largest difference of every metric is printed.
"""

from __future__ import annotations

import os
import statistics

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(name, "1")

import numpy as np  # noqa: E402  (after the number of threads is set)
from bench import RATE, options, take_turns, timed  # noqa: E402

Pair = tuple[np.ndarray, np.ndarray]


def make_pairs(count: int) -> list[Pair]:
    """Recordings of the bundled corpus (more than once if need be) and their reconstructions."""
    from llmcodec.adapters.load import load_codec
    from llmcodec.assets import speech_manifest
    from llmcodec.data.manifest import read_manifest
    from llmcodec.evaluation.encoded_corpus import EncodedCorpus

    clips = read_manifest(speech_manifest())[:count]
    with EncodedCorpus(load_codec("bundled")) as encoded:
        pairs = [(encoded.wav(clip), decoded) for clip, decoded in encoded.reconstructions(clips)]
    return [pairs[index % len(pairs)] for index in range(count)]


def published(reference: np.ndarray, other: np.ndarray) -> dict[str, float]:
    """The six numbers by the published packages, one after the other; NaN where a package refuses."""
    import librosa
    import parselmouth
    from pesq import PesqError, pesq
    from pystoi import stoi

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        logs = [np.log10(np.maximum(z, 1e-5) ** 2) for z in (x, y)]
        return float(np.abs(logs[0] - logs[1]).mean() + np.abs(x - y).mean())

    def spectrograms(window: int) -> list[np.ndarray]:
        return [
            np.abs(librosa.stft(z, n_fft=window, hop_length=window // 4, window="hann", pad_mode="reflect"))
            for z in (reference, other)
        ]

    found = {"mel": 0.0, "stft": 0.0}
    for window, bands in ((2048, 150), (512, 80)):
        basis = librosa.filters.mel(sr=RATE, n_fft=window, n_mels=bands)
        found["mel"] += distance(*(basis @ z for z in spectrograms(window)))
        found["stft"] += distance(*spectrograms(window))
    try:
        found["pesq"] = float(pesq(RATE, reference, other, "wb"))
    except PesqError:
        found["pesq"] = float("nan")
    found["stoi"] = float(np.clip(stoi(reference, other, RATE), 0, 1))
    contours = []
    for z in (reference, other):
        pitch = parselmouth.Sound(z.astype(np.float64), 22_050).to_pitch_ac(
            time_step=256 / 22_050, voicing_threshold=0.6, pitch_floor=50, pitch_ceiling=1100
        )
        hz = pitch.selected_array["frequency"]
        cents = 1200 * np.log2(hz[hz != 0] / 440)
        contours.append(cents - np.median(cents) if cents.size else cents)
    found["f0corr"] = float("nan")
    if min(c.size for c in contours) > 1:
        _, path = librosa.sequence.dtw(*contours, backtrack=True)
        found["f0corr"] = float(np.corrcoef(contours[0][path[:, 0]], contours[1][path[:, 1]])[0, 1])
    found["sdr"] = float(10 * np.log10((reference**2).sum() / ((reference - other) ** 2).sum()))
    return found


def ours(pairs: list[Pair], workers: int) -> list[dict[str, float]]:
    from llmcodec.evaluation.workers import ClipRow, Job, measure_jobs
    from llmcodec.metrics.registry import SUPERB

    jobs = (Job(str(i), ClipRow(str(i)), a, b, RATE, SUPERB) for i, (a, b) in enumerate(pairs))
    rows = dict(measure_jobs(jobs, workers))
    return [
        {name: float("nan") if m.value is None else m.value for name, m in rows[str(i)].metrics.items()}
        for i in range(len(pairs))
    ]


def load_pairs(count: int, cache: str | None) -> list[Pair]:
    if cache is None or not os.path.exists(cache):
        pairs = make_pairs(count)
        if cache is not None:
            np.savez(cache, **{f"{i}_{k}": pair[k] for i, pair in enumerate(pairs) for k in (0, 1)})
        return pairs
    kept = np.load(cache)
    return [(kept[f"{i}_0"], kept[f"{i}_1"]) for i in range(count)]


def main() -> None:
    args = options(
        __doc__,
        clips=200,
        rounds=3,
        workers=2,
        cache=(None, "keep the pairs in this .npz file, so that a busy machine makes them earlier"),
    )
    pairs = load_pairs(args.clips, args.cache)
    seconds = sum(a.size for a, _ in pairs) / RATE
    print(f"{len(pairs)} clips, {seconds:.0f} s of speech, {args.workers} processes, {os.cpu_count()} cores")
    published(*pairs[0])  # imports and librosa's compilation are not timed; our processes start inside the clock
    ways = {
        "published": lambda: timed(lambda: [published(*pair) for pair in pairs]),
        "ours": lambda: timed(lambda: ours(pairs, args.workers)),
    }
    rounds = take_turns(ways, args.rounds)
    times = {name: [spent.wall for spent in found] for name, found in rounds.items()}
    cpu = {"published": statistics.median(spent.process for spent in rounds["published"])}
    cpu["ours"] = timed(lambda: ours(pairs, 0)).process
    theirs, mine = (rounds[name][-1].result for name in ways)
    for name, values in times.items():
        median = statistics.median(values)
        print(
            f"{name:10} median {median:6.2f} s ({1000 * median / len(pairs):.1f} ms a clip; rounds: "
            f"{', '.join(f'{value:.2f}' for value in values)}); processor time {cpu[name]:.2f} s"
        )
    ratios = [a / b for a, b in zip(times["published"], times["ours"], strict=True)]
    print(f"ratio      median {statistics.median(ratios):.2f} ({', '.join(f'{r:.2f}' for r in ratios)})")
    for name in theirs[0]:
        a, b = (np.array([row[name] for row in rows]) for rows in (theirs, mine))
        both = np.isfinite(a) & np.isfinite(b)
        print(
            f"{name:7} largest difference {np.abs(a - b)[both].max():.1e} on {both.sum()} clips; "
            f"refused by them {int((~np.isfinite(a)).sum())}, by us {int((~np.isfinite(b)).sum())}"
        )


if __name__ == "__main__":
    main()
