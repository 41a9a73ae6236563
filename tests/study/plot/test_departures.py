"""Figures of how far operators moved, and of errors, against what is recorded."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from kpframe import plot
from kpframe.errors import ArgumentError
from kpframe.study._plot.look import on

from .data import few_ticks, line_of


def data() -> xr.Dataset:
    draw = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return np.exp(draw.normal(size=(1, 3, *shape)))

    own = ("network", "step")
    return xr.Dataset(
        {
            "kernel_change": ((*own, "operator"), drawn(2)),
            "trace_error": ((*own, "operator", "trace_method", "budget"), drawn(2, 2, 4)),
            "trace_error_stderr": ((*own, "operator", "trace_method", "budget"), 0.1 * drawn(2, 2, 4)),
            "truncation_error": ((*own, "window"), drawn(4)),
            "truncation_flow_error": ((*own, "window"), drawn(4)),
            "cut_loss": ((*own, "parameter", "cut_rank"), drawn(2, 4)),
            "dimension": ((*own, "signal"), drawn(2)),
            "limit_error": ((*own, "operator"), drawn(2)),
        },
        {
            "network": ["RNN"],
            "step": [0, 5, 500],
            "operator": ["K", "Phi"],
            "trace_method": ["hutchinson", "xtrace"],
            "budget": [4, 16, 64, 256],
            "window": [1, 2, 4, 8],
            "parameter": ["W", "U"],
            "cut_rank": [1, 2, 4, 8],
            "signal": ["states", "inputs"],
        },
    )


#: Figure, variable, a selection of one panel, the label of one of its lines, what it shows, its dim across.
DRAWN = (
    ("kernel_changes", "kernel_change", {}, r"$\Phi$", {"operator": "Phi"}, "step"),
    ("estimator_errors", "trace_error", {"operator": "Phi"}, "xtrace", {"trace_method": "xtrace"}, "budget"),
    ("truncation_errors", "truncation_error", {}, "after 5 updates", {"step": 5}, "window"),
    ("cut_losses", "cut_loss", {"parameter": "U"}, "after 5 updates", {"step": 5}, "cut_rank"),
    ("signal_dimensions", "dimension", {}, "inputs", {"signal": "inputs"}, "step"),
    ("limit_errors", "limit_error", {}, "$K$", {"operator": "K"}, "step"),
)


@pytest.mark.parametrize(("name", "variable", "selection", "label", "one", "x"), DRAWN, ids=lambda v: str(v))
@pytest.mark.rows(2)
def test_lines_are_what_is_recorded(name, variable, selection, label, one, x) -> None:
    recorded = data()
    panel = getattr(plot, name)(recorded, **selection).flat[0]
    own = recorded[variable].sel(network="RNN", **selection, **one)
    own = own.isel(step=-1) if "step" in own.dims and x != "step" else own
    found = line_of(panel, label)
    np.testing.assert_array_equal(found[0], recorded[x])
    np.testing.assert_array_equal(found[1], own)
    assert few_ticks(on(panel)) == []
    assert name in plot.figures_of(recorded)
    assert name not in plot.figures_of(recorded.drop_vars(variable))


def test_an_estimate_that_is_not_recorded() -> None:
    with pytest.raises(ArgumentError, match="of: expected one of 'trace', got 'rank'"):
        plot.estimator_errors(data(), of="rank")
