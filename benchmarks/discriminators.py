"""Time and parameters of the grouped multi-scale discriminator against one without groups.

    python benchmarks/discriminators.py [--batch 2] [--seconds 1] [--repeats 1] [--bf16]

The peer has the layer table of the public LLM-Codec reference (github.com/voidful/llm-codec): plain convolutions, 101 M
parameters. Measured: one forward and backward pass over real and fake windows together, as in a discriminator's step.
The last lines give the small discriminators of recipes/base_tiny.yaml for comparison.
"""

from __future__ import annotations

import torch
from bench import RATE, fastest, options
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

    def both_passes(window_BS: torch.Tensor) -> None:
        net.zero_grad(set_to_none=True)
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=bf16):
            logits, _ = net(window_BS)
        torch.stack([x.float().mean() for x in logits]).sum().backward()

    both_passes(wav_BS[:, :512])
    return fastest(lambda: both_passes(wav_BS), repeats).wall


def main() -> None:
    args = options(
        __doc__,
        batch=(2, "clips (real and fake each)"),
        seconds=(1.0, "window length at 16 kHz"),
        repeats=(1, "passes, of which the fastest counts"),
        bf16=(False, "bf16 autocast"),
    )
    torch.manual_seed(0)
    wav_BS = 0.1 * torch.randn(2 * args.batch, round(RATE * args.seconds))
    nets = {
        "MSD, grouped": MultiScaleDiscriminator(MSDConfig()),
        "MSD, no groups (peer)": MultiScaleDiscriminator(UNGROUPED),
        "MPD": MultiPeriodDiscriminator(MPDConfig()),
        "MPD, small": MultiPeriodDiscriminator(MPDConfig(width=1 / 8)),
        "STFT, small": MultiResolutionSTFTDiscriminator(STFTDiscriminatorConfig(n_ffts=(1024, 256), channels=8)),
    }
    print(f"{args.batch} x {args.seconds:g} s, real and fake, {torch.get_num_threads()} threads")
    times, sizes = {}, {}
    for name, net in nets.items():
        times[name] = seconds_per_pass(net, wav_BS, args.repeats, args.bf16)
        sizes[name] = sum(p.numel() for p in net.parameters()) / 1e6
        print(f"{name:24s} {sizes[name]:8.2f} M parameters {times[name]:8.2f} s forward + backward", flush=True)
    ours, peer = "MSD, grouped", "MSD, no groups (peer)"
    print(f"peer / grouped: time x {times[peer] / times[ours]:.2f}, parameters x {sizes[peer] / sizes[ours]:.2f}")


if __name__ == "__main__":
    main()
