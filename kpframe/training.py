"""Training by a learning rule."""

from kpframe.study._running.training import (
    Progress,
    Trainer,
    TrainingSettings,
    backward_gradient,
    operator_gradient,
)

__all__ = ["Progress", "Trainer", "TrainingSettings", "backward_gradient", "operator_gradient"]
