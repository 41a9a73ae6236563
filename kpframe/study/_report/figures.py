"""The figures of a study; each function draws one from the dataset of ``results.nc``."""

from __future__ import annotations

import io
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

#: Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
#: The origin of training time on all pages: 0 is the initial network.
UPDATES = "updates made"
#: Half of a 95% interval, in standard errors.
HALF_95 = 1.96


def drawable(data: xr.Dataset, width: int | None = None) -> xr.Dataset:
    """Return a dataset whose labels matplotlib takes as they are: ``$`` starts no formula in them.

    A label that begins with ``_`` would be left out of a legend. Longer ones than ``width`` are cut.
    """

    def shown(label: str, place: int) -> str:
        if width is not None and len(label) > width:
            label = f"{label[: width - 6]}… ({place})"
        return f"{' ' * label.startswith('_')}{label}".replace("$", r"\$")

    own = {
        name: data[name].values.tolist() for name in ("network", "rule", "rule_other") if name in data.dims
    }
    return data.assign_coords(
        {name: [shown(str(v), place) for place, v in enumerate(labels, 1)] for name, labels in own.items()}
    )


def svg(figure: Figure) -> str:
    """Return a figure as SVG text, the same text for the same data."""
    buffer = io.StringIO()
    with rc_context({"svg.hashsalt": "kpframe"}):  # element ids would be random otherwise
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches="tight")
    text = buffer.getvalue()
    return text[text.index("<svg") :]


#: Variables that say how good a network is on test trials.
SCORES = ("test_accuracy", "test_r2")


def learning(data: xr.Dataset) -> Figure:
    """Training loss, and test accuracy or R^2, of each network."""
    figure, (left, right) = panels_of(1, 2, (8.2, 2.9))
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
    return figure


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


def unit_of(values: xr.DataArray) -> str:
    """Return the unit of values as a label ends in it, ``" [nat]"``; nothing for numbers without one."""
    unit = values.attrs.get("units", "1")
    return "" if unit == "1" else f" [{unit}]"


def open_markers(converged: xr.DataArray) -> str:
    """Return the sentence on open markers, where there are any."""
    return "" if bool(converged.all()) else " Open markers: lower bounds, as the value did not converge."


