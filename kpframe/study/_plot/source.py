"""What figures are drawn from: a dataset, a run as a tree, or its folder, and a selection of it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeVar

import xarray as xr
from attrs import frozen

from kpframe.errors import ArgumentError, closest, mismatch, shown
from kpframe.study._plot.look import drawable
from kpframe.study._plot.ticks import finish, flat
from kpframe.study._reading.open import open_run

#: Longest label of a network, parameter, group ... in a figure; rules, told apart in legends, have all of it.
LABEL = 40
#: Anything that figures are drawn from.
Source = xr.Dataset | xr.DataTree | str | os.PathLike[str]
P = ParamSpec("P")
R = TypeVar("R")


@frozen
class Need:
    """What a figure is made of.

    Attributes:
        name: of the figure.
        variables: that must be there, each a name or several of which one is enough.
        quantity: label of the quantity that records them; None for what every run has.
    """

    name: str
    variables: tuple[str | tuple[str, ...], ...]
    quantity: str | None

    def missing(self, data: xr.Dataset) -> list[str]:
        """Return what is not in a dataset."""
        wanted = [(own,) if isinstance(own, str) else own for own in self.variables]
        return [" or ".join(names) for names in wanted if not any(name in data for name in names)]

    def check(self, data: xr.Dataset) -> None:
        """Raise ``ArgumentError`` where something is missing: what, and what records it."""
        if not (missing := self.missing(data)):
            return
        remedy = f'; record it: [[quantity]] name = "{self.quantity}"' if self.quantity else ""
        raise ArgumentError(f"{self.name}: the data have no {', '.join(map(repr, missing))}{remedy}")


#: The figures there are, by name.
NEEDS: dict[str, Need] = {}


def figure(
    *variables: str | tuple[str, ...], quantity: str | None = None, name: str | None = None
) -> Callable[[Callable[Concatenate[xr.Dataset, P], R]], Callable[Concatenate[Source, P], R]]:
    """Make a figure of a function of a dataset: it is read, checked and selected before it is drawn.

    Args:
        *variables: that it is made of; a tuple for several of which one is enough.
        quantity: that records them.
        name: of the figure; that of the function when left out.
    """

    def made(draw: Callable[Concatenate[xr.Dataset, P], R]) -> Callable[Concatenate[Source, P], R]:
        own = draw.__code__.co_varnames[: draw.__code__.co_argcount + draw.__code__.co_kwonlyargcount]
        label = name or draw.__name__
        need = NEEDS[label] = Need(label, variables, quantity)

        @wraps(draw)
        def drawn(data: Source, /, *args: P.args, **kwargs: P.kwargs) -> R:
            read = dataset_of(data)
            if (own_label := kwargs.pop("label", None)) is not None:
                read = under_label(read, str(own_label))
            need.check(read)
            selection = {name: kwargs.pop(name) for name in list(kwargs) if name not in own}
            panels = draw(drawable(selected(read, selection), width=LABEL), *args, **kwargs)
            finish(flat(panels))
            return panels

        said = (draw.__doc__ or "").rstrip()
        drawn.__doc__ = f"{said}\n\n    ``help(kpframe.plot)`` has what all figures take and raise."
        return drawn

    return made


def figures_of(data: Source) -> list[str]:
    """Return the names of the figures that ``data`` can give, as ``kpframe.plot`` has them.

    Raises:
        ArgumentError: for something that is no dataset, no run and no folder of one.
    """
    read = dataset_of(data)
    return sorted(name for name, need in NEEDS.items() if need.variables and not need.missing(read))


def dataset_of(data: Source) -> xr.Dataset:
    """Return all that data hold as one dataset, the losses of a run among it.

    Raises:
        ArgumentError: for something that is no dataset, no run and no folder of one, and for several runs.
    """
    if isinstance(data, xr.Dataset):
        return data
    if isinstance(data, str | os.PathLike):
        with open_run(data) as tree:
            return dataset_of(tree).load()
    if not isinstance(data, xr.DataTree):
        raise ArgumentError(mismatch("data", "a Dataset, a DataTree or the folder of a run", shown(data)))
    if not data.has_data and data.children:
        names = ", ".join(repr(name) for name in data.children)
        raise ArgumentError(f"data: expected one run, got {len(data.children)}; take one of them: {names}")
    read = data.to_dataset(inherit=False)
    if (training := data.children.get("training")) is not None:
        read = read.merge(training.to_dataset(inherit=False), combine_attrs="override")
    return read


def under_label(data: xr.Dataset, label: str) -> xr.Dataset:
    """Return data with the variables of quantities of a label of their own, by the names they have without.

    Raises:
        ArgumentError: where no quantity has that label.
    """
    labels = sorted(
        {
            own.partition(":")[0]
            for values in data.data_vars.values()
            if ":" in (own := str(values.attrs.get("quantity", "")))
        }
    )
    if label not in labels:
        have = f"a label that a quantity of the study has: {', '.join(labels)}" if labels else "none, as no "
        have += "" if labels else "quantity of the study has a label"
        raise ArgumentError(mismatch("label", have, repr(label)) + closest(label, labels))
    before = f"{label}_"
    names = [
        str(name)
        for name, values in data.data_vars.items()
        if str(values.attrs.get("quantity", "")).startswith(f"{label}:")
    ]
    plain = {name: name.removeprefix(before) for name in names}
    dims = {
        str(dim): str(dim).removeprefix(before) for dim in data[names].dims if str(dim).startswith(before)
    }
    rest = data.drop_vars([name for name in plain.values() if name in data])
    rest = rest.drop_dims([dim for dim in dims.values() if dim in rest.dims])
    return rest.rename(plain | dims)


def selected(data: xr.Dataset, selection: dict[str, Any]) -> xr.Dataset:
    """Return a part of a dataset, by the labels of its dims.

    Raises:
        ArgumentError: for what is no dim, and for labels that are not there.
    """
    for dim, wanted in selection.items():
        if dim not in data.dims:
            dims = ", ".join(str(dim) for dim in data.dims)
            raise ArgumentError(
                mismatch(dim, f"one of {dims}", "no dim of the data")
                + closest(dim, [str(dim) for dim in data.dims])
            )
        single = isinstance(wanted, str) or not isinstance(wanted, Iterable)
        labels = [wanted] if single else list(wanted)
        known = data[dim].values.tolist()
        for one in labels:
            if one not in known:
                few = ", ".join(map(repr, known[:12])) + (", ..." if len(known) > 12 else "")
                near = closest(one, map(str, known)) if isinstance(one, str) else ""
                raise ArgumentError(mismatch(dim, f"one of {few}", repr(one)) + near)
        data = data.isel({dim: [known.index(one) for one in labels]})
        data = data.assign_coords({dim: data[dim].assign_attrs(chosen=1)})
    return data
