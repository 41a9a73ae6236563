"""``summary``: a table of figures with intervals, over the seeds or of the estimates, and which it is."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr
from scipy.special import ndtri

from kpframe.errors import ArgumentError, closest, mismatch
from kpframe.study._over_seeds import half_interval, stderr_of_mean
from kpframe.study._reading.merge import TRAINING
from kpframe.study._reading.open import open_run

if TYPE_CHECKING:
    import pandas as pd

#: Dims of figures beside those of the trainings and ``step``; what has others is a curve or a matrix.
FEW = frozenset(
    {"operator", "rule", "inputs", "parameter", "epoch", "checkpoint", "seed", "network", "trained_by"}
)


def summary(
    run: xr.DataTree | xr.Dataset | str | os.PathLike[str],
    variables: str | Iterable[str] | None = None,
    over: str | None = "seed",
    level: float = 0.95,
) -> pd.DataFrame:
    """Return figures of a run as a table, a row for each figure at each of its coordinates.

    Columns are ``mean``, ``stderr``, ``low`` and ``high``, an interval at ``level``, ``n`` values that the
    mean is of, ``missing`` ones (NaN: not recorded, or failed), ``units``, and ``covers``, what the interval
    says:

    - ``"seeds"``: where others drawn like these would lead (other weights, trials and probes); by Student's t
      over the values along ``over``. As everywhere ``stderr`` is widened, so that ``mean +- 1.96 stderr`` is
      the interval at 95%; it is infinite for one value of several.
    - ``"estimate"``: how well the figure is known *of these networks along these trials*, where there is no
      dim ``over`` or only one value along it; it says nothing of other seeds. ``stderr`` is that of the
      estimate; it is 0 for an exact figure.
    - ``"nothing"``: there is one value, and no standard error.

    Args:
        run: as ``open_run`` returns it, one of its datasets, or the path of a run.
        variables: names of those to show, also of curves and matrices; by default all numbers that have no
            dims but those of the trainings, steps, operators, rules, sets of inputs, parameters and epochs.
        over: the dim that means are taken over; None for none.
        level: of the intervals, between 0 and 1.

    Raises:
        ArgumentError: for another ``level``, or names that the run does not have.
    """
    import pandas as pd

    if isinstance(level, bool) or not isinstance(level, int | float) or not 0 < level < 1:
        raise ArgumentError(mismatch("level", "a number between 0 and 1", repr(level)))
    wanted = [variables] if isinstance(variables, str) else None if variables is None else list(variables)
    with ExitStack() as stack:
        if isinstance(run, str | os.PathLike):
            run = stack.enter_context(open_run(Path(run)))
        parts = list(_datasets(run))
        _check(parts, wanted, over)
        rows = [
            row
            for prefix, data in parts
            for name in _chosen(data, wanted)
            for row in _rows(prefix, data, name, over, level)
        ]
    columns = ("mean", "stderr", "low", "high", "n", "missing", "units", "covers")
    table = pd.DataFrame([row[1:] for row in rows], index=[row[0] for row in rows], columns=list(columns))
    table.attrs = {
        "level": level,
        "over": over,
        "intervals": _said(table.covers.unique().tolist(), level, over),
    }
    return table


def _said(covers: list[str], level: float, over: str | None) -> str:
    texts = {
        "estimate": "of the estimates, for these networks along these trials",
        "nothing": "none: one value without a standard error",
    }
    said = [f"{kind}: {texts.get(kind, f'Student t over values along {over}')}" for kind in sorted(covers)]
    return f"intervals at {100 * level:.4g}%; " + "; ".join(said)


def _datasets(run: xr.DataTree | xr.Dataset) -> Iterator[tuple[str, xr.Dataset]]:
    """Yield the datasets of a tree, each with what stands before the names of its figures."""
    if isinstance(run, xr.Dataset):
        yield "", run
        return
    if not isinstance(run, xr.DataTree):
        raise ArgumentError(mismatch("run", "a DataTree, a Dataset or the path of a run", type(run).__name__))
    for path, node in run.subtree_with_keys:
        if node.data_vars:
            prefix = "" if path == "." else f"{path}/".removesuffix("training/")
            yield prefix, node.to_dataset()


def _check(parts: list[tuple[str, xr.Dataset]], wanted: list[str] | None, over: str | None) -> None:
    known = dict.fromkeys(str(name) for _, data in parts for name in data.data_vars)
    for name in wanted or ():
        if name not in known:
            expected = "names of variables of the run"
            raise ArgumentError(mismatch("variables", expected, repr(name)) + closest(str(name), known))
        if all(data[name].dtype.kind not in "biuf" for _, data in parts if name in data):
            raise ArgumentError(mismatch("variables", "names of numbers", f"{name!r}, which is text"))
    dims = dict.fromkeys(str(dim) for _, data in parts for dim in data.dims)
    if over not in (None, "seed", *dims):
        raise ArgumentError(
            mismatch("over", f"one of {', '.join(dims)}", repr(over)) + closest(str(over), dims)
        )


def _chosen(data: xr.Dataset, wanted: list[str] | None) -> list[str]:
    names = [str(name) for name in data.data_vars]
    if wanted is not None:
        return [name for name in wanted if name in names]
    return [name for name in names if _is_figure(data[name])]


def _is_figure(values: xr.DataArray) -> bool:
    """Whether something is a number, or some, in the default table."""
    name, dims = str(values.name), [str(dim) for dim in values.dims]
    if values.dtype.kind not in "iuf" or name.endswith(("_stderr", "_by_seed")):
        return False
    if values.attrs.get("quantity") == TRAINING:
        return False
    own = dims[dims.index("step") + 1 :] if "step" in dims else dims  # those before are the trainings'
    return set(own) <= FEW


def _rows(
    prefix: str, data: xr.Dataset, name: str, over: str | None, level: float
) -> Iterator[tuple[Any, ...]]:
    each = "_by_seed" if f"{name}_by_seed" in data else ""  # the figure itself is a mean over seeds
    values = data[f"{name}{each}"].astype(float)
    errors = data[f"{name}_stderr{each}"].astype(float) if f"{name}_stderr{each}" in data else None
    several = over is not None and values.sizes.get(over, 1) > 1
    if not several and over in values.dims:
        values = values.isel({over: 0}, drop=True)
        errors = None if errors is None else errors.isel({over: 0}, drop=True)
    if several:
        found, covers = _of_seeds(values, str(over), level), "seeds" if over == "seed" else f"{over}s"
    else:
        found, covers = _of_estimate(values, errors, level), "estimate"
    units = values.attrs.get("units", "1")
    rest = values.isel({over: 0}, drop=True) if several else values
    labels = [[_label(str(dim), value) for value in _values(rest, str(dim))] for dim in rest.dims]
    for place, row in zip(product(*labels), zip(*found, strict=True), strict=True):
        said = "nothing" if covers == "estimate" and np.isnan(row[1]) else covers
        yield (f"{prefix}{name}[{', '.join(place)}]" if place else f"{prefix}{name}", *row, units, said)


def _values(values: xr.DataArray, dim: str) -> list[Any]:
    if dim in values.coords:
        return list(values[dim].values.tolist())
    return list(range(values.sizes[dim]))


def _label(dim: str, value: Any) -> str:
    return value if isinstance(value, str) else f"{dim} {value}"


def _of_seeds(values: xr.DataArray, over: str, level: float) -> tuple[list[Any], ...]:
    """Return mean, standard error, low, high, number and missing of values along ``over``."""
    mean, half = values.astype(float).mean(over), half_interval(values, over, level)
    num = values.notnull().sum(over)
    rows = (mean, stderr_of_mean(values, over), mean - half, mean + half, num, values.sizes[over] - num)
    return tuple(row.values.ravel().tolist() for row in rows)


def _of_estimate(values: xr.DataArray, errors: xr.DataArray | None, level: float) -> tuple[list[Any], ...]:
    """Return the same of single values, from the standard errors of their estimates."""
    mean = values.values.ravel()
    given = np.full(mean.shape, np.nan)
    if errors is not None:
        given = errors.transpose(*values.dims).values.ravel()
    half = float(ndtri((1 + level) / 2)) * given
    missing = np.isnan(mean)
    rows = (mean, given, mean - half, mean + half, (~missing).astype(int), missing.astype(int))
    return tuple(row.tolist() for row in rows)
