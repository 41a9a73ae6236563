"""Times, ratios of pairs, peak memory, fitted exponents, and the machine's rate of matrix products."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from attrs import frozen
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], object]


@frozen
class Timing:
    """A call's median time and how it compares with another, called right after it.

    Attributes:
        seconds: median of the call's times [s].
        ratio: median of the ratios of each pair.
        runs: number of pairs.
    """

    seconds: float
    ratio: float
    runs: int


class Clock:
    """Times calls on a device, waiting for what it has under way."""

    def __init__(self, device: torch.device) -> None:
        self.device = device

    def seconds(self, call: Call) -> float:
        """Return how long one call takes [s]."""
        self._wait()
        started = time.perf_counter()
        call()
        self._wait()
        return time.perf_counter() - started

    def paired(self, call: Call, other: Call, runs: int) -> Timing:
        """Return the median time of ``call``, and of its ratio to ``other`` pair by pair."""
        call(), other()  # warm-up
        pairs = [(self.seconds(call), self.seconds(other)) for _ in range(runs)]
        return Timing(
            statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs), len(pairs)
        )

    def median(self, call: Call, runs: int) -> float:
        """Return the median time of a call [s]."""
        call()
        return statistics.median(self.seconds(call) for _ in range(runs))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


def peak_bytes(call: Call, device: torch.device) -> int | None:
    """Return by how much memory grows at most during a call; None where it cannot be read.

    On a CPU the resident size is read every half millisecond from another thread, so that a shorter peak
    can be missed.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        held = int(torch.cuda.memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - held
    before = _resident()
    if before is None:
        return None
    peak, done = before, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.is_set():
            peak = max(peak, _resident() or 0)
            done.wait(0.0005)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        call()
    finally:
        done.set()
        watcher.join()
    return peak - before


def _resident() -> int | None:
    """Return the resident size of this process [bytes]."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return None
    import resource

    return pages * resource.getpagesize()


def flops(call: Call) -> int:
    """Return the floating-point operations in the matrix products of a call."""
    with FlopCounterMode(display=False) as counter:
        call()
    return int(counter.get_total_flops())


def matmul_rate(dtype: torch.dtype, device: torch.device, size: int = 1536) -> float:
    """Return the rate of a large square matrix product on this machine [flop/s]."""
    a = torch.randn(size, size, dtype=dtype, device=device)
    return 2 * size**3 / Clock(device).median(lambda: a @ a, 7)


def fitted_exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """Return the least-squares slope of log time over log size."""
    x = [math.log(size) for size in sizes]
    y = [math.log(value) for value in seconds]
    mean_x, mean_y = statistics.fmean(x), statistics.fmean(y)
    spread = sum((a - mean_x) ** 2 for a in x)
    return sum((a - mean_x) * (b - mean_y) for a, b in zip(x, y, strict=True)) / spread
