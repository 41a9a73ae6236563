"""Reducers that break what reductions promise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any
from unittest.mock import patch

import torch

from kpframe.operators import FunctionOperator, MatrixOperator, Operator
from kpframe.operators._reducer import Mean, Reducer
from kpframe.testing.mutants.mutant import Mutant

Tensor = torch.Tensor


class Matrix(Reducer):
    """Returns a matrix, not an operator."""

    def reduce(self, operator: Operator) -> Any:
        """Return a tensor."""
        return operator.mean("time").to_dense()


class Squared(Reducer):
    """Not linear in the operator."""

    def reduce(self, operator: Operator) -> Operator:
        """Return the mean of the square."""
        return (operator @ operator).mean("time")


class OneSide(Reducer):
    """Weighs one side only: ``D R op R*``."""

    def reduce(self, operator: Operator) -> Operator:
        """Return a one-sided reduction."""
        mean = operator.mean("time")
        weights = torch.arange(1, mean.codomain.size + 1, dtype=mean.dtype).reshape(mean.codomain.shape)
        return weights * mean


class Deviation(Reducer):
    """The mean less twice itself: negative."""

    def reduce(self, operator: Operator) -> Operator:
        """Return the mean with its sign turned."""
        return -operator.mean("time")


class Affine(Reducer):
    """The reduced operator adds a constant."""

    def reduce(self, operator: Operator) -> Operator:
        """Return the mean plus a constant."""
        return _with(operator.mean("time"), lambda out: out + 0.1)


class Single(Reducer):
    """Makes operators of float64 whatever it is given."""

    def reduce(self, operator: Operator) -> Operator:
        """Return the mean in float64."""
        mean = operator.mean("time")
        return MatrixOperator(mean.to_dense().double(), mean.domain, mean.codomain)


class CountedOnce(Reducer):
    """An axis averaged on one side and summed on the other."""

    def __init__(self, axes: Sequence[str]) -> None:
        self.axes = axes

    def reduce(self, operator: Operator) -> Operator:
        """Return n times the mean."""
        count = 1
        for axis in self.axes:
            count *= operator.domain[axis].size
        return count * operator.mean(*self.axes)


def _with(operator: Operator, change: Callable[[Tensor], Tensor]) -> Operator:
    def product(q: Tensor) -> Tensor:
        return change(operator._apply(q))

    def adjoint(r: Tensor) -> Tensor:
        return change(operator._apply_adjoint(r))

    return FunctionOperator(operator.domain, operator.codomain, product, adjoint, dtype=operator.dtype)


def _mean_counted_once() -> AbstractContextManager[Any]:
    return patch.object(Mean, "over", CountedOnce)


MUTANTS = (
    Mutant(Matrix, "reducer_builds", "expected an Operator, got Tensor", "reducer"),
    Mutant(Squared, "linear_in_operator", "reduction of 2 A - B", "reducer"),
    Mutant(OneSide, "reduction_commutes_with_adjoint", "treats its two sides differently", "reducer"),
    Mutant(Deviation, "reduction_keeps_positivity", "has the eigenvalue -", "reducer"),
    Mutant(Affine, "reduced_is_an_operator", "reduced operator(0): expected zero", "reducer"),
    Mutant(Single, "reducer_dtype_kept", "expected torch.float32, got torch.float64", "reducer"),
    Mutant("mean", "reduction_equals_its_formula", "both copies of the axis", "reducer", _mean_counted_once),
)
