"""Results on disk: netCDF files that appear complete or not at all, and where they come from."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import xarray as xr

from kpframe.plugin import get_manager
from kpframe.study.config import StudySettings


def provenance(settings: StudySettings) -> dict[str, str]:
    """Return what is needed to repeat a study: settings, seeds, versions of kpframe, torch and plugins."""
    return {
        "title": settings.title,
        **versions(),
        "seed": str(settings.seed),
        "settings": json.dumps(attrs.asdict(settings), sort_keys=True),
    }


def versions() -> dict[str, str]:
    """Return when and with which versions of kpframe, plugins and libraries something was made."""
    plugins = {
        info.distribution: str(info.version) for info in get_manager().plugins if info.status == "loaded"
    }
    libraries = ("torch", "numpy", "scipy", "xarray")
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
    """Write a dataset as netCDF (h5netcdf), renamed into place when it is complete."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    data.assign_attrs(attributes or {}).to_netcdf(partial, engine="h5netcdf")
    partial.replace(path)
    return path


def read_dataset(path: Path) -> xr.Dataset:
    """Read a dataset into memory."""
    with xr.open_dataset(path, engine="h5netcdf") as data:
        return data.load()
