"""Quantities measured by several ranks against the same by one process."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

import kpframe
from kpframe.study import Moment, Quantity, create_quantity
from kpframe.study._quantities.dims import attributes
from kpframe.study._record import record

from ..toy_moments import Cell, moment_of, trials_of  # noqa: TID252
from .teams import recorded_on


class Norms(Quantity):
    """Of the states of each trial; ``whole`` of this rank's trials alone, which is wrong."""

    on_ranks = "all"

    def __init__(self, whole: bool = False) -> None:
        self.whole = whole

    def measure(self, moment: Moment) -> xr.Dataset:
        sizes = moment.flow.trajectory.states.flatten(1).norm(dim=1)
        data = xr.Dataset({"state_norm": ("trial", sizes.numpy(), attributes("norm"))})
        if moment.step == 3:
            raise kpframe.errors.ArgumentError(f"step: expected another, got {len(sizes)} trials")
        if moment.shards is not None and moment.shards.rank == 1 and moment.step == 2:
            raise kpframe.errors.ArgumentError("this rank alone")
        if self.whole:
            data["all_norm"] = ((), float(sizes.norm()), attributes("norm of all"))
        return data


def earlier() -> Moment:
    return moment_of(trials_of(), model=Cell(2), step=0)


def trained() -> Moment:
    first = earlier()
    return moment_of(trials_of(), step=1, first=lambda: first, previous=earlier, budget=12)


def at_step(step: int) -> Moment:
    return moment_of(trials_of(), step=step)


def at_two() -> Moment:
    return at_step(2)


def at_three() -> Moment:
    return at_step(3)


def assert_same(data: xr.Dataset, plain: xr.Dataset, rtol: float = 1e-9) -> None:
    assert set(data.variables) == set(plain.variables)
    for name, expected in plain.variables.items():
        assert data[name].dims == expected.dims, name
        assert data[name].attrs == expected.attrs, name
        if expected.dtype.kind == "f":
            size = np.abs(np.nan_to_num(expected.values)).max(initial=0.0)
            np.testing.assert_allclose(
                data[name].values, expected.values, rtol=rtol, atol=rtol * size, err_msg=name
            )
        else:
            np.testing.assert_array_equal(data[name].values, expected.values, err_msg=name)


@pytest.mark.parametrize("ranks", [2, 3])
def test_figures_are_those_of_one_process(ranks: int) -> None:
    names = ("ftle", "lyapunov", "credit", "contributions", "predicted_change")
    quantities = {name: create_quantity(name) for name in names}
    plain = record(trained(), quantities)
    data, _, shared = recorded_on(ranks, trained, quantities)
    assert set(plain.quantity_failure.values) == {""}
    assert shared == [type(one).__name__ for one in quantities.values()]
    assert_same(data, plain)


def test_what_ranks_do_not_know_together_rank_0_measures_and_says_so() -> None:
    plain = record(trained(), {"norms": Norms(whole=True)})
    data, notes, shared = recorded_on(2, trained, {"norms": Norms(whole=True)})
    assert shared == ["Norms"]
    assert_same(data, plain, rtol=0.0)
    assert notes == [
        "norms, at step 1: measured on rank 0 alone (all_norm of rank 1 is not that of rank 0)",
    ]
    data, notes, _ = recorded_on(2, trained, {"norms": Norms()})
    assert notes == []
    assert_same(data, plain.drop_vars("all_norm"), rtol=0.0)


def test_an_error_of_one_rank_or_of_all_is_that_of_one_process() -> None:
    for make, told in ((at_two, "rank 1: ArgumentError: this rank alone"), (at_three, "got 3 trials")):
        plain = record(make(), {"norms": Norms()})
        data, notes, _ = recorded_on(2, make, {"norms": Norms()})
        assert_same(data, plain, rtol=0.0)
        assert len(notes) == 1
        assert told in notes[0]
    assert "got 6 trials" in data.quantity_failure.item()


def few() -> Moment:
    return moment_of(trials_of(lengths=(7, 4)), step=1)


def test_rank_0_measures_trials_that_are_fewer_than_ranks() -> None:
    plain = record(few(), {"ftle": create_quantity("ftle")})
    data, notes, _ = recorded_on(3, few, {"ftle": create_quantity("ftle")})
    assert_same(data, plain)
    assert notes == ["ftle: measured on rank 0 alone, as 2 trials are fewer than 3 ranks"]
