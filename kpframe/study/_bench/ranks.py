"""``Phi q`` of trials sharded over ranks, beside one process that has as many threads and all trials."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import distributed

from kpframe.models._linearize import linearize
from kpframe.operators._shards import counted_traffic
from kpframe.study._bench.products import Row, Size, make
from kpframe.study._scaling.local_ranks import on_local_ranks


def rank_row(name: str, size: Size, ranks: int, *, runs: int, dtype: torch.dtype) -> Row:
    """Return the row of ``Phi q`` on so many ranks of this machine, one thread each.

    Both are timed in turn on the same processes: what is compared meets the same machine.
    """
    found = on_local_ranks(ranks, paired, name, size, runs, dtype)
    pairs = found[0]["pairs"]
    note = (
        f"1 thread each; {found[0]['bytes']} bytes in {found[0]['collectives']} all-reduce, "
        f"departs by {max(one['error'] for one in found):.0e}"
    )
    return Row(
        name,
        str(size),
        f"Phi on {ranks} ranks",
        1e3 * statistics.median(sharded for sharded, _ in pairs),
        statistics.median(sharded / whole for sharded, whole in pairs),
        f"Phi on {ranks} threads",
        note,
    )


def paired(group: Any, name: str, size: Size, runs: int, dtype: torch.dtype) -> dict[str, Any]:
    """Return the times of pairs [s], and what was sent in a product, on one of the ranks of a group."""
    rank, ranks = distributed.get_rank(group), distributed.get_world_size(group)
    model = make(name, size.hidden, dtype, torch.device("cpu"))
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(size.batch, size.time, model.input_size, dtype=dtype, generator=generator)
    whole = linearize(model, x).Phi
    q = torch.randn(whole.domain.shape, dtype=dtype, generator=generator)
    own = slice(rank * size.batch // ranks, (rank + 1) * size.batch // ranks)
    part = linearize(model, x[own].clone(), group=group).Phi
    mine = q[own].clone()

    def together() -> float:
        return _timed(group, lambda: part(mine))

    def alone() -> float:
        torch.set_num_threads(ranks)
        try:
            return _timed(group, (lambda: whole(q)) if rank == 0 else (lambda: None))
        finally:
            torch.set_num_threads(1)

    together(), alone()  # warm-up
    pairs = [(together(), alone()) for _ in range(runs)]
    with counted_traffic() as traffic:
        found = part(mine)
    error = (found - whole(q)[own]).norm() / found.norm()
    return {
        "pairs": pairs,
        "bytes": traffic.bytes,
        "collectives": traffic.collectives,
        "error": float(error),
    }


def _timed(group: Any, call: Callable[[], object]) -> float:
    """Return how long all ranks take for their calls [s], from a common start to the end of the last."""
    distributed.barrier(group)
    started = time.perf_counter()
    call()
    distributed.barrier(group)
    return time.perf_counter() - started
