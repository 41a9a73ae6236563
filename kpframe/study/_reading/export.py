"""The figures of a run as CSV and as NumPy arrays, every number as it is."""

from __future__ import annotations

import csv
import io
import json
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from kpframe.errors import ArgumentError, closest, mismatch
from kpframe.study._disk.files import write_bytes, write_parts

#: Columns of a CSV file, the coordinates between the first and the second.
_COLUMNS = ("variable", "value", "text", "units")


def chosen(
    data: xr.Dataset, names: Iterable[str] | None = None, most: int | None = None
) -> tuple[xr.Dataset, list[str]]:
    """Return the variables to write, and what is left out of them.

    Args:
        data: of a run.
        names: of variables or coordinates; all of them by default.
        most: leave out those with more values than this; none by default.

    Raises:
        ArgumentError: for a name that the run does not have.
    """
    wanted = list(data.data_vars) if names is None else list(dict.fromkeys(names))
    for name in wanted:
        if name not in data.variables:
            known = [str(own) for own in data.variables]
            expected = f"variables of the run ({', '.join(known)})"
            raise ArgumentError(mismatch("variables", expected, repr(name)) + closest(str(name), known))
    large = [name for name in wanted if most is not None and data[name].size > most]
    said = [f"{name} ({data[name].size:,} values)" for name in large]
    kept = data[[name for name in wanted if name not in large]]
    if names is not None:  # coordinates stay that are needed to say where a value is
        kept = kept.drop_vars([n for n in kept.coords if n not in kept.dims and n not in wanted])
    return kept, said


def export_csv(data: xr.Dataset, path: Path, report: Callable[[str, int, int], None] | None = None) -> int:
    """Write a dataset as CSV with a row for each value; return the number of rows.

    Columns are ``variable``, one for each dim, with coordinates (places from 0 where a dim has none),
    ``value``, ``text``, and ``units``. Numbers are written so that reading them gives the same ones to the
    last bit; a missing one is ``nan``, truth values are 1 and 0. Texts stand in their own column, so that all
    values are numbers. ``report`` is called now and then with what is done, rows written and rows in all.

    Raises:
        OutputError: as ``kpframe.study._disk.files.write_bytes``.
    """
    names = [str(n) for n in (*data.data_vars, *(n for n in data.coords if n not in data.dims))]
    dims = list(dict.fromkeys(str(dim) for name in names for dim in data[name].dims))
    count = sum(data[name].size for name in names)
    write_parts(path, _lines(data, names, dims, lambda done: report and report("writing rows", done, count)))
    return count


def _lines(
    data: xr.Dataset, names: Sequence[str], dims: Sequence[str], tell: Callable[[int], object]
) -> Iterator[bytes]:
    shown = [f"coordinate_{dim}" if dim in _COLUMNS else dim for dim in dims]
    yield _encoded([(_COLUMNS[0], *shown, *_COLUMNS[1:])])
    written = 0
    for name in names:
        values = data[name]
        units = str(values.attrs.get("units", "1"))
        places = [_shown(data, str(dim)) for dim in values.dims]
        order = [list(map(str, values.dims)).index(dim) if dim in values.dims else None for dim in dims]
        rows = []
        for place, value in zip(product(*places), _texts(values.values), strict=True):
            where = ("" if at is None else place[at] for at in order)
            rows.append((name, *where, *value, units))
            if len(rows) == 50_000:
                yield _encoded(rows)
                written += len(rows)
                tell(written)
                rows = []
        yield _encoded(rows)
        written += len(rows)


def _encoded(rows: Iterable[Sequence[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode("utf-8", errors="replace")


def _shown(data: xr.Dataset, dim: str) -> list[str]:
    """Return the coordinates of a dim as text."""
    if dim not in data.coords:
        return [str(place) for place in range(data.sizes[dim])]
    return [value or text for value, text in _texts(data[dim].values)]


def _texts(values: np.ndarray) -> Iterator[tuple[str, str]]:
    """Yield each value as a number's text, or as text."""
    if values.dtype.kind in "OUT":
        yield from (("", str(value)) for value in values.ravel().tolist())
    elif values.dtype.kind in "mM":
        yield from (("", text) for text in values.astype(str).ravel().tolist())
    elif values.dtype.kind == "b":
        yield from (("1" if value else "0", "") for value in values.ravel().tolist())
    else:
        yield from ((repr(value), "") for value in values.ravel().tolist())


def export_npz(data: xr.Dataset, path: Path) -> int:
    """Write a dataset as NumPy arrays; return how many variables and coordinates there are.

    ``x`` is an array, ``x__dims`` the names of its dims, ``x__units`` its unit; coordinates are arrays of
    their own names. ``run__attributes`` says as JSON where all comes from. Nothing in it is pickled:
    ``numpy.load(path)`` reads it as it is.

    Raises:
        ArgumentError: for variables whose names are taken by these.
        OutputError: as ``kpframe.study._disk.files.write_bytes``.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in map(str, data.variables):
        values = data.variables[name]
        dims = np.array([str(dim) for dim in values.dims], dtype=str)
        own: dict[str, Any] = {"": values.values, "__dims": dims, "__units": values.attrs.get("units", "1")}
        for ending, array in own.items():
            if f"{name}{ending}" in arrays:
                raise ArgumentError(mismatch("variables", "names that differ", f"{name}{ending}, twice"))
            array = np.asarray(array)
            arrays[f"{name}{ending}"] = array.astype(str) if array.dtype.kind in "OT" else array
    arrays["run__attributes"] = np.asarray(json.dumps({str(k): str(v) for k, v in data.attrs.items()}))
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy")  # of no date: the same file for the same numbers
            member.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(member, "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    write_bytes(path, content.getbuffer())
    return len(data.variables)
