"""Trials sharded over the ranks of a ``torch.distributed`` group: who holds which, and what is added up.

A batch axis with ``Shards`` holds this rank's own trials; all ranks' together, in the order of the ranks, are
the axis as it would be on one machine. Vectors on it are sums over ranks only where something says so: an
inner product, a reduction over the axis, the adjoint of J. Everything else is local.

Each rank must ask for the same products in the same order. What decides about them (a residual, a size of a
chunk) hence comes from numbers that are the same on all ranks: all-reduced ones, or ``counts``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from attrs import field, frozen

from kpframe.errors import RankError, say


@frozen
class Shards:
    """Which trials each rank of a group holds: ``counts[r]`` of them on rank r, in order.

    Attributes:
        group: the ``torch.distributed`` process group.
        rank: this process's rank within the group.
        counts: number of trials by rank; a selection may leave some ranks with none.
    """

    group: Any = field(eq=id)
    rank: int
    counts: tuple[int, ...]

    @property
    def ranks(self) -> int:
        """Number of ranks."""
        return len(self.counts)

    @property
    def total(self) -> int:
        """Number of trials on all ranks."""
        return sum(self.counts)

    @property
    def start(self) -> int:
        """The global index of this rank's first trial."""
        return sum(self.counts[: self.rank])

    @property
    def own(self) -> range:
        """The global indices of this rank's trials."""
        return range(self.start, self.start + self.counts[self.rank])

    def with_counts(self, counts: tuple[int, ...]) -> Shards:
        """Return other shares of the same group."""
        return Shards(self.group, self.rank, counts)

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the sum of the ranks' tensors, on every rank; raises ``RankError`` when a rank is gone."""
        return self._reduced(tensor, "SUM")

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the entrywise maximum of the ranks' tensors, on every rank."""
        return self._reduced(tensor, "MAX")

    def any(self, value: bool, device: torch.device) -> bool:
        """Whether it is true on any rank."""
        return bool(self.max(torch.tensor([float(value)], device=device)))

    def _reduced(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        from torch import distributed  # not every torch is built with it

        out = tensor.contiguous().clone()
        add_traffic(out)
        try:
            distributed.all_reduce(out, op=getattr(distributed.ReduceOp, how), group=self.group)
        except (RuntimeError, ValueError) as error:
            raise RankError(
                f"all-reduce over {self}: a rank is gone or the group was destroyed ({say(error)})"
            ) from error
        return out

    def __str__(self) -> str:
        return f"{self.total} trials on {self.ranks} ranks"


class Traffic:
    """What this rank has sent into collectives: how many there were, and their tensors' bytes."""

    def __init__(self) -> None:
        self.collectives = 0
        self.bytes = 0


_under_way: list[Traffic] = []
_lock = threading.Lock()


@contextmanager
def counted_traffic() -> Iterator[Traffic]:
    """Yield a count of the collectives of this process meanwhile."""
    traffic = Traffic()
    _under_way.append(traffic)
    try:
        yield traffic
    finally:
        _under_way.remove(traffic)


def add_traffic(tensor: torch.Tensor) -> None:
    """Add one collective of a tensor to all counts under way."""
    if _under_way:
        with _lock:
            for traffic in _under_way:
                traffic.collectives += 1
                traffic.bytes += tensor.numel() * tensor.element_size()
