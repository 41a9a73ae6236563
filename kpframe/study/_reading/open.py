"""``open_run``: what runs have recorded; xarray is loaded when it is called."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import xarray as xr


def open_run(path: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> xr.DataTree:
    """Return what a run has recorded, or several.

    The root has the figures along the coordinates of the run's trainings (``network``, ``seed``, the axes of
    a sweep ...), ``step`` and dims of their own, and the node ``training`` the losses and what became of each
    training. Of a finished run they are read from ``results.nc`` when they are used; of another they are
    gathered from what it has recorded so far, NaN where something is missing. The attribute ``state`` says
    which it is. Files stay open until ``close()``, or the end of a ``with`` statement::

        with kpframe.open_run("digits") as run:
            run.effective_rank.sel(network="GRU", operator="Phi").plot()
            run.training.training_loss.plot()

    Args:
        path: the folder of a run; a list of such, or a folder that runs are in, for a tree with a node for
            each, by the names of the folders.

    Raises:
        ArgumentError: for a folder of no run, of one in an older or newer format, for a run that has recorded
            nothing yet, and for a file that is damaged.
    """
    from kpframe.study._reading.tree import tree_of, trees_of

    if not isinstance(path, str | os.PathLike):
        return trees_of([Path(one) for one in path])
    folder = Path(path)
    if folder.is_dir() and not (folder / "run.json").exists():
        inside = sorted(one.parent for one in folder.glob("*/run.json"))
        if inside:
            return trees_of(inside)
    return tree_of(folder)
