"""A record's file beside h5netcdf: ``python tests/benchmarks/test_files.py``, or ``pytest --slow``."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import xarray as xr

from kpframe.study._disk.netcdf import dataset_bytes, dataset_of

pytestmark = pytest.mark.slow


def record(variables: int = 36) -> xr.Dataset:
    """Return what a step of a study may record."""
    draw = np.random.default_rng(0)
    about = {"long_name": "what it is", "units": "1"}
    values = {
        f"figure_{n}": (("operator", "k")[: 1 + n % 2], draw.standard_normal((3, 10)[: 1 + n % 2]), about)
        for n in range(variables)
    }
    return xr.Dataset(values, coords={"operator": ["K", "P P*", "Phi"], "k": np.arange(10)})


def ratio(ours: Callable[[], Any], theirs: Callable[[], Any], pairs: int = 11) -> tuple[float, float]:
    """Return the median of our milliseconds, and that of their ratio to the other's, call by call."""

    def seconds(work: Callable[[], Any]) -> float:
        began = time.perf_counter()
        work()
        return time.perf_counter() - began

    ours(), theirs()
    found = [(seconds(ours), seconds(theirs)) for _ in range(pairs)]
    return 1e3 * statistics.median(a for a, _ in found), statistics.median(a / b for a, b in found)


def test_files_take_less_than_a_third_of_h5netcdf() -> None:
    data = record()
    content = dataset_bytes(data)
    written = ratio(lambda: dataset_bytes(data), lambda: data.to_netcdf(engine="h5netcdf"))
    read = ratio(lambda: dataset_of(content), lambda: xr.load_dataset(BytesIO(content), engine="h5netcdf"))
    print(f"written {written[0]:.0f} ms ({written[1]:.2f}), read {read[0]:.0f} ms ({read[1]:.2f})")
    assert max(written[1], read[1]) < 1 / 3


if __name__ == "__main__":
    test_files_take_less_than_a_third_of_h5netcdf()
