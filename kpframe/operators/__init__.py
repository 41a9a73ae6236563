"""Matrix-free linear operators on tensors with named axes, and their algebra."""

from kpframe.operators import algebra, axes, declared, dense, inverses, latex
from kpframe.operators.algebra import AdjointOperator, Composition, ScaledOperator, SumOperator, compose
from kpframe.operators.atoms import (
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    MatrixOperator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators.base import MEMORY_BUDGET, NODES, Operator
from kpframe.operators.blocks import BlockOperator, KroneckerOperator, direct_sum
from kpframe.operators.traces import BlockDiagonal, PartialTrace

NODES.update(
    adjoint=AdjointOperator,
    compose=compose,
    add=algebra.add,
    scale=algebra.scale,
    power=algebra.power,
    inverse=inverses.inverse,
    declare=declared.declare,
    diagonal=DiagonalOperator,
    mean=axes.mean,
    sum=axes.sum_,
    bin=axes.bin_,
    select=axes.select,
    last_valid=axes.last_valid,
    project=axes.project,
    partial_trace=PartialTrace,
    block_diagonal=BlockDiagonal,
    cached=dense.CachedOperator,
    to_dense=dense.to_dense,
    to_scipy=dense.to_scipy,
    latex=latex.latex,
)

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
