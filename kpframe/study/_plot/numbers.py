"""The numbers of a variable, with intervals over seeds or of estimates, and names for their parts."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from attrs import frozen

from kpframe.errors import ArgumentError, closest, mismatch
from kpframe.study._plot.grouped import interval
from kpframe.study._plot.look import after, tex

#: Dims whose places are called by their own names alone.
_NAMED = ("network", "trained_by", "checkpoint", "rule", "parameter", "epoch", "group", "action")


@frozen(eq=False)
class Numbers:
    """A variable as it is drawn.

    Attributes:
        values: means over the seeds where there are several.
        half: half of the 95% intervals; NaN where none is known.
        converged: whether values are more than bounds, where that is said.
        seeds: how many there are; 0 for a variable without.
    """

    values: xr.DataArray
    half: xr.DataArray
    converged: xr.DataArray | None
    seeds: int

    @property
    def said(self) -> str:
        """What the intervals are; empty where there are none."""
        if not bool(np.isfinite(self.half).any()):
            return ""
        return f"over {self.seeds} seeds, by Student's t" if self.seeds > 1 else "of the estimates"

    def isel(self, place: dict[Hashable, int]) -> Numbers:
        """Return the numbers at places."""
        here = {dim: at for dim, at in place.items() if dim in self.values.dims}
        kept = None if self.converged is None else self.converged.isel(here)
        return Numbers(self.values.isel(here), self.half.isel(here), kept, self.seeds)

    def at_few_steps(self, most: int) -> tuple[Numbers, str]:
        """Return the numbers at few of the steps, as ``few_steps`` does."""
        kept, said = few_steps(self.values, most)
        if "step" not in kept.dims:
            return self, said
        steps = self.values.step.values.tolist()
        at = [steps.index(step) for step in kept.step.values]
        flags = None if self.converged is None else self.converged.isel(step=at)
        return Numbers(kept, self.half.isel(step=at), flags, self.seeds), said


def numbers_of(data: xr.Dataset, name: str) -> Numbers:
    """Return the numbers of a variable."""
    values, errors = data[name], data.get(f"{name}_stderr")
    converged = data.get(f"{name}_converged")
    seeds = values.sizes.get("seed", 0)
    if converged is not None:
        converged = converged.fillna(1) != 0
        converged = converged.all("seed") if "seed" in converged.dims else converged
    if seeds == 1:
        values = values.isel(seed=0)
        errors = None if errors is None else errors.isel(seed=0)
    middle, half = interval(values, errors)
    half = half.where(np.isfinite(half)).broadcast_like(middle).transpose(*middle.dims)
    return Numbers(middle.assign_attrs(values.attrs), half, converged, seeds)


def one_seed(data: xr.Dataset) -> tuple[xr.Dataset, str]:
    """Return the part of the first seed, and what to say of it."""
    if "seed" not in data.dims:
        return data, ""
    said = f"Of seed {data.seed.values[0]} alone." if data.sizes["seed"] > 1 else ""
    return data.isel(seed=0), said


def check_dims(values: xr.DataArray, dims: Sequence[str], argument: str) -> None:
    """Raise ``ArgumentError`` where a variable lacks a dim."""
    own = [str(dim) for dim in values.dims]
    for dim in dims:
        if dim not in own:
            wanted = f"dims of {values.name}: {', '.join(own)}"
            raise ArgumentError(mismatch(argument, wanted, repr(dim)) + closest(dim, own))


def few_steps(values: xr.DataArray, most: int) -> tuple[xr.DataArray, str]:
    """Return at most so many steps, the first and the last among them, and what is left out.

    Steps that a reader has chosen all stay.
    """
    count = values.sizes.get("step", 0)
    if count <= most or chosen(values, "step"):
        return values, ""
    kept = sorted({round(place) for place in np.linspace(0, count - 1, most)})
    return values.isel(step=kept), _left_out("recorded steps", count - len(kept), "step")


def chosen(values: xr.DataArray | xr.Dataset, dim: str) -> bool:
    """Return whether a reader has selected places of a dim."""
    return bool(values[dim].attrs.get("chosen", 0))


def cut(parts: list[Any], most: int, kind: str, dims: Sequence[str]) -> tuple[list[Any], str]:
    """Return at most so many parts, and what is left out."""
    by = next((dim for dim in dims if dim), "")
    return parts[:most], _left_out(kind, len(parts) - most, by)


def _left_out(kind: str, count: int, dim: str) -> str:
    if count <= 0:
        return ""
    return f"Not drawn: {count} more {kind if count > 1 else kind.removesuffix('s')}; {dim}=[...] chooses."


def parts(values: xr.DataArray, dims: Sequence[str]) -> Iterator[tuple[str, dict[Hashable, int]]]:
    """Yield what each combination of places of dims is called, and where it is."""
    shown = [dim for dim in dims if values.sizes[dim] > 1] or list(dims[:1])
    for places in product(*(range(values.sizes[dim]) for dim in dims)):
        at: dict[Hashable, int] = dict(zip(dims, places, strict=True))
        yield ", ".join(name_of(values, dim, at[dim]) for dim in shown), at


def name_of(values: xr.DataArray, dim: str, place: int) -> str:
    """Return what a place of a dim is called; text of the data stands in it as it is."""
    value = values[dim].values[place] if dim in values.coords else place
    value = value.item() if isinstance(value, np.generic) else value
    if dim == "step":
        return after(int(value))
    if dim.removesuffix("_other") == "operator":
        return tex(str(value))
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    if isinstance(value, str) and (dim in _NAMED or values[dim].dtype.kind in "OUT"):
        return text
    return f"{dim.replace('_', ' ')} {text}"
