"""PESQ's time alignment: which stretches of the reference are speech, and how late each is in the other signal.

ITU-T P.862, section 10.1, after the package `pesq`. First the delay of each utterance; then long utterances are tried
at up to 40 breakpoints: an utterance is split where both sides are more confident of their own, different delays.
Shapes: S samples of the padded signals (`tables`), B breakpoints. Positions without a unit in their name are windows of
4 ms; delays are samples, positive where the second signal is late. Test: tests/metrics/test_pesq.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from llmcodec.metrics.pesq.activity import activity, stretches, telephone_band
from llmcodec.metrics.pesq.delays import FRAME, HOP, Signals, envelope_delays, find_lags
from llmcodec.metrics.pesq.tables import MARGIN, MARGIN_WINDOWS, WINDOW

SHORTEST_UTTERANCE, SHORTEST_SPLIT = 50, 200
MAX_BREAKPOINTS, MAX_UTTERANCES = 40, 50


@dataclass(frozen=True)
class Utterance:
    """A stretch of the reference, in windows, and the delay of the other signal there, in samples."""

    start: int
    end: int
    estimate: int
    """Delay from the envelopes only, a multiple of the window."""
    delay: int
    confidence: float
    """Share of the frames' votes for this delay, 0 .. 1."""


def find_utterances(pair_2S: np.ndarray) -> list[Utterance]:
    """Utterances of the reference (first row) in order, none if nothing is long enough. Without the tail."""
    filtered_2S = telephone_band(pair_2S)
    (reference_W, loudness_W), (_, other_W) = (activity(wav_S) for wav_S in filtered_2S)
    signals = Signals(filtered_2S, np.stack([loudness_W, other_W]), stretches(reference_W > 0))
    crude = int(envelope_delays(signals, np.array([0]), np.array([signals.num_windows]), 0)[0])
    speech = [(start, end) for start, end in signals.speech if _is_utterance(signals, start, end, crude)]
    found = [_locate(signals, start, end, crude) for start, end in speech]
    return _split_all(signals, _join_ends(signals, found)) if found else []


def _is_utterance(signals: Signals, start: int, end: int, crude: int) -> bool:
    """At least 0.2 s long and, delayed, not outside of the other signal."""
    first = SHORTEST_UTTERANCE - crude // WINDOW
    last = (signals.pair_2S.shape[1] - crude) // WINDOW - SHORTEST_UTTERANCE
    return end - start >= SHORTEST_UTTERANCE and start < last and end > first


def _locate(signals: Signals, start: int, end: int, crude: int) -> Utterance:
    """The delay of one stretch of speech, searched with 0.3 s more on both sides."""
    first, last = max(0, start - MARGIN_WINDOWS), min(end + MARGIN_WINDOWS, signals.num_windows - 1)
    estimate_1 = envelope_delays(signals, np.array([first]), np.array([last]), crude)
    (delay,), (confidence,) = _delays(signals, first, np.array([last]), estimate_1, 1)
    return Utterance(start, end, int(estimate_1[0]), int(delay), float(confidence))


def _join_ends(signals: Signals, found: list[Utterance]) -> list[Utterance]:
    """Extend utterances to the middle of the gaps between them, without overlap in the other signal."""
    num_samples = signals.pair_2S.shape[1]
    starts = [utterance.start for utterance in found]
    ends = [utterance.end for utterance in found]
    starts[0], ends[-1] = MARGIN_WINDOWS, signals.num_windows - MARGIN_WINDOWS
    for i in range(1, len(found)):
        starts[i] = ends[i - 1] = (starts[i] + ends[i - 1]) // 2
    delays = [utterance.delay for utterance in found]
    starts[0] = _first_start(starts[0], delays[0])
    ends[-1] = _last_end(ends[-1], delays[-1], num_samples)
    for i in range(1, len(found)):
        start, end = starts[i] * WINDOW + delays[i], ends[i - 1] * WINDOW + delays[i - 1]
        if start < end:
            middle = int((start + end) / 2)  # towards zero, as in C
            starts[i] = int((WINDOW - 1 + middle - delays[i]) / WINDOW)
            ends[i - 1] = int((middle - delays[i - 1]) / WINDOW)
    return [replace(u, start=a, end=b) for u, a, b in zip(found, starts, ends, strict=True)]


def _first_start(start: int, delay: int) -> int:
    """Not before the other signal begins."""
    if start * WINDOW + delay >= MARGIN:
        return start
    return MARGIN_WINDOWS + int((WINDOW - 1 - delay) / WINDOW)


