"""Names of weights in files of other programs, and how they become those of a module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from kpframe.errors import CheckpointError, closest, mismatch


def renamed(
    tensors: Mapping[str, torch.Tensor], renames: Sequence[tuple[str, str]], source: str
) -> dict[str, torch.Tensor]:
    """Return tensors by their new names; see ``GivenModel.renames``.

    Raises:
        CheckpointError: for a renaming that fits no name, or names that become one.
    """
    whole = {old: new for old, new in renames if old in tensors}
    fronts = sorted(((old, new) for old, new in renames if old not in whole), key=lambda pair: -len(pair[0]))
    used: set[str] = {*whole}
    found: dict[str, tuple[str, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        new = whole.get(name)
        if new is None:
            front = next((pair for pair in fronts if name.startswith(pair[0])), None)
            used |= set() if front is None else {front[0]}
            new = name if front is None else front[1] + name.removeprefix(front[0])
        if new in found:
            got = f"{found[new][0]!r} and {name!r}, both {new!r}"
            raise CheckpointError(mismatch("map", f"another name for each in {source}", got))
        found[new] = (name, tensor)
    if unused := [old for old, _ in renames if old not in used]:
        known = {part for name in tensors for part in (name, *_fronts(name))}
        got = f"{unused[0]!r}, with which none of {source} begins"
        raise CheckpointError(
            mismatch("map", "a name or the front of names", got)
            + (closest(unused[0], known) or f"; it has {_listed(tensors)}")
        )
    return {new: tensor for new, (_, tensor) in found.items()}


def _fronts(name: str) -> Iterator[str]:
    for place, char in enumerate(name):
        if char == ".":
            yield name[: place + 1]


def _listed(names: Mapping[str, object]) -> str:
    shown = list(names)[:8]
    return ", ".join(shown) + (f", ... ({len(names)} in all)" if len(names) > len(shown) else "")


def remedy(found: Mapping[str, torch.Tensor], module: torch.nn.Module) -> str:
    """Return what gives a file's tensors the names of the module, as the options of the command line."""
    own = module.state_dict()
    missing = [name for name in own if name not in found]
    extra = [name for name in found if name not in own]
    fronts = {
        front: {
            name for name in missing if front + name in found and found[front + name].shape == own[name].shape
        }
        for name in extra
        for front in _fronts(name)
    }
    best = max(fronts, key=lambda front: len(fronts[front]), default=None)
    said = []
    if best is not None and fronts[best]:
        said.append(f"--map '{best}=' takes {best!r} off the front of names")
        extra = [name for name in extra if not name.startswith(best)]
    elif missing and extra:
        said.append("--map OLD=NEW renames")
    if extra:
        said.append(
            f"--ignore '{_front_of(extra)}' leaves out what is no part of the network, "
            "--readout NAME takes a linear readout"
        )
    return "; " + "; ".join(said) if said else ""


def _front_of(names: Sequence[str]) -> str:
    head, dot, _ = names[0].partition(".")
    return head + dot
