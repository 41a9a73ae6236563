"""Operators with tags that their author knows and nothing can prove."""

from __future__ import annotations

import torch

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators._atoms import MatrixOperator
from kpframe.operators._base import Operator, SelfAdjointOperator
from kpframe.operators._claims import check_declared
from kpframe.operators._dense import CachedOperator


class DeclaredOperator(SelfAdjointOperator):
    """An operator known to be self-adjoint, or positive; made by ``Operator.declare``.

    The adjoint's products are those of the operator itself.
    """

    def __init__(self, inner: Operator, *, positive: bool) -> None:
        super().__init__(inner.domain, inner.codomain, dtype=inner.dtype, device=inner.device)
        self.inner = inner
        self._positive = positive

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.inner._apply(q)

    @property
    def positive(self) -> bool:
        """Whether it was declared positive."""
        return self._positive

    @property
    def block_labels(self) -> torch.Tensor | None:
        """Those of the operator."""
        return self.inner.block_labels

    def _formula(self) -> tuple[str, int]:
        return self.inner._formula()


def declare(operator: Operator, self_adjoint: bool, positive: bool, tol: float | None) -> Operator:
    """Return an operator with the declared tags; see ``Operator.declare``."""
    if not (self_adjoint or positive):
        raise ArgumentError(mismatch("declare", "self_adjoint=True or positive=True", "neither"))
    if operator.positive or (operator.self_adjoint and not positive):
        return operator
    matrix = operator.matrix if isinstance(operator, MatrixOperator | CachedOperator) else None
    check_declared(operator, positive=positive, tol=tol, matrix=matrix)
    return DeclaredOperator(operator, positive=positive)
