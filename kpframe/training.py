"""Training by a learning rule."""

from kpframe.study._training import Progress, Trainer, TrainingSettings, backward_gradient, operator_gradient

__all__ = ["Progress", "Trainer", "TrainingSettings", "backward_gradient", "operator_gradient"]
