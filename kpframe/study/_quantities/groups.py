"""Groups of trials: those with one value of a coordinate, a sub-task or a class."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, closest, mismatch
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, require
from kpframe.study._quantity import Quantity


class QuantityOfGroups(Quantity):
    """A quantity of groups of trials in pairs, ``[group, group_other]``.

    Args:
        by: see ``groups_of``.
        most: likewise.
    """

    def __init__(self, by: str | None, most: int) -> None:
        self.by, self.most = by, most

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` where trials lack the coordinate, or fall into too many groups."""
        require(moment, self.needs)
        for name in moment.around.probes:
            groups_of(moment.along(name), self.by, self.most)

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures; raises as ``check``."""
        require(moment, self.needs)
        name, labels, members = groups_of(moment, self.by, self.most)
        return self.between(moment, members).assign_coords(group_coordinates(name, labels))

    @abstractmethod
    def between(self, moment: Moment, members: torch.Tensor) -> xr.Dataset:
        """Return the figures of groups, ``members`` ``[group, B]`` saying which of all trials belong."""


def groups_of(moment: Moment, by: str | None, most: int) -> tuple[str, list[str], torch.Tensor]:
    """Return the coordinate, the groups' labels, and ``[group, B]`` which of all trials belong to each.

    Args:
        moment: whose trials.
        by: coordinate; the first that puts some of the trials into 2 to ``most`` groups when None.
        most: largest number of groups.

    Raises:
        ArgumentError: where trials lack the coordinate, or fall into too few or too many groups.
    """
    coordinates = {name: _sorted_out(values) for name, values in moment.whole_trials.trial.items()}
    counts = {name: len(labels) for name, (labels, _) in coordinates.items()}
    listed = ", ".join(f"{name} ({count} values)" for name, count in counts.items()) or "none"
    largest = most if by else min(most, moment.whole_trials.num_trials - 1)  # not one trial each
    fits = [name for name, count in counts.items() if 2 <= count <= largest]
    if by is not None and by not in coordinates:
        expected = f"a coordinate of the trials ({listed})"
        raise ArgumentError(mismatch("by", expected, repr(by)) + closest(by, counts))
    if (by or next(iter(fits), None)) not in fits:
        expected = f"a coordinate that puts the trials into 2 to {largest} groups (most = {most})"
        got = f"{by!r} with {counts[by]}" if by else "none such"
        raise ArgumentError(mismatch("by", expected, f"{got}; the trials have {listed}"))
    chosen = by or fits[0]
    labels, places = coordinates[chosen]
    members = torch.from_numpy(places[None] == np.arange(len(labels))[:, None])
    return chosen, labels, members.to(moment.probe.inputs.device)


def own_members(moment: Moment, members: torch.Tensor) -> torch.Tensor:  # [group, B]
    """Return which of this rank's own trials belong to each group."""
    return members if moment.shards is None else members[:, moment.shards.own]


def _sorted_out(values: np.ndarray) -> tuple[list[str], np.ndarray]:
    """Return the different values, as text, and the place of each trial's among them."""
    values = np.asarray(values)
    if values.dtype.kind == "O":
        values = values.astype(str)
    found, places = np.unique(values, return_inverse=True)
    return [str(value) for value in found.tolist()], places.reshape(-1)


def group_coordinates(by: str, labels: list[str]) -> dict[str, xr.Variable]:
    """Return the coordinates of ``[group, group_other]``."""
    dims = ("group", "group_other")
    return {dim: xr.Variable(dim, labels, attributes(f"trials of one {by}")) for dim in dims}


def cosines_of(products: torch.Tensor) -> torch.Tensor:  # [..., n, n]
    """Return a Gram matrix divided by the roots of its diagonal, NaN where that is 0."""
    sizes = products.diagonal(dim1=-2, dim2=-1).clamp(min=0).sqrt()
    apart = torch.where(sizes > 0, sizes, torch.nan)
    return (products / apart[..., :, None] / apart[..., None, :]).clamp(-1, 1)
