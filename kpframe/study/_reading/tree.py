"""A run as a tree: its figures at the root, the losses of its trainings below."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._disk.folder import RECORD, resume_command
from kpframe.study._disk.netcdf import DAMAGED, reason_of
from kpframe.study._reading.merge import TRAINING, merged, record_of

#: Where the figures of a finished run are, by its command.
RESULTS = {"train": "training.nc", "compare": "comparison.nc"}


def figures_of(path: Path) -> xr.Dataset:
    """Return all that a run has recorded as one dataset, with its ``state``; to be closed."""
    record = record_of(path)
    file = results_of(path, record)
    finished = record["state"] == "finished" and file.exists()
    data = _lazy(file, record["id"], path) if finished else merged(path)
    return data.assign_attrs(state=record["state"])


def results_of(path: Path, record: Mapping[str, Any]) -> Path:
    """Return where the figures of a run are when it is finished."""
    return path / RESULTS.get(record["command"], "results.nc")


def tree_of(path: Path) -> xr.DataTree:
    """Return a run as a tree."""
    data = figures_of(path)
    training = [
        name
        for name, values in data.data_vars.items()
        if "update" in values.dims or values.attrs.get("quantity") == TRAINING
    ]
    own = data[training]
    own.attrs = {}
    root = data.drop_vars([*training, *({"update"} & set(map(str, data.coords)))])
    nodes = {"/": root} | ({"training": own} if training else {})
    tree = xr.DataTree.from_dict(nodes, name=path.resolve().name)
    tree.set_close(data.close)
    return tree


def _lazy(file: Path, run: str, path: Path) -> xr.Dataset:
    remedy = f"delete it: {resume_command(path)} makes it anew from the records of the run"
    try:
        data = xr.open_dataset(file, engine="h5netcdf")
    except DAMAGED as error:
        raise ArgumentError(f"{str(file)!r} is damaged ({reason_of(error)}); {remedy}") from error
    if data.attrs.get("run_id", run) != run:
        data.close()
        raise ArgumentError(f"{str(file)!r} belongs to another run than {RECORD} names; {remedy}")
    return data


def trees_of(paths: Sequence[Path]) -> xr.DataTree:
    """Return runs as one tree, each under the name of its folder."""
    if not paths:
        raise ArgumentError(mismatch("path", "the folder of a run, or several", "none"))
    parts = [path.resolve().parts for path in paths]
    depth = next(
        (
            depth
            for depth in range(1, max(map(len, parts)) + 1)
            if len({own[-depth:] for own in parts}) == len(parts)
        ),
        None,
    )
    if depth is None:
        raise ArgumentError(mismatch("path", "each run once", "one more than once"))
    names = ["-".join(own[-depth:]).replace("/", "-") for own in parts]
    trees: dict[str, xr.DataTree] = {}
    try:
        for name, path in zip(names, paths, strict=True):
            trees[name] = tree_of(path)
    except BaseException:
        for tree in trees.values():
            tree.close()
        raise
    return xr.DataTree(children=trees)