def _last_end(end: int, delay: int, num_samples: int) -> int:
    """Not after the other signal ends."""
    if end * WINDOW + delay <= num_samples - MARGIN:
        return end
    return int((num_samples - delay) / WINDOW) - MARGIN_WINDOWS


def _split_all(signals: Signals, utterances: list[Utterance]) -> list[Utterance]:
    """Every utterance split as long as two delays explain it better than one, at most 50 in all."""
    done: list[Utterance] = []
    left = list(utterances)
    while left:
        halves = _split(signals, left[0]) if len(done) + len(left) < MAX_UTTERANCES else None
        if halves is None:
            done.append(left.pop(0))
        else:
            left[:1] = halves
    return done


def _split(signals: Signals, whole: Utterance) -> list[Utterance] | None:
    """The two utterances at the breakpoint whose sides agree best on their delays, or None."""
    speech = [(max(a, whole.start), min(b, whole.end + 1)) for a, b in signals.speech]
    speech = [(a, b) for a, b in speech if b > a]
    if not speech or speech[-1][1] - speech[0][0] < SHORTEST_SPLIT:
        return None
    break_B = _breakpoints(speech[0][0], speech[-1][1])
    start_B, end_B = np.full_like(break_B, whole.start), np.full_like(break_B, whole.end)
    estimate_before_B = envelope_delays(signals, start_B, break_B, whole.estimate)
    delay_before_B, sure_before_B = _delays(signals, whole.start, break_B, estimate_before_B, 1)
    hopeful_B = sure_before_B > whole.confidence
    if not hopeful_B.any():
        return None
    break_B, end_B, estimate_before_B = break_B[hopeful_B], end_B[hopeful_B], estimate_before_B[hopeful_B]
    delay_before_B, sure_before_B = delay_before_B[hopeful_B], sure_before_B[hopeful_B]
    estimate_after_B = envelope_delays(signals, break_B, end_B, whole.estimate)
    delay_after_B, sure_after_B = _delays(signals, whole.end, break_B, estimate_after_B, -1)
    good_B = (sure_after_B > whole.confidence) & (np.abs(delay_after_B - delay_before_B) >= WINDOW)
    if not good_B.any():
        return None
    best = int(np.where(good_B, sure_before_B + sure_after_B, -1).argmax())
    at, before, after = int(break_B[best]), int(delay_before_B[best]), int(delay_after_B[best])
    half = max(0, (after - before) // (2 * WINDOW))  # a later second part leaves a hole: both reach into it
    num_samples = signals.pair_2S.shape[1]
    start, end = _first_start(whole.start, before), _last_end(whole.end, after, num_samples)
    return [
        Utterance(start, at + half, int(estimate_before_B[best]), before, float(sure_before_B[best])),
        Utterance(at - half, end, int(estimate_after_B[best]), after, float(sure_after_B[best])),
    ]


def _breakpoints(start: int, end: int) -> np.ndarray:
    """Up to 40 places between the two ends of the speech, at least 0.3 s or a tenth of it away from them."""
    length, grid = end - start, FRAME // (4 * WINDOW)
    step = int((0.801 * length + 40 * grid - 1) / (40 * grid)) * grid
    pad = max(75, length // 10)
    return np.arange(start + pad, max(end - pad, start + pad) + 1, step)[:MAX_BREAKPOINTS]


def _delays(
    signals: Signals, edge: int, break_B: np.ndarray, estimate_B: np.ndarray, step: int
) -> tuple[np.ndarray, np.ndarray]:
    """Delay and confidence of what lies between an edge and every breakpoint.

    Args:
        signals: both signals.
        edge: where frames begin, in windows.
        break_B: breakpoints in windows, ascending.
        estimate_B: delays by the envelopes, in samples.
        step: 1 takes frames from the edge on, -1 backwards from it.
    """
    delay_B, sure_B = estimate_B.copy(), np.zeros(break_B.size)
    for estimate in set(estimate_B.tolist()):
        same_B = estimate_B == estimate
        lowest, highest = -estimate, signals.pair_2S.shape[1] - estimate
        if step > 0:
            first = max(edge * WINDOW, lowest)
            room_B = np.minimum(break_B[same_B] * WINDOW, highest) - FRAME - first
        else:
            first = min(edge * WINDOW, highest) - FRAME
            room_B = first - np.maximum(break_B[same_B] * WINDOW, lowest)
        num_frames_B = np.maximum(0, room_B // HOP + 1)
        lag_B, share_B = find_lags(signals, first, step, num_frames_B[::step], estimate)
        delay_B[same_B] += lag_B[::step]
        sure_B[same_B] = share_B[::step]
    return delay_B, sure_B
