"""The linear readout, the losses, and Err: the error that drives learning."""

from kpframe.tasks._error import accuracy, error, output_error, task_loss
from kpframe.tasks._readout import Readout

__all__ = ["Readout", "accuracy", "error", "output_error", "task_loss"]
