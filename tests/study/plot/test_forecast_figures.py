"""Figures of forecasts and of stable rates: what is drawn is what is recorded."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pytest
import xarray as xr

from kpframe import plot
from kpframe.errors import ArgumentError
from kpframe.study._over_seeds import half_interval

STEPS = [0, 10, 100]


@pytest.fixture(scope="module")
def data() -> xr.Dataset:
    """Return three seeds of two networks; a forecast of one diverges."""
    source = np.random.default_rng(0)
    dims = ("network", "seed", "step")
    plain = {
        "reached_loss": 0.5,
        "stable_rate": 0.1,
        "sharpness": 20,
        "flow_curvature": 15,
        "rate_used": 0.05,
    }
    found = {
        name: (
            dims,
            size * source.uniform(0.8, 1.2, (2, 3, 3)) if name != "rate_used" else np.full((2, 3, 3), size),
        )
        for name, size in plain.items()
    }
    for name in ("forecast_loss", "forecast_output_gap"):
        values = source.uniform(0.3, 0.6, (2, 3, 3, 2))
        values[:, :, 0] = np.nan
        found[name] = ((*dims, "forecast_from"), values)
    found["forecast_loss"][1][1, 0, 2, 1] = 1e40
    coords = {"network": ["A", "B"], "seed": [0, 1, 2], "step": STEPS, "forecast_from": ["first", "previous"]}
    return xr.Dataset(found, coords)


def drawn(panel: plt.Axes) -> list[np.ndarray]:
    return [np.asarray(line.get_ydata(), dtype=float) for line in panel.lines]


def test_a_forecast_is_drawn_beside_what_was_reached(data) -> None:
    left, right = plot.forecast(data)
    means = data.mean("seed")
    expected = [
        values
        for name in ("A", "B")
        for one in [means.sel(network=name)]
        for values in (
            one.reached_loss,
            *(one.forecast_loss.sel(forecast_from=f) for f in ("first", "previous")),
        )
    ]
    for line, values in zip(drawn(left), expected, strict=True):
        np.testing.assert_allclose(line, values)
    np.testing.assert_allclose(
        drawn(right)[0], means.forecast_output_gap.sel(network="A", forecast_from="first")
    )
    assert left.get_ylim()[1] < 10  # what diverges leaves the panel
    np.testing.assert_array_equal(left.lines[0].get_xdata(), STEPS)
    assert [text.get_text() for text in left.get_legend().get_texts()][:2] == ["A", "B"]
    low = means.reached_loss.sel(network="A") - half_interval(data.reached_loss.sel(network="A"), "seed")
    band = left.collections[0].get_paths()[0].vertices[:, 1]
    assert np.abs(band - float(low[1])).min() < 1e-9
    one = plot.forecast(data, network="A", seed=1)[0]
    np.testing.assert_allclose(drawn(one)[0], data.reached_loss.sel(network="A", seed=1))
    assert not one.collections


def test_stable_rates_are_drawn_beside_the_rate_used(data) -> None:
    left, right = plot.stable_rate(data)
    np.testing.assert_allclose(drawn(left)[0], data.stable_rate.sel(network="A").mean("seed"))
    np.testing.assert_allclose(drawn(left)[-1], 0.05)
    np.testing.assert_allclose(drawn(right)[-1], 40)
    np.testing.assert_allclose(drawn(right)[1], data.flow_curvature.sel(network="A").mean("seed"))
    unknown = plot.stable_rate(data.assign(rate_used=data.rate_used * np.nan))
    assert len(unknown[0].lines) == len(left.lines) - 1


def test_of_many_groups_some_are_drawn_and_that_is_said(data) -> None:
    many = xr.concat(
        [data.isel(network=[0]).assign_coords(network=[f"net {i}"]) for i in range(9)], "network"
    )
    left = plot.stable_rate(many)[0]
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels[:7] == [*(f"net {i}" for i in range(6)), "net 6 (the first 7 of 9)"]
    first = data.isel(step=[0])
    assert np.isnan(drawn(plot.forecast(first)[1])[0]).all()
    with pytest.raises(ArgumentError, match="have no 'forecast_output_gap'; record it"):
        plot.forecast(data.drop_vars("forecast_output_gap"))
