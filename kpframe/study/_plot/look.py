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
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.transforms import Bbox

from kpframe.errors import ArgumentError, closest, mismatch

#: Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
#: The origin of training time in all figures: 0 is the initial network.
UPDATES = "updates made"
#: Half of a 95% interval, in standard errors.
HALF_95 = 1.96
#: Width of every figure of a page [inch].
WIDTH = 8.2
#: Most panels of a figure.
PANELS = 12
#: Empty space about all that is drawn [inch].
MARGIN = 0.08


def drawable(data: xr.Dataset, width: int | None = None) -> xr.Dataset:
    """Return a dataset whose labels matplotlib takes as they are: ``$`` starts no formula in them.

    A label that begins with ``_`` would be left out of a legend. Longer ones than ``width`` are cut, but for
    those of rules: settings stand at their end.
    """

    def shown(label: str, place: int, width: int | None) -> str:
        if width is not None and len(label) > width:
            label = f"{label[: width - 6]}… ({place})"
        return plain(label)

    own = {
        str(name): values
        for name, values in data.coords.items()
        if values.ndim == 1 and values.dtype.kind in "OUT"
    }
    return data.assign_coords(
        {
            name: values.copy(
                data=[
                    shown(str(v), place, None if name in ("rule", "rule_other") else width)
                    for place, v in enumerate(values.values, 1)
                ]
            )
            for name, values in own.items()
        }
    )


def plain(text: str) -> str:
    """Return a text that matplotlib takes as it is: ``$`` starts no formula, ``_`` hides nothing."""
    return f"{' ' * text.startswith('_')}{text}".replace("\\$", "$").replace("$", r"\$")


def svg(figure: Figure) -> str:
    """Return a figure as SVG text, the same text for the same data."""
    buffer = io.StringIO()
    # element ids would be random otherwise; text stays text
    with rc_context({"svg.hashsalt": "kpframe", "svg.fonttype": "none"}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, bbox_inches=laid_out(figure))
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def pdf(figure: Figure) -> bytes:
    """Return a figure as PDF, the same bytes for the same data."""
    buffer = io.BytesIO()
    # outlines of characters that other programs can edit; the default ones not
    with rc_context({"pdf.fonttype": 42}):
        figure.savefig(buffer, format="pdf", metadata={"CreationDate": None}, bbox_inches=laid_out(figure))
    return buffer.getvalue()


def laid_out(figure: Figure) -> Bbox:
    """Give the panels of a figure their places, once, and return the box that all of it is in [inch].

    A figure that is written with a layout of its own or ``bbox_inches="tight"`` is drawn twice: the first
    time to know where what is.
    """
    FigureCanvasSVG(figure)  # texts are measured as they will be written
    if (engine := figure.get_layout_engine()) is not None:
        engine.execute(figure)
        figure.set_layout_engine(None)
    return figure.get_tightbbox().padded(MARGIN)


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
#: Dims each of whose places has a panel of its own.
Dims = str | Sequence[str] | None


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


def title_panel(panel: Axes, text: str, columns: int) -> None:
    """Give a panel a title that fits where so many panels stand beside each other."""
    width, size = {1: (70, 10.0), 2: (40, 10.0), 3: (30, 9.0)}.get(columns, (24, 8.0))
    panel.set_title(short(text, width), fontsize=size, y=1.0)  # no ticks above, which would be measured


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


def draw_legend(panels: Axes | np.ndarray, given: Axes | Panels) -> None:
    """Draw one legend of panels below them, where long names have room; inside one that was given."""
    every = [panels] if isinstance(panels, Axes) else list(panels.flat)
    found: dict[str, Any] = {}
    for panel in every:
        for handle, label in zip(*panel.get_legend_handles_labels(), strict=True):
            found.setdefault(label, handle)
    shown = (list(found.values()), list(found))
    if given is not None:
        most = max(every, key=lambda panel: len(panel.get_legend_handles_labels()[1]))
        most.legend(*shown, frameon=False, fontsize=8)
        return
    on(panels).legend(*shown, frameon=False, loc="outside lower left", ncols=2, fontsize=8)


def legend_of(labels: Sequence[str]) -> float:
    """Return the height that a legend of labels takes below the panels [inch]."""
    lines = [label.count("\n") + 1 for label in labels]
    return 0.2 + 0.17 * max(1.0, sum(lines) / 2)


def axis_text(values: xr.DataArray, dim: str | None = None) -> str:
    """Return what stands at an axis: what a variable is, or one of its dims, with the dim's unit."""
    if dim is None:
        return str(values.name or "").replace("_", " ")
    name = dim.replace("_", " ")
    if dim not in values.coords:
        return name
    return str(values[dim].attrs.get("long_name", name)) + unit_of(values[dim])


def say(panels: np.ndarray, notes: Sequence[str], given: Axes | Panels) -> None:
    """Say under a figure what it leaves out and what its bars are; at the foot of panels that were given."""
    text = " ".join(dict.fromkeys(note.strip() for note in notes if note.strip()))
    if not text:
        return
    look: dict[str, Any] = {"fontsize": 7.5, "color": "0.35"}
    lines = "\n".join(textwrap.wrap(text, max(30, int(15 * on(panels).get_figwidth()))))
    if given is None and on(panels).legends:  # as its title: text of a figure's own would stand on it
        legend = on(panels).legends[0]
        legend.set_title(lines, prop=FontProperties(size=7.5))
        legend.get_title().set_color(look["color"])
        legend.set_alignment("left")
        return
    if given is None:
        on(panels).supxlabel(lines, x=0.01, ha="left", **look)
        return
    panel = panels.flat[panels.size - 1]
    text = "\n".join(textwrap.wrap(text, 60))
    panel.annotate(text, (1, 1.01), xycoords="axes fraction", ha="right", va="bottom", **look)


def as_wide(figure: Figure) -> Figure:
    """Give a figure the width of the page with an empty frame, so that text is of one size in all."""
    share = max(1.0, WIDTH / figure.get_figwidth())
    frame = Rectangle((0, 0), share, 1, transform=figure.transFigure, facecolor="none", edgecolor="none")
    figure.add_artist(frame)
    return figure


def tex(operator: str) -> str:
    return {"P P*": "$PP^*$", "K": "$K$", "Phi": r"$\Phi$"}.get(operator, operator)


def on(panels: Axes | np.ndarray) -> Figure:
    """Return the figure that panels stand on."""
    own = (panels if isinstance(panels, Axes) else panels.flat[0]).figure
    return own if isinstance(own, Figure) else own.figure


def one_of(argument: str, value: str, known: Sequence[str]) -> str:
    """Return a value that is one of a few; raises ``ArgumentError`` for another one."""
    if value not in known:
        wanted = f"one of {', '.join(map(repr, known))}"
        raise ArgumentError(mismatch(argument, wanted, repr(value)) + closest(str(value), known))
    return value
