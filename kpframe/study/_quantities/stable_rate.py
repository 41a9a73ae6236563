"""The largest stable learning rate, beside the rate used and the sharpness of the loss."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from kpframe.forecast import sharpness, stable_rate
from kpframe.plugin._core_learning import StableRateSettings
from kpframe.plugin._takes import takes_settings
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, require
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES


class StableRates(Quantity):
    """``stable_rate``, 2 over the loss's curvature along the flow, and ``sharpness``, that of the whole loss.

    The curvature is that of the linearised network, ``lambda_max(H^1/2 Theta H^1/2)``; the sharpness that of
    the network itself. Both are of the loss on these trials. ``rate_share`` is the rate used as a share of
    the stable one: above 1 gradient descent leaves a minimum. It is NaN where the training is not known to
    be plain gradient descent, for which alone the rate is the largest; ``rate_reason`` says why.
    """

    needs = ("readout", "targets")
    on_ranks = "all"

    @takes_settings(StableRateSettings)
    def __init__(self, settings: StableRateSettings) -> None:
        self.tolerance = settings.tolerance

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return figures without dims.

        Raises:
            ArgumentError: without a readout or targets.
        """
        require(moment, self.needs)
        readout, loss = moment.readout, moment.around.loss
        assert readout is not None
        assert loss is not None
        budget = moment.around.budget
        here, tol = (moment.flow, readout, moment.trials, loss), self.tolerance
        flow = stable_rate(*here, budget=budget, tol=tol, generator=moment.generator(0))
        whole = sharpness(*here, budget=budget, tol=tol, generator=moment.generator(1))
        used = math.nan if moment.learning_rate is None else moment.learning_rate
        unit = SCORES[loss].loss_unit
        per = "1" if unit == "1" else f"{unit}-1"
        reason = ""
        if moment.learning_rate is None:
            reason = "the learning rate is not known"
        elif moment.optimizer not in (None, "sgd"):
            reason = f"the training is not by plain gradient descent but by {moment.optimizer}"
        figures = {
            "stable_rate": (flow.rate, "largest stable learning rate of gradient descent", per),
            "flow_curvature": (flow.curvature, "largest curvature of the loss along the flow", unit),
            "flow_curvature_residual": (flow.residual, "residual of the curvature's eigenvector", unit),
            "flow_curvature_converged": (flow.converged, "1 where the curvature has converged", "1"),
            "sharpness": (whole.value, "largest eigenvalue of the loss's Hessian in the parameters", unit),
            "sharpness_residual": (whole.residual, "residual of the sharpness's eigenvector", unit),
            "sharpness_converged": (whole.converged, "1 where the sharpness has converged", "1"),
            "rate_used": (used, "learning rate of the training", per),
            "rate_share": (
                math.nan if reason else used / flow.rate,
                "learning rate of the training / the largest stable one",
                "1",
            ),
        }
        data = xr.Dataset(
            {
                name: ((), float(value), attributes(text, units))
                for name, (value, text, units) in figures.items()
            }
        )
        data["rate_reason"] = ((), np.array(reason, dtype=object), attributes("why rate_share lacks"))
        return data