def effective_ranks(data: xr.Dataset) -> Figure:
    """Effective rank of each operator along the training, a panel a network, 95% intervals as bars."""
    figure, panels = panels_of(1, data.sizes["network"], (8.2, 2.9), sharey=True)
    for panel, network in zip(panels, data.network.values, strict=True):
        for place, operator in enumerate(data.operator.values):
            one = data.sel(network=network, operator=operator)
            panel.errorbar(
                _spread(one.step.values),
                one.effective_rank,
                yerr=HALF_95 * one.effective_rank_stderr,
                marker=MARKERS[place],
                color=COLOURS[place],
                capsize=2.5,
                label=_tex(operator),
            )
        _step_axis(panel, data.step.values)
        panel.set(title=str(network), yscale="log")
    panels[0].set_ylabel("effective rank")
    panels[-1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def spectra(data: xr.Dataset) -> Figure:
    """Leading singular values before and after training, a row a network, a column an operator."""
    figure, panels = _grid(data)
    for row, network in zip(panels, data.network.values, strict=True):
        for panel, operator in zip(row, data.operator.values, strict=True):
            one = data.sel(network=network, operator=operator)
            for place, step in enumerate((int(data.step[0]), int(data.step[-1]))):
                values = one.singular_value.sel(step=step)
                look: dict[str, Any] = {"marker": MARKERS[place], "color": COLOURS[place], "ms": 3.5}
                panel.semilogy(data.k, values, label=after(step), **look)
                bounds = values.where(~one.singular_value_converged.sel(step=step))
                panel.plot(data.k, bounds, lw=0, mfc="w", **look)
            panel.set_title(f"{network}, {_tex(operator)}")
            panel.set_xlabel("k")
            panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            panel.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.yaxis.set_minor_formatter(NullFormatter())
        row[0].set_ylabel("singular value")
    handles = panels[0][-1].get_legend_handles_labels()
    figure.legend(*handles, frameon=False, loc="outside lower center", ncols=2)
    return figure


def time_eigenfunctions(data: xr.Dataset) -> Figure:
    """The three leading eigenfunctions over time after training."""
    figure, panels = _grid(data, sharey=True)
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
            panel.set_title(f"{network}, {_tex(operator)}")
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
    return figure


def trial_kernels(data: xr.Dataset, operator: str = "Phi") -> Figure:
    """How alike the updates that two trials ask for are: the trial kernel as cosines, before and after."""
    steps = (int(data.step[0]), int(data.step[-1]))
    figure, panels = panels_of(data.sizes["network"], 2, (6.6, 3.1 * data.sizes["network"]), square=True)
    rows = np.array(panels).reshape(data.sizes["network"], 2)
    edges = _label_edges(data)
    for row, network in zip(rows, data.network.values, strict=True):
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
    figure.colorbar(image, ax=panels, shrink=0.6, label=f"cosine between trials in {_tex(operator)}")
    return figure


def as_cosines(kernel: np.ndarray) -> np.ndarray:
    """Return a positive kernel with a diagonal of ones; NaN where its own diagonal is zero."""
    scale = np.sqrt(np.diag(kernel))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(kernel / np.outer(scale, scale))


def after(step: int) -> str:
    """Return when something was measured: after so many updates."""
    return f"after {step} update{'' if step == 1 else 's'}"


def rules(data: xr.Dataset) -> Figure:
    """How close each rule's update and flow stay to those of the exact gradient."""
    figure, panels = panels_of(2, data.sizes["network"], (8.2, 5.2), sharey="row")
    grid = np.array(panels).reshape(2, data.sizes["network"])
    for column, network in enumerate(data.network.values):
        for place, rule in enumerate(data.rule.values):
            one = data.sel(network=network, rule=rule)
            style = {"marker": MARKERS[place], "color": COLOURS[place], "label": str(rule), "ms": 4}
            grid[0, column].plot(_spread(one.step.values), one.gradient_cosine, **style)
            grid[1, column].errorbar(
                _spread(one.step.values),
                one.flow_alignment,
                yerr=HALF_95 * one.flow_alignment_stderr,
                capsize=2.5,
                **style,
            )
        grid[0, column].set_title(str(network))
        for panel in grid[:, column]:
            _step_axis(panel, data.step.values)
            panel.axhline(1, color="0.8", lw=0.8, zorder=0)
    grid[0, 0].set_ylabel("cosine of updates")
    grid[1, 0].set_ylabel(r"alignment with $\Phi$")
    grid[0, -1].legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    return figure


def panels_of(
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    sharey: bool | Literal["row"] = False,
    square: bool = False,
) -> tuple[Figure, list[Axes]]:
    """Return a figure and its panels, row by row, in the style of all pages."""
    figure = Figure(figsize=size, layout="constrained")
    panels = np.array(figure.subplots(rows, columns, sharey=sharey, squeeze=False)).ravel().tolist()
    for panel in panels:
        panel.title.set_fontsize(10)
        if not square:
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(True, color="0.93", lw=0.6)
            panel.set_axisbelow(True)
    return figure, panels


def _grid(data: xr.Dataset, *, sharey: bool = False) -> tuple[Figure, list[list[Axes]]]:
    rows, columns = data.sizes["network"], data.sizes["operator"]
    figure, panels = panels_of(rows, columns, (8.2, 2.6 * rows), sharey=sharey)
    return figure, [panels[row * columns : (row + 1) * columns] for row in range(rows)]


def _spread(steps: np.ndarray) -> np.ndarray:
    """Return evenly spaced places for training steps that are themselves about evenly spaced in log."""
    return np.arange(len(steps))


def _step_axis(panel: Axes, steps: np.ndarray) -> None:
    panel.set_xticks(_spread(steps), [str(step) for step in steps], rotation=45)
    panel.set_xlabel(UPDATES)


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


def _tex(operator: str) -> str:
    return {"P P*": "$PP^*$", "K": "$K$", "Phi": r"$\Phi$"}.get(operator, operator)
