"""Parameters and paths by name: patterns, values given by name, and the named parts of a flat vector."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TypeVar

import torch

from kpframe.errors import ArgumentError, closest, mismatch
from kpframe.operators._spaces import PARAMETER, Space

T = TypeVar("T")


def match_parameters(space: Space, names: Iterable[str]) -> tuple[str, ...]:
    """Return the parameters that ``names`` or patterns match, in their order on the axis of ``space``.

    A shared parameter is found by any of its names and returned under that of the axis, the first.

    Raises:
        ArgumentError: for a string in the place of a list, and for what matches none; lists those there are.
    """
    if isinstance(names, str):
        raise ArgumentError(
            f"parameters: expected a list of names, got the string {names!r}; write [{names!r}]"
        )
    parts = space[PARAMETER].parts
    known = [name for part in parts for name in part.names]
    chosen: set[str] = set()
    for pattern in names:
        matched = [part.name for part in parts if any(fnmatchcase(n, str(pattern)) for n in part.names)]
        if not matched:
            raise ArgumentError(
                f"parameters: expected names among {', '.join(known) or '(none are trainable)'}, "
                f"got {pattern!r}{closest(str(pattern), known)}"
            )
        chosen.update(matched)
    return tuple(part.name for part in parts if part.name in chosen)


def parameter_values(space: Space, values: Mapping[str, T], argument: str) -> dict[str, T]:
    """Return ``values`` by their names in ``space``, given by any name of a shared parameter.

    Names of other things are left out.

    Raises:
        ArgumentError: for one parameter that is given twice, by two of its names; names ``argument``.
    """
    out: dict[str, T] = {}
    for part in space[PARAMETER].parts:
        names = [name for name in part.names if name in values]
        if len(names) > 1:
            expected = f"one value for a shared parameter, by one of its names {', '.join(part.names)}"
            raise ArgumentError(mismatch(argument, expected, f"{', '.join(names)}"))
        if names:
            out[part.name] = values[names[0]]
    return out


def split_parameters(space: Space, q: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the parts of parameter vectors ``q`` ``[..., M]`` of ``space`` by name, each ``[..., *shape]``.

    They are views.
    """
    return {
        part.name: q[..., part.slice].reshape((*q.shape[:-1], *part.shape)) for part in space[PARAMETER].parts
    }


def join_parameters(space: Space, values: Mapping[str, torch.Tensor]) -> torch.Tensor:  # [M]
    """Return ``values``, of their shapes in ``space``, as one vector ``[M]``; undoes ``split_parameters``."""
    return torch.cat([values[part.name].reshape(-1) for part in space[PARAMETER].parts])


def match_paths(known: Sequence[str], paths: Sequence[str]) -> list[str]:
    """Return the names among those known that names or patterns match, in their order.

    Raises:
        ArgumentError: for a string in the place of a list, and for what matches none; lists those there are.
    """
    if isinstance(paths, str):
        raise ArgumentError(mismatch("paths", f"a list such as [{paths!r}]", repr(paths)))
    chosen: set[str] = set()
    for pattern in paths:
        matched = [name for name in known if pattern == name or fnmatchcase(name, pattern)]
        if not matched:
            names = ", ".join(map(repr, known))
            raise ArgumentError(
                mismatch("paths", f"names among {names}", f"{pattern!r}{closest(pattern, known)}")
            )
        chosen.update(matched)
    return [name for name in known if name in chosen]


def check_weights(given: Iterable[str], known: Sequence[str]) -> None:
    """Raise ``ArgumentError`` for the name of a weight that is not among those known."""
    for name in given:
        if name not in known:
            expected = f"names among {list(known)}"
            raise ArgumentError(mismatch("weights", expected, f"{name!r}{closest(name, known)}"))


def all_names(names: Iterable[Iterable[str]]) -> tuple[str, ...]:
    """Return the names that several have, each once."""
    return tuple(dict.fromkeys(name for own in names for name in own))


def shared_out(chosen: Iterable[str], known: Iterable[Sequence[str]]) -> list[list[str]]:
    """Return for each list of known names those that are chosen."""
    chosen = list(chosen)
    return [[name for name in chosen if name in own] for own in known]
