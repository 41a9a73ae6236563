"""Datasets as netCDF: the files that xarray writes by h5netcdf, written by HDF5's own calls.

h5netcdf asks HDF5 anew for every object that it names, and takes ten times as long as what HDF5 does itself.
What is rarer than numbers, truth values and texts (empty dims, dates, ...) is left to it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5netcdf
import h5py
import numpy as np
import xarray as xr
from h5py import h5, h5a, h5d, h5ds, h5p, h5s, h5t

#: What netCDF and HDF5 say in attributes to themselves.
_OWN = (
    *(b"CLASS", b"NAME", b"DIMENSION_LIST", b"REFERENCE_LIST"),
    *(b"_Netcdf4Coordinates", b"_Netcdf4Dimid", b"_NCProperties"),
)
_ORDERED = h5p.CRT_ORDER_TRACKED | h5p.CRT_ORDER_INDEXED
_TEXT = h5py.string_dtype()
#: What netCDF names a dim that has no values, with its length.
_NO_VARIABLE = b"This is a netCDF dimension but not a netCDF variable.%10d"


def netcdf(data: xr.Dataset) -> bytes:
    """Return a dataset as a netCDF file."""
    variables, attributes = xr.conventions.encode_dataset_coordinates(data)
    encoded = {
        name: xr.conventions.encode_cf_variable(value, name=str(name)) for name, value in variables.items()
    }
    if not (_is_plain(encoded) and all(map(_can_say, (attributes, *(v.attrs for v in encoded.values()))))):
        content: Any = data.to_netcdf(engine="h5netcdf")
        return bytes(content)
    with h5py.File("dataset", "w", driver="core", backing_store=False, track_order=True) as file:
        _write(file, {str(name): value for name, value in encoded.items()}, attributes)
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def read_netcdf(path: Path) -> xr.Dataset:
    """Read a netCDF file into memory.

    Raises:
        OSError, ValueError, KeyError, RuntimeError: for a file that is damaged, or no netCDF.
    """
    with h5py.File(path, "r") as file:
        found = _read(file)
    if found is None:  # by another program, of what is rarer
        with xr.open_dataset(path, engine="h5netcdf") as data:
            return data.load()
    return xr.decode_cf(xr.Dataset(*found))


def _is_plain(variables: Mapping[Any, xr.Variable]) -> bool:
    """Return whether all are numbers or texts, along dims that are not empty and not named as others are."""
    dims = {dim for value in variables.values() for dim in value.dims}
    return all(
        isinstance(name, str)
        and "/" not in name
        and all(isinstance(dim, str) and "/" not in dim for dim in value.dims)
        and (name not in dims or value.dims == (name,))
        and len(set(value.dims)) == value.ndim
        and 0 not in value.shape
        and (_is_text(value) or value.dtype.str in ("<f4", "<f8", "|i1", "<i2", "<i4", "<i8", "|u1"))
        for name, value in variables.items()
    )


def _is_text(value: xr.Variable) -> bool:
    if value.dtype.kind == "O":
        return all(isinstance(text, str) for text in np.ravel(value.values))
    return bool(value.dtype.kind == "U")


def _can_say(attributes: Mapping[Any, Any]) -> bool:
    """Return whether attributes are texts and numbers."""
    return all(
        isinstance(name, str)
        and (isinstance(value, str | int | float) or getattr(value, "dtype", np.dtype("O")).kind in "fiu")
        and not isinstance(value, bool)
        for name, value in attributes.items()
    )


def _write(file: h5py.File, variables: Mapping[str, xr.Variable], attributes: Mapping[Any, Any]) -> None:
    library = (
        f"version=2,h5netcdf={h5netcdf.__version__},hdf5={h5py.version.hdf5_version},h5py={h5py.__version__}"
    )
    _say(file.id, "_NCProperties", np.array(library.encode()))
    for name, value in attributes.items():
        _say(file.id, name, _as_said(value))
    sizes: dict[Any, int] = {}
    for value in variables.values():
        sizes |= {dim: size for dim, size in value.sizes.items() if dim not in sizes}
    numbers = {dim: np.array(number, np.int32) for number, dim in enumerate(sizes)}
    made = {}
    for dim, size in sizes.items():
        if dim not in variables:
            made[dim] = _create(file, dim, np.dtype(">f4"), (size,))
            _say(made[dim], "_Netcdf4Dimid", numbers[dim])
            h5ds.set_scale(made[dim], _NO_VARIABLE % size)
    made |= {name: _variable(file, name, value, numbers) for name, value in variables.items()}
    for name, value in variables.items():
        for axis, dim in enumerate(value.dims if name not in sizes else ()):
            h5ds.attach_scale(made[name], made[dim], axis)


def _variable(
    file: h5py.File, name: str, value: xr.Variable, numbers: Mapping[Any, np.ndarray]
) -> h5d.DatasetID:
    """Write a variable; what stands along a dim of its own name is the scale of that dim."""
    values = np.asarray(value.values, order="C")
    if value.dtype.kind in "OU":
        values = values.astype(_TEXT)
    about = dict(value.attrs)
    fill = about.get("_FillValue")
    found = _create(file, name, values.dtype, values.shape, fill)
    if value.dims == (name,):
        h5ds.set_scale(found, name.encode())
    if value.dims:
        _say(found, "_Netcdf4Coordinates", np.array([numbers[dim] for dim in value.dims], np.int32))
        _say(found, "_Netcdf4Dimid", numbers[value.dims[0]])
    if fill is not None:
        about["_FillValue"] = np.array([fill], values.dtype)
    for key, said in about.items():
        _say(found, key, _as_said(said))
    found.write(h5s.ALL, h5s.ALL, values)
    return found


def _create(
    file: h5py.File, name: str, dtype: np.dtype[Any], shape: tuple[int, ...], fill: Any = None
) -> h5d.DatasetID:
    how = h5p.create(h5p.DATASET_CREATE)
    how.set_obj_track_times(False)
    how.set_attr_creation_order(_ORDERED)
    if fill is not None:
        how.set_fill_value(np.array(fill, dtype))
    room = h5s.create_simple(shape) if shape else h5s.create(h5s.SCALAR)
    return h5d.create(file.id, name.encode(), h5t.py_create(dtype, logical=True), room, dcpl=how)


def _as_said(value: Any) -> np.ndarray:
    """Return an attribute as netCDF has it: a text, or a row of numbers."""
    return np.array(value, dtype=_TEXT) if isinstance(value, str) else np.atleast_1d(value)


def _say(where: Any, name: str, value: np.ndarray) -> None:
    room = h5s.create_simple(value.shape) if value.shape else h5s.create(h5s.SCALAR)
    attribute = h5a.create(where, name.encode(), h5t.py_create(value.dtype, logical=True), room)
    attribute.write(value)


def _read(file: h5py.File) -> tuple[dict[str, xr.Variable], None, dict[str, Any]] | None:
    """Return variables and attributes as they stand in a file; None where h5netcdf must look for them."""
    if not h5a.exists(file.id, b"_NCProperties"):
        return None
    found: dict[str, h5d.DatasetID] = {}
    dims: dict[int, str] = {}
    empty = set()
    for name, item in file.items():  # in the order in which they were made
        if not isinstance(item, h5py.Dataset):
            return None
        found[name] = item.id
        if h5ds.is_scale(item.id):
            dims[int(_said(item.id, b"_Netcdf4Dimid"))] = name
            if h5ds.get_scale_name(item.id).startswith(_NO_VARIABLE[:-4]):
                empty.add(name)
    variables = {}
    for name, raw in found.items():
        if name in empty:
            continue
        if raw.shape and not h5a.exists(raw, b"_Netcdf4Coordinates"):
            return None
        numbers = np.atleast_1d(_said(raw, b"_Netcdf4Coordinates")) if raw.shape else ()
        own = tuple(dims.get(int(number), "") for number in numbers)
        if any(not dim or found[dim].shape != (size,) for dim, size in zip(own, raw.shape, strict=True)):
            return None
        values = np.empty(raw.shape, raw.dtype)
        if values.dtype.kind not in "fiuO" or (
            values.dtype.kind == "O" and raw.dtype.metadata != _TEXT.metadata
        ):
            return None
        raw.read(h5s.ALL, h5s.ALL, values)
        text = values.dtype.kind == "O"
        encoding = {"dtype": str if text else values.dtype}
        variables[name] = xr.Variable(own, _texts(values) if text else values, _about(raw), encoding)
    return variables, None, _about(file.id)


def _about(where: Any) -> dict[str, Any]:
    """Return the attributes of a variable or a file, in the order in which they were given."""
    names: list[bytes] = []
    h5a.iterate(where, lambda name, *_: names.append(name), index_type=h5.INDEX_CRT_ORDER)
    return {name.decode(): _said(where, name) for name in names if name not in _OWN}


def _said(where: Any, name: bytes) -> Any:
    """Return an attribute: a text, a number, or several."""
    attribute = h5a.open(where, name)
    if attribute.get_space().get_simple_extent_type() == h5s.NULL:
        return ""
    values = np.empty(attribute.shape, attribute.dtype)
    attribute.read(values)
    if values.dtype.kind == "O":
        values = _texts(values)
    return values.ravel()[0] if values.size == 1 else values


def _texts(values: np.ndarray) -> np.ndarray:
    texts = np.empty(values.size, dtype=object)
    texts[:] = [text if isinstance(text, str) else text.decode() for text in values.ravel().tolist()]
    return texts.reshape(values.shape)
