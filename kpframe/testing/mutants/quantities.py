"""Quantities that break what a study relies on."""

from __future__ import annotations

import itertools
from typing import Any

import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity
from kpframe.testing.mutants.mutant import Mutant

_KNOWN = {"long_name": "size of the weights", "units": "1"}


def _size(moment: Moment) -> float:
    return float(sum(p.detach().square().sum() for p in moment.model.parameters()))


def _data(value: Any, name: str = "size", **attributes: str) -> xr.Dataset:
    return xr.Dataset({name: ((), value, {**_KNOWN, **attributes})})


class Number(Quantity):
    """Returns a number, and no dataset."""

    def measure(self, moment: Moment) -> Any:
        """Return a number."""
        return _size(moment)


class Refusing(Quantity):
    """Refuses a setting whatever it is, its default as well."""

    def __init__(self, most: int = 64) -> None:
        self.most = most

    def measure(self, moment: Moment) -> xr.Dataset:
        """Raise an error that begins with the setting's name."""
        raise ArgumentError(mismatch("most", "more than that", str(self.most)))


class Unseeded(Quantity):
    """Draws from torch's global generator, and puts it back."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return an estimate that no seed repeats."""
        with torch.random.fork_rng():
            torch.manual_seed(next(_CALLS))
            return _data(_size(moment) * float(1 + torch.rand(())))


_CALLS = itertools.count()


class Reseeding(Quantity):
    """Seeds torch's global generator, on which the training goes on."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return a figure."""
        torch.manual_seed(moment.around.seed)
        return _data(_size(moment))


class Unlabelled(Quantity):
    """Has a dimension without a coordinate."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the sizes of the parameters."""
        sizes = [float(p.detach().norm()) for p in moment.model.parameters()]
        return xr.Dataset({"size": ("weight", sizes, _KNOWN)})


class Spread(Quantity):
    """Has a standard error of nothing."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return a standard error alone."""
        return _data(_size(moment), name="size_stderr")


class Unwritable(Quantity):
    """An attribute that netCDF has no form for."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return a figure with a table for an attribute."""
        data = _data(_size(moment))
        data["size"].attrs["settings"] = {"budget": moment.around.budget}
        return data


class Undeclared(Quantity):
    """Uses the targets and does not say so."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the size of the error."""
        return _data(float(moment.output_err.norm()))


class Padded(Quantity):
    """Averages over steps that do not exist."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return a mean of the inputs."""
        return _data(float(moment.probe.inputs.mean()) + _size(moment))


class Alone(Quantity):
    """Says that it is of the network alone, and follows the inputs."""

    of_network = True

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the size of the states."""
        return _data(float(moment.flow.trajectory.states.norm()))


class Trusting(Quantity):
    """Takes it that no step ever failed."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the size of the weights."""
        return _data(_size(moment))

    def across(self, recorded: xr.Dataset) -> xr.Dataset | None:
        """Return the change since the first step."""
        if recorded["size"].isnull().any():
            raise ValueError("cannot compare NaN")
        return xr.Dataset({"change": (recorded["size"] - recorded["size"][0]).assign_attrs(_KNOWN)})


MUTANTS = (
    Mutant(Number, "quantity_builds", "expected an xarray.Dataset, got float", "quantity"),
    Mutant(Refusing, "quantity_builds", "most: expected more than that, got 64", "quantity"),
    Mutant(Unseeded, "figures_are_a_function_of_the_network", "measured again: size: expected", "quantity"),
    Mutant(Reseeding, "measuring_changes_nothing", "changes torch's random state", "quantity"),
    Mutant(Unlabelled, "figures_are_labelled", "the dimension 'weight' has no coordinate", "quantity"),
    Mutant(Spread, "figures_are_labelled", "size_stderr is there, and no size", "quantity"),
    Mutant(Unwritable, "figures_survive_a_file", "cannot be written to netCDF", "quantity"),
    Mutant(
        Undeclared, "needs_are_declared", "a moment without readout, which it does not declare", "quantity"
    ),
    Mutant(Padded, "padding_is_not_read", "with other inputs after the ends of trials", "quantity"),
    Mutant(Alone, "inputs_are_those_of_the_moment", "along other inputs: size: expected", "quantity"),
    Mutant(Trusting, "steps_are_compared_with_care", "a step at which it failed", "quantity"),
)
