"""What gradient flow does to a trajectory, as Phi says."""

from kpframe.rules._gradient_flow import (
    Contributions,
    TaylorTest,
    actual_change,
    contributions,
    cross_flow,
    effective_dimension,
    loss_rate,
    predicted_change,
    taylor_test,
)

__all__ = [
    "Contributions",
    "TaylorTest",
    "actual_change",
    "contributions",
    "cross_flow",
    "effective_dimension",
    "loss_rate",
    "predicted_change",
    "taylor_test",
]
