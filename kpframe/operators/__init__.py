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
from kpframe.operators.blocks import BlockOperator, KroneckerOperator, direct_sum
from kpframe.operators.traces import BlockDiagonal, PartialTrace

__all__ = [
    "MEMORY_BUDGET",
    "AdjointOperator",
    "BlockDiagonal",
    "BlockOperator",
    "Composition",
    "DiagonalOperator",
    "FunctionOperator",
    "IdentityOperator",
    "KroneckerOperator",
    "MatrixOperator",
    "Operator",
    "OuterProductOperator",
    "PartialTrace",
    "ScaledOperator",
    "SumOperator",
    "ZeroOperator",
    "compose",
    "direct_sum",
]
