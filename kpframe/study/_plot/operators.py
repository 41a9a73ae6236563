"""Figures of operators along a training: ranks, spectra, eigenfunctions, kernels over time and trials."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import numpy as np
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._plot import lines, maps
from kpframe.study._plot.look import (
    COLOURS,
    MARKERS,
    PANELS,
    Dims,
    Panels,
    after,
    panels_of,
    say,
    tex,
    title_panel,
)
from kpframe.study._plot.numbers import cut, name_of, one_seed, parts
from kpframe.study._plot.source import figure
from kpframe.study._plot.ticks import whole


@figure("effective_rank", quantity="effective_rank")
def effective_ranks(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """Effective rank of each operator along the training, with 95% intervals.

    A panel for each training (network, point of a sweep), unless ``panels`` names other dims: with
    ``panels="gain"`` the networks are lines of one panel. ``step_axis="index"`` spaces steps evenly.
    """
    look = lines.Look(scale="log", ylabel="effective rank", step_axis=step_axis, sharey=True)
    return _of_operators(data, "effective_rank", axes, panels, look)


@figure("trace", quantity="trace")
def traces(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """Trace of each operator along the training (see ``effective_ranks``)."""
    return _of_operators(data, "trace", axes, panels, lines.Look(step_axis=step_axis))


@figure("norm", quantity="norm")
def norms(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """Frobenius norm of each operator along the training (see ``effective_ranks``)."""
    return _of_operators(data, "norm", axes, panels, lines.Look(step_axis=step_axis, ylabel="Frobenius norm"))


def _of_operators(data: xr.Dataset, name: str, axes: Panels, panels: Any, look: lines.Look) -> np.ndarray:
    return lines.draw_lines(data, name, "step", axes=axes, own=["operator"], panels=panels, look=look)


def spectrum_over_training(data: xr.Dataset, axes: Panels) -> np.ndarray:
    """Leading singular values at the first and the last step, a panel for each operator of a training."""
    apart = [str(dim) for dim in data.singular_value.dims if dim not in ("step", "k", "seed")]
    look = lines.Look(scale="log", xlabel="k", ylabel="singular value", most_steps=2, name=_moment)
    return lines.draw_lines(data, "singular_value", "k", axes=axes, panels=apart, look=look)


def _moment(label: str, _: dict[Hashable, int]) -> str:
    return label or "all steps"


def eigenfunctions_over_training(
    data: xr.Dataset, axes: Panels, modes: int, function: str = "time_eigenfunction"
) -> np.ndarray:
    """The leading eigenfunctions over time at the last step, a panel for each operator of a training."""
    data, said = one_seed(data)
    last = data.isel(step=-1) if "step" in data.dims else data
    values, share = last[function], last.time_explained
    apart = [str(dim) for dim in values.dims if dim not in ("mode", "time")]
    found = [one for one in parts(values, apart) if bool(values.isel(one[1]).notnull().any())]
    shown, left = cut(found or list(parts(values, apart))[:1], PANELS, "panels", apart[::-1])
    columns = min(data.sizes.get("operator", 1), 3, len(shown))
    rows = -(-len(shown) // columns)
    grid = panels_of(axes, rows, columns, (8.2, 2.6 * rows), sharey=True)
    for panel, (title, place) in zip(grid.flat, shown, strict=False):
        one, parts_of = values.isel(place), share.isel(place)
        for mode in range(min(modes, data.sizes["mode"])):
            panel.plot(
                data.time,
                one[mode],
                marker=MARKERS[mode % len(MARKERS)] if data.sizes["time"] <= 40 else "",
                ms=3.5,
                color=COLOURS[mode % len(COLOURS)],
                label=f"{mode + 1}: {float(parts_of[mode]):.0%}",
            )
        panel.axhline(0, color="0.8", lw=0.8, zorder=0)
        title_panel(panel, title, columns)
        panel.set_xlabel("step")
        whole(panel.xaxis)
        panel.legend(
            frameon=False,
            fontsize=8,
            ncols=3,
            handlelength=1.0,
            columnspacing=0.9,
            loc="upper center",
            bbox_to_anchor=(0.5, -0.28),
        )
    for panel in grid.ravel()[len(shown) :]:
        panel.set_axis_off()
    for panel in grid[:, 0]:
        panel.set_ylabel("eigenfunction")
    when = f"{after(int(data.step[-1])).capitalize()}." if "step" in data.dims else ""
    say(grid, [when, said, left], axes)
    return grid


@figure("time_kernel", quantity="time_kernel")
def time_kernels(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Each operator averaged over trials and traced over units, step by step of a trial; first and last.

    Operators differ by orders of magnitude: each panel is divided by its own largest magnitude.
    """
    bar = "time kernel / its largest magnitude"
    look = maps.Look(bar=bar, rows="step of a trial", columns="step of a trial", relative=True)
    return maps.draw_maps(data, "time_kernel", "time", "time_other", axes=axes, look=look)


