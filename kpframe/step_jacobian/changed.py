"""``A`` with zeros or another step Jacobian at chosen steps, sums and multiples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from kpframe.errors import ShapeError, mismatch
from kpframe.operators.algebra import ScaledOperator, SumOperator, scaled_product
from kpframe.operators.base import MEMORY_BUDGET
from kpframe.step_jacobian.base import StepJacobian, check_steps
from kpframe.step_jacobian.forms import DiagonalStepJacobian


class MaskedStepJacobian(StepJacobian):
    """``A`` with ``A_t := 0`` at chosen steps, for all trials or for each."""

    def __init__(self, inner: StepJacobian, keep: torch.Tensor, *, name: str | None = None) -> None:
        check_steps("keep", keep, inner)
        super().__init__(
            inner.domain, dtype=inner.dtype, device=inner.device, name=name or f"{inner.name}[masked]"
        )
        self.inner = inner
        self.method, self.valid = inner.method, inner.valid
        self.keep = keep.clone()
        self._keep = keep.expand(self.domain.shape[:2]).to(inner.dtype).unsqueeze(-1)  # [B, T, 1]

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

    @property
    def units(self) -> torch.Tensor:
        """Which unit each entry of the state belongs to."""
        return self.inner.units

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only."""
        values = self._keep * self.inner.diagonal().values
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})").keeping(self.valid)

    def unit_blocks(self) -> StepJacobian:
        """Return the operator that keeps the entries within each unit only."""
        return self.inner.unit_blocks().masked(self.keep)

    def where(self, pattern: torch.Tensor, *, max_bytes: int = MEMORY_BUDGET) -> StepJacobian:
        """Return the operator that keeps the entries where a pattern is True."""
        return self.inner.where(pattern, max_bytes=max_bytes).masked(self.keep)

    def direct(self) -> StepJacobian:
        """Return ``A`` by its direct path only, cut at the same steps."""
        return self.inner.direct().masked(self.keep)

    def pointwise(self) -> StepJacobian:
        """Return ``A`` by what goes around all weights, cut at the same steps."""
        return self.inner.pointwise().masked(self.keep)

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return ``A`` without some of its paths, cut at the same steps."""
        return self.inner.cut(paths).masked(self.keep)

    def replace(self, weights: Mapping[str, torch.Tensor]) -> StepJacobian:
        """Return ``A`` with other weights on its paths, cut at the same steps."""
        return self.inner.replace(weights).masked(self.keep)


class SwitchedStepJacobian(StepJacobian):
    """``A`` with another step Jacobian in its place at chosen steps, for all trials or for each."""

    def __init__(self, inner: StepJacobian, other: StepJacobian, at: torch.Tensor) -> None:
        check_steps("at", at, inner)
        if other.domain != inner.domain:
            raise ShapeError(mismatch("other", f"a step Jacobian on ({inner.domain})", f"({other.domain})"))
        name = f"{inner.name}|{other.name}"
        super().__init__(inner.domain, dtype=inner.dtype, device=inner.device, name=name)
        self.inner, self.other, self.at = inner, other, at.clone()
        self.method, self.valid = inner.method, inner.valid
        self._at = self.at.expand(self.domain.shape[:2]).unsqueeze(-1)  # [B, T, 1]
        self._all, self._any = self._at.all(dim=0).flatten().tolist(), self._at.any(dim=0).flatten().tolist()

    @property
    def units(self) -> torch.Tensor:
        """Which unit each entry of the state belongs to."""
        return self.inner.units

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        if self._all[t]:
            return self.other.step(t, v)
        out = self.inner.step(t, v)
        return torch.where(self._at[:, t], self.other.step(t, v), out) if self._any[t] else out

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        if self._all[t]:
            return self.other.step_adjoint(t, v)
        out = self.inner.step_adjoint(t, v)
        return torch.where(self._at[:, t], self.other.step_adjoint(t, v), out) if self._any[t] else out

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return torch.where(self._at, self.other._apply(q), self.inner._apply(q))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return torch.where(self._at, self.other._apply_adjoint(r), self.inner._apply_adjoint(r))

    def direct(self) -> StepJacobian:
        """Return the direct paths of both, switched at the same steps."""
        return self.inner.direct().switched(self.other.direct(), self.at)

    def pointwise(self) -> StepJacobian:
        """Return what goes around all weights of both, switched at the same steps."""
        return self.inner.pointwise().switched(self.other.pointwise(), self.at)

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return both without some of their paths, switched at the same steps."""
        return self.inner.cut(paths).switched(self.other.cut(paths), self.at)


class SumStepJacobian(SumOperator, StepJacobian):
    """A sum of step Jacobians; made by ``A + B`` and ``A - B``."""

    def __init__(self, terms: Sequence[StepJacobian]) -> None:
        first = terms[0]
        StepJacobian.__init__(self, first.domain, dtype=first.dtype, device=first.device)
        self.terms: tuple[StepJacobian, ...] = tuple(terms)
        self.name = f"({self!r})"
        self.valid = next((term.valid for term in terms if term.valid is not None), None)

    @property
    def method(self) -> str:  # type: ignore[override]
        """How the products are computed: the forms of the terms."""
        return " + ".join(dict.fromkeys(term.method for term in self.terms))

    @property
    def units(self) -> torch.Tensor:
        """Which unit each entry of the state belongs to, as the first term has it."""
        return self.terms[0].units

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        total = self.terms[0].step(t, v)
        for term in self.terms[1:]:
            total = total + term.step(t, v)
        return total

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        total = self.terms[0].step_adjoint(t, v)
        for term in self.terms[1:]:
            total = total + term.step_adjoint(t, v)
        return total


class ScaledStepJacobian(ScaledOperator, StepJacobian):
    """``c A``; made by ``c * A``."""

    def __init__(self, scalar: float, inner: StepJacobian) -> None:
        StepJacobian.__init__(self, inner.domain, dtype=inner.dtype, device=inner.device)
        self.scalar = scalar
        self.inner: StepJacobian = inner
        self.name = f"({self!r})"
        self.method, self.valid = inner.method, inner.valid

    @property
    def units(self) -> torch.Tensor:
        """Which unit each entry of the state belongs to."""
        return self.inner.units

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``c A_t v``."""
        return scaled_product(self.scalar, partial(self.inner.step, t), v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``c A_t* v``."""
        return scaled_product(self.scalar, partial(self.inner.step_adjoint, t), v)
