"""The trainings of a run by what a reader tells them apart by, with intervals over seeds or of estimates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from attrs import frozen

from kpframe.study._over_seeds import half_interval
from kpframe.study._plot.look import HALF_95
from kpframe.study._reading.merge import TRAINING


@frozen(eq=False)
class Grouped:
    """A run whose trainings stand along one dim ``network``, and ``seed`` where there are several.

    Attributes:
        data: the figures, along ``network`` by label.
        seeds: of the run, in order; empty where it has none.
        absent: labels of trainings that have recorded nothing.
    """

    data: xr.Dataset
    seeds: list[int]
    absent: list[str]

    @property
    def labels(self) -> list[str]:
        """What the groups are called."""
        return [str(label) for label in self.data.network.values]

    @property
    def several(self) -> bool:
        """Whether there are several seeds."""
        return "seed" in self.data.dims


def grouped(data: xr.Dataset, cells: Sequence[str]) -> Grouped:
    """Return a run by groups.

    Args:
        data: the figures of a run.
        cells: the dims of its trainings: ``network``, ``trained_by``, axes of a sweep, ``seed``.
    """
    seeds = [int(seed) for seed in data.seed.values] if "seed" in cells else []
    if len(seeds) == 1:
        data = data.isel(seed=0, drop=True)
    data, labels = stacked(data, [dim for dim in cells if dim != "seed"])
    data = data.assign_coords(network=labels)
    there = _there(data)
    absent = [label for label, found in zip(labels, there, strict=True) if not found]
    data = data.isel(network=np.flatnonzero(there))
    flags = {
        name: values.astype(bool)
        for name, values in data.data_vars.items()
        if str(name).endswith("_converged") and values.notnull().all()
    }  # numbers, as long as those of some trainings were missing
    return Grouped(data.assign(flags), seeds, absent)


def stacked(data: xr.Dataset, dims: Sequence[str]) -> tuple[xr.Dataset, list[str]]:
    """Return data with one dim ``network`` for several, and a label for each of its places."""
    values = [data[dim].values.tolist() for dim in dims]
    shown = [at for at, dim in enumerate(dims) if len(values[at]) > 1] or [0]
    labels = [", ".join(_said(dims[at], row[at]) for at in shown) for row in product(*values)] or [
        "the network"
    ]
    if not dims:
        return data.expand_dims("network"), labels
    if list(dims) == ["network"]:
        return data, labels
    data = data.drop_dims([dim for dim, size in data.sizes.items() if not size])  # stack cannot shape them
    data = data.stack(one_training=dims).drop_vars(["one_training", *dims])
    order = ["one_training", ...]
    return data.transpose(*order).rename(one_training="network"), labels


def _said(dim: str, value: Any) -> str:
    if isinstance(value, str) and dim in ("network", "trained_by"):
        return value
    return f"{dim} {value}"


def _there(data: xr.Dataset) -> np.ndarray:
    """Return which groups have recorded anything."""
    there = np.zeros(data.sizes["network"], dtype=bool)
    for values in data.data_vars.values():
        if "network" in values.dims:
            table = values.transpose("network", ...).values.reshape(len(there), -1)
            there |= (table != "").any(1) if table.dtype.kind in "OUT" else (table == table).any(1)
    return there


def interval(values: xr.DataArray, errors: xr.DataArray | None) -> tuple[xr.DataArray, xr.DataArray]:
    """Return figures and half of their 95% intervals: over seeds by Student's t, else of the estimates.

    NaN where no interval is known: of one seed of several, of a figure that has no standard error.
    """
    values = values.astype(float)
    if "seed" not in values.dims:
        unknown = xr.full_like(values, np.nan)
        return values, unknown if errors is None else HALF_95 * errors.astype(float)
    half = half_interval(values, "seed")
    return values.mean("seed", keep_attrs=True), half.where(half < np.inf)


@frozen(eq=False)
class Variable:
    """One that was recorded, and how it is drawn.

    Attributes:
        name: of it.
        quantity: label of the quantity that it is of.
        values: along ``network``, ``seed`` and ``step`` where it has them, and its own dims.
        errors: standard errors of the estimates, if it has some.
        converged: whether each value is more than a bound, if that is said.
        named: own dims whose places have names: operators, rules, parameters ...
        axes: other own dims: places in a spectrum, steps of a trial ...; a dim and the same with ``_other``.
    """

    name: str
    quantity: str
    values: xr.DataArray
    errors: xr.DataArray | None
    converged: xr.DataArray | None
    named: tuple[str, ...]
    axes: tuple[str, ...]

    @property
    def text(self) -> str:
        """What it is."""
        return str(self.values.attrs.get("long_name", self.name))

    def parts(self, most: int | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield each combination of named places, as a label and a selection; Phi where not all are."""
        rows = [
            dict(zip(self.named, row, strict=True))
            for row in product(*(self.values[dim].values.tolist() for dim in self.named))
        ]
        if most is not None and len(rows) > most:
            rows = sorted(rows, key=lambda row: row.get("operator") != "Phi")[:most]
        for row in rows:
            yield ", ".join(map(str, row.values())), row

    @property
    def count(self) -> int:
        """How many such combinations there are."""
        return int(np.prod([self.values.sizes[dim] for dim in self.named], dtype=int))


def variables_of(run: Grouped) -> list[Variable]:
    """Return the numbers that were recorded."""
    found = []
    for name, values in run.data.data_vars.items():
        name = str(name)
        if values.dtype.kind not in "iuf" or name.endswith(("_stderr", "_converged")):
            continue
        if "update" in values.dims or "network" not in values.dims:
            continue
        if values.attrs.get("quantity") == TRAINING or not values.notnull().any():
            continue
        own = [str(dim) for dim in values.dims if dim not in ("network", "seed", "step")]
        named = tuple(dim for dim in own if _is_named(run.data, dim, own))
        found.append(
            Variable(
                name,
                str(values.attrs.get("quantity", name)),
                values,
                run.data.get(f"{name}_stderr"),
                run.data.get(f"{name}_converged"),
                named,
                tuple(dim for dim in own if dim not in named),
            )
        )
    return found


def _is_named(data: xr.Dataset, dim: str, own: Sequence[str]) -> bool:
    if f"{dim}_other" in own or dim.endswith("_other"):
        return False
    return dim in data.coords and data[dim].dtype.kind in "OUT"
