"""A record's file beside h5netcdf: ``python tests/benchmarks/test_files.py``, or ``pytest --slow``."""

from __future__ import annotations

from io import BytesIO

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe.study._bench.timing import Clock
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


def test_files_take_less_than_a_third_of_h5netcdf() -> None:
    data = record()
    content = dataset_bytes(data)
    clock = Clock(torch.device("cpu"))
    written = clock.paired(lambda: dataset_bytes(data), lambda: data.to_netcdf(engine="h5netcdf"), 11)
    read = clock.paired(
        lambda: dataset_of(content), lambda: xr.load_dataset(BytesIO(content), engine="h5netcdf"), 11
    )
    for what, found in {"written": written, "read": read}.items():
        print(f"{what} in {1e3 * found.seconds:.0f} ms ({found.ratio:.2f})")
    assert max(written.ratio, read.ratio) < 1 / 3


if __name__ == "__main__":
    test_files_take_less_than_a_third_of_h5netcdf()
