"""Memory and time of bridge and prediction heads against dense implementations, measured in the same run.

    python benchmarks/bridge_memory.py [--batch 2 --frames 200 --codes 20480 --width 512 --heads 5]

The peers are what the released code of the paper does: a one-hot from torch's gumbel_softmax times the embedding
matrix, and one full (B, T, V) logit tensor with torch's cross-entropy per head. Peak memory counts every tensor alive
above what lived before the call, in units of one float32 tensor (B, T, V): "all" with the gradients of the parameters
(embedding rows, projection, heads), which must exist in any case, "work" without them. Times are of the processor, best
of several.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from bench import fastest, options
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from llmcodec.lm.prediction_heads import PredictionHeads
from llmcodec.objectives.bridge import Bridge, BridgeConfig
from llmcodec.objectives.prediction import PredictionConfig, head_weights, prediction_terms
from llmcodec.protocol import CodecEncoding


def peak_bytes(call: Callable[[], None]) -> int:
    """Largest sum of bytes allocated and not yet freed since the start of `call`."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    live = peak = 0
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


def main() -> None:
    args = options(__doc__, batch=2, frames=200, codes=20480, width=512, heads=5, repeats=3)
    torch.manual_seed(0)
    batch, frames, num_codes, width = args.batch, args.frames, args.codes, args.width
    query = F.normalize(torch.randn(batch, frames, 8), dim=-1)
    codebook = F.normalize(torch.randn(num_codes, 8), dim=-1)
    latent = torch.randn(batch, frames, width)
    codes = (query @ codebook.T).argmax(-1)
    mask = torch.ones_like(codes, dtype=torch.bool)
    rows = torch.randn(num_codes, width).requires_grad_()
    leaves = [x.requires_grad_() for x in (query, codebook, latent)]
    encoding = CodecEncoding(codes, mask, query, latent, latent)
    upstream = torch.randn(batch, frames, width)
    hidden = torch.randn(batch, frames, width).requires_grad_()
    linear = Bridge(BridgeConfig(kind="projected"), num_codes, width)

    def clear() -> None:
        heads.zero_grad(set_to_none=True)
        for x in (*leaves, rows, hidden, *linear.parameters()):
            x.grad = None

    def bridge(module: Bridge) -> None:
        clear()
        output = module(encoding, codebook, rows, tau=0.5, seeds_B=list(range(batch)))
        (output.embeds_BTH * upstream).sum().add(output.terms.get("bridge/ce", torch.zeros(()))).backward()

    def dense_bridge(logits: Callable[[], Tensor], with_ce: bool) -> None:
        clear()
        scores = logits()
        y = F.gumbel_softmax(scores, tau=0.5, hard=True)
        loss = ((y @ rows) * upstream).sum()
        if with_ce:
            loss = loss + F.cross_entropy(scores.flatten(0, 1), codes.flatten())
        loss.backward()

    heads = PredictionHeads(args.heads, "linear", torch.randn(num_codes, width) * 0.02)

    def predict(bf16: bool) -> None:
        clear()
        prediction_terms(heads, hidden, codes, mask, PredictionConfig(bf16=bf16))["lm/ftp"].backward()

    def dense_predict() -> None:
        clear()
        total = hidden.new_zeros(())
        for k, weight in enumerate(head_weights(args.heads), start=1):
            logits = hidden[:, : frames - k + 1] @ heads.rows[k - 1].T
            total = total + weight * F.cross_entropy(logits.flatten(0, 1), codes[:, k - 1 :].flatten())
        total.backward()

    def native_logits() -> Tensor:
        return query @ codebook.T / 0.05

    def projected_logits() -> Tensor:
        return linear.projection(latent) if linear.projection is not None else latent

    native, native_bf16 = Bridge(BridgeConfig()), Bridge(BridgeConfig(bf16=True))
    unit = batch * frames * num_codes * 4
    print(
        f"B {batch}, T {frames}, V {num_codes}, H {width}, K {args.heads}; {torch.get_num_threads()} threads, float32"
    )
    print(
        f"one (B, T, V) float32 tensor: {unit / 2**20:.1f} MB; gradient of the rows: {rows.numel() * 4 / 2**20:.1f} MB"
    )
    for title, ours, dense in (
        ("native bridge", {"": lambda: bridge(native), ", bf16": lambda: bridge(native_bf16)},
         lambda: dense_bridge(native_logits, False)),
        ("projected bridge", {"": lambda: bridge(linear)}, lambda: dense_bridge(projected_logits, True)),
        ("prediction heads", {"": lambda: predict(False), ", bf16": lambda: predict(True)}, dense_predict),
    ):  # fmt: skip
        parameters = (
            heads.rows if title == "prediction heads" else [rows, *(linear.parameters() if "pro" in title else [])]
        )
        gradients = sum(p.numel() * 4 for p in parameters)

        def measure(call: Callable[[], None]) -> tuple[float, float]:
            call()  # a warm-up
            seconds = fastest(call, args.repeats).process
            clear()
            return seconds, peak_bytes(call)

        dense_time, dense_peak = measure(dense)
        print(f"{title + ', dense':26} {line(dense_time, dense_peak, gradients, unit)}")
        for suffix, call in ours.items():
            own_time, own_peak = measure(call)
            print(
                f"{title + suffix:26} {line(own_time, own_peak, gradients, unit)}"
                f"   {own_time / dense_time:5.2f} x the time, {own_peak / dense_peak:5.2f} x the memory"
            )


def line(seconds: float, peak: float, gradients: float, unit: float) -> str:
    """Time, peak with and without the parameters' gradients."""
    return f"{seconds:7.3f} s  peak: all {peak / unit:5.2f}, work {max(0.0, peak - gradients) / unit:5.2f}"


if __name__ == "__main__":
    main()
