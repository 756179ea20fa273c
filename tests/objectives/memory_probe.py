"""Peak of live tensor memory during a call, on CPU, counted from allocations as the profiler sees them."""

from __future__ import annotations

from collections.abc import Callable

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], None]) -> int:
    """Largest sum of bytes allocated and not yet freed since the start of `call` (what lived before counts as 0)."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    live = peak = 0
    # Every allocation (positive) and release (negative) is one "[memory]" event, in the order of time.
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
