"""Long files and streams: peak memory over the length, seams of global attention, cost of a live stream.

    python benchmarks/longform.py memory --codec bundled --minutes 10 60 180
    python benchmarks/longform.py memory --codec bundled --minutes 180 --precision fp32    # packed, as commands run it
    python benchmarks/longform.py memory --codec auv --minutes 1 3
    python benchmarks/longform.py memory --codec bundled --minutes 10 60 --chunk-seconds 0     # the whole clip at once
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

import argparse
import itertools
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from bench import RATE, in_process, memory_mb, options, report, snr_db, speech, timed
from torch import Tensor

from llmcodec import assets
from llmcodec.codec import LLMCodec, LLMCodecConfig
from llmcodec.codec.fast.engine import optimize_for_inference
from llmcodec.codec.streaming.blocks import decode_blocks, encode_blocks
from llmcodec.codec.streaming.latency import CHUNK_SECONDS
from llmcodec.io import audio

SEAM_SECONDS = 0.5


def make_codec(name: str) -> LLMCodec:
    """`bundled`, `causal_base`; `windowless`: bundled without attention window, `auv`: random weights."""
    torch.manual_seed(0)
    if name == "auv":
        return LLMCodec(LLMCodecConfig.auv()).eval()
    if name in assets.CODECS:
        return LLMCodec.from_pretrained(name).eval()
    codec = LLMCodec.from_pretrained(assets.codec_folder()).eval()
    windowless = LLMCodec(LLMCodecConfig.from_dict(codec.config.to_dict() | {"attention_window": None})).eval()
    windowless.load_state_dict(codec.state_dict())
    return windowless


def code_file(source: str, args: argparse.Namespace) -> None:
    """In a process of its own: file -> tokens -> file; reports frames, seconds and peak megabytes."""
    codec, seconds = make_codec(args.codec), args.chunk_seconds
    if args.precision != "plain":
        codec = optimize_for_inference(codec, args.precision, consume=True)
    code = partial(code_in_chunks, codec, source, seconds) if seconds else partial(code_whole, codec, source)
    wall, processor, (frames, peak) = timed(code)
    report({"frames": frames, "seconds": wall, "processor": processor, "peak": peak})


def code_in_chunks(codec: LLMCodec, source: str, chunk_seconds: float) -> tuple[int, str]:
    """Frames, and peak megabytes."""
    frames, blocks = 0, audio.iterate(source, codec.sample_rate)
    with audio.AudioWriter(source + ".out.wav", codec.sample_rate) as out:
        for wav in decode_blocks(codec, encode_blocks(codec, blocks, chunk_seconds), chunk_seconds=chunk_seconds):
            out.write(wav.numpy())
            frames += len(wav) // codec.hop_samples
    return frames, f"{memory_mb('VmHWM'):.0f}"


def code_whole(codec: LLMCodec, source: str) -> tuple[int, str]:
    """Frames, and peak megabytes after `encode` and after `decode`."""
    wav = torch.from_numpy(audio.load(source, codec.sample_rate))
    codes = codec.encode(wav[None, None]).audio_codes
    encoded = memory_mb("VmHWM")
    codec.decode(codes, length=len(wav))
    return codes.shape[-1], f"{encoded:.0f}/{memory_mb('VmHWM'):.0f}"


def memory(args: argparse.Namespace) -> None:
    chunks = f"chunks of {args.chunk_seconds:g} s" if args.chunk_seconds else "whole, peaks of encode/decode"
    print(f"{args.codec}, {args.precision}, {chunks}, {torch.get_num_threads()} thread(s)")
    print(f"{'audio':>10} {'frames':>9} {'seconds':>9} {'CPU s':>8} {'CPU s / audio s':>16} {'peak MB':>11}")
    for length in (1.0, *(60.0 * m for m in args.minutes)):
        with tempfile.TemporaryDirectory(dir=args.folder) as place:
            path = Path(place) / "long.wav"
            with audio.AudioWriter(path, RATE) as writer:
                for wav in speech(length):
                    writer.write(wav)
            said = ("--codec", args.codec, "--chunk-seconds", args.chunk_seconds, "--precision", args.precision)
            row = in_process("longform.py", path, *said)
        print(
            f"{length:>8.0f} s {row['frames']:>9} {row['seconds']:>9.1f} {row['processor']:>8.1f} "
            f"{row['processor'] / length:>16.4f} {row['peak']:>11}",
            flush=True,
        )


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
        samples = near_a_seam(len(wav), round(chunk * RATE), round(SEAM_SECONDS * RATE))
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
    for name, chunk in (
        ("causal_base", None),
        ("causal_base", 0.04),
        ("causal_base", 0.1),
        ("bundled", 1.0),
        ("bundled", 0.2),
    ):
        codec = make_codec(name)
        with codec.streaming(chunk) as live:
            encoding = timed(lambda live=live: [*map(live.encode, wav.split(320)), live.finish_encode()])
            codes = torch.cat(encoding.result, dim=-1).split(1, dim=-1)
            decoding = timed(lambda live=live, codes=codes: [*map(live.decode, codes), live.finish_decode()])
        seconds_per_chunk = live.encoder.plan.chunk_frames / codec.frame_rate
        print(
            f"{name:>12} {seconds_per_chunk:>6g} s {live.latency.round_trip_seconds:>9.2f} s "
            f"{encoding.process / seconds:>24.4f} {decoding.process / seconds:>8.4f}",
            flush=True,
        )


def main() -> None:
    args = options(
        __doc__,
        "what",
        codec=("bundled", "whose model", ("bundled", "causal_base", "windowless", "auv")),
        minutes=[10.0, 60.0],
        seconds=60.0,
        chunks=([10.0, 30.0], "seams: seconds per chunk"),
        lookaheads=([0.0, 0.5, 1.0, 2.0, 5.0], "seams: seconds behind"),
        chunk_seconds=(CHUNK_SECONDS, "memory: seconds, 0: whole"),
        precision=("plain", "memory: plain, or one of optimize_for_inference"),
        folder=(None, "memory: where the long files may lie (default: the temporary folder)"),
    )
    if args.what == "memory":
        memory(args)
    elif args.what == "seams":
        seams(args.codec, args.seconds, args.chunks, args.lookaheads)
    elif args.what == "stream":
        stream(args.seconds)
    elif Path(args.what).is_file():  # how `memory` calls itself
        code_file(args.what, args)
    else:
        raise SystemExit(f"{args.what}: choose memory, seams or stream")


if __name__ == "__main__":
    main()
