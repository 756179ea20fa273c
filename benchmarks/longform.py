"""Long files and streams: peak memory over the length, seams of global attention, cost of a live stream.

    python benchmarks/longform.py memory --codec tiny --minutes 10 60 180
    python benchmarks/longform.py memory --codec tiny --minutes 180 --precision fp32    # packed, as the commands run it
    python benchmarks/longform.py memory --codec auv --minutes 1 3
    python benchmarks/longform.py memory --codec tiny --minutes 10 60 --chunk-seconds 0     # the whole clip at once
    python benchmarks/longform.py seams --codec windowless --seconds 60
    python benchmarks/longform.py seams --codec auv --seconds 40
    python benchmarks/longform.py stream

`memory` codes a wav file of that length (the bundled speech, repeated) to tokens and back to a wav file in a process of
its own and reads that process's peak resident memory; the first row is the same process on one second. With chunks of
0 s it calls `codec.encode` and `codec.decode` once, and gives the peak after each. `seams` compares
chunked with whole on the bundled speech: share of equal tokens, and decoder SNR on the whole clip's tokens, over chunk
length and look-ahead, overall and within 0.5 s of a seam. `windowless` is the bundled codec without its attention
window, a trained stand-in for global attention; `auv` is the published configuration with random weights.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import memory_mb, new_parser, report, result_of, snr_db, speech
from torch import Tensor

from llmcodec import assets
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks
from llmcodec.codec.streaming.latency import CHUNK_SECONDS
from llmcodec.io import audio

SEAM_SECONDS = 0.5


def make_codec(name: str) -> LLMCodec:
    """`tiny` as bundled, `windowless`: the same without attention window, `auv` and `causal_tiny`: random weights."""
    torch.manual_seed(0)
    if name in ("auv", "causal_tiny"):
        return LLMCodec(LLMCodecConfig.auv() if name == "auv" else LLMCodecConfig.causal_tiny()).eval()
    codec = LLMCodec.from_pretrained(assets.codec_folder()).eval()
    if name == "tiny":
        return codec
    windowless = LLMCodec(LLMCodecConfig.from_dict(codec.config.to_dict() | {"attention_window": None})).eval()
    windowless.load_state_dict(codec.state_dict())
    return windowless


def code_file(name: str, source: str, chunk_seconds: float, precision: str) -> None:
    """In a process of its own: file -> tokens -> file; reports frames, seconds and peak megabytes."""
    codec, frames = make_codec(name), 0
    if precision != "plain":
        codec = optimize_for_inference(codec, precision, consume=True)
    start, processor = time.perf_counter(), time.process_time()
    if chunk_seconds:
        blocks = audio.iterate(source, codec.sample_rate)
        with audio.AudioWriter(source + ".out.wav", codec.sample_rate) as out:
            for wav in decode_blocks(codec, encode_blocks(codec, blocks, chunk_seconds), chunk_seconds=chunk_seconds):
                out.write(wav.numpy())
                frames += len(wav) // codec.hop_samples
        peak = f"{memory_mb('VmHWM'):.0f}"
    else:
        frames, peak = code_whole(codec, torch.from_numpy(audio.load(source, codec.sample_rate)))
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    report({"frames": frames, "seconds": seconds, "processor": processor, "peak": peak})


def code_whole(codec: LLMCodec, wav: Tensor) -> tuple[int, str]:
    """Frames, and peak megabytes after `encode` and after `decode`."""
    codes = codec.encode(wav[None, None]).audio_codes
    encoded = memory_mb("VmHWM")
    codec.decode(codes, length=len(wav))
    return codes.shape[-1], f"{encoded:.0f}/{memory_mb('VmHWM'):.0f}"


def memory(name: str, minutes: list[float], chunk_seconds: float, folder: str | None, precision: str) -> None:
    chunks = f"chunks of {chunk_seconds:g} s" if chunk_seconds else "whole, peaks of encode/decode"
    print(f"{name}, {precision}, {chunks}, {torch.get_num_threads()} thread(s)")
    print(f"{'audio':>10} {'frames':>9} {'seconds':>9} {'CPU s':>8} {'CPU s / audio s':>16} {'peak MB':>11}")
    for length in (1.0, *(60.0 * m for m in minutes)):
        with tempfile.TemporaryDirectory(dir=folder) as place:
            path = Path(place) / "long.wav"
            with audio.AudioWriter(path, 16000) as writer:
                for wav in speech(length):
                    writer.write(wav)
            command = [__file__, "code_file", "--codec", name, "--source", str(path)]
            command += ["--chunk-seconds", str(chunk_seconds), "--precision", precision]
            row = result_of(command)
            times = f"{row['seconds']:>9.1f} {row['processor']:>8.1f} {row['processor'] / length:>16.4f}"
            print(f"{length:>8.0f} s {row['frames']:>9} {times} {row['peak']:>11}", flush=True)


def near_a_seam(size: int, chunk: int, reach: int) -> Tensor:
    """True within `reach` of a multiple of `chunk` inside (0, size)."""
    position = torch.arange(size)
    distance = torch.minimum(position % chunk, chunk - position % chunk)
    return (distance < reach) & (position >= chunk - reach) & (position < (size - 1) // chunk * chunk + reach)


@torch.no_grad()
def seams(name: str, seconds: float, chunks: list[float], lookaheads: list[float]) -> None:
    codec, wav = make_codec(name), torch.from_numpy(np.concatenate(list(speech(seconds))))
    codes = codec.encode(wav[None, None]).audio_codes[0]
    sound = codec.decode(codes[None], length=len(wav)).audio_values[0, 0]
    print(f"{name}, {seconds:g} s of the bundled speech, context behind each chunk and 5 s before it")
    print(f"{'chunk':>7} {'look-ahead':>10} {'equal tokens':>13} {'near seams':>11} {'SNR dB':>8} {'near seams':>11}")
    for chunk, ahead in itertools.product(chunks, lookaheads):
        got = torch.cat(list(encode_blocks(codec, [wav], chunk, lookahead_seconds=ahead)), dim=-1)
        heard = torch.cat(list(decode_blocks(codec, [codes], len(wav), chunk, lookahead_seconds=ahead)))
        frames = near_a_seam(codes.shape[-1], round(chunk * codec.frame_rate), round(SEAM_SECONDS * codec.frame_rate))
        samples = near_a_seam(len(wav), round(chunk * 16000), round(SEAM_SECONDS * 16000))
        same = (got == codes)[0].float()
        print(
            f"{chunk:>5g} s {ahead:>8g} s {float(same.mean()):>13.4f} {float(same[frames].mean()):>11.4f} "
            f"{snr_db(sound, heard):>8.1f} {snr_db(sound[samples], heard[samples]):>11.1f}",
            flush=True,
        )


def stream(seconds: float) -> None:
    """Processor time of live streaming, block by block, against whole clips."""
    wav = torch.from_numpy(np.concatenate(list(speech(seconds))))
    print(f"{'codec':>12} {'chunk':>8} {'round trip':>11} {'encode, CPU s / audio s':>24} {'decode':>8}")
    for name, chunk in (("causal_tiny", None), ("causal_tiny", 0.1), ("tiny", 1.0), ("tiny", 0.2)):
        codec = make_codec(name)
        with codec.streaming(chunk) as live:
            start = time.process_time()
            codes = torch.cat([live.encode(block) for block in wav.split(320)] + [live.finish_encode()], dim=-1)
            middle = time.process_time()
            _ = [live.decode(code) for code in codes.split(1, dim=-1)] + [live.finish_decode()]
            end = time.process_time()
        frames = live.encoder.plan.chunk_frames
        print(
            f"{name:>12} {frames / codec.frame_rate:>6g} s {live.latency.round_trip_seconds:>9.2f} s "
            f"{(middle - start) / seconds:>24.4f} {(end - middle) / seconds:>8.4f}",
            flush=True,
        )


if __name__ == "__main__":
    parser = new_parser(__doc__)
    parser.add_argument("what", choices=["memory", "seams", "stream", "code_file"])
    parser.add_argument("--codec", choices=["tiny", "windowless", "auv", "causal_tiny"], default="tiny")
    parser.add_argument("--minutes", type=float, nargs="+", default=[10, 60])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--chunks", type=float, nargs="+", default=[10, 30], help="seams: seconds per chunk")
    parser.add_argument("--lookaheads", type=float, nargs="+", default=[0, 0.5, 1, 2, 5], help="seams: seconds behind")
    parser.add_argument("--chunk-seconds", type=float, default=CHUNK_SECONDS, help="memory: seconds, 0: whole")
    parser.add_argument("--precision", default="plain", help="memory: plain, or one of optimize_for_inference")
    parser.add_argument("--folder", help="memory: where the long files may lie (default: the temporary folder)")
    parser.add_argument("--source", help="used by `memory` itself")
    arguments = parser.parse_args()
    if arguments.what == "memory":
        memory(arguments.codec, arguments.minutes, arguments.chunk_seconds, arguments.folder, arguments.precision)
    elif arguments.what == "seams":
        seams(arguments.codec, arguments.seconds, arguments.chunks, arguments.lookaheads)
    elif arguments.what == "stream":
        stream(arguments.seconds)
    else:
        code_file(arguments.codec, arguments.source, arguments.chunk_seconds, arguments.precision)
