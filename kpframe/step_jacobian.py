"""``A``, the step Jacobian: block diagonal over trials and steps, ``A_t = df/dh_{t-1}``."""

from __future__ import annotations

from abc import abstractmethod

import torch

from kpframe.errors import DeviceError, DtypeError, ShapeError, UnsupportedError, mismatch
from kpframe.operators.base import ATOM, MEMORY_BUDGET, Operator
from kpframe.operators.dense import check_budget
from kpframe.spaces import BATCH, HIDDEN, TIME, Space


class StepJacobian(Operator):
    """The operator ``(A q)_t = A_t q_t`` on the state space ``(batch, time, hidden)``.

    A subclass supplies the two products of one step. Time indices count the entries of the time axis
    from 0, so ``A_0`` is the derivative of the first state with respect to the initial one; the
    propagator never uses it, a trainable initial state does.
    """

    #: How the products are computed: ``"sites"``, ``"dense"``, ``"diagonal"``, ``"autograd"`` ...
    method = "custom"

    def __init__(
        self, space: Space, *, dtype: torch.dtype, device: torch.device | str, name: str = "A"
    ) -> None:
        if space.names != (BATCH, TIME, HIDDEN):
            raise ShapeError(mismatch("space", f"axes ({BATCH}, {TIME}, {HIDDEN})", f"({space})"))
        super().__init__(space, space, dtype=dtype, device=device)
        self.name = name

    @abstractmethod
    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:  # [..., B, H] -> [..., B, H]
        """Return ``A_t v``."""

    @abstractmethod
    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:  # [..., B, H] -> [..., B, H]
        """Return ``A_t* v``."""

    @property
    def steps(self) -> int:
        """Number of time steps T."""
        return self.domain.shape[1]

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.step(t, q[..., t, :]) for t in range(self.steps)], dim=-2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.step_adjoint(t, r[..., t, :]) for t in range(self.steps)], dim=-2)

    def blocks(self, max_bytes: int = MEMORY_BUDGET) -> torch.Tensor:
        """Return the dense ``A_t`` as ``[B, T, H, H]``; raises ``MemoryBudgetError`` over budget."""
        batch, time, hidden = self.domain.shape
        check_budget(f"blocks of {self!r}", batch * time * hidden, hidden, self.dtype, max_bytes)
        unit = torch.eye(hidden, dtype=self.dtype, device=self.device)
        columns = self(unit[:, None, None, :].expand(hidden, batch, time, hidden).contiguous())
        return columns.permute(1, 2, 3, 0).contiguous()

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only (H products, here)."""
        hidden = self.domain.shape[2]
        values = torch.zeros(self.domain.shape, dtype=self.dtype, device=self.device)
        for unit in range(hidden):
            probe = torch.zeros(self.domain.shape, dtype=self.dtype, device=self.device)
            probe[..., unit] = 1
            values[..., unit] = self(probe)[..., unit]
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})")

    def masked(self, keep: torch.Tensor, name: str | None = None) -> StepJacobian:
        """Return ``A`` with ``A_t := 0`` where ``keep`` (bool, ``[T]`` or ``[B, T]``) is False."""
        return MaskedStepJacobian(self, keep, name=name)

    def replace(self, weights: dict[str, torch.Tensor]) -> StepJacobian:
        """Return ``A`` with other weights on its paths; only structured forms know their weights.

        Raises:
            UnsupportedError: for a form whose weights are not known apart from its gains.
        """
        raise UnsupportedError(
            f"{self!r} ({self.method} form) does not know its weights apart from its gains; "
            "replace works on models written as a SiteModel"
        )

    def _formula(self) -> tuple[str, int]:
        return self.name, ATOM


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

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only."""
        values = self._blocks.diagonal(dim1=-2, dim2=-1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})")

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

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.values * q

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.values * r

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator itself."""
        return self


class MaskedStepJacobian(StepJacobian):
    """``A`` with ``A_t := 0`` at chosen steps, for all trials or for each."""

    def __init__(self, inner: StepJacobian, keep: torch.Tensor, *, name: str | None = None) -> None:
        batch, time, _ = inner.domain.shape
        if tuple(keep.shape) not in ((time,), (batch, time)):
            raise ShapeError(
                mismatch("keep", f"shape [time={time}] or [batch={batch}, time={time}]", list(keep.shape))
            )
        if keep.dtype != torch.bool:
            raise DtypeError(mismatch("keep", "dtype torch.bool", keep.dtype))
        if keep.device != inner.device:
            raise DeviceError(mismatch("keep", f"device {inner.device}", keep.device))
        super().__init__(
            inner.domain, dtype=inner.dtype, device=inner.device, name=name or f"{inner.name}[masked]"
        )
        self.inner = inner
        self.method = inner.method
        self._keep = keep.expand(batch, time).to(inner.dtype).unsqueeze(-1)  # [B, T, 1]

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``, zero where the step is cut."""
        return self._keep[:, t] * self.inner.step(t, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``, zero where the step is cut."""
        return self._keep[:, t] * self.inner.step_adjoint(t, v)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._keep * self.inner._apply(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.inner._apply_adjoint(self._keep * r)
