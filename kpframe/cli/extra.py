"""The optional dependencies of the command line, and what to say when one is missing."""

from __future__ import annotations

EXTRA = {"click", "filelock", "h5netcdf", "h5py", "jinja2", "matplotlib", "rich", "safetensors", "xarray"}


def needs(module: str) -> str:
    """Return what to do when a module of the extra is missing."""
    return f"this command needs {module}, which is not installed: pip install 'kpframe[study]'"
