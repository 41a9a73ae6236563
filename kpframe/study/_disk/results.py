"""Results on disk: netCDF files that appear complete or not at all, and where they come from."""

from __future__ import annotations

import json
import os
import platform
import warnings
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import xarray as xr

from kpframe.errors import ArgumentError, ResumeWarning, mismatch
from kpframe.plugin import get_manager
from kpframe.study._disk.files import make_folder, write_bytes
from kpframe.study._disk.netcdf import DAMAGED, dataset_bytes, load_dataset, reason_of

#: What the last bits of figures depend on.
LIBRARIES = ("torch", "numpy", "scipy", "xarray")


@cache  # its text is read and parsed for it: dozens of milliseconds for all
def version(distribution: str) -> str:
    """Return the version of what is installed, as it was when that was first asked."""
    return metadata.version(distribution)


def made_with() -> dict[str, str]:
    """Return the versions of kpframe and of the libraries that figures are computed with."""
    return {name: version(name) for name in ("kpframe", *LIBRARIES)}


def same_versions(first: object, now: Mapping[str, str], path: Path) -> Any:
    """Return what a run in a folder was begun with; warn where it goes on with other versions."""
    if not isinstance(first, dict):
        return now
    if other := [name for name in now if first.get(name) != now[name]]:
        was, new = (", ".join(f"{name} {one.get(name)}" for name in other) for one in (first, now))
        text = (
            f"the run in {str(path)!r} was begun with {was} and goes on with {new}: figures may differ in "
            "their last bits from those of an undisturbed run; each file says which versions made it"
        )
        warnings.warn(text, ResumeWarning, stacklevel=5)
    return first


def versions() -> dict[str, str]:
    """Return when and with which versions of kpframe, plugins and libraries something was made."""
    plugins = {
        info.distribution: str(info.version) for info in get_manager().plugins if info.status == "loaded"
    }
    libraries = LIBRARIES
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "kpframe_version": version("kpframe"),
        "plugin_versions": json.dumps(plugins, sort_keys=True),
        "library_versions": json.dumps({name: version(name) for name in libraries}),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "Conventions": "named axes; standard errors end in _stderr; time in steps",
    }


def write_dataset(data: xr.Dataset, path: Path, attributes: Mapping[str, Any] | None = None) -> Path:
    """Write a dataset as netCDF, whole or not at all; return its path.

    Raises:
        OutputError: for a disk that is full or read-only, as ``kpframe.study._disk.files.write_bytes``.
    """
    content = dataset_bytes(data.assign_attrs(attributes or {}))
    make_folder(path.parent)
    return write_bytes(path, content)


def read_dataset(path: Path) -> xr.Dataset:
    """Read the dataset in the file ``path`` into memory.

    Raises:
        ArgumentError: for a file that is missing, corrupt or no netCDF.
    """
    _check_file(path)
    try:
        return load_dataset(path)
    except DAMAGED as error:
        raise _corrupt(path, error) from error


def read_attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of a dataset; all of the file is read once, so that damage is found.

    Raises:
        ArgumentError: as ``read_dataset``.
    """
    import h5py

    def read(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            item[()]

    _check_file(path)
    try:
        with h5py.File(path, "r") as file:
            file.visititems(read)
            return {name: _text(value) for name, value in file.attrs.items()}
    except DAMAGED as error:
        raise _corrupt(path, error) from error


def _text(value: Any) -> Any:  # netCDF writes text of one width
    return value.decode() if isinstance(value, bytes) else value


def _check_file(path: Path) -> None:
    if not os.path.isfile(path):  # which takes names of any length
        raise ArgumentError(mismatch("path", "a netCDF file", f"{str(path)!r}, which does not exist"))


def _corrupt(path: Path, error: Exception) -> ArgumentError:
    got = f"{str(path)!r}, which is corrupt ({reason_of(error)})"
    return ArgumentError(mismatch("path", "a netCDF file", got))
