"""``A`` from its blocks, from their diagonals, or from some of their entries."""

from __future__ import annotations

import torch

from kpframe.errors import ShapeError, mismatch
from kpframe.operators.base import MEMORY_BUDGET
from kpframe.operators.chunks import CHUNK_BYTES
from kpframe.operators.dense import check_budget
from kpframe.spaces import Space
from kpframe.step_jacobian.base import StepJacobian, check_mask
from kpframe.step_jacobian.entries import entry_tables, table_widths


class DenseStepJacobian(StepJacobian):
    """``A`` from its blocks ``[B, T, H, H]``, which are kept, not copied."""

    method = "dense"

    def __init__(self, blocks: torch.Tensor, space: Space | None = None, *, name: str = "A") -> None:
        if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3]:
            raise ShapeError(mismatch("blocks", "shape [B, T, H, H]", list(blocks.shape)))
        batch, time, hidden, _ = blocks.shape
        space = Space.of(batch=batch, time=time, hidden=hidden) if space is None else space
        if space.shape != (batch, time, hidden):
            raise ShapeError(mismatch("space", f"sizes {[batch, time, hidden]}", f"({space})"))
        super().__init__(space, dtype=blocks.dtype, device=blocks.device, name=name)
        self._blocks = blocks.detach()

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return (self._blocks[:, t] @ v.unsqueeze(-1)).squeeze(-1)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return (self._blocks[:, t].mT @ v.unsqueeze(-1)).squeeze(-1)

    def _columns(self, start: int, stop: int) -> torch.Tensor:
        return self._blocks[..., start:stop].movedim(-1, 0)

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only."""
        values = self._blocks.diagonal(dim1=-2, dim2=-1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})").keeping(self.valid)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return (self._blocks @ q.unsqueeze(-1)).squeeze(-1)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return (self._blocks.mT @ r.unsqueeze(-1)).squeeze(-1)


class DiagonalStepJacobian(StepJacobian):
    """``A`` from the diagonals of its blocks, ``values`` ``[B, T, H]``, which are kept, not copied."""

    method = "diagonal"

    def __init__(self, values: torch.Tensor, space: Space | None = None, *, name: str = "A") -> None:
        if values.ndim != 3:
            raise ShapeError(mismatch("values", "shape [B, T, H]", list(values.shape)))
        if space is None:
            batch, time, hidden = values.shape
            space = Space.of(batch=batch, time=time, hidden=hidden)
        space.check(values, "values")
        super().__init__(space, dtype=values.dtype, device=values.device, name=name)
        self.values = values.detach()

    @property
    def self_adjoint(self) -> bool:
        """Always true."""
        return True

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self.values[:, t] * v

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``, the same."""
        return self.values[:, t] * v

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        for t in range(1, self.steps):
            q[t].addcmul_(self.values[:, t], q[t - 1])
        return q

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        for t in range(self.steps - 1, 0, -1):
            r[t - 1].addcmul_(self.values[:, t], r[t])
        return r

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.values * q

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.values * r

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator itself."""
        return self


class EntryStepJacobian(StepJacobian):
    """Some entries of each ``A_t``, the same ones at every step; they are kept, the others are zero."""

    method = "entries"

    def __init__(
        self, inner: StepJacobian, pattern: torch.Tensor, *, name: str, max_bytes: int = MEMORY_BUDGET
    ) -> None:
        batch, time, hidden = inner.domain.shape
        check_mask("pattern", pattern, inner, {f"[hidden={hidden}, hidden={hidden}]": (hidden, hidden)})
        super().__init__(inner.domain, dtype=inner.dtype, device=inner.device, name=name)
        widths = table_widths(pattern)
        check_budget(f"entries of {inner!r}", batch * time * hidden, widths, self.dtype, max_bytes)
        self.pattern, self._units = pattern.clone(), inner.units
        stretch = max(1, CHUNK_BYTES // (batch * time * hidden * self.dtype.itemsize))
        self._rows, self._columns_table = entry_tables(pattern, inner._columns, stretch)

    @property
    def units(self) -> torch.Tensor:
        """Which unit each entry of the state belongs to."""
        return self._units

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self._rows.product(t, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return self._columns_table.product(t, v)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._rows.product(slice(None), q.transpose(-3, -2)).transpose(-3, -2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._columns_table.product(slice(None), r.transpose(-3, -2)).transpose(-3, -2)
