"""Where a tensor holds NaN or infinity, named as its axes are."""

from __future__ import annotations

import math

import torch

from kpframe.errors import NonFiniteError, mismatch
from kpframe.operators._spaces import BATCH, HIDDEN, TIME, Axis, Space


def is_finite(tensor: torch.Tensor) -> bool:
    """Return whether no entry is NaN or infinite, by one reduction where that is so."""
    if tensor.is_meta or (not tensor.is_complex() and math.isfinite(float(tensor.detach().sum()))):
        return True
    return bool(torch.isfinite(tensor).all())  # the sum alone may overflow


def check_finite(
    tensor: torch.Tensor,
    argument: str,
    space: Space | None = None,
    *,
    hint: str = "",
    error: type[NonFiniteError] = NonFiniteError,
    first: int = 0,
) -> None:
    """Raise ``NonFiniteError`` where ``tensor`` holds NaN or infinity, naming the first place.

    Args:
        tensor: of any shape; with a space ``[..., *space]``, leading dimensions being probes.
        argument: what it is, for the message.
        space: names the place: by step, trial and component in a state space, in the order in which the
            roll-out reached it; by parameter in a parameter space.
        hint: what to do about it, for the message.
        error: the class that is raised.
        first: index of the first step, of what is part of a longer roll-out.
    """
    if is_finite(tensor):
        return
    bad = ~torch.isfinite(tensor)
    if space is None:
        place = bad.nonzero()[0].tolist()
        where = f"at index {place}"
    elif space.names == (BATCH, TIME, HIDDEN):
        t, *probe, b, i = bad.movedim(-2, 0).nonzero()[0].tolist()
        place = [*probe, b, t, i]
        trial = b if space.shards is None else space.shards.own[b]
        where = f"first at step {first + t}, trial {trial}, {_entry(space[HIDDEN], i)}{_probe(probe)}"
    else:
        place = bad.nonzero()[0].tolist()
        probe, own = place[: len(place) - len(space.axes)], place[len(place) - len(space.axes) :]
        names = ", ".join(_entry(axis, i) for axis, i in zip(space.axes, own, strict=True))
        where = f"first at {names or 'the only entry'}{_probe(probe)}"
    raise error(mismatch(argument, "finite numbers", f"{tensor[tuple(place)].item()} {where}{hint}"))


def _entry(axis: Axis, i: int) -> str:
    for part in axis.parts:
        if part.slice.start <= i < part.slice.stop:
            kind, entry = ("component", "unit") if axis.name == HIDDEN else (axis.name, "entry")
            return f"{kind} {part.name!r}, {entry} {i - part.start}"
    return f"{axis.name} {i}"


def _probe(probe: list[int]) -> str:
    return f", probe {', '.join(map(str, probe))}" if probe else ""
