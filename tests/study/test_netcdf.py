"""Files of datasets: object by object those that xarray writes by h5netcdf, and read as it reads them."""

from __future__ import annotations

import io
from pathlib import Path

import h5py
import numpy as np
import pytest
import xarray as xr

from kpframe.study._disk import netcdf as home
from kpframe.study._disk.netcdf import netcdf, read_netcdf

ABOUT = {"long_name": "größe", "units": "1"}
RNG = np.random.default_rng(0)


def everything() -> xr.Dataset:
    """Return a dataset of all kinds and shapes that records have."""
    texts = np.array([["", "täxt", "a\nb"], ["x" * 300, "K", "ΔW"]], dtype=object)
    values = {
        "z": ((), 1.5, ABOUT | {"n": 3, "rate": 0.1, "several": np.array([1.0, 2.0])}),
        "rank": (("inputs", "operator"), RNG.normal(size=(2, 3)), ABOUT),
        "single": ("operator", np.float32([1, np.nan, np.inf]), ABOUT),
        "converged": (("inputs", "operator"), RNG.random((2, 3)) > 0.5, ABOUT),
        "ended": ((), True, {}),
        "products": (("operator", "free"), RNG.integers(-(2**60), 2**60, (3, 4)), ABOUT),
        "small": ("free", np.arange(4, dtype=np.int32)),
        "method": (("inputs", "operator"), texts, ABOUT),
        "failure": ((), "it's gone", ABOUT),
        "names": ("operator", np.array(["a", "bcd", ""])),
    }
    coords = {
        "operator": ("operator", ["K", "P", "Phi"], ABOUT),
        "inputs": ("inputs", np.array(["train", "test"], dtype=object), ABOUT),
        "step": ((), 7, ABOUT),
        "unit": ("unit", np.arange(2.0), ABOUT),
        "kind": ("operator", ["a", "b", "c"]),
    }
    return xr.Dataset(values, coords, {"title": "", "seed": 3, "budget": 1.5, "run_id": "ab"})


def in_file(content: bytes) -> dict[str, object]:
    """Return all that HDF5 knows of a file, in order."""
    with h5py.File(io.BytesIO(content), "r") as file:

        def about(item: h5py.Group | h5py.Dataset) -> dict[str, object]:
            found: dict[str, object] = {}
            for name, value in item.attrs.items():
                kind = item.attrs.get_id(name)
                if name == "DIMENSION_LIST":
                    value = [[file[one].name for one in row] for row in value]
                if name == "REFERENCE_LIST":
                    value = sorted((file[one].name, int(axis)) for one, axis in value)
                found[name] = (kind.shape, str(kind.dtype), kind.get_type().get_class(), repr(value))
            return found

        return {
            "": (list(file), about(file)),
            **{
                name: (
                    *(item.dtype, item.shape, item.maxshape, item.chunks, repr(item.fillvalue)),
                    *(repr(item[()]), about(item), item.is_scale, [a for a in item.attrs if a[0].islower()]),
                )
                for name, item in file.items()
                if isinstance(item, h5py.Dataset)
            },
        }


def test_a_file_is_that_of_xarray() -> None:
    data = everything()
    assert in_file(netcdf(data)) == in_file(bytes(data.to_netcdf(engine="h5netcdf")))
    other = data.assign(z=((), 1.25, data.z.attrs))
    assert in_file(netcdf(other)) != in_file(netcdf(data))


@pytest.mark.parametrize("by", ["kpframe", "xarray"])
def test_it_is_read_as_xarray_reads_it(tmp_path: Path, by: str) -> None:
    data, path = everything(), tmp_path / "data.nc"
    path.write_bytes(netcdf(data) if by == "kpframe" else bytes(data.to_netcdf(engine="h5netcdf")))
    with h5py.File(path) as file:
        assert home._read(file) is not None
    found, expected = read_netcdf(path), xr.load_dataset(path, engine="h5netcdf")
    xr.testing.assert_identical(found, expected)
    xr.testing.assert_identical(found.drop_encoding().z, data.z)
    assert list(found.variables) == list(expected.variables)
    assert list(found.coords) == list(expected.coords)
    for name, variable in expected.variables.items():
        one = found.variables[name]
        assert (one.dtype, list(one.attrs)) == (variable.dtype, list(variable.attrs)), name
        assert [type(v) for v in one.attrs.values()] == [type(v) for v in variable.attrs.values()], name
        assert one.values.flags.writeable == variable.values.flags.writeable


RARER = {
    "an empty dim": xr.Dataset({"x": ("k", np.zeros(0))}),
    "dates": xr.Dataset({"x": ("k", np.array(["2020-01-01"], dtype="datetime64[ns]"))}),
    "several dims of a coordinate": xr.Dataset({"x": (("x", "y"), np.ones((2, 3)))}),
    "texts as an attribute": xr.Dataset({"x": ((), 1.0, {"names": ["a", "b"]})}),
    "unsigned": xr.Dataset({"x": ("k", np.arange(3, dtype=np.uint64))}),
    "nothing": xr.Dataset(),
    "complex": xr.Dataset({"x": ("k", np.ones(2, dtype=complex))}),
}


@pytest.mark.parametrize("data", RARER.values(), ids=RARER)
@pytest.mark.filterwarnings("ignore::UserWarning:h5netcdf")
def test_what_is_rarer_is_written_and_read_as_by_xarray(tmp_path: Path, data: xr.Dataset) -> None:
    path = tmp_path / "data.nc"
    try:
        expected = bytes(data.to_netcdf(engine="h5netcdf"))
    except Exception as error:
        with pytest.raises(type(error)):
            netcdf(data)
        return
    content = netcdf(data)
    assert in_file(content) == in_file(expected)
    path.write_bytes(content)
    xr.testing.assert_identical(read_netcdf(path), xr.load_dataset(path, engine="h5netcdf"))


def test_what_another_program_packed_is_unpacked(tmp_path: Path) -> None:
    data, path = xr.Dataset({"x": ("k", np.array([1.0, np.nan, 2.5]))}), tmp_path / "packed.nc"
    packed = {"x": {"dtype": "int16", "scale_factor": 0.5, "_FillValue": -1, "zlib": True}}
    data.to_netcdf(path, engine="h5netcdf", encoding=packed)
    xr.testing.assert_identical(read_netcdf(path), data)


def test_a_file_without_netcdf_s_marks_and_one_with_groups(tmp_path: Path) -> None:
    path = tmp_path / "plain.nc"
    with h5py.File(path, "w") as file:
        file["x"] = np.ones(3)
    with pytest.warns(UserWarning, match="phony_dims"):  # dims without names: xarray makes some up
        assert read_netcdf(path).x.values.tolist() == [1.0, 1.0, 1.0]
    xr.Dataset({"x": 1.0}).to_netcdf(path, engine="h5netcdf")
    xr.Dataset({"x": 2.0}).to_netcdf(path, engine="h5netcdf", group="other", mode="a")
    assert float(read_netcdf(path).x) == 1.0
