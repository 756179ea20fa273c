"""Time and parameters of the grouped multi-scale discriminator against one without groups.

    python benchmarks/discriminators.py [--batch 2] [--seconds 1] [--repeats 1] [--bf16]

The peer has the layer table of the public LLM-Codec reference (github.com/voidful/llm-codec): plain convolutions, 101 M
parameters. Measured: one forward and backward pass over real and fake windows together, as in a discriminator's step.
The last lines give the small discriminators of recipes/base_tiny.yaml for comparison.
"""

from __future__ import annotations

import argparse
import time

import torch
from torch import nn

from llmcodec.objectives.discriminators import (
    MPDConfig,
    MSDConfig,
    MultiPeriodDiscriminator,
    MultiResolutionSTFTDiscriminator,
    MultiScaleDiscriminator,
    STFTDiscriminatorConfig,
)

UNGROUPED = MSDConfig(
    channels=(64, 128, 256, 512, 1024, 1024),
    kernel_sizes=(15, 41, 41, 41, 41, 5),
    strides=(1, 2, 2, 2, 2, 1),
    groups=(1,) * 6,
)


def seconds_per_pass(net: nn.Module, wav_BS: torch.Tensor, repeats: int, bf16: bool) -> float:
    """Best of `repeats` forward and backward passes after a short one that fills caches."""
    best = float("inf")
    for window_BS in [wav_BS[:, :512]] + [wav_BS] * repeats:
        net.zero_grad(set_to_none=True)
        start = time.perf_counter()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits, _ = net(window_BS)
        torch.stack([x.float().mean() for x in logits]).sum().backward()
        if window_BS is wav_BS:
            best = min(best, time.perf_counter() - start)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--batch", type=int, default=2, help="clips (real and fake each)")
    parser.add_argument("--seconds", type=float, default=1.0, help="window length at 16 kHz")
    parser.add_argument("--repeats", type=int, default=1, help="passes, of which the fastest counts")
    parser.add_argument("--bf16", action="store_true", help="bf16 autocast")
    arguments = parser.parse_args()
    torch.manual_seed(0)
    wav_BS = 0.1 * torch.randn(2 * arguments.batch, round(16_000 * arguments.seconds))
    nets = {
        "MSD, grouped": MultiScaleDiscriminator(MSDConfig()),
        "MSD, no groups (peer)": MultiScaleDiscriminator(UNGROUPED),
        "MPD": MultiPeriodDiscriminator(MPDConfig()),
        "MPD, small": MultiPeriodDiscriminator(MPDConfig(width=1 / 8)),
        "STFT, small": MultiResolutionSTFTDiscriminator(STFTDiscriminatorConfig(n_ffts=(1024, 256), channels=8)),
    }
    print(f"{arguments.batch} x {arguments.seconds:g} s, real and fake, {torch.get_num_threads()} threads")
    times, sizes = {}, {}
    for name, net in nets.items():
        times[name] = seconds_per_pass(net, wav_BS, arguments.repeats, arguments.bf16)
        sizes[name] = sum(p.numel() for p in net.parameters()) / 1e6
        print(f"{name:24s} {sizes[name]:8.2f} M parameters {times[name]:8.2f} s forward + backward", flush=True)
    ours, peer = "MSD, grouped", "MSD, no groups (peer)"
    print(f"peer / grouped: time x {times[peer] / times[ours]:.2f}, parameters x {sizes[peer] / sizes[ours]:.2f}")


if __name__ == "__main__":
    main()
