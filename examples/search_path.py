"""What searches save and cost beside nearest codes, without listening or with a language model: bits, Mel, CPU seconds.

    python examples/search_path.py --manifest tuning.jsonl --clips 60

Bits are of the bundled token LM (4.7 M), which has learnt nearest codes and takes no part in search; Mel is
search's own distance.
Results: docs/results/search_effort.md.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from llmcodec.adapters.load import load_codec
from llmcodec.codec.mel_distance import MelDistance
from llmcodec.data.manifest import read_manifest
from llmcodec.lm.token_lm import load_token_lm

SEARCHES = [
    *(f"search@{weight}:bundled?effort=path" for weight in (0.05, 0.1, 0.2, 0.3)),
    *(
        f"search@{weight}:bundled?effort={effort}{lm}"
        for effort in ("fast", "thorough")
        for weight in (0.05, 0.1, 0.2)
        for lm in ("", ",lm")
    ),
]
DELAYS = (0, 1, 2, 4, 8)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--manifest", required=True, help="clips that nothing was fitted to")
    parser.add_argument("--clips", type=int, default=60, help="the first ones")
    args = parser.parse_args()
    torch.set_num_threads(1)
    codec: Any = load_codec("bundled")
    scorer = load_token_lm("bundled")
    distance = MelDistance(codec.sample_rate, codec.hop_samples, codec.device)
    wavs = [torch.from_numpy(clip.load(codec.sample_rate)) for clip in read_manifest(args.manifest)[: args.clips]]
    seconds = sum(map(len, wavs)) / codec.sample_rate
    nearest: list[Tensor] = []

    def row(name: str, encode: Callable[[Tensor], Tensor]) -> list[Tensor]:
        started = time.process_time()
        codes = [encode(wav) for wav in wavs]
        spent = time.process_time() - started
        bits = -sum(float(nats.sum()) for nats in scorer.token_log_likelihoods(codes)) / np.log(2) / seconds
        mels = []
        for codes_T, wav in zip(codes, wavs, strict=True):
            samples = len(codes_T) * codec.hop_samples
            heard = codec.decode(codes_T[None, None]).audio_values[:, 0, :samples]
            mels.append(float(distance(heard, distance.reference(F.pad(wav, (0, samples - len(wav)))[None])).mean()))
        same = torch.cat([a == b for a, b in zip(codes, nearest or codes, strict=True)]).float().mean()
        print(f"{name:16} {bits:7.1f} bit/s  mel {np.mean(mels):.4f}  {spent:6.2f} s  {same:4.0%} nearest", flush=True)
        return codes

    with torch.inference_mode():
        nearest += row("nearest", lambda wav: codec.encode(wav[None, None]).audio_codes[0, 0])
        for name in SEARCHES:
            one: Any = load_codec(name)
            row(
                name.replace("search@", "").replace(":bundled?effort=", " "),
                lambda wav, one=one: one.encode(wav[None, None]).audio_codes[0, 0],
            )
        searching: Any = load_codec("search:bundled?effort=path")

        def live(wav: Tensor, delay: int) -> Tensor:
            with searching.streaming(30.0, delay_frames=delay) as stream:
                return torch.cat([stream.encode(wav), stream.finish_encode()], dim=1)[0]

        for delay in DELAYS:
            row(f"delay {delay}", lambda wav, delay=delay: live(wav, delay))


if __name__ == "__main__":
    main()
