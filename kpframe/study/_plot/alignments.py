"""Figures of how alike operators are: to themselves at other steps, and to each other."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from kpframe.study._plot import lines, maps
from kpframe.study._plot.look import UPDATES, Dims, Panels, one_of
from kpframe.study._plot.source import figure

#: What an operator is compared with at other steps.
_WITH = ("first", "previous", "final")


@figure("alignment_map", quantity="alignment")
def alignment_maps(
    data: xr.Dataset, /, *, axes: Panels = None, step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """Alignment of each operator with itself at every other recorded step."""
    limits = (-1.0, 1.0) if float(data.alignment_map.min()) < 0 else (0.0, 1.0)
    look = maps.Look(bar="alignment", limits=limits, rows=UPDATES, columns=UPDATES, step_axis=step_axis)
    return maps.draw_maps(data, "alignment_map", "step", "step_other", axes=axes, look=look)


@figure("alignment_with_first", "alignment_map", quantity="alignment")
def alignments(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    reference: str = "first",
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """Alignment of each operator with itself at another step.

    Args:
        reference: ``"first"``, ``"previous"`` or ``"final"``.
    """
    name = f"alignment_with_{one_of('reference', reference, _WITH)}"
    text = {"first": "at the first step", "previous": "at the step before", "final": "at the last step"}
    look = lines.Look(
        step_axis=step_axis, scale="linear", level=1.0, ylabel=f"alignment with itself\n{text[reference]}"
    )
    return lines.draw_lines(data, name, "step", axes=axes, own=["operator"], panels=panels, look=look)


@figure("operator_alignment", quantity="operator_alignment")
def operator_alignments(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    x: str = "step",
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """Alignment of operators with each other, of ``P P*`` with ``Phi = P K P*`` ..., along the training.

    The pair is chosen by ``operator="P P*", operator_other="Phi"``; that of an operator with itself is not
    drawn.

    Args:
        x: ``"step"``, or an axis of a sweep to draw them along instead, ``"gain"``; steps are lines then.
    """
    values = data.operator_alignment
    same = values.operator == values.operator_other
    few = data.assign(operator_alignment=values.where(~same)) if not bool(same.all()) else data
    look = lines.Look(step_axis=step_axis, scale="linear", level=0.0, ylabel="alignment")
    own = ["operator_other"]
    if panels is None:
        panels = [str(dim) for dim in values.dims if dim not in ("operator_other", "step", "seed", x)]
    return lines.draw_lines(few, "operator_alignment", x, axes=axes, own=own, panels=panels, look=look)
