"""How all figures look: colours, markers, labels, panels and legends."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import xarray as xr
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from kpframe.errors import ArgumentError, mismatch

#: Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
#: The origin of training time in all figures: 0 is the initial network.
UPDATES = "updates made"
#: Half of a 95% interval, in standard errors.
HALF_95 = 1.96
#: Width of every figure of a page [inch].
WIDTH = 8.2


def drawable(data: xr.Dataset, width: int | None = None) -> xr.Dataset:
    """Return a dataset whose labels matplotlib takes as they are: ``$`` starts no formula in them.

    A label that begins with ``_`` would be left out of a legend. Longer ones than ``width`` are cut.
    """

    def shown(label: str, place: int) -> str:
        if width is not None and len(label) > width:
            label = f"{label[: width - 6]}… ({place})"
        return f"{' ' * label.startswith('_')}{label}".replace("\\$", "$").replace("$", r"\$")

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


def unit_of(values: xr.DataArray) -> str:
    """Return the unit of values as a label ends in it, ``" [nat]"``; nothing for numbers without one."""
    unit = values.attrs.get("units", "1")
    return "" if unit == "1" else f" [{unit}]"


def open_markers(converged: xr.DataArray) -> str:
    """Return the sentence on open markers, where there are any."""
    return "" if bool(converged.all()) else " Open markers: lower bounds, as the value did not converge."


def after(step: int) -> str:
    """Return when something was measured: after so many updates."""
    return f"after {step} update{'' if step == 1 else 's'}"


#: What figures of several panels are drawn on, where they are not to make it themselves.
Axis = Axes | None
Panels = Sequence[Axes] | np.ndarray | None


def panels_of(
    axes: Axes | Panels,
    rows: int,
    columns: int,
    size: tuple[float, float],
    *,
    sharey: bool | Literal["row"] = False,
    square: bool = False,
) -> np.ndarray:
    """Return panels ``[rows, columns]`` in the style of all figures: those given, or new ones.

    Args:
        axes: that are given, row by row; None for a new figure.
        rows, columns: of panels.
        size: of a new figure [inch].
        sharey: as in ``Figure.subplots``.
        square: whether the panels are maps, with their frame and no grid.

    Raises:
        ArgumentError: for another number of axes.
    """
    if axes is None:
        figure = Figure(figsize=size, layout="constrained")
        panels = np.array(figure.subplots(rows, columns, sharey=sharey, squeeze=False))
    else:
        given = np.array(axes, dtype=object).ravel()
        if given.size != rows * columns or not all(isinstance(own, Axes) for own in given):
            wanted = f"{rows * columns} Axes ({rows} x {columns})"
            raise ArgumentError(mismatch("axes", wanted, f"{given.size} of them" if given.size else "none"))
        panels = given.reshape(rows, columns)
    for panel in panels.flat:
        panel.title.set_fontsize(10)
        if not square:
            panel.spines[["top", "right"]].set_visible(False)
            panel.grid(True, color="0.93", lw=0.6)
            panel.set_axisbelow(True)
    return panels


def short(label: str, width: int) -> str:
    """Return a label on at most two lines of ``width`` characters, with an ellipsis for what is left out."""
    lines = textwrap.wrap(label, width)
    if len(lines) <= 2:
        return "\n".join(lines)
    return f"{lines[0]}\n{lines[1][: width - 1]}…"


def style(place: int, label: str) -> dict[str, Any]:
    """Return how a rule's line is drawn: colours come again with other markers, dashed."""
    turn = place // len(COLOURS)
    return {
        "color": COLOURS[place % len(COLOURS)],
        "marker": MARKERS[(place + turn) % len(MARKERS)],
        "linestyle": ("-", "--", ":")[turn % 3],
        "ms": 3.5,
        "lw": 1.2,
        "label": short(label, 54),
    }


def draw_legend(panel: Axes, given: Axes | Panels) -> None:
    """Draw one legend below the panels, where long names have room; inside panels that were given."""
    handles = panel.get_legend_handles_labels()
    if given is not None:
        panel.legend(*handles, frameon=False, fontsize=8)
        return
    on(panel).legend(*handles, frameon=False, loc="outside lower left", ncols=2, fontsize=8)


def legend_height(one: xr.Dataset) -> float:
    """Return the height that the legend of a dataset's rules takes [inch]."""
    lines = [short(str(rule), 54).count("\n") + 1 for rule in one.rule.values]
    return 0.2 + 0.17 * max(1, sum(lines) / 2)


def as_wide(figure: Figure) -> Figure:
    """Give a figure the width of the page with an empty frame, so that text is of one size in all."""
    share = max(1.0, WIDTH / figure.get_figwidth())
    frame = Rectangle((0, 0), share, 1, transform=figure.transFigure, facecolor="none", edgecolor="none")
    figure.add_artist(frame)
    return figure


def tex(operator: str) -> str:
    return {"P P*": "$PP^*$", "K": "$K$", "Phi": r"$\Phi$"}.get(operator, operator)


def step_axis(panel: Axes, steps: np.ndarray) -> None:
    panel.set_xticks(spread(steps), [str(step) for step in steps], rotation=45)
    panel.set_xlabel(UPDATES)


def spread(steps: np.ndarray) -> np.ndarray:
    """Return evenly spaced places for training steps that are themselves about evenly spaced in log."""
    return np.arange(len(steps))


def on(panels: Axes | np.ndarray) -> Figure:
    """Return the figure that panels stand on."""
    own = (panels if isinstance(panels, Axes) else panels.flat[0]).figure
    return own if isinstance(own, Figure) else own.figure
