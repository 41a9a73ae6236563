"""Datasets as files in memory: as another library reads and writes them, from threads, and no rest."""

from __future__ import annotations

import os
import re
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kpframe.errors import OutputError
from kpframe.study._disk import netcdf
from kpframe.study._disk.netcdf import dataset_bytes, dataset_of, load_dataset


@pytest.fixture
def data() -> xr.Dataset:
    """Of each kind of value that studies have, in an order that is nobody's alphabet."""
    return xr.Dataset(
        {
            "rank": ("operator", [1.5, np.nan, -0.0], {"long_name": "of Φ", "units": "1"}),
            "flag": ("operator", [True, False, True]),
            "norm": ("operator", np.array([1, 2, 3], np.float32)),
            "reason": ("operator", ["", "größer", "x" * 70]),
            "none": (("k", "operator"), np.zeros((0, 3))),
            "count": ((), 2**40),
        },
        coords={"operator": ["Phi", "K", "P P*"]},
        attrs={"title": "a", "empty": "", "names": ["b", "a"], "bound": 0.1, "more": np.arange(3)},
    )


def test_another_library_reads_and_writes_the_same(data: xr.Dataset) -> None:
    content = dataset_bytes(data)
    theirs = xr.load_dataset(BytesIO(content), engine="h5netcdf")
    for found in (theirs, dataset_of(content), dataset_of(bytes(data.to_netcdf(engine="h5netcdf")))):
        xr.testing.assert_identical(found, data)
        assert list(found.data_vars) == list(data.data_vars)
        assert {name: v.dtype.kind for name, v in found.variables.items()} == {
            name: v.dtype.kind for name, v in data.variables.items()
        }
    assert np.signbit(dataset_of(content)["rank"].values[2])
    assert dataset_bytes(data) == content  # no time of day, no chance
    data["rank"][0] += 1e-15
    assert dataset_bytes(data) != content


def test_no_byte_is_spare(data: xr.Dataset) -> None:
    content = dataset_bytes(data)
    for cut in (1, 100, len(content) // 2):
        with pytest.raises(OSError, match="HDF error"):
            dataset_of(content[:-cut])
    assert dataset_of(content).sizes["operator"] == 3


def test_threads_write_and_read_at_once(data: xr.Dataset) -> None:
    def there_and_back(number: int) -> bool:
        one = data.assign(count=number)
        return dataset_of(dataset_bytes(one)).identical(one)

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(there_and_back, range(16)))  # without the lock, a few crash
    assert not dataset_of(dataset_bytes(data)).identical(data.assign(count=1))


def test_a_path_is_a_path(data: xr.Dataset, tmp_path: Path) -> None:
    for name in ("file:#mode=zarr", "http:x.nc", "a b?c&d.nc", "größer.nc"):
        (tmp_path / name).write_bytes(dataset_bytes(data))
        xr.testing.assert_identical(load_dataset(tmp_path / name), data)
    with pytest.raises(FileNotFoundError):
        load_dataset(tmp_path / "none.nc")


def test_nothing_is_left_and_no_room_is_said(
    data: xr.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(netcdf, "_MEMORY", tmp_path / "none")  # as where there is no such folder
    monkeypatch.setattr(netcdf, "gettempdir", lambda: str(tmp_path))
    made: list[str] = []
    mkdir = os.mkdir
    monkeypatch.setattr(os, "mkdir", lambda path, *rest: (made.append(str(path)), mkdir(path, *rest))[1])
    xr.testing.assert_identical(dataset_of(dataset_bytes(data)), data)
    assert [Path(path).parent for path in made] == [tmp_path]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(netcdf.shutil, "disk_usage", lambda folder: Full())
    with pytest.raises(OutputError, match=rf"cannot write '{re.escape(str(tmp_path))}.*it needs 1\.\d MB"):
        dataset_bytes(data)


class Full:
    """What is told of a disk without room."""

    free = 1000
