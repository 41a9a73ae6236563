"""How an author declares the weight sites of a cell, and what is refused."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from attrs import evolve, field, frozen

from kpframe.errors import ArgumentError, ShapeError, mismatch

#: The source that is the model's input.
INPUT = "input"
#: Marks what was computed within the step: ``"h'"`` is the new h, ``"h"`` the old one.
PRIME = "'"


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return (names,) if isinstance(names, str) else tuple(names)


def _sites(sites: Iterable[Site]) -> tuple[Site, ...]:
    return tuple(sites)


@frozen
class Site:
    """One place where a weight matrix acts: ``W z + b``, its rows split evenly over ``targets``.

    Attributes:
        weight: name of the matrix ``[len(targets) * n, width read]``: a parameter, or a buffer, which does
            not learn. None in two cases: the input enters a target as it is, without weight or bias; or
            there is no source either, and the site is a bias alone.
        source: ``"input"``, the name of a state component, or an output of an earlier stage of the same
            step with a prime (``"h'"``).
        targets: names of the preactivations that the product is added to: the first n rows of the matrix
            make the first one, the next n rows the second ...
        bias: name of the parameter ``[len(targets) * n]``, or None.
        transform: pointwise function of the source (``torch.tanh``), or None for the identity.
        columns: slice of the source's entries that is read, ``slice(0, 3)``; None for all of them.
        parameters: what the matrix is made of, where it is not itself a parameter: the model's
            ``site_weight(weight)`` returns the matrix (masks, Dale's law, products of low rank).
        per_step: whether each step has a weight and a bias of its own: ``[T, len(targets) * n, width read]``
            and ``[T, len(targets) * n]``.
        unitwise: whether each entry of ``parameters`` changes the rows of one unit alone, as under a mask.
    """

    weight: str | None
    source: str | None
    targets: tuple[str, ...] = field(converter=_names)
    bias: str | None = None
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None
    columns: slice | None = None
    parameters: tuple[str, ...] = field(default=(), converter=_names)
    per_step: bool = False
    unitwise: bool = False

    @property
    def label(self) -> str:
        """The site's name in messages."""
        return repr(self.weight or self.bias or self.targets[0])

    @property
    def recurrent(self) -> bool:
        """Whether it reads the state or something computed within the step."""
        return self.source not in (None, INPUT)

    def read(self, source: torch.Tensor) -> torch.Tensor:
        """Return the columns of ``source`` ``[..., w]`` that the site reads."""
        return source if self.columns is None else source[..., self.columns]

    def __deepcopy__(self, memo: dict[int, object]) -> Site:
        """Return itself, as it never changes, unless the transform is a module or a method of one."""
        transform = copy.deepcopy(self.transform, memo)
        return self if transform is self.transform else evolve(self, transform=transform)


@frozen
class Stage:
    """One pointwise function of a step and the sites that feed it.

    Attributes:
        outputs: names of what it computes; one with the name of a state component is its new value.
        units: number n of units, the width of each output.
        sites: its weight sites; no other stage uses the same target names.
        combine: the pointwise function ``(u, h, t=None) -> outputs``, or the name of the model's method.
            ``u`` holds the targets, ``h`` every component and (primed) earlier output of width n, all
            ``[N, n]``.
    """

    outputs: tuple[str, ...] = field(converter=_names)
    units: int
    sites: tuple[Site, ...] = field(converter=_sites)
    combine: str | Callable[..., Mapping[str, torch.Tensor]] = "combine"

    @property
    def targets(self) -> list[str]:
        """Names of the preactivations, in order of first use."""
        return list(dict.fromkeys(target for site in self.sites for target in site.targets))

    def __deepcopy__(self, memo: dict[int, object]) -> Stage:
        """Return itself, as it never changes, unless a function in it is a module or a method of one."""
        sites, combine = copy.deepcopy(self.sites, memo), copy.deepcopy(self.combine, memo)
        if sites is self.sites and combine is self.combine:
            return self
        return evolve(self, sites=sites, combine=combine)


def component_widths(components: Sequence[str], stages: Sequence[Stage], input_size: int) -> dict[str, int]:
    """Return the widths of the state's ``components``, the declarations checked.

    Args:
        components: their names, in order.
        stages: what makes up a step, in order.
        input_size: width of the input.

    Raises:
        ArgumentError: naming the site or stage that does not fit.
    """
    if not any(stage.sites for stage in stages):
        raise ArgumentError(mismatch("sites", "at least one", "none"))
    made = [output for stage in stages for output in stage.outputs]
    if len(set(made)) < len(made):
        raise ArgumentError(mismatch("stages", "each output computed once", made))
    missing = [name for name in components if name not in made]
    if missing:
        raise ArgumentError(mismatch("stages", f"an output for each component {list(components)}", made))
    width = {output: stage.units for stage in stages for output in stage.outputs}
    known = {INPUT: input_size, **{name: width[name] for name in components}}
    targets: set[str] = set()
    for stage in stages:
        if twice := targets & set(stage.targets):
            raise ArgumentError(mismatch("targets", "names that one stage uses", sorted(twice)))
        targets |= set(stage.targets)
        for site in stage.sites:
            _check(site, stage, known)
        known |= {output + PRIME: stage.units for output in stage.outputs}
    return {name: width[name] for name in components}


def _check(site: Site, stage: Stage, known: Mapping[str, int]) -> None:
    where = f"site {site.label}"
    if site.source is None:
        if site.weight is not None or site.bias is None or site.columns is not None or site.per_step:
            raise ArgumentError(
                mismatch(where, "a bias of all steps and no weight where there is no source", site)
            )
        return
    if site.source not in known:
        names = ", ".join(repr(name) for name in known)
        raise ArgumentError(mismatch(f"{where}: source", f"one of {names}", repr(site.source)))
    if site.source == INPUT and site.transform is not None:
        raise ArgumentError(mismatch(f"{where}: transform", "None on the input", site.transform))
    total = known[site.source]
    start, stop, step = (site.columns or slice(None)).indices(total)
    ends = (0, total) if site.columns is None else (site.columns.start or 0, site.columns.stop or total)
    if step != 1 or (start, stop) != ends or start >= stop:
        raise ArgumentError(mismatch(f"{where}: columns", f"a slice inside 0:{total}", site.columns))
    if site.weight is None and (
        site.source != INPUT or site.bias is not None or len(site.targets) != 1 or stop - start != stage.units
    ):
        expected = f"{stage.units} columns of the input, one target and no bias where there is no weight"
        raise ArgumentError(mismatch(where, expected, site))
    if site.parameters and site.per_step:
        raise ArgumentError(
            mismatch(f"{where}: parameters", "none for a weight of each step", site.parameters)
        )


def check_weights(
    stages: Sequence[Stage],
    known: Mapping[str, int],
    steps: int | None,
    weights: Mapping[str, torch.Tensor],
) -> None:
    """Raise ``ShapeError`` unless matrices have the shapes that their sites declare.

    Args:
        stages: the stages of a step.
        known: the widths of the input and the components.
        steps: the number of weights of a site with one for each step.
        weights: the matrices by name.
    """
    known = dict(known)
    for stage in stages:
        for site in stage.sites:
            if site.weight is not None:
                start, stop, _ = (site.columns or slice(None)).indices(known[str(site.source)])
                each = [steps] if site.per_step else []
                expected = [*each, len(site.targets) * stage.units, stop - start]
                found = list(weights[site.weight].shape)
                if found != expected:
                    raise ShapeError(mismatch(f"weight of site {site.label}", f"shape {expected}", found))
        known |= {output + PRIME: stage.units for output in stage.outputs}
