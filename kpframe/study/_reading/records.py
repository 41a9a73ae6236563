"""Read the many small files of a run: what files have in common is looked up once for all of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from attrs import frozen
from h5py import h5a, h5d, h5f, h5g, h5s

from kpframe.errors import ArgumentError
from kpframe.study._disk.netcdf import DAMAGED, load_dataset, reason_of


@frozen(eq=False)
class Record:
    """What one file holds.

    Attributes:
        path: where it was.
        variables: name -> dims and values; texts are ``object`` arrays.
        coordinates: which of them are coordinates.
        about: name -> attributes.
        attributes: of the file.
    """

    path: Path
    variables: dict[str, tuple[tuple[str, ...], np.ndarray]]
    coordinates: frozenset[str]
    about: dict[str, dict[str, Any]]
    attributes: dict[str, Any]


@frozen(eq=False)
class _Layout:
    """What follows from the shapes and kinds of a file's variables; None where xarray must decode some."""

    kinds: dict[str, tuple[tuple[str, ...], str]] | None
    coordinates: frozenset[str]
    about: dict[str, dict[str, Any]]
    attributes: tuple[str, ...]


class RecordReader:
    """Reads files of a run.

    xarray takes more than ten times as long for a file as HDF5 itself, most of it to learn the names of dims
    and attributes. Files of one layout are read as plain arrays; the first of each goes through xarray.
    """

    def __init__(self) -> None:
        self._layouts: dict[tuple[Any, ...], _Layout] = {}

    def read(self, path: Path, remedy: str) -> Record:
        """Return what a file holds.

        Raises:
            ArgumentError: for a file that is damaged, ending in ``remedy``.
        """
        try:
            file = h5f.open(os.fsencode(path), h5f.ACC_RDONLY)
            try:
                found = {name: h5d.open(file, name) for name in h5g.open(file, b"/")}
                said: list[bytes] = []  # what one file says of itself another need not
                h5a.iterate(file, said.append)
                key = (*((name, *_shape(raw)) for name, raw in found.items()), *sorted(said))
                if key not in self._layouts:
                    self._layouts[key] = _layout(path)
                layout = self._layouts[key]
                if layout.kinds is None:
                    return _decoded(path)
                variables = {
                    name: (dims, _values(found[name.encode()], kind))
                    for name, (dims, kind) in layout.kinds.items()
                }
                own = {name: _attribute(file, name) for name in layout.attributes}
            finally:
                found = {}
                file.close()
            return Record(path, variables, layout.coordinates, layout.about, own)
        except DAMAGED as error:
            raise ArgumentError(f"{str(path)!r} is damaged ({reason_of(error)}); {remedy}") from error


def _shape(raw: h5d.DatasetID) -> tuple[Any, ...]:
    """Return what tells one variable's place in a layout: its kind, shape, and the numbers of its dims."""
    kind, shape = raw.dtype, raw.shape
    packed = kind.itemsize == 1 and h5a.exists(raw, b"dtype")  # bool, and no whole numbers
    if not shape:
        return (kind.str, packed, shape)
    dims = _whole(raw, b"_Netcdf4Coordinates") or _whole(raw, b"_Netcdf4Dimid")
    return (kind.str, packed, shape, dims)


def _whole(raw: h5d.DatasetID, name: bytes) -> bytes | None:
    """Return an attribute of whole numbers, None where there is none."""
    if not h5a.exists(raw, name):
        return None
    attribute = h5a.open(raw, name)
    values = np.empty(attribute.shape, np.int32)
    attribute.read(values)
    return values.tobytes()


def _layout(path: Path) -> _Layout:
    data = load_dataset(path)
    with h5py.File(path, "r") as file:
        kinds: dict[str, tuple[tuple[str, ...], str]] | None = {}
        for name, variable in data.variables.items():
            kind = _kind(variable.dtype, file[name])
            if kind is None:
                kinds = None
            elif kinds is not None:
                kinds[str(name)] = (tuple(map(str, variable.dims)), kind)
        return _Layout(
            kinds,
            frozenset(map(str, data.coords)),
            {str(name): dict(variable.attrs) for name, variable in data.variables.items()},
            tuple(map(str, data.attrs)),
        )


def _kind(decoded: np.dtype[Any], raw: h5py.Dataset) -> str | None:
    """Return how the values of a variable follow from what HDF5 holds; None for packed ones, dates ..."""
    if h5py.check_string_dtype(raw.dtype) is not None:
        return "text" if decoded.kind in "OUT" else None
    if decoded.kind == "b":
        return "bool"
    return "as it is" if decoded == raw.dtype else None


def _values(raw: h5d.DatasetID, kind: str) -> np.ndarray:
    values = np.empty(raw.shape, raw.dtype)
    raw.read(h5s.ALL, h5s.ALL, values)
    if kind == "text":
        texts = [text if isinstance(text, str) else text.decode() for text in values.ravel().tolist()]
        decoded = np.empty(values.size, dtype=object)
        decoded[:] = texts
        return decoded.reshape(values.shape)
    return values.astype(bool) if kind == "bool" else values


def _attribute(file: h5f.FileID, name: str) -> Any:
    """Return an attribute of a file."""
    attribute = h5a.open(file, name.encode())
    if attribute.get_space().get_simple_extent_type() == h5s.NULL:
        return ""
    values = np.empty(attribute.shape, attribute.dtype)
    attribute.read(values)
    return _plain(values)


def _plain(value: Any) -> Any:
    value = value.item() if isinstance(value, (np.ndarray, np.generic)) and np.size(value) == 1 else value
    return value.decode() if isinstance(value, bytes) else value


def _decoded(path: Path) -> Record:
    data = load_dataset(path)
    return Record(
        path,
        {str(name): (tuple(map(str, v.dims)), v.values) for name, v in data.variables.items()},
        frozenset(map(str, data.coords)),
        {str(name): dict(v.attrs) for name, v in data.variables.items()},
        {str(name): _plain(value) for name, value in data.attrs.items()},
    )
