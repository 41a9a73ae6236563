"""Figures of how learning moves a network: contributions, credit, interference, predicted changes."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from kpframe.study._plot import lines, maps
from kpframe.study._plot.look import Dims, Panels, one_of
from kpframe.study._plot.source import figure

_DESCENT = "descent of the loss\nper unit learning rate"


@figure("change_cosine", "change_norm_ratio", "change_error", quantity="predicted_change")
def predicted_changes(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    what: str = "cosine",
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """How well the changes of states and outputs were predicted, since the step recorded before.

    Args:
        what: ``"cosine"`` with the actual change, ``"norm_ratio"`` of predicted and actual, or ``"error"``
            relative to the actual change.
    """
    name = f"change_{one_of('what', what, ('cosine', 'norm_ratio', 'error'))}"
    text = {
        "cosine": "cosine of predicted\nand actual change",
        "norm_ratio": "|predicted| / |actual change|",
        "error": "|actual - predicted|\n/ |actual change|",
    }
    level = {"cosine": 1.0, "norm_ratio": 1.0, "error": 0.0}[what]
    scale = "linear" if what == "cosine" else "auto"
    look = lines.Look(step_axis=step_axis, level=level, ylabel=text[what], scale=scale)
    own = ["prediction", "change_of"]
    return lines.draw_lines(data, name, "step", axes=axes, own=own, panels=panels, look=look)


@figure("descent_rate_by_parameter", "tangent_trace_by_parameter", quantity="contributions")
def contributions(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    of: str = "descent_rate",
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """What each parameter contributes to the descent of the loss, or to the trace of ``Phi``.

    Args:
        of: ``"descent_rate"`` or ``"tangent_trace"``.
    """
    look = lines.Look(step_axis=step_axis, ylabel=_of(of), scale="linear", level=0.0)
    name = f"{of}_by_parameter"
    return lines.draw_lines(data, name, "step", axes=axes, own=["parameter"], panels=panels, look=look)


@figure("descent_rate_by_time", "tangent_trace_by_time", quantity="contributions")
def contributions_by_time(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    of: str = "descent_rate",
    panels: Dims = None,
    **selection: Any,
) -> np.ndarray:
    """The descent of the loss by the step of the error, or the trace of ``Phi`` by that of the state.

    Args:
        of: ``"descent_rate"`` or ``"tangent_trace"``.
    """
    look = lines.Look(ylabel=_of(of), scale="linear", level=0.0)
    trainings = _trainings(data[f"{of}_by_time"], "time") if panels is None else panels
    return lines.draw_lines(data, f"{of}_by_time", "time", axes=axes, panels=trainings, look=look)


@figure("descent_rate_by_epoch", quantity="contributions")
def contributions_by_epoch(
    data: xr.Dataset, /, *, axes: Panels = None, acting: bool = False, **selection: Any
) -> np.ndarray:
    """The descent of the loss in each epoch by the errors of another one.

    Args:
        acting: the descent by the errors of each epoch and the epoch in which parameters act, instead.
    """
    name = "descent_rate_by_acting_epoch" if acting else "descent_rate_by_epoch"
    whose = ("error arises in", "parameters act in") if acting else ("loss falls in", "error arises in")
    look = maps.Look(bar=_DESCENT, rows=whose[0], columns=whose[1])
    return maps.draw_maps(data, name, "epoch", "epoch_other", axes=axes, look=look)


@figure("descent_rate_by_trial", quantity="contributions")
def contributions_by_trial(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Who teaches whom: the descent of each trial's loss by the errors of each other trial."""
    look = maps.Look(bar=_DESCENT, mean=False, rows="trial whose loss falls", columns="trial that teaches")
    return maps.draw_maps(data, "descent_rate_by_trial", "trial", "trial_other", axes=axes, look=look)


