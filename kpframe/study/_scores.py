"""What a network scores on test trials, by the loss of its task: names in files, and units."""

from __future__ import annotations

import torch
from attrs import frozen

from kpframe.models._model import Model
from kpframe.tasks._error import accuracy, task_loss
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials


@frozen
class Score:
    """The figure that goes with a loss.

    Attributes:
        variable: its name in a dataset, ``test_accuracy`` or ``test_r2``.
        text: what it is.
        loss_unit: the unit of the loss, of which training and test losses are means.
    """

    variable: str
    text: str
    loss_unit: str


SCORES: dict[Loss, Score] = {
    "cross_entropy": Score("test_accuracy", "accuracy on test trials, a share of the scored steps", "nat"),
    "mse": Score("test_r2", "R^2 on test trials, 1 - sum (y - target)^2 / sum (target - mean)^2", "1"),
}


def scores_of(model: Model, readout: Readout, test: Trials, loss: Loss) -> tuple[float, float]:
    """Return the loss on test trials, and the accuracy or R^2 (see ``kpframe.readout.accuracy``)."""
    with torch.no_grad():
        outputs = readout(model.rollout(test.inputs, mask=test.mask).states)
        return float(task_loss(outputs, test, loss)), accuracy(outputs, test)
