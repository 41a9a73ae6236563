"""Operators that break what linear operators promise, planted at the leaves of drawn trees."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch

from kpframe.operators import AdjointOperator, MatrixOperator
from kpframe.testing import _trees as trees
from kpframe.testing.mutants.mutant import Mutant

Tensor = torch.Tensor


class Affine(MatrixOperator):
    """Adds a constant."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q) + 0.1


class Untransposed(MatrixOperator):
    """Its adjoint is itself."""

    def _apply_adjoint(self, r: Tensor) -> Tensor:
        return self._apply(r)


class FirstProbe(MatrixOperator):
    """Adds up what it takes for trials, and are probes."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q.cumsum(0) if q.ndim > len(self.domain.axes) else q)


class Lossy(MatrixOperator):
    """A single vector is scaled, a batch is not."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q if q.ndim > len(self.domain.axes) else 2 * q)


class NewAdjoint(MatrixOperator):
    """Its adjoint's adjoint is another object."""

    @property
    def T(self) -> AdjointOperator:
        """An adjoint of a copy."""
        return AdjointOperator(MatrixOperator(self.matrix, self.domain, self.codomain))


class Boastful(MatrixOperator):
    """Tagged positive without being so."""

    @property
    def self_adjoint(self) -> bool:
        """Always true, wrongly."""
        return True

    @property
    def positive(self) -> bool:
        """Always true, wrongly."""
        return True


class Spoils(MatrixOperator):
    """Writes to its argument."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q.mul_(0.5))


class Doubles(MatrixOperator):
    """Gives float64 whatever it takes."""

    def _apply(self, q: Tensor) -> Tensor:
        return super()._apply(q).double()


def _planted(wrong: type[MatrixOperator]) -> Callable[[], AbstractContextManager[Any]]:
    return lambda: patch.object(trees, "MatrixOperator", wrong)


def _mutant(wrong: type[MatrixOperator], check: str, says: str) -> Mutant:
    return Mutant("algebra", check, says, "operator", _planted(wrong))


MUTANTS = (
    _mutant(Affine, "linearity", "expected zero, got norm"),
    _mutant(Untransposed, "adjoint_under_inner_product", "_apply and _apply_adjoint"),
    _mutant(FirstProbe, "probes_batched_equals_looped", "of probes [2, 2]"),
    _mutant(Lossy, "to_dense_on_basis", "against its to_dense"),
    _mutant(NewAdjoint, "adjoint_twice_is_the_operator", ".T.T is another object"),
    _mutant(Boastful, "tags_are_true", "tagged self-adjoint"),
    _mutant(Spoils, "products_are_pure", "it changed its argument"),
    _mutant(Doubles, "operator_dtype_kept", "got torch.float64"),
)
