"""The optional dependencies of the commands, and what to say when one is missing."""

from __future__ import annotations

import sys
from importlib.util import find_spec

#: module: the extra of kpframe that brings it
EXTRA = {
    **dict.fromkeys(
        (
            *("click", "filelock", "h5netcdf", "h5py", "jinja2", "joblib"),
            *("markupsafe", "matplotlib", "netCDF4", "pandas", "rich", "safetensors", "xarray"),
        ),
        "study",
    ),
    **dict.fromkeys(("hypothesis", "pytest", "pytest_benchmark"), "test"),
    "ncps": "interop",
    "submitit": "cluster",
    "pytorch_lightning": "lightning",
    "IPython": "notebook",
    **dict.fromkeys(("axe_playwright_python", "playwright"), "browser"),
}


def is_missing(module: str) -> bool:
    """Whether to install something brings the module: its package is not there, and not Python's own."""
    top = module.partition(".")[0]
    if top in EXTRA:
        return True
    try:
        return top not in sys.stdlib_module_names and find_spec(top) is None
    except (ImportError, ValueError):
        return True


def needs(module: str) -> str:
    """Return what to do when a module is missing."""
    top = module.partition(".")[0]
    what = f"'kpframe[{EXTRA[top]}]'" if top in EXTRA else top
    return f"this command needs {top}, which is not installed: pip install {what}"
