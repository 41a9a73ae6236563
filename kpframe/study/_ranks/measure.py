"""Quantities on several ranks: what each measures along its own trials, put together on rank 0.

A quantity says by ``on_ranks`` how it is measured. Where ranks cannot do so together, rank 0 does by itself,
as one process would: the figures are right, and a line says that it was so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
import xarray as xr
from attrs import define, frozen
from torch import distributed

from kpframe.errors import ArgumentError, UnsupportedError, told
from kpframe.models._model import Model
from kpframe.operators._isolation import isolated
from kpframe.study._moment import Moment, Surroundings
from kpframe.study._quantity import Quantity
from kpframe.study._ranks.team import NotTogetherError, Team
from kpframe.study._workers import torch_threads
from kpframe.tasks._readout import Readout

#: Largest difference between ranks of a figure that all of them have, relative to the largest: rounding.
SAME = 1e-5
#: Where what a rank holds stands among the things that a team holds.
_HELD = "moment"


def is_shared(moment: Moment, quantity: Quantity, label: str) -> bool:
    """Return whether several ranks measure a quantity together; where not, the reader is told."""
    team = Team.leading
    if team is None or quantity.of_network:
        return False
    if quantity.on_ranks != "all":
        team.note(f"{label}: measured on rank 0 alone")
        return False
    fewest = min(len(probe.inputs) for probe in moment.around.probes.values())
    if fewest < team.launch.ranks:
        why = f"{fewest} trials are fewer than {team.launch.ranks} ranks"
        team.note(f"{label}: measured on rank 0 alone, as {why}")
        return False
    return True


def measure_together(moment: Moment, quantity: Quantity, label: str) -> xr.Dataset:
    """Return what a quantity says of a moment, measured on all ranks; for rank 0.

    Raises:
        RanksLost: where ranks are gone; nothing is to be recorded then.
        Exception: as ``quantity.measure``.
    """
    team = Team.leading
    assert team is not None
    try:
        parts = team.call(_measure, _shown(team, moment), moment.inputs, quantity)
        return together(parts, len(moment.whole_probe.inputs))
    except NotTogetherError as error:
        team.held.pop(_HELD, None)
        team.note(f"{label}, at step {moment.step}: measured on rank 0 alone ({error})")
        return quantity.measure(moment)


def check_on_ranks(quantities: Mapping[str, Quantity]) -> None:
    """Raise ``UnsupportedError`` for a quantity that cannot be measured on several ranks, where there are."""
    if Team.leading is None:
        return
    for label, quantity in quantities.items():
        if quantity.on_ranks == "none":
            ranks = Team.leading.launch.ranks
            raise UnsupportedError(
                f"{label}: {type(quantity).__name__} is not for several ranks, and there are {ranks}; start "
                "kpframe without torchrun, or leave it out"
            )


def together(parts: Sequence[xr.Dataset], total: int) -> xr.Dataset:
    """Return the figures of ranks as those of one process.

    Args:
        parts: of each rank. Along ``trial`` they are of its own trials, and come together in order; where
            they are of all trials, as all else is, they are the same on each.
        total: number of trials of all ranks.

    Raises:
        NotTogetherError: for anything else.
    """
    whole = parts[0]
    own = [part.sizes.get("trial", total) for part in parts]
    shared = own != [total] * len(parts)
    for name in whole.variables:
        if shared and "trial" in whole[name].dims:
            continue
        for rank, part in enumerate(parts):
            if name not in part.variables or not _same(whole[name], part[name]):
                raise NotTogetherError(f"{name} of rank {rank} is not that of rank 0")
    if not shared:
        return whole
    if sum(own) != total:
        raise NotTogetherError(f"expected {total} trials of all ranks, got {own}")
    data = xr.concat(
        parts, dim="trial", data_vars="minimal", coords="minimal", compat="override", join="override"
    )
    data.attrs = whole.attrs
    return data


def _same(one: xr.DataArray, other: xr.DataArray) -> bool:
    if one.dims != other.dims or one.shape != other.shape:
        return False
    if one.dtype.kind != "f":
        return bool(np.array_equal(one.values, other.values))
    finite = np.abs(one.values[np.isfinite(one.values)])
    size = float(finite.max()) if finite.size else 0.0
    return bool(np.allclose(one.values, other.values, rtol=SAME, atol=SAME * size, equal_nan=True))


# -- on all ranks --------------------------------------------------------------------------------------------


@frozen(eq=False)
class _Network:
    """What a moment is of, without what it is measured along."""

    model: Model
    readout: Readout | None
    step: int
    learning_rate: float | None
    optimizer: str | None
    has_first: bool
    has_previous: bool

    @classmethod
    def of(cls, moment: Moment) -> _Network:
        """Return that of a moment."""
        rates = moment.learning_rate, moment.optimizer
        before = moment._first is not None, moment._previous is not None
        return cls(moment.model, moment.readout, moment.step, *rates, *before)


@frozen(eq=False)
class _Shown:
    """A moment for ranks that have none yet; nothing of it where they have it already."""

    threads: int
    around: Surroundings | None = None
    network: _Network | None = None


@define(eq=False)
class _Held:
    """What a rank holds: its part of a moment, and on rank 0 the moment itself."""

    around: Surroundings
    moment: Moment | None = None
    base: Moment | None = None
    first: Moment | None = None
    base_first: Moment | None = None


def _shown(team: Team, moment: Moment) -> _Shown:
    """Return what ranks lack of a moment, of which rank 0 takes note."""
    held: _Held | None = team.held.get(_HELD)
    threads = torch.get_num_threads()
    if held is not None and held.around is moment.around:
        if held.base is not None and held.base._along is moment._along:
            return _Shown(threads)
        held.base = moment
        return _Shown(threads, None, _Network.of(moment))
    team.held[_HELD] = _Held(moment.around, base=moment)
    return _Shown(threads, moment.around, _Network.of(moment))


def _measure(team: Team, shown: _Shown, inputs: str, quantity: Quantity) -> xr.Dataset:
    """Return what a quantity says of this rank's trials."""
    if shown.around is not None and team.launch.rank:
        team.held[_HELD] = _Held(shown.around)
    held: _Held = team.held[_HELD]
    if shown.network is not None:
        held.moment = _moment(held, shown.network, held.base, team.world)
    assert held.moment is not None
    with torch_threads(shown.threads, 1), isolated(held.moment.probe.inputs.device, "record"):
        return quantity.measure(held.moment.along(inputs))


