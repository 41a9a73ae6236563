"""Figures of how far operators moved, and of errors: of estimates, truncation, cuts and limits."""

from __future__ import annotations

from typing import Any

import numpy as np
import xarray as xr

from kpframe.study._plot import lines
from kpframe.study._plot.look import Panels, one_of, unit_of
from kpframe.study._plot.source import figure


@figure("kernel_change", quantity="kernel_change")
def kernel_changes(
    data: xr.Dataset, /, *, axes: Panels = None, step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """How far each operator has moved from that of the first network, relative to its size."""
    look = lines.Look(ylabel="change since the first step\n/ size at the first step", step_axis=step_axis)
    return lines.draw_lines(data, "kernel_change", "step", axes=axes, own=["operator"], look=look)


@figure(("trace_error", "rank_error"), quantity="estimator_error")
def estimator_errors(
    data: xr.Dataset, /, *, axes: Panels = None, of: str = "trace", **selection: Any
) -> np.ndarray:
    """Error of estimators of the trace, or the effective rank (``of="rank"``), against their cost.

    At the last step unless ``step`` selects one; a panel for each operator, a line for each estimator.
    """
    one_of("of", of, [name for name in ("trace", "rank") if f"{name}_error" in data])
    name, method = f"{of}_error", f"{of}_method"
    look = lines.Look(xlabel="products with the operator", ylabel="relative error", scale="log", most_steps=1)
    data = data.isel(step=[-1]) if "step" in data.dims and data.sizes["step"] > 1 else data
    apart = [str(dim) for dim in data[name].dims if dim not in (method, "budget", "step", "seed")]
    return lines.draw_lines(data, name, "budget", axes=axes, panels=apart, look=look)


@figure("truncation_error", "truncation_flow_error", quantity="truncation")
def truncation_errors(
    data: xr.Dataset, /, *, axes: Panels = None, flow: bool = False, **selection: Any
) -> np.ndarray:
    """Relative error of the propagator, or of Phi (``flow``), that goes back so many steps only."""
    name = "truncation_flow_error" if flow else "truncation_error"
    text = r"relative error of $\Phi$" if flow else r"relative error of $P$"
    apart = [str(dim) for dim in data[name].dims if dim not in ("window", "step", "seed")]
    look = lines.Look(ylabel=text, scale="linear", level=0.0, xlabel="steps kept")
    return lines.draw_lines(data, name, "window", axes=axes, panels=apart, look=look)


@figure("cut_loss", quantity="cut_change")
def cut_losses(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    """Test loss with the learnt change of each weight cut to a rank, a panel for each weight."""
    apart = [str(dim) for dim in data.cut_loss.dims if dim not in ("cut_rank", "step", "seed")]
    look = lines.Look(ylabel=f"test loss{unit_of(data.cut_loss)}", xlabel="rank of the change")
    return lines.draw_lines(data, "cut_loss", "cut_rank", axes=axes, panels=apart, look=look)


@figure("dimension", quantity="dimensions")
def signal_dimensions(
    data: xr.Dataset, /, *, axes: Panels = None, step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """Effective dimension of each signal along the training, a panel for each training."""
    look = lines.Look(ylabel="effective dimension", step_axis=step_axis)
    return lines.draw_lines(data, "dimension", "step", axes=axes, own=["signal"], look=look)


@figure("limit_error", quantity="infinite_width")
def limit_errors(
    data: xr.Dataset, /, *, axes: Panels = None, x: str = "step", step_axis: str = "true", **selection: Any
) -> np.ndarray:
    """Distance of each operator from its limit of infinite width.

    Args:
        x: ``"step"``, or an axis of a sweep: ``"hidden_size"``.
    """
    look = lines.Look(ylabel="relative distance\nfrom the limit", step_axis=step_axis, most_steps=1)
    return lines.draw_lines(data, "limit_error", x, axes=axes, own=["operator"], look=look)
