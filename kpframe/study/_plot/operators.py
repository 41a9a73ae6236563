"""Figures of operators along a training: ranks, spectra, eigenfunctions, kernels between trials."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from kpframe.study._plot.look import (
    COLOURS,
    HALF_95,
    MARKERS,
    Panels,
    after,
    on,
    panels_of,
    spread,
    step_axis,
    tex,
)
from kpframe.study._plot.source import figure


@figure("effective_rank", "effective_rank_stderr", quantity="effective_rank")
def effective_ranks(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Effective rank of each operator along the training, a panel a network, 95% intervals as bars."""
    panels: np.ndarray = panels_of(axes, 1, data.sizes["network"], (8.2, 2.9), sharey=True)[0]
    for panel, network in zip(panels, data.network.values, strict=True):
        for place, operator in enumerate(data.operator.values):
            one = data.sel(network=network, operator=operator)
            panel.errorbar(
                spread(one.step.values),
                one.effective_rank,
                yerr=HALF_95 * one.effective_rank_stderr,
                marker=MARKERS[place],
                color=COLOURS[place],
                capsize=2.5,
                label=tex(operator),
            )
        step_axis(panel, data.step.values)
        panel.set(title=str(network), yscale="log")
    panels[0].set_ylabel("effective rank")
    panels[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return panels


@figure("singular_value", "singular_value_converged", quantity="spectrum")
def spectrum(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Leading singular values before and after training, a row a network, a column an operator."""
    panels = panels_of(axes, data.sizes["network"], data.sizes["operator"], _size(data))
    for row, network in zip(panels, data.network.values, strict=True):
        for panel, operator in zip(row, data.operator.values, strict=True):
            one = data.sel(network=network, operator=operator)
            for place, step in enumerate((int(data.step[0]), int(data.step[-1]))):
                values = one.singular_value.sel(step=step)
                look: dict[str, Any] = {"marker": MARKERS[place], "color": COLOURS[place], "ms": 3.5}
                panel.semilogy(data.k, values, label=after(step), **look)
                bounds = values.where(~one.singular_value_converged.sel(step=step))
                panel.plot(data.k, bounds, lw=0, mfc="w", **look)
            panel.set_title(f"{network}, {tex(operator)}")
            panel.set_xlabel("k")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        row[0].set_ylabel("singular value")
    handles = panels[0][-1].get_legend_handles_labels()
    if axes is None:
        on(panels).legend(*handles, frameon=False, loc="outside lower center", ncols=2)
    else:
        panels[0][-1].legend(*handles, frameon=False)
    return panels


@figure("time_eigenfunction", "time_explained", quantity="time_kernel")
def eigenfunctions(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """The three leading eigenfunctions over time after training."""
    panels = panels_of(axes, data.sizes["network"], data.sizes["operator"], _size(data), sharey=True)
    last = data.isel(step=-1)
    for row, network in zip(panels, data.network.values, strict=True):
        for panel, operator in zip(row, data.operator.values, strict=True):
            one = last.sel(network=network, operator=operator)
            for mode in range(min(3, data.sizes["mode"])):
                share = float(one.time_explained[mode])
                panel.plot(
                    data.time,
                    one.time_eigenfunction[mode],
                    marker=MARKERS[mode],
                    ms=3.5,
                    color=COLOURS[mode],
                    label=f"{mode + 1}: {share:.0%}",
                )
            panel.axhline(0, color="0.8", lw=0.8, zorder=0)
            panel.set_title(f"{network}, {tex(operator)}")
            panel.set_xlabel("step")
            panel.xaxis.set_major_locator(MaxNLocator(integer=True))
            panel.legend(
                frameon=False,
                fontsize=8,
                ncols=3,
                handlelength=1.0,
                columnspacing=0.9,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.28),
            )
        row[0].set_ylabel("eigenfunction")
    return panels


@figure("trial_kernel", quantity="trial_kernel")
def trial_kernels(
    data: xr.Dataset, /, *, axes: Panels = None, operator: str = "Phi", **selection: Any
) -> np.ndarray:
    """How alike the updates that two trials ask for are: the trial kernel as cosines, before and after."""
    steps = (int(data.step[0]), int(data.step[-1]))
    networks = data.sizes["network"]
    panels = panels_of(axes, networks, 2, (6.6, 3.1 * networks), square=True)
    edges = _label_edges(data)
    for row, network in zip(panels, data.network.values, strict=True):
        for panel, step in zip(row, steps, strict=True):
            kernel = data.trial_kernel.sel(network=network, operator=operator, step=step).values
            image = panel.imshow(as_cosines(kernel), cmap="RdBu_r", vmin=-1, vmax=1, interpolation="nearest")
            panel.set_title(f"{network}, {after(step)}")
            if edges is None:
                panel.set(xlabel="trial", ylabel="trial")
                continue
            labels, starts, centres = edges
            panel.set_xticks(centres, labels)
            panel.set_yticks(centres, labels)
            panel.tick_params(length=0)
            for start in starts[1:]:
                panel.axhline(start - 0.5, color="k", lw=0.3)
                panel.axvline(start - 0.5, color="k", lw=0.3)
    label = f"cosine between trials in {tex(operator)}"
    on(panels).colorbar(image, ax=panels.ravel().tolist(), shrink=0.6, label=label)
    return panels


def as_cosines(kernel: np.ndarray) -> np.ndarray:
    """Return a positive kernel with a diagonal of ones; NaN where its own diagonal is zero."""
    scale = np.sqrt(np.diag(kernel))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(kernel / np.outer(scale, scale))


def _size(data: xr.Dataset) -> tuple[float, float]:
    return 8.2, 2.6 * data.sizes["network"]


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