def _moment(held: _Held, network: _Network, base: Moment | None, group: Any) -> Moment:
    """Return this rank's part of a moment; those before it come from rank 0 when they are asked for."""
    get: dict[str, Callable[[], Moment | None] | None] = {"first": None, "previous": None}
    for name, there in (("first", network.has_first), ("previous", network.has_previous)):
        if there:
            get[name] = partial(_earlier, held, name, base, group)
    return Moment(
        network.model,
        network.readout,
        held.around,
        step=network.step,
        first=get["first"],
        previous=get["previous"],
        learning_rate=network.learning_rate,
        optimizer=network.optimizer,
        group=group,
    )


def _earlier(held: _Held, name: str, base: Moment | None, group: Any) -> Moment | None:
    """Return this rank's part of an earlier moment, for which rank 0 asks its own; a collective.

    The first one, which all steps share, is sent once.
    """
    box: list[Any] = [None]
    found, error = None, None
    if base is not None:
        get = base._first if name == "first" else base._previous
        assert get is not None
        try:
            found = get()
            known = found is not None and found is held.base_first
            box = [("known", None) if known else ("new", None if found is None else _Network.of(found))]
        except Exception as caught:
            error, box = caught, [("failed", told(caught))]
    distributed.broadcast_object_list(box, 0, group=group)
    if error is not None:
        raise error
    kind, content = box[0]
    if kind == "failed":
        raise ArgumentError(f"{name} moment: {content}")
    if kind == "known":
        return held.first
    if content is None:
        return None
    moment = _moment(held, content, found, group)
    if name == "first":
        held.first, held.base_first = moment, found
    return moment
