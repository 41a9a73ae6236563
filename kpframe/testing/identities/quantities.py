"""What a quantity must be: a function of (network, step, seed), named, with units, and fit for a file."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal, cast

import numpy as np
import torch
import xarray as xr
from attrs import evolve

from kpframe.errors import KpframeError, mismatch, say
from kpframe.study._disk.netcdf import dataset_bytes, dataset_of
from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity
from kpframe.study._record import record
from kpframe.testing._choices import smallest_settings
from kpframe.testing._identity import identity
from kpframe.testing._moments import QuantityCase
from kpframe.testing._residual import CheckFailure, NotApplicable, Residual, require

_SOURCE = "docs/plugins.md"
_MEASURE = "measure()"

#: Dimensions that a study adds itself.
RESERVED = ("step", "inputs", "quantity", "network", "trained_by", "seed")
#: What a quantity may say that it needs.
NEEDS = ("readout", "targets", "test", "rules")

Need = Literal["readout", "targets", "test", "rules"]


def measured(quantity: Quantity, moment: Moment) -> xr.Dataset:
    """Return what a quantity says of a moment; raises ``NotApplicable`` where it refuses it."""
    try:
        return quantity.measure(moment)
    except KpframeError as error:
        raise _refused(error) from error


def _refused(error: KpframeError) -> NotApplicable:
    return NotApplicable(f"it refuses every case: {say(error)}")


def difference(found: xr.Dataset, wanted: xr.Dataset) -> str:
    """Return in words where two datasets are not equal bit by bit; empty where they are."""
    for kind in ("data_vars", "coords"):
        names, others = set(getattr(found, kind)), set(getattr(wanted, kind))
        if names != others:
            return f"{sorted(map(str, names ^ others))} are in one of them only"
    for name in wanted.variables:
        one, other = found.variables[name], wanted.variables[name]
        if one.dims != other.dims or one.shape != other.shape:
            return f"{name}: expected {dict(other.sizes)}, got {dict(one.sizes)}"
        left, right = one.values, other.values
        real = left.dtype.kind in "fc" and right.dtype.kind in "fc"
        if not np.array_equal(left, right, equal_nan=real):
            return f"{name}: expected {_some(right)}, got {_some(left)}"
    return ""


def _some(values: np.ndarray) -> str:
    return " ".join(np.array2string(values, threshold=6, edgeitems=2).split())


def _equal(found: xr.Dataset, wanted: xr.Dataset, what: str) -> Residual:
    gap = difference(found, wanted)
    return Residual(1.0, 0.0, f"{what}: {gap}") if gap else Residual(0.0, 0.0)


@identity(
    "quantity",
    source=_SOURCE,
    look=f"the factory, and {_MEASURE}: it returns an xarray.Dataset",
    gate=True,
    batch=3,
    time=4,
    mask=False,
)
def quantity_builds(case: QuantityCase) -> Residual:
    """It builds from its settings, and measures a network on three trials of four steps.

    A setting may ask for more than the case has, which an error that begins with its name says; by its
    simplest settings it must measure each case.
    """
    try:
        data = case.build().measure(case.moment())
    except KpframeError as error:
        if str(error).partition(":")[0] not in case.settings:
            raise
        evolve(case, settings=smallest_settings("quantity", case.quantity)).build().measure(case.moment())
        raise _refused(error) from error
    if not isinstance(data, xr.Dataset):
        raise CheckFailure(mismatch(_MEASURE, "an xarray.Dataset", type(data).__name__))
    require(bool(data.data_vars), f"{_MEASURE}: expected at least one variable, got none")
    return Residual(0.0)


@identity(
    "quantity",
    source=_SOURCE,
    look="random numbers from elsewhere than moment.generator, and what is kept from one call to the next",
)
def figures_are_a_function_of_the_network(case: QuantityCase) -> Residual:
    """Measured twice, with other global random states and by another object, the figures are bit-equal."""
    first = case.build()
    found = [measured(first, case.moment())]
    for quantity in (first, case.build()):
        torch.rand(3)
        with _others_seeded(len(found)):
            found.append(measured(quantity, case.moment()))
    again, anew = (_equal(one, found[0], "measured again") for one in found[1:])
    return again if not again.ok else anew


@figures_are_a_function_of_the_network.differs
def _of_another_network(case: QuantityCase) -> Residual | None:
    quantity = case.build()
    one, other = (measured(quantity, case.moment(salt=salt)) for salt in (0, 1000))
    return Residual(1.0) if difference(one, other) else None


@contextmanager
def _others_seeded(seed: int) -> Iterator[None]:
    """Seed NumPy's and Python's generators inside, and put back what they were."""
    before = (np.random.get_state(), random.getstate())  # noqa: NPY002 - what a quantity must not draw from
    try:
        np.random.seed(seed)  # noqa: NPY002
        random.seed(seed)
        yield
    finally:
        np.random.set_state(before[0])  # noqa: NPY002
        random.setstate(before[1])


@identity(
    "quantity",
    source=_SOURCE,
    look="what is set or drawn globally, and what is written into the model: work on copies",
)
def measuring_changes_nothing(case: QuantityCase) -> Residual:
    """Random states, parameters, gradients, modes, dtypes and trials are after it what they were before."""
    moment = case.moment()
    modules = [moment.model, *([] if moment.readout is None else [moment.readout])]
    for module in modules:
        for parameter in module.parameters():
            parameter.grad = torch.ones_like(parameter)
    modules[0].train(False)
    before = _state(moment, modules)
    measured(case.build(), moment)
    after = _state(moment, modules)
    for what, value in before.items():
        require(_alike(value, after[what]), f"{_MEASURE} changes {what}")
    return Residual(0.0)


def _state(moment: Moment, modules: list[Any]) -> dict[str, Any]:
    around = moment.around
    test = () if around.test is None else (around.test.inputs, around.test.targets)
    parameters = [p for module in modules for p in module.parameters()]
    return {
        "torch's random state": torch.random.get_rng_state(),
        "NumPy's random state": copy.deepcopy(np.random.get_state()),  # noqa: NPY002
        "Python's random state": random.getstate(),
        "torch's default dtype": torch.get_default_dtype(),
        "torch's number of threads": torch.get_num_threads(),
        "whether torch records gradients": torch.is_grad_enabled(),
        "parameters": [p.detach().clone() for p in parameters],
        "gradients": [None if p.grad is None else p.grad.clone() for p in parameters],
        "requires_grad": [p.requires_grad for p in parameters],
        "training modes": [part.training for module in modules for part in module.modules()],
        "inputs": [probe.inputs.clone() for probe in around.probes.values()],
        "test trials": [tensor.clone() for tensor in test],
        "what a moment holds": (around.budget, around.seed, moment.step, tuple(around.operators)),
    }


def _alike(one: Any, other: Any) -> bool:
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(_alike, one, other))
    if isinstance(one, torch.Tensor):
        return isinstance(other, torch.Tensor) and torch.equal(one, other)
    if isinstance(one, np.ndarray):
        return np.array_equal(one, other)
    return bool(one == other)


@identity(
    "quantity",
    source=_SOURCE,
    look="the variables' dims and attributes; assign_coords() gives a dimension its coordinate",
)
def figures_are_labelled(case: QuantityCase) -> Residual:
    """Dims have coordinates, variables long_name and units, and each ``x_stderr`` its ``x``."""
    check_labels(measured(case.build(), case.moment()), RESERVED)
    return Residual(0.0)


def check_labels(data: xr.Dataset, reserved: tuple[str, ...]) -> None:
    """Raise ``CheckFailure`` for dims without coordinates, names that are taken, and missing attributes."""
    for dim in map(str, data.dims):
        require(dim not in reserved, f"the dimension {dim!r} is the study's: choose another name")
        require(dim in data.coords, f"the dimension {dim!r} has no coordinate")
        require(data.indexes[dim].is_unique, f"the coordinate {dim!r} has a value twice")
    for name, array in {str(name): data[name] for name in data.variables}.items():
        for attribute in ("long_name", "units"):
            value = array.attrs.get(attribute)
            got = mismatch(attribute, "some text", repr(value))
            require(isinstance(value, str) and bool(value), f"{name}: {got}")
    for name in map(str, data.data_vars):
        if not name.endswith("_stderr"):
            continue
        of = name.removesuffix("_stderr")
        require(of in data.data_vars, f"{name} is there, and no {of}")
        require(data[of].dims == data[name].dims, f"{name} has not the dims of {of}")
        require(not bool((data[name] < 0).any()), f"{name}: expected standard errors >= 0, got less")


@identity("quantity", source=_SOURCE, look="dtypes and attributes that netCDF has no form for")
def figures_survive_a_file(case: QuantityCase) -> Residual:
    """Written to netCDF and read back, the dataset is the same, attributes too."""
    data = measured(case.build(), case.moment())
    try:
        found = dataset_of(dataset_bytes(data))
    except Exception as error:
        raise CheckFailure(f"it cannot be written to netCDF: {say(error)}") from error
    for name in data.variables:
        if dict(found[name].attrs) != dict(data[name].attrs):
            raise CheckFailure(
                f"{name}: attributes are {found[name].attrs} when read, {data[name].attrs} before"
            )
    return _equal(found, data, "read back")


@identity(
    "quantity",
    source=_SOURCE,
    look="needs: it names what of a moment is used, of readout, targets, test and rules",
)
def needs_are_declared(case: QuantityCase) -> Residual:
    """It measures without what it does not need, and refuses a moment without what it needs, if at all."""
    quantity = case.build()
    unknown = [need for need in quantity.needs if need not in NEEDS]
    require(not unknown, mismatch("needs", f"some of {', '.join(NEEDS)}", unknown))
    measured(quantity, case.moment())
    spare = [need for need in NEEDS if need not in quantity.needs]
    for left_out in ([need] for need in spare):
        _without(quantity, case, left_out, "which it does not declare in needs")
    if len(spare) > 1:
        _without(quantity, case, spare, "which it does not declare in needs")
    for need in quantity.needs:
        try:
            quantity.measure(case.moment(without=[cast(Need, need)]))
        except KpframeError:
            continue
        except Exception as error:
            raise CheckFailure(
                f"without {need} it raises {say(error)}: expected a KpframeError, which costs its own figures"
            ) from error
    return Residual(0.0)


def _without(quantity: Quantity, case: QuantityCase, left_out: list[str], why: str) -> None:
    try:
        quantity.measure(case.moment(without=cast(list[Need], left_out)))
    except Exception as error:
        raise CheckFailure(f"a moment without {', '.join(left_out)}, {why}: {say(error)}") from error


@identity(
    "quantity",
    source=_SOURCE,
    look="steps at which trials have ended, where moment.probe.mask is False: what stands there is nothing",
    mask=True,
)
def padding_is_not_read(case: QuantityCase) -> Residual:
    """Of trials of several lengths the figures are the same whatever inputs stand after their ends."""
    quantity = case.build()
    one, other = (measured(quantity, case.moment(padding=value)) for value in (0.5, -3.0))
    return _equal(other, one, "with other inputs after the ends of trials")


@identity(
    "quantity",
    source=_SOURCE,
    look="of_network: True for figures of the network alone; others follow moment.flow, moment.trials ...",
)
def inputs_are_those_of_the_moment(case: QuantityCase) -> Residual:
    """Figures ``of_network`` know no inputs; others are those along each of several sets of inputs."""
    quantity, moment = case.build(), case.moment(sets=2)
    first, other = measured(quantity, moment), measured(quantity, moment.along("other"))
    if quantity.of_network:
        return _equal(other, first, "along other inputs")
    data = record(moment, {"it": quantity})
    require(
        not str(data.quantity_failure.item()), f"along two sets of inputs: {data.quantity_failure.item()}"
    )
    name = next(iter(first.data_vars))
    row = data[name].sel(inputs="other").reindex_like(other[name])  # joining may have sorted coordinates
    together, alone = row.transpose(*other[name].dims).values, other[name].values
    same = np.array_equal(together, alone, equal_nan=alone.dtype.kind in "fc")
    text = f"{name} of two sets of inputs: expected {_some(alone)}, got {_some(together)}"
    return Residual(0.0, 0.0) if same else Residual(1.0, 0.0, text)


@identity(
    "quantity",
    source=_SOURCE,
    look="across(): steps at which it failed are NaN, and there may be one step alone",
)
def steps_are_compared_with_care(case: QuantityCase) -> Residual:
    """What ``across`` makes of several steps is labelled, a function of them, and survives a failed step."""
    quantity = case.build()
    rows = [measured(quantity, case.moment(step=step)) for step in range(3)]
    whole = _steps(rows, range(3))
    before = whole.copy(deep=True)
    found, again = (_across(quantity, whole, "all steps") for _ in range(2))
    require(not difference(whole, before), "across() changes what was recorded")
    if found is None:
        raise NotApplicable("nothing follows from several steps together")
    assert again is not None
    check_labels(found, tuple(dim for dim in RESERVED if dim != "step"))
    failed = _steps([rows[0], rows[2]], (0, 2)).reindex(step=range(3))
    _across(quantity, failed, "a step at which it failed")
    _across(quantity, _steps(rows[:1], (0,)), "one step alone")
    return _equal(again, found, "across the same steps again")


def _steps(rows: list[xr.Dataset], steps: Any) -> xr.Dataset:
    dim = xr.Variable("step", list(steps), {"long_name": "updates made", "units": "1"})
    return xr.concat(rows, dim=dim, data_vars="all", join="outer", combine_attrs="override")


def _across(quantity: Quantity, recorded: xr.Dataset, what: str) -> xr.Dataset | None:
    try:
        found = quantity.across(recorded)
    except Exception as error:
        raise CheckFailure(f"across(), {what}: {say(error)}") from error
    if found is not None and not isinstance(found, xr.Dataset):
        raise CheckFailure(mismatch("across()", "an xarray.Dataset or None", type(found).__name__))
    return found
