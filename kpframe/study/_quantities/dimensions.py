"""In how many dimensions signals vary: inputs, targets, errors, states, and what learning makes of them.

Of a signal v, ``[B, T, n]``, the second moment ``v (x)_{B,T} v* = Sum_bt v_bt v_bt*``, ``[n, n]``, has the
participation ratio ``(tr C)^2 / tr C^2``: 1 for one direction, n for all alike.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from kpframe.operators._scale import divided, unit_of
from kpframe.rules._update import Update
from kpframe.study._moment import Moment
from kpframe.study._quantities.action import participation
from kpframe.study._quantities.dims import attributes
from kpframe.study._quantities.existing import existing_steps
from kpframe.study._quantity import Quantity


class Dimensions(Quantity):
    """Participation ratios of second moments over trials and existing steps, ``[signal]``; exact.

    - ``inputs``, ``states``, and ``state change``, since the first network;
    - with readout and targets: ``targets`` and ``output error``, over scored steps (classes as one-hot
      vectors); ``P* Err``, the error that has travelled back; ``K P* Err``, and ``Phi Err``, along which
      gradient descent moves the states.

    NaN for a signal that is zero, and for a change from a network that is not known.
    """

    on_ranks = "all"

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the dimensions."""
        exists = existing_steps(moment)
        states = moment.flow.trajectory.states
        signals = {"inputs": moment.probe.inputs[exists], "states": states[exists]}
        first = moment if moment.step == 0 else moment.first  # before training it is the network itself
        change = None if first is None else states - first.flow.trajectory.states
        signals["state change"] = states.new_zeros(0, 1) if change is None else change[exists]
        if moment.readout is not None and moment.around.loss is not None and moment.probe.trials is not None:
            scored, flow = moment.trials.scored, moment.flow
            err = Update.exact(flow, moment.readout).incoming(output_err=moment.output_err)
            back = flow.P.T(err)
            moved = flow.K(back)
            signals["targets"] = _targets(moment)[scored]
            signals["output error"] = moment.output_err[scored]
            signals |= {"P* Err": back[exists], "K P* Err": moved[exists], "Phi Err": flow.P(moved)[exists]}
        text = "participation ratio (tr C)^2 / tr C^2 of the second moment over trials and steps"
        values = np.array([_ratio(moment, rows) for rows in signals.values()])
        return xr.Dataset(
            {"dimension": ("signal", values, attributes(text))},
            coords={"signal": ("signal", list(signals), attributes("what varies"))},
        )


def _targets(moment: Moment) -> torch.Tensor:
    targets = moment.trials.targets
    if targets.is_floating_point():
        return targets
    classes = moment.output_err.shape[2]
    places = torch.where(moment.trials.scored, targets, 0)  # others have no effect, and may be any number
    return torch.nn.functional.one_hot(places, classes)


def _ratio(moment: Moment, rows: torch.Tensor) -> float:  # [m, n]
    rows = divided(rows.double(), unit_of(rows, shards=moment.shards))
    return float(participation(moment.summed(rows.mT @ rows)))
