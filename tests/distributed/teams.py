"""Moments measured on the ranks of the pool, as a study on several ranks does it."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import xarray as xr
from torch import distributed

from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity
from kpframe.study._ranks.launcher import Launch
from kpframe.study._ranks.team import Team
from kpframe.study._ranks.watch import Watch
from kpframe.study._record import record

from .ranks import on_ranks

#: Makes a moment; a function of a module.
Maker = Callable[[], Moment]


def recorded_on(
    ranks: int, make: Maker, quantities: Mapping[str, Quantity]
) -> tuple[xr.Dataset, list[str], list[str]]:
    """Return the record of a moment on ranks, what is told the reader, and which quantities all measured."""
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "store")
        return on_ranks(ranks, _record, store, make, quantities)[0]


def _record(
    group: Any, path: str, make: Maker, quantities: Mapping[str, Quantity]
) -> tuple[xr.Dataset, list[str], list[str]] | list[str]:
    rank, ranks = distributed.get_rank(group), distributed.get_world_size(group)
    launch = Launch(rank, ranks, ranks, "", 0)
    store = distributed.FileStore(path, ranks)
    team = Team(launch, store, Watch(launch, store), group)
    notes: list[str] = []
    team.tell = notes.append
    if rank:
        team.serve()
        team.part()
        return []
    shared: list[str] = []
    call = team.call
    team.call = lambda work, *rest: (shared.append(type(rest[-1]).__name__), call(work, *rest))[1]
    Team.leading = team
    try:
        data = record(make(), quantities)
    finally:
        Team.leading = None
        team.part()
    return data, notes, shared
