"""Matrix-free linear operators on tensors with named axes, and their algebra."""

from kpframe.operators import _algebra, _axes, _declared, _dense, _inverses, _latex
from kpframe.operators._algebra import AdjointOperator, Composition, ScaledOperator, SumOperator, compose
from kpframe.operators._atoms import (
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    MatrixOperator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators._base import MEMORY_BUDGET, NODES, Operator, SelfAdjointOperator
from kpframe.operators._blocks import BlockOperator, KroneckerOperator, direct_sum
from kpframe.operators._contractions import BlockDiagonal, PartialTrace
from kpframe.operators._reducer import Reducer, create_reducer, principal_components
from kpframe.operators._spaces import (
    BATCH,
    HIDDEN,
    PARAMETER,
    TIME,
    Axis,
    Part,
    Space,
    parameter_space,
    state_space,
)

NODES.update(
    adjoint=AdjointOperator,
    compose=compose,
    add=_algebra.add,
    scale=_algebra.scale,
    power=_algebra.power,
    inverse=_inverses.inverse,
    declare=_declared.declare,
    diagonal=DiagonalOperator,
    mean=_axes.mean,
    sum=_axes.sum_,
    bin=_axes.bin_,
    select=_axes.select,
    last_valid=_axes.last_valid,
    project=_axes.project,
    partial_trace=PartialTrace,
    block_diagonal=BlockDiagonal,
    cached=_dense.CachedOperator,
    to_dense=_dense.to_dense,
    to_scipy=_dense.to_scipy,
    latex=_latex.latex,
)

__all__ = [
    "BATCH",
    "HIDDEN",
    "MEMORY_BUDGET",
    "PARAMETER",
    "TIME",
    "AdjointOperator",
    "Axis",
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
    "Part",
    "PartialTrace",
    "Reducer",
    "ScaledOperator",
    "SelfAdjointOperator",
    "Space",
    "SumOperator",
    "ZeroOperator",
    "compose",
    "create_reducer",
    "direct_sum",
    "parameter_space",
    "principal_components",
    "state_space",
]
