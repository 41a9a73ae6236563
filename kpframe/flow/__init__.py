"""The operators of a linearized trajectory, a symbol of the paper a file.

A (``_step_jacobian``), J (``_parameter_jacobian``), P and Z (``_propagator``), K and M
(``_parameter_operator``), Phi and G (``_neural_tangent``), and the trajectory that they belong to.
"""

from kpframe.flow._cuda_graph import CudaGraphPropagator
from kpframe.flow._eligibilities import eligibilities
from kpframe.flow._flow import Flow
from kpframe.flow._named_parameters import (
    join_parameters,
    match_parameters,
    parameter_values,
    split_parameters,
)
from kpframe.flow._neural_tangent import neural_tangent, total_jacobian
from kpframe.flow._parameter_jacobian import ParameterJacobian, WeightGroup
from kpframe.flow._parameter_operator import GroupProjector, ParameterOperator, ProductParameterOperator
from kpframe.flow._propagator import (
    DensePropagator,
    Propagator,
    ScanPropagator,
    StepwisePropagator,
    TransitionOperator,
    TruncatedPropagator,
    WindowedPropagator,
    shift,
    unshift,
)
from kpframe.flow._repeatable import repeatable
from kpframe.flow._sharded_jacobian import ShardedParameterJacobian, local_jacobian
from kpframe.flow._step_jacobian import (
    DenseStepJacobian,
    DiagonalStepJacobian,
    EntryStepJacobian,
    MaskedStepJacobian,
    ScaledStepJacobian,
    StepJacobian,
    SumStepJacobian,
    SwitchedStepJacobian,
)
from kpframe.flow._trajectory import Trajectory
from kpframe.flow._weighted_steps import WeightedPath, WeightedRead, WeightedSteps

__all__ = [
    "CudaGraphPropagator",
    "DensePropagator",
    "DenseStepJacobian",
    "DiagonalStepJacobian",
    "EntryStepJacobian",
    "Flow",
    "GroupProjector",
    "MaskedStepJacobian",
    "ParameterJacobian",
    "ParameterOperator",
    "ProductParameterOperator",
    "Propagator",
    "ScaledStepJacobian",
    "ScanPropagator",
    "ShardedParameterJacobian",
    "StepJacobian",
    "StepwisePropagator",
    "SumStepJacobian",
    "SwitchedStepJacobian",
    "Trajectory",
    "TransitionOperator",
    "TruncatedPropagator",
    "WeightGroup",
    "WeightedPath",
    "WeightedRead",
    "WeightedSteps",
    "WindowedPropagator",
    "eligibilities",
    "join_parameters",
    "local_jacobian",
    "match_parameters",
    "neural_tangent",
    "parameter_values",
    "repeatable",
    "shift",
    "split_parameters",
    "total_jacobian",
    "unshift",
]
