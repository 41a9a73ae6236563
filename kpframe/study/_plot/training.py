"""Figures of trainings: losses, and how good a network is on test trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from kpframe.study._plot.lines import LINES, Look, draw_line, draw_lines
from kpframe.study._plot.look import (
    UPDATES,
    WIDTH,
    Panels,
    draw_legend,
    legend_of,
    panels_of,
    say,
    short,
    style,
    unit_of,
)
from kpframe.study._plot.numbers import cut, numbers_of, parts
from kpframe.study._plot.source import figure
from kpframe.study._plot.ticks import whole

#: Variables that say how good a network is on test trials.
SCORES = ("test_accuracy", "test_r2")


@figure("training_loss", SCORES, quantity="scores")
def learning(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Training loss, and test accuracy or R^2, of each training."""
    score = numbers_of(data, score_of(data))
    apart = [str(dim) for dim in score.values.dims if dim != "step"]
    shown, said = cut(list(parts(score.values, apart)), LINES, "lines", apart)
    below = legend_of([short(label, 54) for label, _ in shown]) if len(shown) > 4 else 0.0
    panels: np.ndarray = panels_of(axes, 1, 2, (8.2, 2.9 + below))[0]
    left, right = panels
    draw_losses(left, data)
    for place, (label, at) in enumerate(shown):
        draw_line(right, score.values.step.values, score.isel(at), style(place, label), bars=True)
    right.set(xlabel=UPDATES, ylabel=f"test {score_name(data, tex=True)}")
    whole(right.xaxis)
    if score_of(data) == "test_accuracy":  # R^2 has no lower bound
        right.set_ylim(0, 1.02)
        right.yaxis.set_major_formatter(PercentFormatter(1.0))
    if 1 < len(shown) <= 4:
        right.legend(frameon=False, loc="best")
    elif len(shown) > 4:
        draw_legend(right, axes)
    say(panels[None], [said], axes)
    return panels


@figure("training_loss")
def losses(data: xr.Dataset, /, *, ax: Axes | None = None, **selection: Any) -> Axes:
    """Losses of training, a running mean of each; a cross where a training diverged.

    A line for each training (network, point of a sweep, learning rule), a thin one for each seed of it.
    """
    labels = [short(label, 54) for label, _ in _trainings(data)]
    panel: Axes = panels_of(ax, 1, 1, (WIDTH, 3.2 + legend_of(labels[:LINES])))[0, 0]
    said = draw_losses(panel, data)
    if len(labels) > 1:
        draw_legend(panel, ax)
    several = data.training_loss.sizes.get("seed", 1) > 1
    say(np.array([[panel]]), [said, "A thin line for each seed." if several else ""], ax)
    return panel


def _trainings(data: xr.Dataset) -> list[tuple[str, dict[Any, int]]]:
    loss = data.training_loss
    return list(parts(loss, [str(dim) for dim in loss.dims if dim not in ("update", "seed")]))


def draw_losses(panel: Axes, data: xr.Dataset) -> str:
    """Draw losses on a panel, and return what is left out."""
    loss, end = data.training_loss, data.get("diverged_at")
    apart = [str(dim) for dim in loss.dims if dim not in ("update", "seed")]
    if end is None and {"stopped_at", "outcome"} <= set(data):
        end = data.stopped_at.where(data.outcome == "diverged")
    shown, said = cut(_trainings(data), LINES, "lines", [dim for dim in apart if loss.sizes[dim] > 1])
    several = loss.sizes.get("seed", 1) > 1
    for place, (label, at) in enumerate(shown):
        look = style(place, label or "training loss") | {"lw": 0.9 if several else 1.2}
        for seed in range(loss.sizes.get("seed", 1)):
            where = at | ({"seed": seed} if "seed" in loss.dims else {})
            made, smooth = running_mean(loss.isel(where))
            if not len(smooth):
                continue
            every = {"markevery": max(1, len(smooth) // 10)}
            panel.plot(made, smooth, **look | every | ({"marker": ""} if several and len(smooth) > 1 else {}))
            look |= {"label": "_"}
            gone = (
                np.nan if end is None else float(end.isel({d: i for d, i in where.items() if d in end.dims}))
            )
            if gone > 0:
                panel.plot(gone - 1, smooth[-1], marker="x", ms=9, mew=2, color=look["color"])
    known = loss.values[np.isfinite(loss.values)]
    if known.size and known.min() > 0:
        panel.set_yscale("log")
    elif not known.size:
        panel.text(0.5, 0.5, "no values", transform=panel.transAxes, ha="center", va="center", color="0.5")
    panel.set(xlabel=UPDATES, ylabel=loss_label(loss))
    whole(panel.xaxis)
    return said


@figure(SCORES, quantity="scores")
def scores(data: xr.Dataset, /, *, ax: Axes | None = None, step_axis: str = "true", **selection: Any) -> Axes:
    """Test accuracy, or R^2, along the training, a line for each training."""
    look = Look(step_axis=step_axis, scale="linear", ylabel=f"test {score_name(data, tex=True)}")
    panel: Axes = draw_lines(data, score_of(data), "step", axes=ax, look=look)[0, 0]
    if score_of(data) == "test_accuracy":
        panel.set_ylim(0, 1.02)
        panel.yaxis.set_major_formatter(PercentFormatter(1.0))
    return panel


@figure("loss_by_epoch", quantity="loss_by_epoch")
def losses_by_epoch(
    data: xr.Dataset, /, *, axes: Panels = None, step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """Loss in each epoch of the task along the training, a panel for each training."""
    look = Look(step_axis=step_axis, ylabel=f"loss{unit_of(data.loss_by_epoch)}")
    return draw_lines(data, "loss_by_epoch", "step", axes=axes, own=["epoch"], look=look)


@figure("loss_by_time", quantity="loss_by_epoch")
def losses_by_time(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Loss at each step of the trial, before, during and after training."""
    look = Look(ylabel=f"loss{unit_of(data.loss_by_time)}")
    apart = [str(dim) for dim in data.loss_by_time.dims if dim not in ("time", "step", "seed")]
    return draw_lines(data, "loss_by_time", "time", axes=axes, panels=apart, look=look)


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
    if not len(values):
        return made, values
    window = min(window_of(loss), len(values))
    return made[window - 1 :], np.convolve(values, np.ones(window) / window, mode="valid")


def window_of(loss: xr.DataArray) -> int:
    """Return how many losses a point of a curve is the mean of."""
    return max(1, loss.sizes["update"] // 60)


def loss_label(loss: xr.DataArray) -> str:
    """Return the label of an axis of running means, with the unit of the loss where it has one."""
    window = window_of(loss)
    return f"training loss{unit_of(loss)}" + (f", mean of {window}" if window > 1 else "")
