"""Figures of trainings: losses, and how good a network is on test trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from kpframe.study._plot.look import (
    COLOURS,
    MARKERS,
    UPDATES,
    WIDTH,
    Panels,
    draw_legend,
    legend_height,
    panels_of,
    style,
    unit_of,
)
from kpframe.study._plot.source import figure

#: Variables that say how good a network is on test trials.
SCORES = ("test_accuracy", "test_r2")


@figure("training_loss", SCORES, quantity="scores")
def learning(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Training loss, and test accuracy or R^2, of each network."""
    panels: np.ndarray = panels_of(axes, 1, 2, (8.2, 2.9))[0]
    left, right = panels
    score = score_of(data)
    for place, network in enumerate(data.network.values):
        one = data.sel(network=network)
        look: dict[str, Any] = {"color": COLOURS[place], "label": str(network)}
        left.plot(*running_mean(one.training_loss), **look)
        right.plot(one.step, one[score], marker=MARKERS[place], **look)
    left.set(xlabel=UPDATES, ylabel=loss_label(data.training_loss), yscale="log")
    right.set(xlabel=UPDATES, ylabel=f"test {score_name(data, tex=True)}")
    if score == "test_accuracy":  # R^2 has no lower bound
        right.set_ylim(0, 1.02)
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
    right.legend(frameon=False, loc="lower right")
    return panels


@figure("training_loss", "diverged_at")
def rule_losses(data: xr.Dataset, /, *, ax: Axes | None = None, **selection: Any) -> Axes:
    """Loss curves of learning rules, a running mean of each; a cross where a rule diverged."""
    panel: Axes = panels_of(ax, 1, 1, (WIDTH, 3.2 + legend_height(data)))[0, 0]
    for place, rule in enumerate(data.rule.values):
        made, smooth = running_mean(data.training_loss.sel(rule=rule))
        look = style(place, str(rule)) | {"markevery": max(1, len(smooth) // 10)}
        panel.plot(made, smooth, **look)
        gone = float(data.diverged_at.sel(rule=rule))
        if gone > 0 and len(smooth):
            panel.plot(gone - 1, smooth[-1], marker="x", ms=9, mew=2, color=look["color"])
    panel.set(xlabel=UPDATES, ylabel=loss_label(data.training_loss), yscale="log")
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_legend(panel, ax)
    return panel


def score_of(data: xr.Dataset) -> str:
    """Return the variable that says how good a network is on test trials."""
    return "test_r2" if "test_r2" in data else "test_accuracy"


def score_name(data: xr.Dataset, *, tex: bool = False) -> str:
    """Return what that figure is called."""
    if score_of(data) == "test_accuracy":
        return "accuracy"
    return "$R^2$" if tex else "R^2"


def running_mean(loss: xr.DataArray) -> tuple[np.ndarray, np.ndarray]:
    """Return the updates made before the last of each few losses, and the mean of these losses.

    The loss of update u is that of the network before it, after u - 1 updates.
    """
    kept = np.isfinite(loss.values)
    values, made = loss.values[kept], loss.update.values[kept] - 1
    window = min(window_of(loss), max(1, len(values)))
    return made[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


def window_of(loss: xr.DataArray) -> int:
    """Return how many losses a point of a curve is the mean of."""
    return max(1, loss.sizes["update"] // 60)


def loss_label(loss: xr.DataArray) -> str:
    """Return the label of an axis of running means, with the unit of the loss where it has one."""
    window = window_of(loss)
    return f"training loss{unit_of(loss)}" + (f", mean of {window}" if window > 1 else "")
