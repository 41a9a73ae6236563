"""Quantities measured by several ranks against the same by one process."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from torch import distributed

import kpframe
from kpframe.operators import Operator
from kpframe.operators._shards import counted_traffic
from kpframe.plugin import get_manager
from kpframe.spectra._numerics.ranks import basis_rows
from kpframe.study import Moment, Quantity, create_quantity
from kpframe.study._moment import OPERATORS
from kpframe.study._operator_quantity import OperatorQuantity
from kpframe.study._quantities.dims import attributes
from kpframe.study._record import record
from kpframe.study._remembered import Remembered

from ..toy_moments import Cell, moment_of, trials_of  # noqa: TID252
from ..toy_rules import Uphill, Window  # noqa: TID252
from .ranks import on_ranks
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


#: Five trials: two on one rank, three on the other.
UNEVEN = (7, 4, 6, 7, 3)
#: What rank 0 measures alone: see docs/distributed.md.
ALONE = {"scores", "parameters", "cut_change", "estimator_error"}
SETTINGS = {
    "infinite_width": {"recurrent": "W", "inputs": "U", "biases": ("b",)},
    "routing": {"draws": 3},
    "truncation": {"draws": 6},
    "propagator_similarity": {"draws": 6},
}
#: Quantities in other ways: exact, of other axes, of products that are not positive.
MORE = {
    "exact:routing": ("routing", {"draws": 8}),
    "exact:truncation": ("truncation", {"draws": 200}),
    "trials:views": ("views", {"mean": ("time",), "k": 3}),
    "whole:views": ("views", {"mean": (), "k": 3, "budget": 20}),
    "traced:views": ("views", {"mean": ("batch",), "trace": ("hidden",), "k": 2}),
    "one:views": ("views", {"mean": (), "select": {"batch": 3, "time": -1}, "k": 2}),
}


def uneven(
    trials: slice = slice(None),
    budget: int = 12,
    operators: tuple[str, ...] = OPERATORS,
    keep: str = "all",
) -> Moment:
    """A moment of a training with all that quantities need, of some of its trials."""
    chosen = trials_of(lengths=UNEVEN).select(trials)

    def at(step: int) -> Moment:
        return moment_of(
            chosen,
            model=Cell(step),
            step=step,
            first=partial(at, 0),
            previous=partial(at, 0),
            rules={"window": Window(), "uphill": Uphill()},
            test=trials_of(seed=4),
            budget=budget,
            operators=operators,
            keep=keep,
        )

    return at(3)


def generous() -> Moment:
    """As many products as states have dimensions: all that can be exact is."""
    return uneven(budget=150, operators=("Phi", "P K"))


def every_quantity() -> dict[str, Quantity]:
    names = [spec.name for spec in get_manager().specs("quantity") if spec.factory.startswith("kpframe.")]
    made = {name: create_quantity(name, **SETTINGS.get(name, {})) for name in names}
    return made | {label: create_quantity(name, **settings) for label, (name, settings) in MORE.items()}


@pytest.mark.slow
def test_every_quantity_on_uneven_ranks_is_that_of_one_process() -> None:
    quantities = every_quantity()
    shared = {label: one for label, one in quantities.items() if one.on_ranks == "all"}
    assert set(quantities) - set(shared) == ALONE
    plain = record(uneven(), shared)
    assert set(plain.quantity_failure.values) == {""}
    part = record(uneven(slice(2)), shared)
    data, notes, measured = recorded_on(2, uneven, shared)
    assert notes == []
    assert measured == [type(one).__name__ for one in shared.values()]
    assert_same(data, plain)
    for label in shared:
        if label not in ("infinite_width", "one:views"):
            assert any(_apart(part.get(name), plain[name]) for name in _of(plain, label)), label


def with_few_states() -> Moment:
    return uneven(keep="sqrt")


@pytest.mark.slow
def test_figures_with_few_states_kept_are_the_same_on_ranks_too() -> None:
    names = ("effective_rank", "spectrum", "views", "alignment", "contributions", "truncation", "lyapunov")
    quantities = {name: create_quantity(name) for name in names}
    plain, moment = record(uneven(), quantities), with_few_states()
    assert_same(record(moment, quantities), plain)
    assert len(moment.flow.P.A.segments) == 3  # of three steps each, and one
    data, notes, _ = recorded_on(2, with_few_states, quantities)
    assert notes == []
    assert_same(data, plain)


def _of(data: xr.Dataset, label: str) -> list[str]:
    return [name for name, one in data.data_vars.items() if one.attrs.get("quantity") == label]


def _apart(one: xr.DataArray | None, other: xr.DataArray) -> bool:
    """Whether figures of one rank's trials alone are not those of all, or are none."""
    return one is None or one.shape != other.shape or not np.allclose(one, other, rtol=1e-6, equal_nan=True)


