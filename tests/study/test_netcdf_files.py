"""Files of datasets are those that xarray writes by h5netcdf, and are read as it reads them."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from kpframe.errors import ArgumentError
from kpframe.study import read_dataset
from kpframe.study._disk import netcdf
from kpframe.study._disk.results import write_dataset


def of_every_kind() -> xr.Dataset:
    rng = np.random.default_rng(0)
    about = {"long_name": "a figure", "units": "1"}
    grid = rng.normal(size=(3, 4))
    grid[1, 2] = np.nan
    return xr.Dataset(
        {
            "grid": (("time", "value"), grid, about),
            "single": ("time", np.array([1, np.inf, -0.0], "f4"), about),
            "count": ("value", np.array([0, 1, 2**63, 2**64 - 1], "u8"), about),
            "small": ((), np.int8(-3), about),
            "scalar": ((), 0.1, about | {"of": 3, "to": 2.5, "each": np.arange(3)}),
            "flag": ("unnamed", [True, False], about),
            "text": (("unnamed", "value"), np.array([["", "a", "äöü", "b" * 70]] * 2), about),
            "word": ((), "alone", about),
        },
        {
            "time": ("time", [0.0, 0.5, 1.0], {"long_name": "time", "units": "steps"}),
            "value": ("value", ["w", "x", "y", "zz"], {"long_name": "value"}),
            "label": ("value", ["one", "two", "three", ""], {"long_name": "label"}),
            "of_both": (("time", "value"), np.arange(12).reshape(3, 4)),
            "seed": ((), 7),
        },
        {
            "title": "of every kind",
            "empty": "",
            "number": 3,
            "real": np.float64(0.5),
            "vector": np.arange(4.0),
            "none": np.array([]),
        },
    )


def same(first: xr.Dataset, second: xr.Dataset) -> None:
    """Assert that datasets agree in all that can be asked of them, and in its order."""
    xr.testing.assert_identical(first, second)
    assert [list(first.variables), list(first.coords)] == [list(second.variables), list(second.coords)]
    assert dict(first.sizes) == dict(second.sizes)
    for name in first.variables:
        one, other = first[name], second[name]
        assert (one.dtype, one.dims, list(one.attrs)) == (other.dtype, other.dims, list(other.attrs)), name
        assert [type(v) for v in one.attrs.values()] == [type(v) for v in other.attrs.values()], name
    assert list(first.attrs) == list(second.attrs)
    assert [type(v) for v in first.attrs.values()] == [type(v) for v in second.attrs.values()]


def inside(path: Path) -> dict[str, str]:
    """Return what HDF5 holds in a file, as text, axes by their names."""

    def told(file: h5py.File, of: h5py.File | h5py.Dataset) -> object:
        found: dict[str, object] = {}
        for name, value in of.attrs.items():
            if name == "DIMENSION_LIST":
                found[name] = [[file[one].name for one in axis] for axis in value]
            elif name == "REFERENCE_LIST":
                found[name] = sorted((file[one].name, int(place)) for one, place in value)
            elif name != "_NCProperties":
                found[name] = (np.asarray(value).tolist(), np.asarray(value).dtype.str)
        return sorted(found.items())

    with h5py.File(path, "r") as file:
        return {"": str(told(file, file))} | {
            name: str((item.dtype, item.maxshape, item.chunks, item.fillvalue, told(file, item)))
            for name, item in file.items()
        }


@pytest.fixture
def both(tmp_path: Path) -> tuple[Path, Path]:
    """A dataset written here, and by xarray."""
    own = write_dataset(of_every_kind(), tmp_path / "own.nc")
    of_xarray = tmp_path / "xarray.nc"
    of_every_kind().to_netcdf(of_xarray, engine="h5netcdf")
    return own, of_xarray


def test_a_file_holds_what_one_of_xarray_does(both: tuple[Path, Path]) -> None:
    own, of_xarray = map(inside, both)
    assert list(own) == list(of_xarray)
    assert own == of_xarray
    assert own["grid"] != own["single"]


def test_files_are_read_as_xarray_reads_them(
    both: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    with xr.open_dataset(both[0], engine="h5netcdf") as first, xr.open_dataset(both[1]) as second:
        same(first.load(), second.load())
    monkeypatch.setattr(xr, "open_dataset", None)  # neither is left to it
    for path in both:
        same(read_dataset(path), first)
    xr.testing.assert_equal(read_dataset(both[0]), of_every_kind())


@pytest.mark.parametrize(
    "data",
    [
        xr.Dataset({"at": ("time", np.array(["2020-01-01", "2021-01-01"], "datetime64[ns]"))}),
        xr.Dataset({"none": (("time", "value"), np.zeros((0, 3)))}),
        xr.Dataset({"long": ((), np.timedelta64(3, "s"))}),
        xr.Dataset({"bytes": ("time", np.array([b"ab", b"c"]))}),
        xr.Dataset({"filled": ("time", [1.0, 2.0], {"_FillValue": 2.0})}),
        xr.Dataset({"packed": ("time", [1.0, 2.0], {"scale_factor": 2.0})}),
        xr.Dataset({"texts": ("time", [1.0, 2.0])}, attrs={"of": ["a", "b"]}),
    ],
    ids=lambda data: str(*data.data_vars),
)
def test_what_is_no_plain_figure_is_left_to_xarray(
    data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = write_dataset(data, tmp_path / "own.nc")
    data.drop_encoding().to_netcdf(tmp_path / "xarray.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "xarray.nc", engine="h5netcdf") as expected:
        same(read_dataset(own), expected.load())
    left = []
    opened = xr.open_dataset
    monkeypatch.setattr(
        xr, "open_dataset", lambda *args, **options: left.append(1) or opened(*args, **options)
    )
    same(read_dataset(tmp_path / "xarray.nc"), expected)
    assert left


def test_groups_are_left_to_xarray(tmp_path: Path) -> None:
    xr.DataTree.from_dict({"/": xr.Dataset({"a": 1.0}), "/below": xr.Dataset({"b": 2.0})}).to_netcdf(
        tmp_path / "tree.nc", engine="h5netcdf"
    )
    assert list(read_dataset(tmp_path / "tree.nc").data_vars) == ["a"]


@pytest.mark.parametrize("name", ["with/slash", "_FillValue of another"])
def test_what_netcdf_cannot_hold_is_refused_as_by_xarray(name: str, tmp_path: Path) -> None:
    data = xr.Dataset({name: 1.0}, attrs={} if "/" in name else {"of": object()})
    with pytest.raises((ValueError, TypeError)) as expected:
        data.to_netcdf(engine="h5netcdf")
    with pytest.raises(type(expected.value)) as own:
        netcdf.encoded(data)
    assert str(own.value) == str(expected.value)


def test_damage_is_found(tmp_path: Path) -> None:
    path = write_dataset(of_every_kind(), tmp_path / "own.nc")
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ArgumentError, match="which is corrupt"):
        read_dataset(path)
