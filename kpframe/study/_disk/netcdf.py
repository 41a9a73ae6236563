"""netCDF files from datasets and back, by a handful of calls of HDF5 for each variable.

They are the files that xarray writes by h5netcdf, which opens each variable dozens of times to write or read
it once: an eighth of the time that it takes is left here. What neither function knows (groups, times, packed
figures, unlimited axes, attributes of other kinds) it leaves to xarray.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import xarray as xr
from h5py import h5a, h5ds, h5s, h5t

#: Attributes by which HDF5 and netCDF tell axes, and files.
_OWN = frozenset(
    (
        *("REFERENCE_LIST", "CLASS", "DIMENSION_LIST", "NAME", "_Netcdf4Dimid", "_Netcdf4Coordinates"),
        *("_NCProperties", "_nc3_strict"),
    )
)
_NO_VARIABLE = "This is a netCDF dimension but not a netCDF variable."
#: Attributes by which figures are others than those in the file.
_PACKED = frozenset(
    ("scale_factor", "add_offset", "missing_value", "calendar", "_Unsigned", "_Encoding", "valid_range")
)


class _Other(Exception):
    """Something that is left to xarray."""


def encoded(data: xr.Dataset) -> bytes | memoryview:
    """Return the content of a netCDF file with a dataset."""
    try:
        return _encoded(data)
    except _Other:
        content: memoryview = data.to_netcdf(engine="h5netcdf")
        return content


def _encoded(data: xr.Dataset) -> bytes:
    coded, attributes = xr.conventions.encode_dataset_coordinates(data)
    variables: dict[str, xr.Variable] = {}
    for name, variable in coded.items():
        if not isinstance(name, str) or "/" in name or name == "" or variable.encoding:
            raise _Other
        variables[name] = xr.conventions.encode_cf_variable(variable, name=name)
    axes = {axis: size for variable in variables.values() for axis, size in variable.sizes.items()}
    numbers = {axis: np.int32(number) for number, axis in enumerate(axes)}
    if 0 in axes.values() or not all(isinstance(axis, str) and "/" not in axis for axis in axes):
        raise _Other
    with h5py.File("kpframe", "w", driver="core", backing_store=False, track_order=True) as file:
        _set(file, "_NCProperties", np.bytes_(_written_by()))
        scales: dict[Any, h5py.Dataset] = {}
        for axis, size in axes.items():
            if axis not in variables:
                scales[axis] = file.create_dataset(str(axis), (size,), ">f4", track_order=True)
                h5ds.set_scale(scales[axis].id, f"{_NO_VARIABLE}{size:10}".encode("ascii"))
                _set(scales[axis], "_Netcdf4Dimid", numbers[axis])
        made = {name: _write(file, name, variable) for name, variable in variables.items()}
        for name, variable in variables.items():
            if name in axes:
                if variable.dims != (name,):
                    raise _Other
                scales[name] = made[name]
                h5ds.set_scale(made[name].id, name.encode("utf-8"))
        for name, variable in variables.items():
            if variable.dims:
                _set(made[name], "_Netcdf4Coordinates", np.array([numbers[axis] for axis in variable.dims]))
                _set(made[name], "_Netcdf4Dimid", numbers[variable.dims[0]])
            if name not in axes:
                for place, axis in enumerate(variable.dims):
                    h5ds.attach_scale(made[name].id, scales[axis].id, place)
            _set_all(made[name], variable.attrs)
        _set_all(file, attributes)
        file.flush()
        content: bytes = file.id.get_file_image()
    return content


def _written_by() -> str:
    return f"version=2,h5py={h5py.__version__},hdf5={h5py.version.hdf5_version}"


def _write(file: h5py.File, name: str, variable: xr.Variable) -> h5py.Dataset:
    """Write the figures of a variable."""
    values, fill = np.asarray(variable.data), variable.attrs.get("_FillValue")
    if values.dtype.kind in "iuf":
        return file.create_dataset(name, data=values, fillvalue=fill, track_order=True)
    text = values.astype(object)
    if values.dtype.kind not in "UO" or fill is not None or not all(isinstance(t, str) for t in text.flat):
        raise _Other
    return file.create_dataset(name, data=text, dtype=h5py.string_dtype(), track_order=True)


def _set_all(of: h5py.File | h5py.Dataset, attributes: Mapping[Any, Any]) -> None:
    for name, value in attributes.items():
        if not isinstance(name, str) or name in _OWN:
            raise _Other
        if name == "_FillValue":
            value = of.dtype.type(value)
        _set(of, name, value)


def _set(of: h5py.File | h5py.Dataset, name: str, value: Any) -> None:
    """Set a new attribute; netCDF has numbers in arrays, but for those of its own."""
    if isinstance(value, str):
        kind, space, written = h5t.py_create(h5py.string_dtype(), logical=True), (), np.array(value, object)
    else:
        written = np.asarray(value)
        if written.dtype.kind not in "iufS" or (written.dtype.kind == "S") != (name == "_NCProperties"):
            raise _Other
        space = written.shape if name in _OWN else np.atleast_1d(written).shape
        kind = h5t.py_create(written.dtype, logical=True)
    shape = h5s.create_simple(space) if space else h5s.create(h5s.SCALAR)
    h5a.create(of.id, name.encode("utf-8"), kind, shape).write(written.reshape(space))


def decoded(path: Path) -> xr.Dataset:
    """Return the dataset of a netCDF file, in memory.

    Raises:
        OSError: and what else h5py raises for a file that is damaged.
    """
    try:
        with h5py.File(path, "r") as file:
            return _decoded(file)
    except _Other:
        with xr.open_dataset(path, engine="h5netcdf") as data:
            return data.load()


def _decoded(file: h5py.File) -> xr.Dataset:
    found = dict(file.items())
    if not all(isinstance(item, h5py.Dataset) for item in found.values()):
        raise _Other
    axes: dict[int, str] = {}
    no_variables = set()
    for name, item in found.items():
        if h5ds.is_scale(item.id):
            number = int(item.attrs["_Netcdf4Dimid"])
            if number in axes or item.ndim != 1 or None in item.maxshape:
                raise _Other
            axes[number] = name
            if h5ds.get_scale_name(item.id).startswith(_NO_VARIABLE.encode("ascii")):
                no_variables.add(name)
    variables = {name: _read(item, axes) for name, item in found.items() if name not in no_variables}
    coordinates = {name for name in variables if name in axes.values()}
    attributes = _attributes(file)
    for told in (attributes, *(variable.attrs for variable in variables.values())):
        if "coordinates" in told:
            coordinates.update(names := told.pop("coordinates").split(" "))
            if not all(name in variables for name in names):
                raise _Other
    return xr.Dataset(
        {name: variable for name, variable in variables.items() if name not in coordinates},
        {name: variable for name, variable in variables.items() if name in coordinates},
        attributes,
    )


def _read(item: h5py.Dataset, axes: Mapping[int, str]) -> xr.Variable:
    """Return a variable."""
    attributes = _attributes(item)
    if _PACKED & attributes.keys() or item.size == 0 or " since " in str(attributes.get("units", "")):
        raise _Other
    fill, kind = attributes.pop("_FillValue", None), attributes.get("dtype")
    if fill is not None and not (item.dtype.kind == "f" and np.isnan(fill)):
        raise _Other
    text = h5py.check_string_dtype(item.dtype)
    if text is not None and text.length is None:
        values = np.asarray(item.asstr()[()]).astype(str)
    elif item.dtype.kind in "iuf":
        values = item[()]
    else:
        raise _Other
    if kind == "bool":
        del attributes["dtype"]
        values = np.asarray(values).astype(bool)
    elif kind is not None:
        raise _Other
    if not item.ndim:
        return xr.Variable((), values, attributes)
    try:
        dims = [axes[int(number)] for number in item.attrs["_Netcdf4Coordinates"]]
    except KeyError:  # as of writers that tell axes by references alone
        raise _Other from None
    return xr.Variable(dims, values, attributes)


def _attributes(of: h5py.File | h5py.Dataset) -> dict[str, Any]:
    """Return the attributes of a file or variable, but for those of HDF5 and netCDF."""
    return {name: _value(of.attrs[name]) for name in of.attrs if name not in _OWN}


def _value(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        if value.dtype.kind not in "iuf":
            raise _Other
        return value[0] if value.shape == (1,) else value
    if not isinstance(value, (str, np.number)):  # text of fixed length, nothing at all
        raise _Other
    return value
