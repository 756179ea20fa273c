#!/usr/bin/env python3
"""ONNX Runtime beside torch on the bundled speech: equal tokens, waveform difference, processor seconds, int8.

    OMP_NUM_THREADS=1 python benchmarks/onnx_parity.py                       the bundled codec, all 191 clips
    OMP_NUM_THREADS=1 python benchmarks/onnx_parity.py --int8                also the graphs in int8
    OMP_NUM_THREADS=1 python benchmarks/onnx_parity.py --auv --clips 6       AUV's architecture with random weights

Times are processor seconds of the best of `--repeats` runs, so that other work on the machine counts little; ratios are
of the same run. Both sides run in float32 with the same number of threads; int8 is compared with the float32 graphs.
"""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from bench import RATE, fastest, options, snr_db, timed
from transformers.utils import logging as transformers_logging

from llmcodec import LLMCodec, LLMCodecConfig, assets
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.precision import SIDES
from llmcodec.runtime.export import write_onnx
from llmcodec.runtime.onnx_runtime import OnnxRuntime
from llmcodec.runtime.torch_runtime import TorchRuntime


class Compared(NamedTuple):
    """Processor seconds of both ways, tokens that differ, samples (S,) of every clip."""

    encode: float
    decode: float
    wrong: int
    made: list[np.ndarray]


def compare(runtime: OnnxRuntime, wavs: list[np.ndarray], expected: list[np.ndarray], repeats: int) -> Compared:
    """A runtime beside the codes of torch: its seconds, tokens that differ, samples made of torch's codes."""
    encoded = fastest(lambda: runtime.encode_batch(wavs), repeats)
    decoded = fastest(lambda: runtime.decode_batch(expected, [len(wav) for wav in wavs]), repeats)
    wrong = sum(int((a != b).sum()) for a, b in zip(encoded.result, expected, strict=True))
    return Compared(encoded.process, decoded.process, wrong, decoded.result)


def main() -> None:
    args = options(__doc__, clips=191, repeats=3, int8=False, auv=False)
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    codec = LLMCodec(LLMCodecConfig.auv()) if args.auv else LLMCodec.from_pretrained(assets.codec_folder())
    wavs = [audio.load(clip.path, RATE) for clip in read_manifest(assets.speech_manifest())[: args.clips]]
    lengths = [len(wav) for wav in wavs]
    reference = TorchRuntime(codec.eval(), "codec")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "fp32"
        folder.mkdir()
        exporting = timed(lambda: write_onnx(codec, "codec", folder, int8=SIDES if args.int8 else ())).process
        sizes = ", ".join(f"{path.name} {path.stat().st_size / 1e6:.1f}" for path in sorted(folder.glob("*.onnx")))
        print(f"{sum(lengths) / RATE:.0f} s of speech, {torch.get_num_threads()} thread(s)")
        print(f"export: {exporting:.1f} processor seconds, {sizes} MB")
        _, torch_encode, expected = fastest(lambda: reference.encode_batch(wavs), args.repeats)
        _, torch_decode, wanted = fastest(lambda: reference.decode_batch(expected, lengths), args.repeats)
        onnx = compare(OnnxRuntime(folder, precision="fp32"), wavs, expected, args.repeats)
        total = sum(codes.size for codes in expected)
        worst = max(float(np.abs(a - b).max()) for a, b in zip(onnx.made, wanted, strict=True))
        print(
            f"tokens: {1 - onnx.wrong / total:.4%} equal ({onnx.wrong} of {total:,} differ); "
            f"waveform: at most {worst:.1e} apart"
        )
        for side, ours, peer in (("encode", onnx.encode, torch_encode), ("decode", onnx.decode, torch_decode)):
            print(f"{side}: onnx {ours:.2f} s, torch {peer:.2f} s; x {peer / ours:.2f}")
        if args.int8:
            small = compare(OnnxRuntime(folder, precision="int8"), wavs, expected, args.repeats)
            noise = snr_db(np.concatenate(wanted), np.concatenate(small.made))
            print(
                f"int8: tokens {1 - small.wrong / total:.2%} equal, decoder {noise:.1f} dB; "
                f"against fp32 encode x {onnx.encode / small.encode:.2f}, decode x {onnx.decode / small.decode:.2f}"
            )


if __name__ == "__main__":
    main()
