"""Datasets with the variables of all quantities, of any size, by hand; and what is drawn in a figure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

#: Name -> own dims, and the lowest and the highest value of each variable.
POSITIVE, SIGNED, UNIT = (0.5, 900.0), (-2.0, 2.0), (0.05, 1.0)
OPERATORS = ("P P*", "K", "Phi")
OWN: dict[str, tuple[tuple[str, ...], tuple[float, float]]] = {
    "test_loss": ((), UNIT),
    "test_accuracy": ((), UNIT),
    "effective_rank": (("operator",), POSITIVE),
    "trace": (("operator",), POSITIVE),
    "norm": (("operator",), POSITIVE),
    "singular_value": (("operator", "k"), POSITIVE),
    "time_kernel": (("operator", "time", "time_other"), SIGNED),
    "time_eigenfunction": (("operator", "mode", "time"), SIGNED),
    "time_explained": (("operator", "mode"), UNIT),
    "trial_kernel": (("operator", "trial", "trial_other"), UNIT),
    "view_function": (("operator", "view_mode", "time"), SIGNED),
    "view_value": (("operator", "view_mode"), POSITIVE),
    "view_explained": (("operator", "view_mode"), UNIT),
    "view_overlap_map": (("operator", "view_mode", "step_other"), UNIT),
    "alignment_map": (("operator", "step_other"), UNIT),
    "alignment_with_first": (("operator",), UNIT),
    "operator_alignment": (("operator", "operator_other"), SIGNED),
    "gradient_cosine": (("rule",), UNIT),
    "flow_alignment": (("rule",), UNIT),
    "change_cosine": (("prediction", "change_of"), UNIT),
    "change_norm_ratio": (("prediction", "change_of"), UNIT),
    "change_error": (("prediction", "change_of"), UNIT),
    "descent_rate_by_parameter": (("parameter",), UNIT),
    "tangent_trace_by_parameter": (("parameter",), UNIT),
    "descent_rate_by_time": (("time",), SIGNED),
    "tangent_trace_by_time": (("time",), UNIT),
    "descent_rate_by_epoch": (("epoch", "epoch_other"), SIGNED),
    "descent_rate_by_trial": (("trial", "trial_other"), SIGNED),
    "group_gradient_cosine": (("group", "group_other"), SIGNED),
    "group_loss_change": (("group", "group_other"), SIGNED),
    "lyapunov_exponent_mean": (("exponent",), SIGNED),
    "ftle": (("trial", "time"), SIGNED),
    "ftle_mean": (("time",), SIGNED),
    "loss_by_epoch": (("epoch",), UNIT),
    "loss_by_time": (("time",), UNIT),
    "pc_trajectory": (("pc_trial", "time", "pc"), SIGNED),
    "pc_explained": (("pc",), UNIT),
    "pc_readout": (("output", "pc"), SIGNED),
    "state_participation_ratio": ((), POSITIVE),
    "parameter_norm": (("parameter",), POSITIVE),
    "parameter_distance": (("parameter",), UNIT),
    "parameter_distance_relative": (("parameter",), UNIT),
    "routing": (("time", "time_other"), UNIT),
    "propagator_similarity": (("group", "group_other"), SIGNED),
    "ahead_output_gap": ((), UNIT),
    "credit": (("time", "time_other"), SIGNED),
    "credit_by_lag": (("lag",), SIGNED),
    "action_norm": (("action", "time"), POSITIVE),
    "action_dimension": (("action",), POSITIVE),
}
#: Those that have standard errors.
ESTIMATED = ("effective_rank", "trace", "flow_alignment", "routing", "action_norm", "ftle_mean")


def recorded(
    steps: Sequence[int] = (0, 1, 10, 300),
    seeds: int = 0,
    networks: Sequence[str] = ("GRU", "RNN"),
    gains: Sequence[float] = (),
    rules: Sequence[str] = ("bptt", "rflo"),
    time: int = 5,
    trials: int = 4,
    updates: int = 120,
    width: int = 3,
) -> xr.Dataset:
    """What a run records of all quantities; ``width`` counts modes, exponents, parameters and groups."""
    draw = np.random.default_rng(0)
    names = [f"part {place}" for place in range(width)]
    own = {
        "network": list(networks),
        "gain": list(gains),
        "seed": list(range(seeds)),
        "step": list(steps),
        "step_other": list(steps),
        "operator": list(OPERATORS),
        "operator_other": [*OPERATORS, "P K"],
        "rule": list(rules),
        "k": np.arange(1, width + 1),
        "mode": np.arange(1, width + 1),
        "view_mode": np.arange(1, width + 1),
        "exponent": np.arange(1, width + 1),
        "pc": np.arange(1, 4),
        "time": np.arange(time),
        "time_other": np.arange(time),
        "lag": np.arange(time),
        "trial": np.arange(trials),
        "trial_other": np.arange(trials),
        "pc_trial": np.arange(trials),
        "output": np.arange(2),
        "parameter": names,
        "epoch": names,
        "epoch_other": names,
        "group": names,
        "group_other": names,
        "prediction": ["linearisation", "gradient flow"],
        "change_of": ["states", "outputs"],
        "action": ["K", "P K P*"],
        "update": np.arange(1, updates + 1),
    }
    along = [dim for dim in ("network", "gain", "seed") if len(own[dim])]
    found: dict[str, tuple] = {}  # one call for all: a variable at a time takes fifty times as long

    def values(dims: Sequence[str], low: float, high: float) -> np.ndarray:
        shape = [len(own[dim]) for dim in dims]
        if low > 0:
            return np.exp(draw.uniform(np.log(low), np.log(high), shape))
        return draw.uniform(low, high, shape)

    for name, (dims, (low, high)) in OWN.items():
        dims = (*along, "step", *dims)
        attrs = {"long_name": name.replace("_", " "), "units": "1"}
        found[name] = (dims, values(dims, low, high), attrs)
        if name in ESTIMATED:
            found[f"{name}_stderr"] = (dims, 0.05 * np.abs(found[name][1]), attrs)
    dims = (*along, "step", "operator", "k")
    found["singular_value_converged"] = (dims, draw.random(found["singular_value"][1].shape) < 0.7)
    found["training_loss"] = ((*along, "update"), values((*along, "update"), 0.05, 3.0), {"units": "nat"})
    return xr.Dataset(found, {dim: values for dim, values in own.items() if len(values)})


def compared(rules: Sequence[str] = ("bptt", "rflo", "truncated"), time: int = 5) -> xr.Dataset:
    """What a comparison of rules holds of one network."""
    draw = np.random.default_rng(1)
    count, rules = len(rules), list(rules)
    pairs = draw.normal(size=(count, time, time))
    return xr.Dataset(
        {
            "rule_cosine": (("rule", "rule_other"), draw.uniform(-1, 1, (count, count))),
            "loss_rate_by_lag": (("rule", "lag"), draw.normal(size=(count, time)), {"units": "nat"}),
            "loss_rate_by_pair": (("rule", "time", "time_used"), pairs, {"units": "nat"}),
            "cosine_by_time": (("rule", "facing", "time"), draw.uniform(-1, 1, (count, 3, time))),
            "singular_value": (("rule", "k"), np.exp(draw.normal(size=(count, 4)))),
            "singular_value_converged": (("rule", "k"), draw.random((count, 4)) < 0.7),
            "propagator_error": (("rule",), draw.random(count)),
            "effective_rank": (("rule", "operator"), 1 + draw.random((count, 2))),
            "effective_rank_stderr": (("rule", "operator"), draw.random((count, 2))),
            "effective_rank_before": (("operator",), 1 + draw.random(2)),
            "alignment_with_first": (("rule",), draw.random(count)),
            "alignment_with_first_stderr": (("rule",), draw.random(count)),
            "training_loss": (("rule", "update"), draw.random((count, 40)), {"units": "nat"}),
            "diverged_at": (("rule",), [np.nan, 30.0, *[np.nan] * (count - 2)][:count]),
        },
        {
            "rule": rules,
            "rule_other": rules,
            "lag": np.arange(time),
            "time": np.arange(time),
            "k": np.arange(1, 5),
            "facing": ["past", "future", "mixed"],
            "operator": ["K", "Phi"],
            "update": np.arange(1, 41),
        },
    )


def few_ticks(figure: Figure) -> list[str]:
    """Return the axes of a drawn figure with fewer than three ticks in view that have a text.

    An axis all of whose places are named has as many as there are places.
    """
    figure.draw_without_rendering()
    poor = []
    for panel in figure.axes:
        if not panel.axison:
            continue
        for axis in (panel.xaxis, panel.yaxis):
            if not axis.get_visible() or isinstance(axis.get_major_locator(), FixedLocator):
                continue
            low, high = sorted(axis.get_view_interval())
            texts = [
                tick.label1.get_text() or tick.label2.get_text()
                for tick in axis.get_major_ticks()
                if low <= tick.get_loc() <= high
            ]
            shown = [text for text in texts if text]
            colour = panel.get_label() == "<colorbar>" and axis is panel.xaxis
            if len(set(shown)) < 3 and not colour:
                poor.append(f"{panel.get_title()!r} {axis.axis_name} {axis.get_scale()}: {shown}")
    return poor


def line_of(panel: Axes, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return x and y of the one line, or line with bars, of a label."""
    handles, labels = panel.get_legend_handles_labels()
    (handle,) = [one for one, text in zip(handles, labels, strict=True) if text == label]
    line = handle.lines[0] if hasattr(handle, "lines") else handle
    return np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float)
