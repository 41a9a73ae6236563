"""The states along trials: how many dimensions they fill, their principal components, and the readout's rows.

With C the covariance of the states over trials and existing steps, and its eigenpairs from the largest::

    participation ratio   (tr C)^2 / tr C^2  =  (Sum_i c_i)^2 / Sum_i c_i^2     from 1 to the width
    explained share       c_i / tr C
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr

from kpframe.plugin._core_learning import ComponentSettings
from kpframe.plugin._takes import takes_settings
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, number_coordinate, numbers, time_coordinate
from kpframe.study._quantities.existing import existing_steps, existing_steps_of
from kpframe.study._quantity import Quantity


class States(Quantity):
    """Participation ratio and k principal components of the states; trajectories and the readout in them.

    A component points where its largest entry, the first of equal ones, is positive. One that explains no
    more than rounding does has no direction: NaN. So do all, and their shares, where the states do not vary.
    """

    on_ranks = "all"

    @takes_settings(ComponentSettings)
    def __init__(self, settings: ComponentSettings) -> None:
        self.k, self.trajectories = settings.k, settings.trajectories

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures, with dims ``pc``, ``hidden``, ``time``, ``pc_trial`` and ``output``."""
        states = moment.flow.trajectory.states.double()
        counted = states[existing_steps(moment)]  # [n, H]
        exists = existing_steps_of(moment.whole_probe)
        mean = moment.summed(counted.sum(dim=0)) / exists.sum()
        centred = counted - mean
        covariance = moment.summed(centred.mT @ centred) / exists.sum()
        rounding = torch.finfo(moment.flow.P.dtype).eps * moment.largest(counted)
        values, directions = _components(covariance, rounding**2)
        k, varies = min(self.k, len(values)), bool(directions[0].isfinite().all())
        ratio = float(values.sum() ** 2 / values.square().sum()) if varies else np.nan
        shares = values / values.sum() if varies else torch.full_like(values, torch.nan)
        directions = directions[:k]
        shown = min(self.trajectories, len(exists))
        text = "participation ratio (tr C)^2 / tr C^2 of the states over trials and existing steps"
        own = moment.every_trial((states - mean) @ directions.mT)  # [B, T, pc]
        own = own.masked_fill(~exists[..., None], torch.nan)
        coordinates: dict[str, Any] = {
            "pc": number_coordinate("pc", k, "principal component, largest first"),
            "hidden": ("hidden", np.arange(len(mean)), attributes("entry of the state")),
            "time": time_coordinate(moment),
            "pc_trial": ("pc_trial", np.arange(shown), attributes("trial")),
        }
        data = xr.Dataset(
            {
                "state_participation_ratio": ((), ratio, attributes(text)),
                "state_mean": ("hidden", numbers(mean), attributes("mean state")),
                "pc_explained": ("pc", numbers(shares[:k]), attributes("share of the variance explained")),
                "pc_direction": (
                    ("pc", "hidden"),
                    numbers(directions),
                    attributes("direction of a component, of length 1"),
                ),
                "pc_mean_trajectory": (
                    ("time", "pc"),
                    numbers(own.nanmean(dim=0)),
                    attributes("mean over the trials that exist at a step, from the mean state"),
                ),
                "pc_trajectory": (
                    ("pc_trial", "time", "pc"),
                    numbers(own[:shown]),
                    attributes("trajectory of a trial, from the mean state"),
                ),
            },
            coordinates,
        )
        if moment.readout is None:
            return data
        rows = moment.readout.full_weight().detach().double()
        lengths = rows.square().sum(dim=1)
        inside = rows @ directions.mT  # [O, pc]
        kept = inside.nan_to_num(0).square().sum(dim=1) / torch.where(lengths > 0, lengths, torch.nan)
        data["pc_readout"] = (("output", "pc"), numbers(inside), attributes("readout's rows in components"))
        text = "share of the squared length of a readout's row that lies within the components"
        data["pc_readout_share"] = ("output", numbers(kept), attributes(text))
        return data.assign_coords(output=("output", np.arange(len(rows)), attributes("output")))


def _components(
    covariance: torch.Tensor, rounding: float
) -> tuple[torch.Tensor, torch.Tensor]:  # [H], [H, H]
    """Return eigenvalues from the largest, and directions as rows, NaN where variance is that of rounding."""
    values, vectors = torch.linalg.eigh(covariance)
    values, directions = values.flip(0).clamp(min=0), vectors.mT.flip(0)
    sizes = directions.abs()
    largest = sizes >= (1 - 1e-6) * sizes.amax(dim=1, keepdim=True)  # rounding decides among equal ones
    places = largest.int().argmax(dim=1, keepdim=True)
    directions = directions * directions.gather(1, places).sign()
    least = max(torch.finfo(values.dtype).eps * float(values[0]), rounding)
    return values, directions.masked_fill((values <= len(values) * least)[:, None], torch.nan)
