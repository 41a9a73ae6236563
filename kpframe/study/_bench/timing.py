"""Times, ratios of pairs, peak memory, fitted exponents, and the machine's rate of matrix products."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from attrs import frozen
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

Call = Callable[[], object]


def _added(_: object, left: Sequence[int], right: Sequence[int], **others: object) -> int:
    """Return the operations of a matrix product ``[..., n, k]`` by ``[..., k, m]`` that is added to one."""
    return 2 * math.prod(left) * right[-1]


#: Products in place, which the counter of torch does not know.
_IN_PLACE: dict[Any, Any] = {torch.ops.aten.addmm_: _added, torch.ops.aten.baddbmm_: _added}


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


def peak_bytes(call: Call, device: torch.device) -> int:
    """Return by how much the memory of tensors grows at most during a call, the exact sum of what is held.

    On a CPU the profiler's record of each allocation is summed up; memory of other libraries is not in it.
    """
    call()  # what a first call keeps for later ones is not counted
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        before = int(torch.cuda.memory_allocated(device))
        torch.cuda.reset_peak_memory_stats(device)
        call()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device)) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    assert profiler.profiler is not None  # it has run
    events: Any = profiler.profiler.kineto_results
    changes = [event for event in events.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: int(event.start_ns()))
    return max(accumulate((int(event.nbytes()) for event in changes), initial=0))


def flops(call: Call) -> int:
    """Return the floating-point operations in the matrix products of a call."""
    with FlopCounterMode(display=False, custom_mapping=_IN_PLACE) as counter:
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
