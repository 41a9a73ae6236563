"""What was forecast at earlier steps, Phi taken for fixed, beside what really happened."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, NonFiniteError, UnsupportedError, mismatch
from kpframe.forecast import Forecast, forecast
from kpframe.operators._scale import norm
from kpframe.plugin._core_learning import ForecastSettings
from kpframe.plugin._takes import takes_settings
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, require
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES
from kpframe.tasks._error import task_loss

FIRST, PREVIOUS = "first", "previous"


class ForecastGap(Quantity):
    """Outputs and loss beside those that gradient descent would have reached, had Phi stayed as it was.

    Forecasts to this step are made from the first and from the previous recorded one, by gradient descent of
    the linearised network on these very trials (``kpframe.forecast``). Where learning is lazy they hold from
    the first step on; where it is rich they fail, by ``forecast_output_gap``, ``|y - forecast| / |y -
    start|`` over the scored outputs, and by ``forecast_gap``, ``(forecast - reached) / (start - reached)`` of
    losses, positive where the network got further than was forecast.

    Updates of the training on other trials than these make a gap, too: trained on batches, a network follows
    the mean of the losses of all trials, and the forecast the loss of these.
    """

    needs = ("readout", "targets")
    on_ranks = "all"

    @takes_settings(ForecastSettings)
    def __init__(self, settings: ForecastSettings) -> None:
        self.learning_rate, self.law = settings.learning_rate, settings.law

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` where the updates are not known to be those of gradient descent."""
        self._rate(moment)

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures, with dim ``forecast_from``; NaN at the first step.

        Raises:
            ArgumentError: without a readout or targets, and as ``check``.
        """
        require(moment, self.needs)
        loss = moment.around.loss
        assert loss is not None
        rate, unit = self._rate(moment), SCORES[loss].loss_unit
        outputs = _outputs(moment)
        trials = moment.trials.to(dtype=torch.float64)
        reached = float(task_loss(outputs, trials, loss, moment.flow.P.domain))
        origins = {FIRST: moment.first, PREVIOUS: moment.previous}
        texts = {
            "forecast_updates": ("updates since the step that is forecast from", "1"),
            "forecast_start_loss": ("loss at the step that is forecast from", unit),
            "forecast_loss": ("loss that gradient descent would have reached with Phi as it was", unit),
            "forecast_gap": ("gap of the forecast loss: (forecast - reached) / (start - reached)", "1"),
            "forecast_output_gap": (
                "gap of forecast outputs: |outputs - forecast| / |outputs - start|",
                "1",
            ),
            "forecast_converged": ("1 where the forecast has converged", "1"),
            "forecast_stable": ("1 where the learning rate is below the largest stable one", "1"),
        }
        values = {name: np.full(len(origins), np.nan) for name in texts}
        reasons = []
        for place, before in enumerate(origins.values()):
            found: dict[str, float] = {}
            if before is None or before.step == moment.step:
                reasons.append("no step was recorded before")
                continue
            try:
                made = self._made(before, moment.step - before.step, rate)
            except (NonFiniteError, UnsupportedError) as error:
                if moment.shards is not None:
                    raise  # rank 0 measures alone, and tells it as one process does
                reasons.append(str(error))
                continue
            reasons.append("")
            found = _compared(before, made, outputs, reached)
            for name, value in found.items():
                values[name][place] = value
        data = xr.Dataset(
            {name: ("forecast_from", values[name], attributes(*text)) for name, text in texts.items()},
            coords={
                "forecast_from": (
                    "forecast_from",
                    list(origins),
                    attributes("recorded step that is forecast from"),
                )
            },
        )
        data["reached_loss"] = ((), reached, attributes("loss on these trials", unit))
        why = attributes("why there is no forecast")
        data["forecast_reason"] = ("forecast_from", np.array(reasons, dtype=object), why)
        return data

    def _made(self, before: Moment, updates: int, rate: float) -> Forecast:
        readout, loss = before.readout, before.around.loss
        assert readout is not None
        assert loss is not None
        law: Literal["descent", "flow"] = "flow" if self.law == "flow" else "descent"
        return forecast(
            before.flow, readout, before.trials, loss, learning_rate=rate, updates=(0, updates), law=law
        )

    def _rate(self, moment: Moment) -> float:
        """Return the rate of gradient descent that is forecast."""
        if self.learning_rate is not None:
            return self.learning_rate
        remedy = (
            "; its setting learning_rate forecasts gradient descent of that rate whatever made the updates"
        )
        if moment.optimizer not in (None, "sgd"):
            expected = "plain gradient descent (optimizer = 'sgd', no momentum, the exact gradient)"
            raise ArgumentError(mismatch("training", expected, moment.optimizer) + remedy)
        if moment.learning_rate is None:
            raise ArgumentError(mismatch("learning_rate", "that of the training", "none known") + remedy)
        return moment.learning_rate


def _outputs(moment: Moment) -> torch.Tensor:  # [B, T, O], float64
    readout = moment.readout
    assert readout is not None
    with torch.no_grad():
        outputs: torch.Tensor = readout(moment.flow.trajectory.states)
    return outputs.double()


def _compared(before: Moment, made: Forecast, outputs: torch.Tensor, reached: float) -> dict[str, float]:
    """Return what a forecast comes to beside what happened."""
    return {
        "forecast_updates": float(made.updates[1]),
        **{f"forecast_{name}": value for name, value in gaps(before, made, outputs, reached).items()},
        "forecast_converged": float(made.converged[1]),
        "forecast_stable": float(made.stable),
    }


def gaps(before: Moment, made: Forecast, outputs: torch.Tensor, reached: float) -> dict[str, float]:
    """Return the losses of a forecast, and how far it is off what was reached, of losses and of outputs.

    Args:
        before: what was forecast from; where ranks share its trials, each gives the outputs of its own.
        made: the forecast, after no updates and after those that were made.
        outputs, reached: the outputs ``[B, T, O]`` and the loss that there were after these.
    """
    scored = before.trials.scored
    start, then = made.losses.tolist()
    moved, off = (norm((outputs - made.outputs[at])[scored], before.shards) for at in (0, 1))
    return {
        "start_loss": start,
        "loss": then,
        "gap": (then - reached) / (start - reached) if start != reached else math.nan,
        "output_gap": off / moved if moved > 0 else math.nan,
    }
