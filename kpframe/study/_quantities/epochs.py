"""Loss and accuracy, or R^2, by task epoch and by time within the trial."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, require, time_coordinate
from kpframe.study._quantities.existing import epochs_of
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES
from kpframe.tasks._task import Loss, Trials

_NAMES: dict[Loss, tuple[str, str]] = {
    "cross_entropy": ("accuracy", "share of the scored steps whose largest output is the target's"),
    "mse": ("r2", "R^2, 1 - sum (y - target)^2 / sum (target - mean)^2, NaN where targets do not vary"),
}


class LossByEpoch(Quantity):
    """The loss and the accuracy, or R^2, of the scored steps of each epoch, and of each step of the trial.

    Each is a mean over its scored steps, of all trials; how many there are stands beside it. NaN where none
    is scored. Losses times numbers of steps add up to the loss of all times theirs. R^2 compares with the
    mean of the targets of the epoch, or of the step.
    """

    needs = ("readout", "targets")
    on_ranks = "all"

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures ``[epoch]`` and ``[time]``."""
        require(moment, self.needs)
        trials, loss = moment.whole_trials, moment.around.loss
        assert moment.readout is not None
        assert loss is not None
        names, epochs = epochs_of(moment, moment.whole_probe)
        with torch.no_grad():
            outputs = moment.every_trial(moment.readout(moment.flow.trajectory.states)).double()
        steps = torch.eye(outputs.shape[1], dtype=torch.bool, device=outputs.device)[:, None, :]
        score, text = _NAMES[loss]
        coordinates: dict[str, Any] = {
            "epoch": ("epoch", names, attributes("task epoch")),
            "time": time_coordinate(moment),
        }
        data = xr.Dataset(coords=coordinates)
        for dim, parts in (("epoch", epochs), ("time", steps.expand(-1, len(outputs), -1))):
            rows = np.array([_figures(outputs, trials, trials.scored & part, loss) for part in parts])
            about = "by task epoch" if dim == "epoch" else "by step of the trial"
            unit = SCORES[loss].loss_unit
            data[f"loss_by_{dim}"] = (dim, rows[:, 0], attributes(f"loss {about}", unit))
            data[f"{score}_by_{dim}"] = (dim, rows[:, 1], attributes(f"{text}, {about}"))
            count = rows[:, 2].astype(np.int64)
            data[f"scored_by_{dim}"] = (dim, count, attributes(f"scored steps {about}"))
        return data


def _figures(
    outputs: torch.Tensor, trials: Trials, chosen: torch.Tensor, loss: Loss
) -> tuple[float, float, int]:
    """Return loss, accuracy or R^2, and number of the chosen steps ``[B, T]``."""
    found, wanted = outputs[chosen], trials.targets[chosen]
    if not len(found):
        return np.nan, np.nan, 0
    if loss == "cross_entropy":
        value = torch.nn.functional.cross_entropy(found, wanted)
        return float(value), float((found.argmax(dim=1) == wanted).double().mean()), len(found)
    wanted = wanted.double()
    squares = (found - wanted).square()
    # told by the targets themselves: of equal ones the mean need not be equal to them, for rounding
    varies = bool((wanted != wanted[0]).any())
    spread = float((wanted - wanted.mean(dim=0)).square().sum())
    fit = 1 - float(squares.sum()) / spread if varies and spread > 0 else np.nan
    return float(squares.mean()), fit, len(found)
