"""Exact inverses of the operators that have one in closed form."""

from __future__ import annotations

import torch

from kpframe.errors import ArgumentError, SpaceMismatchError, UnsupportedError, mismatch
from kpframe.operators._algebra import AdjointOperator, Composition, ScaledOperator, compose, scale
from kpframe.operators._atoms import DiagonalOperator, IdentityOperator, MatrixOperator
from kpframe.operators._base import Operator
from kpframe.operators._blocks import KroneckerOperator
from kpframe.operators._declared import DeclaredOperator


def inverse(operator: Operator) -> Operator:
    """Return the inverse of an operator; see ``Operator.inverse``.

    Raises:
        UnsupportedError: when no exact form is known.
        ArgumentError: when the operator is singular.
    """
    if isinstance(operator, IdentityOperator):
        return operator
    if isinstance(operator, DiagonalOperator):
        if not bool((operator.values != 0).all()):
            raise ArgumentError(mismatch(f"inverse of {operator!r}", "no zero on the diagonal", "a zero"))
        return DiagonalOperator(1 / operator.values, operator.domain, name=f"{operator.name}^-1")
    if isinstance(operator, MatrixOperator):
        return _matrix_inverse(operator)
    if isinstance(operator, AdjointOperator):
        return operator.inner.inverse.T
    if isinstance(operator, DeclaredOperator):
        return operator.inner.inverse
    if isinstance(operator, ScaledOperator):
        if operator.scalar == 0:
            raise ArgumentError(mismatch(f"inverse of {operator!r}", "a factor other than 0", 0))
        return scale(1 / operator.scalar, operator.inner.inverse)
    if isinstance(operator, Composition):
        parts = zip(reversed(operator.numbers), reversed(operator.factors), strict=True)
        return compose(*(scale(1 / number, factor.inverse) for number, factor in parts))
    if isinstance(operator, KroneckerOperator):
        return KroneckerOperator(operator.first.inverse, operator.second.inverse)
    raise UnsupportedError(
        f"inverse of {operator!r}: no exact form is known; solve with the operator's products instead "
        "(op.to_scipy() and scipy.sparse.linalg.gmres or cg)"
    )


def _matrix_inverse(operator: MatrixOperator) -> MatrixOperator:
    if operator.matrix.shape[0] != operator.matrix.shape[1]:
        raise SpaceMismatchError(
            mismatch(f"inverse of {operator!r}", "a square matrix", f"shape {list(operator.matrix.shape)}")
        )
    matrix, info = torch.linalg.inv_ex(operator.matrix)
    if bool(info != 0):
        raise ArgumentError(mismatch(f"inverse of {operator!r}", "a regular matrix", "a singular one"))
    return MatrixOperator(matrix, operator.codomain, operator.domain, name=f"{operator.name}^-1")
