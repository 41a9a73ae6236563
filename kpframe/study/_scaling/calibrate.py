"""Measure what this machine does in a second, and its ranks between each other."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import distributed

from kpframe.study._bench.timing import Clock, matmul_rate
from kpframe.study._scaling.local_ranks import on_local_ranks
from kpframe.study._scaling.machine import Machine, this_host
from kpframe.study._workers import torch_threads

#: Bytes of the tensors whose all-reduces are timed: from a small Gram matrix to a gradient.
SIZES = (64, 2**12, 2**15, 2**18, 2**20, 2**22, 2**24)
#: Bytes that are copied: more than caches hold.
COPIED = 2**26
#: Rows of the square matrices that are multiplied.
ROWS = 768


def calibrate(ranks: int = 2, *, runs: int = 15) -> Machine:
    """Return the figures of this machine, with so many ranks of it over gloo; takes seconds.

    Raises:
        RankError: for ranks that cannot be started.
    """
    times = on_local_ranks(ranks, all_reduce_times, SIZES, runs)
    latency, bandwidth = fit_ring(SIZES, [max(of) for of in zip(*times, strict=True)], ranks)
    cpu = torch.device("cpu")
    with torch_threads(1):
        source = torch.ones(COPIED // 4)
        target = torch.empty_like(source)
        seconds = Clock(cpu).median(lambda: target.copy_(source), runs)
        rate = matmul_rate(torch.float32, cpu, ROWS)
    processor, processors = this_host()
    return Machine(
        latency, bandwidth, rate, COPIED / seconds, processor, processors, ranks, torch.__version__
    )


def all_reduce_times(group: Any, sizes: tuple[int, ...], runs: int) -> list[float]:
    """Return the median time of an all-reduce of each size on this rank of a group [s]."""
    found = []
    for size in sizes:
        tensor = torch.zeros(size // 4)
        times = []
        for _ in range(runs + 2):  # the first make connections and buffers
            distributed.barrier(group)
            started = time.perf_counter()
            distributed.all_reduce(tensor, group=group)
            times.append(time.perf_counter() - started)
        found.append(statistics.median(times[2:]))
    return found


def fit_ring(sizes: tuple[int, ...], seconds: list[float], ranks: int) -> tuple[float, float]:
    """Return latency [s] and bandwidth [bytes/s] of the ring that fits such times best, relatively."""
    pieces = 2 * (ranks - 1)
    times = np.asarray(seconds)
    columns = np.stack([np.full(len(sizes), float(pieces)), pieces / ranks * np.asarray(sizes, float)], 1)
    (latency, per_byte), *_ = np.linalg.lstsq(columns / times[:, None], np.ones(len(sizes)), rcond=None)
    return max(float(latency), 1e-9), 1 / max(float(per_byte), 1e-15)