def test_exact_figures_on_ranks_are_those_of_one_process() -> None:
    names = (
        "effective_rank",
        "trace",
        "norm",
        "spectrum",
        "alignment",
        "operator_alignment",
        "kernel_change",
    )
    quantities = {name: create_quantity(name) for name in names}
    plain = record(generous(), quantities)
    assert set(plain.quantity_failure.values) == {""}
    data, notes, _ = recorded_on(2, generous, quantities)
    assert notes == []
    assert_same(data, plain)


def remembering(group: Any) -> tuple[list[torch.Tensor], list[torch.Tensor], list[int]]:
    """Products with vectors that are zero on all ranks but one, remembered and not, and numbers sent."""
    trials = trials_of(lengths=UNEVEN)
    own = slice(0, 2) if distributed.get_rank(group) == 0 else slice(2, 5)
    Phi = kpframe.linearize(Cell(), trials.inputs[own], group=group).Phi
    kept, found, wanted, sent = Remembered(Phi), [], [], []
    vectors = basis_rows(Phi.domain, 0, 2, Phi).reshape(2, *Phi.domain.shape)
    for place in (0, 1, 0, 1):
        with counted_traffic() as traffic:
            found.append(kept(vectors[place]))
        sent.append(traffic.bytes)
        wanted.append(Phi(vectors[place]))
    return found, wanted, sent


def test_ranks_remember_a_product_together() -> None:
    for found, wanted, sent in on_ranks(2, remembering):
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))
        assert float(found[0].norm()) > 0
        assert not torch.equal(found[0], found[1])
        assert (
            max(sent[2:]) < 16 < 8 * 28 < min(sent[:2])
        )  # of a gradient of 28 numbers nothing is sent again


def at_step(step: int) -> Moment:
    return moment_of(trials_of(), step=step)


def at_two() -> Moment:
    return at_step(2)


def at_three() -> Moment:
    return at_step(3)


def assert_same(data: xr.Dataset, plain: xr.Dataset, rtol: float = 1e-9) -> None:
    """Assert that figures are the same, errors and residuals relative to what they are of."""
    assert set(data.variables) == set(plain.variables)
    for name, expected in plain.variables.items():
        assert data[name].dims == expected.dims, name
        assert data[name].attrs == expected.attrs, name
        if expected.dtype.kind == "f":
            about = name.removesuffix("_stderr").removesuffix("_residual")
            of = plain.get(about, plain.get(f"{about}_value", expected))
            size = np.abs(np.nan_to_num(of.values)).max(initial=0.0)
            np.testing.assert_allclose(
                data[name].values, expected.values, rtol=rtol, atol=rtol * size, err_msg=name
            )
        else:
            np.testing.assert_array_equal(data[name].values, expected.values, err_msg=name)


@pytest.mark.parametrize("ranks", [pytest.param(2, marks=pytest.mark.slow), 3])
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


class FirstFails(OperatorQuantity):
    """Of the first operator it has nothing to say."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def of(self, moment: Moment, place: int, operator: Operator) -> None:
        self.asked.append(place)
        if place == 0:
            raise kpframe.errors.ArgumentError("none of the first")

    def together(self, moment: Moment, found: Sequence[None]) -> xr.Dataset:
        return xr.Dataset()


def test_a_rank_with_an_error_does_not_go_on_to_products_that_others_are_not_at() -> None:
    alone = moment_of(trials_of())
    assert len(alone.operators) == 3
    for group, asked in ((None, {0, 1, 2}), (object(), {0})):
        moment, quantity = copy(alone), FirstFails()
        moment.group = group
        with pytest.raises(kpframe.errors.ArgumentError, match="none of the first"):
            quantity.measure(moment)
        assert set(quantity.asked) == asked


def few() -> Moment:
    return moment_of(trials_of(lengths=(7, 4)), step=1)


def test_rank_0_measures_trials_that_are_fewer_than_ranks() -> None:
    plain = record(few(), {"ftle": create_quantity("ftle")})
    data, notes, _ = recorded_on(3, few, {"ftle": create_quantity("ftle")})
    assert_same(data, plain)
    assert notes == ["ftle: measured on rank 0 alone, as 2 trials are fewer than 3 ranks"]
