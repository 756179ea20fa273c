"""How fast a codec encodes: seconds of audio in a second, one clip at a time, one thread.

Test: tests/experiments/test_protocol.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from statistics import median

import torch

from llmcodec.data.manifest import Clip
from llmcodec.evaluation.encoded_corpus import EncodedCorpus


def encoding_speed(encoded: EncodedCorpus, clips: Sequence[Clip]) -> float:
    """Median over the clips of how many times faster than real time each is encoded, on one thread of the CPU.

    Args:
        encoded: the codec; it encodes again what it has encoded.
        clips: the first is encoded once more, before the clock starts.
    """
    wavs = [encoded.wav(clip) for clip in clips]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        encoded.runtime.encode_batch(wavs[:1])
        speeds = []
        for wav_S in wavs:
            start = time.perf_counter()
            encoded.runtime.encode_batch([wav_S])
            speeds.append(len(wav_S) / encoded.codec.sample_rate / (time.perf_counter() - start))
    finally:
        torch.set_num_threads(threads)
    return median(speeds)
