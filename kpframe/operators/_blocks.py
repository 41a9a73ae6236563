"""Operators put together of others: Kronecker products, block operators and direct sums."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kpframe.errors import ArgumentError, AxisError, SpaceMismatchError, mismatch, shown
from kpframe.operators._base import Operator, check_operator, check_together, check_unsharded
from kpframe.operators._elementary import ZeroOperator
from kpframe.operators._formula import ATOM, SUM, bracket
from kpframe.operators._spaces import Axis, Space

BLOCK = "block"


class KroneckerOperator(Operator):
    """``A (x) B`` of ``first`` and ``second``, on the axes of A, then of B: each acts on its own axes.

    On a vector read as a matrix ``Q`` ``[axes of A, axes of B]`` it is ``A Q B*``, so a product costs one of
    A and one of B, each with the other's entries as probes. Adjoint and inverse go factor by factor,
    ``(A (x) B)* = A* (x) B*`` and ``(A (x) B)^-1 = A^-1 (x) B^-1``, and eigenvalues are products of
    eigenvalues, so the tags do, too (Van Loan 2000, J. Comput. Appl. Math. 123:85).

    Raises:
        AxisError: when an axis name stands on both sides.
        DtypeError, DeviceError: when the two do not match.
    """

    def __init__(self, first: Operator, second: Operator) -> None:
        check_operator(first, "first")
        check_operator(second, "second")
        check_together(first, second, "(x)")
        super().__init__(
            _joined(first.domain, second.domain),
            _joined(first.codomain, second.codomain),
            dtype=first.dtype,
            device=first.device,
        )
        self.first, self.second = first, second

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return _kronecker(self.first, self.second, q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return _kronecker(self.first.T, self.second.T, r)

    @property
    def self_adjoint(self) -> bool:
        """Whether both factors are self-adjoint."""
        return self.first.self_adjoint and self.second.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether both factors are positive."""
        return self.first.positive and self.second.positive

    def _inverse(self) -> KroneckerOperator:
        return KroneckerOperator(self.first.inverse, self.second.inverse)

    def _formula(self) -> tuple[str, int]:
        return f"{bracket(self.first, ATOM)} (x) {bracket(self.second, ATOM)}", SUM


def _joined(first: Space, second: Space) -> Space:
    shared = [name for name in first.names if name in second]
    if shared:
        raise AxisError(f"Kronecker product: axes {', '.join(shared)} stand in both factors; rename them")
    return Space(first.axes + second.axes)


def _kronecker(first: Operator, second: Operator, q: torch.Tensor) -> torch.Tensor:
    out = second._apply(q)  # the first factor's axes ride as probes
    own, others = len(first.domain.axes), len(second.codomain.axes)
    lead = out.ndim - own - others
    ahead = out.movedim(tuple(range(lead + own, out.ndim)), tuple(range(lead, lead + others)))
    moved = first._apply(ahead)
    return moved.movedim(tuple(range(lead, lead + others)), tuple(range(moved.ndim - others, moved.ndim)))


class BlockOperator(Operator):
    """A matrix of operators ``[[A, B], [C, D]]``, its ``rows``, on stacked spaces.

    Both stacked spaces have the one axis ``block``, on which the flattened spaces lie one after the
    other as the parts ``"0"``, ``"1"`` ...; ``None`` stands for a zero block.

    Raises:
        ArgumentError: for rows of different lengths, or a row or column of ``None`` only.
        SpaceMismatchError: when the domains of a column or the codomains of a row differ.
    """

    def __init__(self, rows: Sequence[Sequence[Operator | None]]) -> None:
        if not isinstance(rows, Sequence) or not all(isinstance(row, Sequence) for row in rows):
            expected = "rows of operators, [[A, B], [C, D]]"
            raise ArgumentError(mismatch("rows", expected, shown(rows)))
        present = [block for row in rows for block in row if block is not None]
        for block in present:
            check_operator(block, "block")
            check_unsharded(block, "a block operator")
        widths = {len(row) for row in rows}
        if len(widths) != 1 or 0 in widths:
            raise ArgumentError(mismatch("rows", "rows of one length >= 1", [len(row) for row in rows]))
        columns = list(zip(*rows, strict=True))
        self._sources = [_shared(column, "domain", place) for place, column in enumerate(columns)]
        self._targets = [_shared(row, "codomain", place) for place, row in enumerate(rows)]
        for block in present[1:]:
            check_together(present[0], block, "beside")
        super().__init__(
            _stacked(self._sources), _stacked(self._targets), dtype=present[0].dtype, device=present[0].device
        )
        self.rows = tuple(tuple(row) for row in rows)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._product(q, self.domain, self._sources, self._targets, adjoint=False)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._product(r, self.codomain, self._targets, self._sources, adjoint=True)

    def _product(
        self, q: torch.Tensor, stacked: Space, sources: list[Space], targets: list[Space], *, adjoint: bool
    ) -> torch.Tensor:
        probes = q.shape[:-1]
        parts = [
            q[..., part.slice].reshape((*probes, *space.shape))
            for part, space in zip(stacked[BLOCK].parts, sources, strict=True)
        ]
        totals = [q.new_zeros((*probes, *space.shape)) for space in targets]
        for i, row in enumerate(self.rows):
            for j, block in enumerate(row):
                if block is None or isinstance(block, ZeroOperator):
                    continue
                if adjoint:
                    totals[j] = totals[j] + block._apply_adjoint(parts[i])
                else:
                    totals[i] = totals[i] + block._apply(parts[j])
        return torch.cat([total.reshape(*probes, -1) for total in totals], dim=-1)

    @property
    def self_adjoint(self) -> bool:
        """Whether the blocks are diagonal and self-adjoint."""
        return self._diagonal() and all(row[i].self_adjoint for i, row in enumerate(self.rows))  # type: ignore[union-attr]

    @property
    def positive(self) -> bool:
        """Whether the blocks are diagonal and positive."""
        return self._diagonal() and all(row[i].positive for i, row in enumerate(self.rows))  # type: ignore[union-attr]

    def _diagonal(self) -> bool:
        return len(self.rows) == len(self.rows[0]) and all(
            (block is None) != (i == j) for i, row in enumerate(self.rows) for j, block in enumerate(row)
        )

    def _formula(self) -> tuple[str, int]:
        if self._diagonal():
            return " (+) ".join(bracket(row[i], ATOM) for i, row in enumerate(self.rows)), SUM  # type: ignore[arg-type]
        rows = ("  ".join("0" if block is None else repr(block) for block in row) for row in self.rows)
        return "[" + " ; ".join(rows) + "]", ATOM


def direct_sum(*operators: Operator) -> BlockOperator:
    """Return ``A (+) B (+) ...``: the ``operators`` on the diagonal of a block operator."""
    return BlockOperator(
        [[op if i == j else None for j in range(len(operators))] for i, op in enumerate(operators)]
    )


def _shared(blocks: Sequence[Operator | None], side: str, place: int) -> Space:
    line = f"{'column' if side == 'domain' else 'row'} {place}"
    spaces = [getattr(block, side) for block in blocks if block is not None]
    if not spaces:
        raise ArgumentError(mismatch(line, "at least one operator", "None only, which has no size"))
    for space in spaces[1:]:
        if space != spaces[0]:
            raise SpaceMismatchError(mismatch(f"{line}: {side}", f"({spaces[0]})", f"({space})"))
    return spaces[0]  # type: ignore[no-any-return]


def _stacked(spaces: Sequence[Space]) -> Space:
    return Space((Axis.of_parts(BLOCK, {str(place): space.shape for place, space in enumerate(spaces)}),))
