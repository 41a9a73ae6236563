"""Matrix-free linear operators on tensors with named axes, and their algebra."""

from kpframe.operators.algebra import AdjointOperator, Composition, ScaledOperator, SumOperator, compose
from kpframe.operators.atoms import (
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    MatrixOperator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators.base import MEMORY_BUDGET, Operator
from kpframe.operators.traces import PartialTrace

__all__ = [
    "MEMORY_BUDGET",
    "AdjointOperator",
    "Composition",
    "DiagonalOperator",
    "FunctionOperator",
    "IdentityOperator",
    "MatrixOperator",
    "Operator",
    "OuterProductOperator",
    "PartialTrace",
    "ScaledOperator",
    "SumOperator",
    "ZeroOperator",
    "compose",
]
