"""Datasets side by side along new dims: what is missing is NaN, and numbers keep their kind otherwise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np
import xarray as xr
from attrs import field, frozen

from kpframe.errors import ArgumentError


@frozen(eq=False)
class Part:
    """One of the datasets, and its place.

    Attributes:
        owner: what errors call it, the path of its file.
        place: its index along each new dim.
        variables: name -> dims and values.
        coordinates: which of them are coordinates.
        about: name -> attributes.
    """

    owner: str
    place: tuple[int, ...]
    variables: Mapping[str, tuple[tuple[str, ...], np.ndarray]]
    coordinates: frozenset[str]
    about: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, data: xr.Dataset, place: tuple[int, ...], owner: str) -> Part:
        """Return a dataset as a part."""
        return cls(
            owner,
            place,
            {str(name): (tuple(map(str, v.dims)), v.values) for name, v in data.variables.items()},
            frozenset(map(str, data.coords)),
            {str(name): dict(v.attrs) for name, v in data.variables.items()},
        )


def join(parts: Sequence[Part], along: Mapping[str, xr.Variable]) -> xr.Dataset:
    """Return parts as one dataset.

    A dim has the values of all parts: as they stand where they are equal, numbers in order otherwise. Every
    variable gets the new dims; other coordinates get those along which they differ. Where something is
    missing, numbers and truth values are NaN, and texts empty.

    Args:
        parts: in order, each with a place of its own.
        along: the new dims, each with its coordinate.

    Raises:
        ArgumentError: for parts that do not fit each other, naming them.
    """
    axes = _Axes.of(parts, along)
    coordinates = frozenset[str]().union(*(part.coordinates for part in parts))
    names = dict.fromkeys(name for part in parts for name in part.variables)
    made: dict[str, xr.Variable] = {}
    for name in names:
        if name in along or name in axes.sizes:
            continue
        having = [part for part in parts if name in part.variables]
        dims = _dims(name, having, spread=name in coordinates)
        values, filled = axes.gather(name, dims, having)
        new = tuple(along)
        if name in coordinates:
            values, new = _collapsed(values, filled, new)
            values = _kept(values, {part.variables[name][1].dtype for part in having})
        made[name] = xr.Variable((*new, *dims), values, _about(having, name))
    own = {
        name: xr.Variable((name,), index, _about(parts, name))
        for name, index in axes.indexes.items()
        if index is not None
    }
    return xr.Dataset(
        {name: variable for name, variable in made.items() if name not in coordinates},
        coords=dict(along) | own | {name: made[name] for name in made if name in coordinates},
    )


def texts_of(values: Sequence[str]) -> np.ndarray:
    """Return texts as an array of objects, as they are read from files."""
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array


@frozen(eq=False)
class _Axes:
    """The dims of the joined dataset: new ones by their shape, the parts' own by size and coordinate."""

    shape: tuple[int, ...]
    sizes: dict[str, int]
    indexes: dict[str, np.ndarray | None]
    _known: dict[tuple[str, int], np.ndarray | None] = field(factory=dict, init=False)

    @classmethod
    def of(cls, parts: Sequence[Part], along: Mapping[str, xr.Variable]) -> _Axes:
        sizes: dict[str, int] = {}
        found: dict[str, list[tuple[str, np.ndarray]]] = {}
        for part in parts:
            for name, (dims, values) in part.variables.items():
                for dim, size in zip(dims, values.shape, strict=True):
                    if dim in along:
                        raise ArgumentError(f"{part.owner}: {name!r} has the dim {dim!r}, which is the run's")
                    sizes[dim] = max(size, sizes.get(dim, 0))
                if dims == (name,):
                    found.setdefault(name, []).append((part.owner, values))
        indexes = {dim: _union(dim, found[dim]) if dim in found else None for dim in sizes}
        sizes |= {dim: len(index) for dim, index in indexes.items() if index is not None}
        return cls(tuple(variable.size for variable in along.values()), sizes, indexes)

    def gather(
        self, name: str, dims: tuple[str, ...], having: Sequence[Part]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return a variable's values in their places, and which places are filled."""
        given = [self._spread(part.variables[name], dims) for part in having]
        places = [
            [self._positions(part, dim, size) for dim, size in zip(dims, values.shape, strict=True)]
            for part, values in zip(having, given, strict=True)
        ]
        whole = len(having) == prod(self.shape) and all(at is None for row in places for at in row)
        kinds = {values.dtype for values in given}
        shape = (*self.shape, *(self.sizes[dim] for dim in dims))
        values = _empty(shape, kinds, whole=whole, owner=f"{having[0].owner}: {name!r}")
        filled = np.zeros(self.shape, dtype=bool)
        for part, row, own in zip(having, places, given, strict=True):
            place: Any = (*part.place, ...)
            target = values[place]  # a view, also of one value
            at = [
                np.arange(size) if index is None else index
                for index, size in zip(row, own.shape, strict=True)
            ]
            if any(index is not None for index in row):
                target[np.ix_(*at)] = own
            else:
                target[...] = own
            filled[part.place] = True
        return values, filled

    def _spread(self, variable: tuple[tuple[str, ...], np.ndarray], dims: tuple[str, ...]) -> np.ndarray:
        """Return values with all the dims: a coordinate that lacks one is the same along it."""
        own, values = variable
        values = values.transpose([own.index(dim) for dim in dims if dim in own])
        for axis, dim in enumerate(dims):
            if dim not in own:
                values = np.repeat(np.expand_dims(values, axis), self.sizes[dim], axis)
        return values

    def _positions(self, part: Part, dim: str, size: int) -> np.ndarray | None:
        """Return where a part's values along a dim belong; None for all places in order."""
        index = self.indexes[dim]
        if index is None or dim not in part.variables:
            if index is not None and size != len(index):
                raise ArgumentError(
                    f"{part.owner}: {dim!r} has {size} values and no coordinate, other files "
                    f"have {len(index)} with one"
                )
            return None if size == self.sizes[dim] else np.arange(size)
        own = part.variables[dim][1]
        key = (dim, id(own))
        if key not in self._known:
            if len(own) == len(index) and np.array_equal(own, index):
                self._known[key] = None
            else:
                where = {value: place for place, value in enumerate(index.tolist())}
                self._known[key] = np.array([where[value] for value in own.tolist()], dtype=np.intp)
        return self._known[key]


def _about(parts: Sequence[Part], name: str) -> dict[str, Any]:
    return next((dict(part.about[name]) for part in parts if part.about.get(name)), {})


def _union(dim: str, found: Sequence[tuple[str, np.ndarray]]) -> np.ndarray:
    """Return the values of a coordinate in all parts."""
    owner, first = found[0]
    for where, values in found:
        if len(set(values.tolist())) != len(values):
            raise ArgumentError(f"{where}: the coordinate {dim!r} has a value more than once")
        if values.dtype.kind == "f" and np.isnan(values).any():
            raise ArgumentError(f"{where}: the coordinate {dim!r} has a value that is NaN")
    if all(values.shape == first.shape and np.array_equal(values, first) for _, values in found):
        return first
    every = list(dict.fromkeys(value for _, values in found for value in values.tolist()))
    texts = [isinstance(value, str) for value in every]
    if all(texts):
        return texts_of(every)
    if any(texts):
        other = next(where for where, values in found if (values.dtype.kind in "OUT") == (not texts[0]))
        raise ArgumentError(f"the coordinate {dim!r} is text in one of {owner} and {other}, and not in both")
    return np.sort(np.array(every, dtype=np.result_type(*(values for _, values in found))))


def _dims(name: str, having: Sequence[Part], *, spread: bool) -> tuple[str, ...]:
    """Return the dims of a variable in all parts; a coordinate may lack some in one of them."""
    first = having[0].variables[name][0]
    dims = dict.fromkeys(first)
    for part in having:
        own = part.variables[name][0]
        if set(own) != set(first) and not spread:
            raise ArgumentError(
                f"{part.owner}: {name!r} has the dims ({', '.join(own)}), and ({', '.join(first)}) in "
                f"{having[0].owner}"
            )
        dims |= dict.fromkeys(own)
    return tuple(dims)


def _empty(shape: tuple[int, ...], kinds: set[np.dtype[Any]], *, whole: bool, owner: str) -> np.ndarray:
    """Return an array for values of these kinds, filled with what stands for a missing one."""
    texts = {kind.kind in "OUT" for kind in kinds}
    if texts == {True}:
        return np.full(shape, "", dtype=object)
    if len(texts) == 2:
        raise ArgumentError(f"{owner} is text in some files and numbers in others")
    kind = np.result_type(*kinds)
    if kind.kind in "biu" and not whole:
        kind = np.dtype(float)
    if kind.kind in "mM":
        return np.full(shape, np.array("NaT", dtype=kind), dtype=kind)
    return np.full(shape, np.nan if kind.kind in "fc" else 0, dtype=kind)


def _collapsed(
    values: np.ndarray, filled: np.ndarray, new: tuple[str, ...]
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return a coordinate without the new dims along which it does not differ."""
    kept: list[str] = []
    for dim in new:
        axis = len(kept)
        first = np.expand_dims(filled.argmax(axis), axis)  # the first place that is filled
        index = first.reshape(*first.shape, *(1,) * (values.ndim - filled.ndim))
        shown = np.take_along_axis(values, index, axis)
        alike = _same(values, shown)
        known = filled.reshape(*filled.shape, *(1,) * (values.ndim - filled.ndim))
        if (alike | ~known).all():
            values, filled = shown.squeeze(axis), np.asarray(filled.any(axis))
        else:
            kept.append(dim)
    return values, tuple(kept)


def _kept(values: np.ndarray, kinds: set[np.dtype[Any]]) -> np.ndarray:
    """Return whole numbers and truth values as such again, where nothing is missing after all."""
    kind = np.result_type(*kinds) if not any(kind.kind in "OUT" for kind in kinds) else values.dtype
    if kind.kind in "biu" and values.dtype.kind == "f" and not np.isnan(values).any():
        return values.astype(kind)
    return values


def _same(values: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return where values are equal, NaN to NaN."""
    alike: np.ndarray = np.equal(values, others).astype(bool)
    if values.dtype.kind == "f":
        alike |= np.isnan(values) & np.isnan(others)
    return alike
