#!/usr/bin/env python3
"""ONNX Runtime beside torch on the bundled speech: equal tokens, waveform difference, processor seconds, int8.

    OMP_NUM_THREADS=1 python benchmarks/onnx_parity.py                       the bundled codec, all 191 clips
    OMP_NUM_THREADS=1 python benchmarks/onnx_parity.py --int8                also with dynamic int8 quantisation
    OMP_NUM_THREADS=1 python benchmarks/onnx_parity.py --auv --clips 6       AUV's architecture with random weights

Times are processor seconds of the best of `--repeats` runs, so that other work on the machine counts little; ratios are
of the same run. Both sides run in float32 with the same number of threads.
"""

from __future__ import annotations

import logging
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import fastest, new_parser, snr_db
from transformers.utils import logging as transformers_logging

from llmcodec import LLMCodec, LLMCodecConfig, assets
from llmcodec.data.manifest import read_manifest
from llmcodec.io import audio
from llmcodec.runtime.export import write_onnx
from llmcodec.runtime.onnx_runtime import OnnxRuntime
from llmcodec.runtime.torch_runtime import TorchRuntime

# Products outside the conformer at the beginning and end of each graph: transforms, projections, code look-up.
ENDS = {"encoder.onnx": (3, 2), "decoder.onnx": (1, 3)}


def quantized(source: Path, target: Path, everything: bool) -> None:
    """Dynamic int8 copies of both graphs, all products or those of the conformer alone."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    for name, (first, last) in ENDS.items():
        model = onnx.load(source / name)
        constants = {one.name for one in model.graph.initializer}
        products = [n.name for n in model.graph.node if n.op_type == "MatMul" and n.input[1] in constants]
        quantize_dynamic(
            source / name,
            target / name,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=[] if everything else products[:first] + products[-last:],
        )
        small = onnx.load(target / name)
        if not small.metadata_props:
            small.metadata_props.extend(model.metadata_props)
        onnx.save(small, target / name)
    (target / "llmcodec_onnx.json").write_bytes((source / "llmcodec_onnx.json").read_bytes())


def share_equal(codes: list[np.ndarray], expected: list[np.ndarray]) -> tuple[int, int]:
    """Different tokens, and all of them."""
    pairs = list(zip(codes, expected, strict=True))
    return sum(int((a != b).sum()) for a, b in pairs), sum(b.size for b in expected)


def main() -> None:
    parser = new_parser(__doc__)
    parser.add_argument("--clips", type=int, default=191)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--int8", action="store_true")
    parser.add_argument("--auv", action="store_true")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    transformers_logging.disable_progress_bar()
    torch.manual_seed(0)
    codec = LLMCodec(LLMCodecConfig.auv()) if arguments.auv else LLMCodec.from_pretrained(assets.codec_folder())
    wavs = [audio.load(clip.path, 16000) for clip in read_manifest(assets.speech_manifest())[: arguments.clips]]
    lengths = [len(wav) for wav in wavs]
    reference = TorchRuntime(codec.eval(), "codec")
    repeats = arguments.repeats
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "fp32"
        folder.mkdir()
        start = time.process_time()
        write_onnx(codec, "codec", folder)
        sizes = " + ".join(f"{(folder / name).stat().st_size / 1e6:.1f}" for name in ENDS)
        print(f"{sum(lengths) / 16000:.0f} s of speech, {torch.get_num_threads()} thread(s)")
        print(f"export: {time.process_time() - start:.1f} processor seconds, {sizes} MB")
        runtime = OnnxRuntime(folder)
        onnx_encode, codes = fastest(lambda: runtime.encode_batch(wavs), repeats)
        torch_encode, expected = fastest(lambda: reference.encode_batch(wavs), repeats)
        onnx_decode, made = fastest(lambda: runtime.decode_batch(expected, lengths), repeats)
        torch_decode, wanted = fastest(lambda: reference.decode_batch(expected, lengths), repeats)
        wrong, total = share_equal(codes, expected)
        worst = max(float(np.abs(a - b).max()) for a, b in zip(made, wanted, strict=True))
        print(
            f"tokens: {1 - wrong / total:.4%} equal ({wrong} of {total:,} differ); waveform: at most {worst:.1e} apart"
        )
        print(f"encode: onnx {onnx_encode:.2f} s, torch {torch_encode:.2f} s; x {torch_encode / onnx_encode:.2f}")
        print(f"decode: onnx {onnx_decode:.2f} s, torch {torch_decode:.2f} s; x {torch_decode / onnx_decode:.2f}")
        for everything in (False, True) if arguments.int8 else ():
            target = Path(place) / f"int8-{everything}"
            target.mkdir()
            quantized(folder, target, everything)
            small = OnnxRuntime(target)
            encode, codes = fastest(lambda one=small: one.encode_batch(wavs), repeats)
            decode, made = fastest(lambda one=small: one.decode_batch(expected, lengths), repeats)
            wrong, _ = share_equal(codes, expected)
            noise = np.median([snr_db(a, b) for a, b in zip(wanted, made, strict=True)])
            what = "all products" if everything else "conformer only"
            print(
                f"int8, {what}: tokens {1 - wrong / total:.2%} equal, decoder {noise:.1f} dB; "
                f"against fp32 encode x {onnx_encode / encode:.2f}, decode x {onnx_decode / decode:.2f}"
            )


if __name__ == "__main__":
    main()
