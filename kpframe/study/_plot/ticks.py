"""Axes with readable ticks, at least three on each, and steps of training where they are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import (
    AutoLocator,
    FixedLocator,
    FuncFormatter,
    Locator,
    LogFormatterSciNotation,
    MaxNLocator,
    NullFormatter,
)

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._plot.look import UPDATES

#: Most ticks on an axis, and most steps that are named where they stand evenly spaced.
TICKS, NAMED = 7, 10
#: Multiples of powers of ten that ticks are at, from the sparsest to the densest.
_MULTIPLES = ((1.0,), (1.0, 2.0, 5.0), tuple(np.arange(1.0, 10.0)), tuple(np.arange(10, 100) / 10))
#: A scale is logarithmic where the largest value is so many times the smallest one.
WIDE = 30.0


class WideTicks(Locator):
    """At least three ticks on a logarithmic axis, or on one that is linear near 0.

    Args:
        linear: up to where the axis is linear on both sides of 0; None for a logarithmic one.
    """

    def __init__(self, linear: float | None = None) -> None:
        self._linear = linear

    def __call__(self) -> Any:
        assert self.axis is not None
        return self.tick_values(*self.axis.get_view_interval())

    def tick_values(self, vmin: float, vmax: float) -> Any:
        low, high = sorted((float(vmin), float(vmax)))
        for multiples in _MULTIPLES:
            if len(found := self._within(low, high, multiples)) >= 3:
                return found
        # less than a tenth of a decade
        ticks = np.asarray(MaxNLocator(nbins=4, min_n_ticks=3).tick_values(low, high))
        return ticks[(ticks >= low) & (ticks <= high)]

    def _within(self, low: float, high: float, multiples: Iterable[float]) -> np.ndarray:
        if self._linear is None:
            return _thin(_powers(max(low, np.finfo(float).tiny), high, multiples))
        above = _thin(_powers(self._linear, high, multiples)) if high >= self._linear else np.array([])
        below = _thin(_powers(self._linear, -low, multiples)) if -low >= self._linear else np.array([])
        zero = [0.0] if low <= 0 <= high else []
        return np.array([*(-below[::-1]), *zero, *above])


def _powers(low: float, high: float, multiples: Iterable[float]) -> np.ndarray:
    decades = range(math.floor(math.log10(low)), math.floor(math.log10(high)) + 1)
    found = np.array([float(f"{multiple:.2g}e{decade}") for decade in decades for multiple in multiples])
    return found[(found >= low * (1 - 1e-9)) & (found <= high * (1 + 1e-9))]


def _thin(ticks: np.ndarray) -> np.ndarray:
    return ticks[:: -(-len(ticks) // TICKS)] if len(ticks) else ticks


def readable(value: float, _: Any = None) -> str:
    """Return a number as it stands at an axis."""
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return f"{value:g}".replace("-", "\N{MINUS SIGN}")
    exponent = math.floor(math.log10(abs(value)) + 1e-12)
    multiple = value / 10.0**exponent
    if f"{multiple:g}" == "1":
        return rf"$10^{{{exponent}}}$"
    return rf"${multiple:g}\times10^{{{exponent}}}$"


def finish(panels: Iterable[Axes]) -> None:
    """Give each axis of panels at least three readable ticks; axes with named places stay as they are."""
    for panel in panels:
        if not panel.axison:
            continue
        for axis in (panel.xaxis, panel.yaxis):
            locator = axis.get_major_locator()
            if isinstance(locator, FixedLocator | WideTicks):
                continue
            scale = axis.get_scale()
            if scale in ("log", "symlog"):
                transform: Any = axis.get_transform()
                linear = transform.linthresh if scale == "symlog" else None
                axis.set_major_locator(WideTicks(linear))
                axis.set_minor_formatter(NullFormatter())
                if isinstance(axis.get_major_formatter(), LogFormatterSciNotation):
                    axis.set_major_formatter(FuncFormatter(readable))
            elif isinstance(locator, AutoLocator):
                axis.set_major_locator(MaxNLocator(nbins=TICKS - 1, min_n_ticks=3, steps=[1, 2, 2.5, 5, 10]))
            elif isinstance(locator, WholeTicks):
                _whole(panel, axis)


class WholeTicks(MaxNLocator):
    """Ticks at whole numbers; other ticks of panels that share an axis are not taken for them."""

    def __init__(self, nbins: int) -> None:
        super().__init__(nbins=nbins, integer=True, min_n_ticks=3)


def whole(axis: Any, nbins: int = TICKS - 1) -> None:
    """Let ticks of an axis be at whole numbers."""
    axis.set_major_locator(WholeTicks(nbins))


def _whole(panel: Axes, axis: Any) -> None:
    """Widen an axis of whole numbers until three of them are on it."""
    low, high = sorted(axis.get_view_interval())
    if math.floor(high) - math.ceil(low) < 2:
        middle = round((low + high) / 2)
        limits = (min(low, middle - 1.2), max(high, middle + 1.2))
        (panel.set_xlim if axis is panel.xaxis else panel.set_ylim)(limits)


def check_step_axis(kind: str) -> str:
    """Return how steps stand along an axis; raises ``ArgumentError`` for anything but the two ways."""
    if kind not in ("true", "index"):
        raise ArgumentError(mismatch("step_axis", "'true' or 'index'", repr(kind)))
    return kind


def step_places(steps: np.ndarray, kind: str = "true") -> np.ndarray:
    """Return where steps stand: by their number, or evenly spaced (``"index"``)."""
    return np.arange(len(steps)) if check_step_axis(kind) == "index" else np.asarray(steps)


def step_axis(panel: Axes, steps: np.ndarray, kind: str = "true") -> None:
    """Make the horizontal axis of a panel one of training steps.

    By their number it is linear, or logarithmic where they grow by factors, and linear about step 0.
    """
    panel.set_xlabel(UPDATES)
    if check_step_axis(kind) == "index":
        places = np.unique(np.linspace(0, len(steps) - 1, min(len(steps), NAMED)).round().astype(int))
        panel.set_xticks(places, [str(steps[place]) for place in places], rotation=45)
        panel.set_xlim(-0.5, len(steps) - 0.5)
        return
    scale_steps(panel.xaxis, steps)
    if len(steps) == 1:
        panel.set_xlim(steps[0] - 1.5, steps[0] + 1.5)


def scale_steps(axis: Any, steps: np.ndarray) -> None:
    """Scale an axis of steps: linear, or logarithmic where they grow by factors, and linear about step 0."""
    above = np.asarray(steps)[np.asarray(steps) > 0]
    if not wide(above):
        whole(axis)
    elif len(above) < len(steps):
        rescale(axis, "symlog", linthresh=float(above.min()), linscale=0.4)
    else:
        rescale(axis, "log")


def rescale(axis: Any, name: str, **settings: float) -> None:
    """Give an axis another scale, and limits anew: those found before may reach far on the new one."""
    panel, across = axis.axes, axis is axis.axes.xaxis
    (panel.set_xscale if across else panel.set_yscale)(name, **settings)
    panel.autoscale_view(scalex=across, scaley=not across)


def wide(values: np.ndarray) -> bool:
    """Return whether numbers call for a logarithmic axis: positive, and far apart."""
    known = values[np.isfinite(values)]
    return bool(known.size) and bool(known.min() > 0) and bool(known.max() > WIDE * known.min())


def flat(panels: Any) -> Iterator[Axes]:
    """Yield the panels of an array, or the one."""
    yield from ([panels] if isinstance(panels, Axes) else np.asarray(panels, dtype=object).flat)
