"""What gradient descent makes of a network in a few updates from here, beside what is forecast of it."""

from __future__ import annotations

import copy
import math

import numpy as np
import torch
import xarray as xr

from kpframe.errors import NonFiniteError
from kpframe.forecast import forecast, stable_rate
from kpframe.forecast._objective import learned
from kpframe.operators._isolation import in_isolation
from kpframe.plugin._core_learning import AheadSettings
from kpframe.plugin._takes import takes_settings
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, require
from kpframe.study._quantities.forecast import gaps
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES
from kpframe.tasks._error import task_loss


class ForecastAhead(Quantity):
    """How well Phi as it is now forecasts a short gradient descent from here.

    A copy of the network and its readout makes ``updates`` updates of plain gradient descent on these trials,
    at ``share`` of the largest stable rate, which differs from network to network. ``ahead_output_gap`` and
    ``ahead_gap`` say how far the forecast is off, as those of ``forecast`` do: small where learning is lazy.
    It does not matter what made the updates of the training so far.
    """

    needs = ("readout", "targets")
    on_ranks = "all"

    @takes_settings(AheadSettings)
    def __init__(self, settings: AheadSettings) -> None:
        self.updates, self.share = settings.updates, settings.share

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return figures without dims, NaN where ``ahead_reason`` says why; raises without what it needs."""
        require(moment, self.needs)
        loss = moment.around.loss
        assert loss is not None
        unit = SCORES[loss].loss_unit
        texts = {
            "ahead_rate": ("learning rate of the gradient descent", "1" if unit == "1" else f"{unit}-1"),
            "ahead_updates": ("updates of the gradient descent", "1"),
            "ahead_start_loss": ("loss on these trials before it", unit),
            "ahead_loss": ("loss on these trials that it reaches", unit),
            "ahead_forecast_loss": ("loss that was forecast with Phi as it is", unit),
            "ahead_gap": ("gap of the forecast loss: (forecast - reached) / (start - reached)", "1"),
            "ahead_output_gap": (
                "gap of forecast outputs: |outputs - forecast| / |outputs - start|",
                "1",
            ),
        }
        figures, reason = dict.fromkeys(texts, math.nan), ""
        try:
            figures |= self._figures(moment)
        except NonFiniteError as error:
            if moment.shards is not None:
                raise  # rank 0 measures alone, and tells it as one process does
            reason = str(error)
        data = xr.Dataset({name: ((), figures[name], attributes(*text)) for name, text in texts.items()})
        why = attributes("why there is no forecast")
        data["ahead_reason"] = ((), np.array(reason, dtype=object), why)
        return data

    def _figures(self, moment: Moment) -> dict[str, float]:
        flow, readout, trials, loss = moment.flow, moment.readout, moment.trials, moment.around.loss
        assert readout is not None
        assert loss is not None
        here = (flow, readout, trials, loss)
        largest = stable_rate(*here, budget=moment.around.budget, generator=moment.generator(0)).rate
        if not math.isfinite(largest):
            raise NonFiniteError("the largest stable rate is infinite: gradient descent moves no output")
        rate = self.share * largest
        made = forecast(*here, learning_rate=rate, updates=(0, self.updates))
        outputs = _descended(moment, rate, self.updates)
        reached = float(task_loss(outputs, trials.to(dtype=torch.float64), loss, flow.P.domain))
        found = gaps(moment, made, outputs, reached)
        return {
            "ahead_rate": rate,
            "ahead_updates": float(self.updates),
            "ahead_loss": reached,
            "ahead_forecast_loss": found.pop("loss"),
            **{f"ahead_{name}": value for name, value in found.items()},
        }


@in_isolation
def _descended(moment: Moment, rate: float, updates: int) -> torch.Tensor:  # [B, T, O], float64
    """Return the outputs after updates of gradient descent on the moment's trials; the network stays."""
    trials, loss = moment.trials, moment.around.loss
    model, readout = copy.deepcopy((moment.model, moment.readout))
    assert readout is not None
    assert loss is not None
    parameters, space = learned(model, readout), moment.flow.P.domain

    def states() -> torch.Tensor:
        """Return those of this rank's trials; what diverges on one rank ends it on all."""
        return space.together(lambda: model.rollout(trials.inputs, mask=trials.mask).states)

    for _ in range(updates):
        with torch.enable_grad():
            value = task_loss(readout(states()), trials, loss, space)
            slopes = torch.autograd.grad(value, parameters, allow_unused=True)
        with torch.no_grad():
            for parameter, slope in zip(parameters, slopes, strict=True):
                if slope is not None:
                    parameter.sub_(rate * space.sum(slope))
    with torch.no_grad():
        outputs: torch.Tensor = readout(states())
    return outputs.double()
