"""How far parameters are from where they began, and in how many directions."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators._scale import norm
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes
from kpframe.study._quantity import Quantity


class Parameters(Quantity):
    """Norms of the parameters, ``[parameter]``, their distances from the first network, effective ranks.

    The first network is that before training, or the earliest that is known: ``parameter_first_step``.

    The effective rank of a matrix is the participation ratio of its squared singular values,
    ``(Sum s^2)^2 / Sum s^4``. An array of more dimensions is a matrix of its first one by the rest; vectors
    have none. NaN where no first network is known, and the rank of a change that is zero.
    """

    of_network = True

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures.

        Raises:
            ArgumentError: where the first network had other parameters.
        """
        now = moment.model.trainable()
        start = moment if moment.step == 0 else moment.first  # before training it is the network itself
        first = None if start is None else start.model.trainable()
        shapes, others = ({n: tuple(p.shape) for n, p in one.items()} for one in (now, first or now))
        if shapes != others:
            raise ArgumentError(mismatch("moment", f"the parameters of the first network {others}", shapes))
        rows = [_figures(p, None if first is None else first[name]) for name, p in now.items()]
        columns = np.array(rows, dtype=float).reshape(len(rows), len(_TEXTS)).T
        data = xr.Dataset(
            {
                name: ("parameter", column, attributes(text))
                for (name, text), column in zip(_TEXTS.items(), columns, strict=True)
            },
            coords={"parameter": ("parameter", list(now), attributes("parameter"))},
        )
        step = np.nan if start is None else start.step
        data["parameter_first_step"] = ((), float(step), attributes("updates made in the first network"))
        if moment.readout is not None:
            other = None if start is None else start.readout
            figures = _figures(moment.readout.weight, None if other is None else other.weight)
            for (name, text), value in zip(_TEXTS.items(), figures, strict=True):
                own = name.replace("parameter", "readout")
                data[own] = ((), value, attributes(f"{text}, of the readout's weight"))
        return data


_TEXTS = {
    "parameter_norm": "Euclidean norm",
    "parameter_rank": "effective rank",
    "parameter_distance": "distance |W - W_0| from the first network",
    "parameter_distance_relative": "distance |W - W_0| / |W_0| from the first network, NaN for W_0 = 0",
    "parameter_change_rank": "effective rank of the change W - W_0 since the first network",
}


def _figures(now: torch.Tensor, first: torch.Tensor | None) -> tuple[float, ...]:
    """Return the figures of a parameter, in the order of ``_TEXTS``."""
    now = now.detach()
    size, rank = norm(now), _effective_rank(now)
    if first is None:
        return size, rank, np.nan, np.nan, np.nan
    change, start = now - first.detach(), norm(first.detach())
    distance = norm(change)
    return size, rank, distance, distance / start if start > 0 else np.nan, _effective_rank(change)


def _effective_rank(values: torch.Tensor) -> float:
    if values.ndim < 2 or not bool(values.any()):
        return float("nan")
    matrix = values.double().flatten(start_dim=1)
    squares = torch.linalg.svdvals(matrix / matrix.abs().max()).square()
    return float(squares.sum() ** 2 / squares.square().sum())
