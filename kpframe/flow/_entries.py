"""Which entries of the blocks ``A_t`` are kept: the units they belong to, tables of entries, and masks."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch

from kpframe.errors import DeviceError, DtypeError, ShapeError, mismatch
from kpframe.operators._base import Operator
from kpframe.operators._spaces import Axis

#: ``columns(start, stop)`` gives ``A_t e_j`` ``[stop - start, B, T, H]`` for j in ``start:stop``.
Columns = Callable[[int, int], torch.Tensor]


def units_by_width(axis: Axis) -> torch.Tensor:  # [H], int64
    """Return which unit each entry of a state belongs to, where nothing but its layout is known.

    Entry i of all components of one width makes up one unit: neuron i with its gates or its memory.
    """
    first: dict[int, int] = {}
    labels = []
    total = 0
    for width in [part.size for part in axis.parts] or [axis.size]:
        if width not in first:
            first[width], total = total, total + width
        labels.append(torch.arange(width, device="cpu") + first[width])
    return torch.cat(labels)


def same_label(labels: torch.Tensor) -> torch.Tensor:  # [H] -> bool, [H, H]
    """Return the pattern of the pairs of entries with one label."""
    return labels.unsqueeze(1) == labels


class EntryTable:
    """Entries of matrices ``[H, H]``, one for each step and trial, row by row.

    The m-th entry of row i is in column ``index[i, m]``. Shorter rows are filled up with zeros. Products
    only gather, so that they are the same to the last bit each time, on any device.
    """

    def __init__(self, index: torch.Tensor, values: torch.Tensor) -> None:
        self.index = index  # [H, k]
        self.values = values  # [T, B, H, k]

    def product(self, t: int | slice, v: torch.Tensor) -> torch.Tensor:  # [..., B, H] -> [..., B, H]
        """Return the products of step t, or of a slice of steps ``[..., T, B, H]``."""
        return (self.values[t] * v[..., self.index]).sum(dim=-1)


def entry_tables(pattern: torch.Tensor, columns: Columns, count: int) -> tuple[EntryTable, EntryTable]:
    """Return the entries where a pattern ``[H, H]`` is True, by row and, for the adjoint, by column.

    ``count`` columns are formed at a time.
    """
    hidden = len(pattern)
    rows, filled = _places(pattern.mT)  # [H, l]: the rows of the entries of each column
    parts: list[torch.Tensor] = []
    for start in range(0, hidden, count):
        part = slice(start, min(start + count, hidden))
        out = columns(part.start, part.stop)  # [n, B, T, H]
        chosen = rows[part, None, None].expand(-1, *out.shape[1:3], -1)
        parts.append((out.gather(-1, chosen) * filled[part, None, None]).permute(2, 1, 0, 3))
    by_column = torch.cat(parts, dim=2).contiguous()  # [T, B, H, l]
    cols, there = _places(pattern)  # [H, k]
    place = pattern.cumsum(dim=0) - 1  # where entry (i, j) stands in column j
    flat = cols * rows.shape[1] + place.gather(1, cols)
    by_row = by_column.flatten(-2)[..., flat.where(there, 0)] * there
    return EntryTable(cols, by_row), EntryTable(rows, by_column)


def table_widths(pattern: torch.Tensor) -> int:
    """Return how many numbers the two tables keep for each row, together."""
    return int(pattern.sum(dim=1).max()) + int(pattern.sum(dim=0).max())


def _places(pattern: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the columns of each row's entries ``[H, k]``, in order, and whether there is one."""
    longest = max(1, int(pattern.sum(dim=1).max()))
    order = pattern.to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :longest]
    return order, pattern.gather(1, order)


def check_steps(argument: str, mask: torch.Tensor, A: Operator) -> None:
    """Raise unless a mask is a bool tensor ``[T]`` or ``[B, T]`` that fits ``A``."""
    batch, time, _ = A.domain.shape
    shapes = {f"[time={time}]": (time,), f"[batch={batch}, time={time}]": (batch, time)}
    check_mask(argument, mask, A, shapes)


def check_mask(argument: str, mask: torch.Tensor, A: Operator, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Raise unless a mask is a bool tensor of one of the named shapes, on the device of ``A``."""
    if tuple(mask.shape) not in shapes.values():
        raise ShapeError(mismatch(argument, f"shape {' or '.join(shapes)}", list(mask.shape)))
    if mask.dtype != torch.bool:
        raise DtypeError(mismatch(argument, "dtype torch.bool", mask.dtype))
    if mask.device != A.device:
        raise DeviceError(mismatch(argument, f"device {A.device}", mask.device))
