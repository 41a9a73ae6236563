"""netCDF through the library of its makers: whole datasets, one thread at a time.

It writes and reads several times faster than h5netcdf, which walks to each variable by its path dozens of
times (docs/performance.md); the files are of one format. h5netcdf opens what is read only in part: it may be
used by several threads, and netCDF's own library may not.
"""

from __future__ import annotations

import os
import shutil
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory, gettempdir
from threading import RLock

import xarray as xr

from kpframe.study._disk.files import check_folder

#: Files here are in memory, on Linux.
_MEMORY = Path("/dev/shm")
#: What reading a damaged file may raise.
DAMAGED = (OSError, ValueError, KeyError, RuntimeError)
#: netCDF-C and its HDF5 are not made for threads; a signal may come between two of its calls.
_ONE_AT_A_TIME = RLock()


def dataset_bytes(data: xr.Dataset) -> bytes:
    """Return the file of a dataset.

    It is not written in place: on a full disk HDF5 leaves it half there, and open. Nor does netCDF's own way
    to write into memory do: it forgets the order of variables, and fills files up to 64 KiB.

    Raises:
        OutputError: where no folder for temporary files has room for it.
    """
    # of a dataset that was read it has the width of the text that was there: longer text would be cut
    data = data.drop_encoding()
    folder = _roomy(2 * data.nbytes + 2**20)
    with _library(), TemporaryDirectory(prefix="kpframe-", dir=folder) as place:
        path = Path(place, "data.nc")
        data.to_netcdf(path, engine="netcdf4")
        return path.read_bytes()


def dataset_of(content: bytes) -> xr.Dataset:
    """Return the dataset in a file's content, in memory.

    Raises:
        One of ``DAMAGED``: for content that is.
    """
    with _library():
        return xr.load_dataset(content, engine="netcdf4")


def load_dataset(path: Path) -> xr.Dataset:
    """Return the dataset in a file, as ``dataset_of``; netCDF itself takes some paths for addresses.

    Raises:
        One of ``DAMAGED``: for a file that is, or cannot be read.
    """
    return dataset_of(path.read_bytes())


@contextmanager
def _library() -> Iterator[None]:
    """Hold netCDF's library, imported: what builds with an older numpy warn of, numpy takes for harmless."""
    with _ONE_AT_A_TIME:
        if "netCDF4" not in sys.modules:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="numpy.ndarray size changed")
                import netCDF4  # noqa: F401
        yield


def reason_of(error: Exception) -> str:
    """Return what an error says of a damaged file, on one line, and not where in memory it lay."""
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return " ".join(said.split())


def _roomy(needed: int) -> Path:
    """Return a folder for a file that lasts a moment: in memory, if possible, or that of temporary files."""
    if os.access(_MEMORY, os.W_OK | os.X_OK) and shutil.disk_usage(_MEMORY).free > needed:
        return _MEMORY
    folder = Path(gettempdir())
    check_folder(folder, needed)
    return folder
