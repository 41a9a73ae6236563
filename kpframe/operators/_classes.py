"""Entries that an operator keeps apart: they share products where it is taken apart entry by entry.

An operator that has no entry between two trials (``separate_axes``), or between two units
(``block_labels``), gives with a vector of ones at one entry of each trial what it gives with each of them,
each at its own place. So entries fall into *classes* of which no two meet, and a class takes one product:
those of P over (batch, time, hidden) are as many as time x hidden, those of K of a plain cell batch x time.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from attrs import frozen

from kpframe.operators._base import Operator
from kpframe.operators._spaces import places_of


@frozen(eq=False)
class Classes:
    """Classes of the entries of some axes, of which one product serves all.

    Attributes:
        of_axes: for each axis the class of each of its entries; a class over all axes is one of each.
        counts: how many each axis has.
    """

    of_axes: tuple[torch.Tensor, ...]
    counts: tuple[int, ...]

    @property
    def count(self) -> int:
        """How many classes there are."""
        return math.prod(self.counts)

    def members(self, start: int, stop: int) -> torch.Tensor:  # [stop - start, *axes], bool
        """Return which entries lie in each of some classes."""
        device = self.of_axes[0].device
        places = places_of(torch.arange(start, stop, device=device), self.counts)
        found = torch.ones((stop - start, *(1,) * len(self.counts)), dtype=torch.bool, device=device)
        for dim, (own, place) in enumerate(zip(self.of_axes, places, strict=True), start=1):
            inside = place[:, None] == own
            found = found & inside.reshape(
                len(place), *(-1 if at == dim else 1 for at in range(1, found.ndim))
            )
        return found

    def numbers(self, shape: Sequence[int]) -> torch.Tensor:  # [n], int64
        """Return the class of each entry of the axes, of sizes ``shape``, in row-major order."""
        found = self.of_axes[0].new_zeros(())
        for own, count in zip(self.of_axes, self.counts, strict=True):
            found = (count * found)[..., None] + own
        return found.reshape(math.prod(shape))


def classes_of(op: Operator, axes: Sequence[str]) -> Classes | None:
    """Return classes of the entries of axes that both sides have; None where each is one of its own."""
    if op.domain.shards is not None or op.codomain.shards is not None:
        return None
    labels = op.block_labels() if op.domain.names[-1:] == op.codomain.names[-1:] else None
    found, counts = [], []
    for axis in axes:
        size = op.domain[axis].size
        own = torch.arange(size, device=op.device)
        if axis in op.separate_axes:
            own = torch.zeros_like(own)
        elif labels is not None and axis == op.domain.names[-1]:
            own = _place_in_block(labels)
        found.append(own)
        counts.append(int(own.max()) + 1 if size else 0)
    made = Classes(tuple(found), tuple(counts))
    return made if 0 < made.count < math.prod(op.domain[axis].size for axis in axes) else None


def meeting(op: Operator) -> torch.Tensor:  # [n], int64
    """Return a number for each entry of a square operator's space: entries of two numbers never meet."""
    space = op.domain
    number = torch.zeros(space.shape, dtype=torch.long, device=op.device)
    for place, axis in enumerate(space.axes):
        labels = op.block_labels() if place == len(space.axes) - 1 else None
        if axis.name in op.separate_axes:
            labels = torch.arange(axis.size, device=op.device)
        if labels is not None:
            shape = [-1 if at == place else 1 for at in range(len(space.axes))]
            number = number * (int(labels.max()) + 1 if len(labels) else 1) + labels.reshape(shape)
    return number.flatten()


def _place_in_block(labels: torch.Tensor) -> torch.Tensor:  # [n] -> [n]
    """Return how many entries of its label stand before each."""
    same = labels[:, None] == labels
    return same.tril(-1).sum(dim=1)