@figure("group_gradient_cosine", "group_loss_change", quantity="interference")
def interference(
    data: xr.Dataset, /, *, axes: Panels = None, what: str = "gradient_cosine", **selection: Any
) -> np.ndarray:
    """What learning one group of trials, a sub-task, does to the others.

    Args:
        what: ``"gradient_cosine"`` of two groups; ``"loss_change"`` of the column's group by a step for the
            row's, per unit learning rate, or ``"loss_change_per_length"`` of the step; ``"overlap"`` of the
            blocks of Phi; ``"jacobian_cosine"``.
    """
    known = {
        "gradient_cosine": "cosine of gradients",
        "loss_change": "change of the loss per unit learning rate",
        "loss_change_per_length": "change of the loss per unit length of a step",
        "overlap": r"overlap of blocks of $\Phi$",
        "jacobian_cosine": "cosine of mean Jacobians",
    }
    name = f"group_{one_of('what', what, tuple(known))}"
    limits = (-1.0, 1.0) if "cosine" in what else None
    change = "change" in what  # not symmetric
    look = maps.Look(
        bar=known[what],
        limits=limits,
        rows="group that is learnt" if change else "group",
        columns="group whose loss changes" if change else "group",
    )
    return maps.draw_maps(data, name, "group", "group_other", axes=axes, look=look)


@figure("propagator_similarity", quantity="propagator_similarity")
def propagator_similarities(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """How alike the propagators of two groups of trials are, tasks of one network, beside those of one."""
    look = maps.Look(bar="similarity of $P - I$", limits=(-1.0, 1.0), rows="group", columns="group")
    return maps.draw_maps(data, "propagator_similarity", "group", "group_other", axes=axes, look=look)


@figure("credit", quantity="credit")
def credit(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """The descent of the loss by the step of the error and the step at which parameters act."""
    look = maps.Look(bar=_DESCENT, rows="step of the error", columns="step of use")
    return maps.draw_maps(data, "credit", "time", "time_other", axes=axes, look=look)


@figure("credit_by_lag", quantity="credit")
def credit_by_lag(
    data: xr.Dataset, /, *, axes: Panels = None, panels: Dims = None, **selection: Any
) -> np.ndarray:
    """The share of the descent of the loss by the steps that errors travel back."""
    look = lines.Look(ylabel="share of the descent", scale="linear", level=0.0)
    trainings = _trainings(data.credit_by_lag, "lag") if panels is None else panels
    return lines.draw_lines(data, "credit_by_lag", "lag", axes=axes, panels=trainings, look=look)


@figure("parameter_norm", "parameter_distance", quantity="parameters")
def parameters(
    data: xr.Dataset,
    /,
    *,
    axes: Panels = None,
    what: str = "distance_relative",
    panels: Dims = None,
    step_axis: str = "true",
    **selection: Any,
) -> np.ndarray:
    """How far each parameter has moved from the first network, or its size or rank.

    Args:
        what: ``"distance_relative"`` to the initial norm, ``"distance"``, ``"norm"``, the effective
            ``"rank"``, or that of the change, ``"change_rank"``.
    """
    known = {
        "distance_relative": "$|W - W_0|\\ /\\ |W_0|$",
        "distance": "$|W - W_0|$",
        "norm": "$|W|$",
        "rank": "effective rank of $W$",
        "change_rank": "effective rank of $W - W_0$",
    }
    name = f"parameter_{one_of('what', what, tuple(known))}"
    look = lines.Look(step_axis=step_axis, ylabel=known[what])
    return lines.draw_lines(data, name, "step", axes=axes, own=["parameter"], panels=panels, look=look)


def _of(of: str) -> str:
    known = {
        "descent_rate": _DESCENT,
        "tangent_trace": r"trace of $\Phi$",
    }
    return known[one_of("of", of, tuple(known))]


def _trainings(values: xr.DataArray, x: str) -> list[str]:
    """Return the dims of trainings of a variable along x, so that steps are lines of a panel for each."""
    return [str(dim) for dim in values.dims if dim not in (x, "step", "seed")]
