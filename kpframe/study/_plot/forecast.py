"""Figures of where learning would go: forecasts beside what happened, stable rates beside the rate used."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import NullLocator

from kpframe.study._over_seeds import half_interval
from kpframe.study._plot import lines
from kpframe.study._plot.look import COLOURS, MARKERS, UPDATES, Panels, panels_of, unit_of
from kpframe.study._plot.source import figure

#: How forecasts from a step are drawn.
_FROM = {"first": "--", "previous": ":"}


@figure("forecast_loss", "reached_loss", "forecast_output_gap", quantity="forecast")
def forecast(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Loss reached, beside that forecast from the first and the previous step, and the gaps of the outputs.

    A colour a network, or other group; of several seeds the mean and its 95% interval, by Student's t.
    Forecasts that diverge leave the panel.
    """
    panels: np.ndarray = panels_of(axes, 1, 2, (8.2, 3.4))[0]
    left, right = panels
    for place, label, one in _groups(data, ("forecast_from",)):
        look = {"color": COLOURS[place], "marker": MARKERS[place]}
        _line(left, one.reached_loss, **look, label=label or "reached")
        for origin, dashes in _FROM.items():
            own = one.sel(forecast_from=origin)
            _line(left, own.forecast_loss, **look, ls=dashes, mfc="w", label="_")
            _line(right, own.forecast_output_gap, **look, ls=dashes, mfc="w", label="_")
    reached = data.reached_loss.where(data.reached_loss > 0)
    gap = np.nanmedian(data.forecast_output_gap) if bool(data.forecast_output_gap.notnull().any()) else 1.0
    _finish(left, data, f"loss on these trials{unit_of(data.reached_loss)}", 5 * float(reached.max()))
    _finish(right, data, "|outputs - forecast| / |outputs - start|", max(3.0, 10 * float(gap)))
    _legend(left, {f"forecast from the {origin} step": dashes for origin, dashes in _FROM.items()})
    return panels


@figure("ahead_output_gap", quantity="forecast_ahead")
def forecasts_ahead(
    data: xr.Dataset, /, *, axes: Panels = None, step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """How far off the forecast of a short gradient descent from each step is, as a share of the change."""
    look = lines.Look(step_axis=step_axis, ylabel="|outputs - forecast|\n/ |outputs - start|")
    return lines.draw_lines(data, "ahead_output_gap", "step", axes=axes, look=look)


@figure("stable_rate", "rate_used", "sharpness", "flow_curvature", quantity="stable_rate")
def stable_rate(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """The largest stable learning rate beside the rate used, and the sharpness beside that along the flow.

    A colour a network, or other group; of several seeds the mean and its 95% interval, by Student's t.
    Above the line 2 / rate gradient descent leaves a minimum.
    """
    panels: np.ndarray = panels_of(axes, 1, 2, (8.2, 3.4))[0]
    left, right = panels
    rates = data.rate_used.values[np.isfinite(data.rate_used.values)]
    for place, label, one in _groups(data):
        look = {"color": COLOURS[place], "marker": MARKERS[place]}
        stable = one.stable_rate.where(np.isfinite(one.stable_rate))
        _line(left, stable, **look, label=label or "largest stable rate")
        _line(right, one.sharpness, **look, label=label or "sharpness")
        _line(right, one.flow_curvature, **look, ls="--", mfc="w", label="_")
    for rate in np.unique(rates):
        left.axhline(rate, color="0.3", ls=":", lw=1.3)
        right.axhline(2 / rate, color="0.3", ls=":", lw=1.3)
    _finish(left, data, f"learning rate{unit_of(data.stable_rate)}")
    _finish(right, data, f"largest curvature of the loss{unit_of(data.sharpness)}")
    used = {"rate used": ":"} if len(rates) else {}
    _legend(left, used)
    _legend(right, {"along the flow": "--"} | ({"2 / rate used": ":"} if used else {}))
    return panels


def _groups(data: xr.Dataset, own: tuple[str, ...] = ()) -> Iterator[tuple[int, str, xr.Dataset]]:
    """Yield a place, a label and the data of each group: what is neither a step, a seed nor the figure's own.

    Of more groups than there are colours the first; the last label says of how many.
    """
    names = ("reached_loss", "forecast_loss", "stable_rate")
    dims = next(data[name].dims for name in names if name in data)
    apart = [str(dim) for dim in dims if dim not in ("step", "seed", *own)]
    every = list(product(*(data[dim].values.tolist() for dim in apart)))
    for place, values in enumerate(every[: len(COLOURS)]):
        several = [
            str(value) if dim == "network" else f"{dim} {value}"
            for dim, value in zip(apart, values, strict=True)
            if data.sizes[dim] > 1
        ]
        label = ", ".join(several)
        if place == len(COLOURS) - 1 < len(every) - 1:
            label += f" (the first {len(COLOURS)} of {len(every)})"
        yield place, label, data.sel(dict(zip(apart, values, strict=True)))


def _line(panel: Axes, values: xr.DataArray, **look: Any) -> None:
    """Draw figures over the steps, of several seeds their mean with its interval as a band."""
    if "seed" not in values.dims:
        panel.plot(values.step, values, ms=3.5, lw=1.3, **look)
        return
    middle, half = values.mean("seed"), half_interval(values, "seed")
    panel.plot(middle.step, middle, ms=3.5, lw=1.3, **look)
    if bool(np.isfinite(half).any()):
        low, high = (middle + sign * half.where(np.isfinite(half)) for sign in (-1, 1))
        panel.fill_between(middle.step, low, high, color=look["color"], alpha=0.15, lw=0)


def _finish(panel: Axes, data: xr.Dataset, text: str, most: float = np.inf) -> None:
    """Name the axes, the steps where they are and as many of them as are readable; logarithmic above 0."""
    steps = data.step.values
    positive = steps[steps > 0]
    if len(positive):
        panel.set_xscale("symlog", linthresh=int(positive.min()))
    shown = steps[:: -(-len(steps) // 8)]
    panel.set_xticks(shown, [str(step) for step in shown])
    panel.xaxis.set_minor_locator(NullLocator())
    panel.set(xlabel=UPDATES, ylabel=text)
    drawn = np.concatenate(
        [np.asarray(line.get_ydata(), dtype=float) for line in panel.lines] or [np.ones(1)]
    )
    drawn = drawn[np.isfinite(drawn) & (drawn <= most)]
    if drawn.size and drawn.min() > 0:
        panel.set_yscale("log")
        panel.set_ylim(drawn.min() / 1.4, drawn.max() * 1.4)


def _legend(panel: Axes, dashes: dict[str, str]) -> None:
    """Say which colour is which group, and what dashes mean."""
    handles, labels = panel.get_legend_handles_labels()
    handles += [Line2D([], [], color="0.3", ls=ls, lw=1.3) for ls in dashes.values()]
    panel.legend(handles, [*labels, *dashes], frameon=False, fontsize=7)