@figure("trial_kernel", quantity="trial_kernel")
def trial_kernels(
    data: xr.Dataset, /, *, axes: Panels = None, operator: str = "Phi", **selection: Any
) -> np.ndarray:
    """How alike the updates that two trials ask for are: the trial kernel as cosines, before and after.

    Args:
        operator: of which operator; one at a time.

    Raises:
        ArgumentError: for an operator that is not recorded.
    """
    known = [str(name) for name in data.operator.values]
    if operator not in known:
        raise ArgumentError(mismatch("operator", f"one of {', '.join(known)}", repr(operator)))
    data, said = one_seed(data)
    kernels = data.trial_kernel.sel(operator=operator)
    kernels = kernels.isel(step=sorted({0, kernels.sizes["step"] - 1}))
    apart = [str(dim) for dim in kernels.dims if dim not in ("trial", "trial_other", "step")]
    rows, left = cut(list(parts(kernels, apart)), PANELS // 2, "rows", apart)
    grid = panels_of(axes, len(rows), kernels.sizes["step"], (6.6, 3.1 * len(rows)), square=True)
    edges = _label_edges(data)
    for row, (name, place) in zip(grid, rows, strict=True):
        for at, panel in enumerate(row):
            kernel = kernels.isel(place).isel(step=at).transpose("trial", "trial_other").values
            image = panel.imshow(as_cosines(kernel), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            text = name_of(kernels, "step", at)
            title_panel(panel, f"{name}, {text}" if name else text, 3)
            if edges is None:
                panel.set(xlabel="trial", ylabel="trial")
                whole(panel.xaxis)
                whole(panel.yaxis)
                continue
            labels, starts, centres = edges
            panel.set_xticks(centres, labels)
            panel.set_yticks(centres, labels)
            panel.tick_params(length=0)
            for start in starts[1:]:
                panel.axhline(start - 0.5, color="k", lw=0.3)
                panel.axvline(start - 0.5, color="k", lw=0.3)
    maps.colour_bar(grid, image, f"cosine between trials in {tex(operator)}", shrink=0.6)
    say(grid, [said, left], axes)
    return grid


def as_cosines(kernel: np.ndarray) -> np.ndarray:
    """Return a positive kernel with a diagonal of ones; NaN where its own diagonal is zero."""
    scale = np.sqrt(np.diag(kernel))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(kernel / np.outer(scale, scale))


def _label_edges(data: xr.Dataset) -> tuple[list[str], list[int], list[float]] | None:
    """Return the classes of trials in order, where each begins and its centre; None without labels."""
    if "trial_label" not in data.coords:
        return None
    labels = data.trial_label.values.reshape(-1, data.sizes["trial"])[0]
    starts = [0, *(np.flatnonzero(np.diff(labels)) + 1).tolist()]
    ends = [*starts[1:], len(labels)]
    return (
        [str(labels[start]) for start in starts],
        starts,
        [(start + end - 1) / 2 for start, end in zip(starts, ends, strict=True)],
    )
