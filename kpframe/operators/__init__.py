"""Matrix-free linear operators on tensors with named axes, and their algebra."""

from kpframe.operators import _congruences, _declared, _dense, _last_valid, _work  # noqa: F401  they register what they make
from kpframe.operators._algebra import AdjointOperator, Composition, ScaledOperator, SumOperator
from kpframe.operators._base import MEMORY_BUDGET, Operator, SelfAdjointOperator, compose
from kpframe.operators._blocks import BlockOperator, KroneckerOperator, direct_sum
from kpframe.operators._contractions import BlockDiagonalOperator, PartialTraceOperator
from kpframe.operators._deferred import deferred_checks
from kpframe.operators._draws import trial_generators
from kpframe.operators._elementary import (
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    MatrixOperator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators._finite import check_finite
from kpframe.operators._formula import ATOM, PRODUCT, SUM, bracket
from kpframe.operators._isolation import in_isolation, in_transform
from kpframe.operators._memory import check_memory, chunk_size
from kpframe.operators._reducer import (
    Bin,
    BlockDiagonal,
    LastValid,
    Mean,
    PartialTrace,
    Project,
    Reducer,
    Select,
    Sum,
    create_reducer,
    principal_components,
)
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

__all__ = [
    "ATOM",
    "BATCH",
    "HIDDEN",
    "MEMORY_BUDGET",
    "PARAMETER",
    "PRODUCT",
    "SUM",
    "TIME",
    "AdjointOperator",
    "Axis",
    "Bin",
    "BlockDiagonal",
    "BlockDiagonalOperator",
    "BlockOperator",
    "Composition",
    "DiagonalOperator",
    "FunctionOperator",
    "IdentityOperator",
    "KroneckerOperator",
    "LastValid",
    "MatrixOperator",
    "Mean",
    "Operator",
    "OuterProductOperator",
    "Part",
    "PartialTrace",
    "PartialTraceOperator",
    "Project",
    "Reducer",
    "ScaledOperator",
    "Select",
    "SelfAdjointOperator",
    "Space",
    "Sum",
    "SumOperator",
    "ZeroOperator",
    "bracket",
    "check_finite",
    "check_memory",
    "chunk_size",
    "compose",
    "create_reducer",
    "deferred_checks",
    "direct_sum",
    "in_isolation",
    "in_transform",
    "parameter_space",
    "principal_components",
    "state_space",
    "trial_generators",
]
