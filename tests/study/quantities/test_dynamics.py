"""Lyapunov exponents of trials, and finite-time ones by time, against products of dense step Jacobians."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe import linearize
from kpframe.errors import ArgumentError, SettingsError
from kpframe.spectra import finite_time_exponents, lyapunov_exponents
from kpframe.study._moment import Moment, Probe, Surroundings
from kpframe.study._quantities.dynamics import FiniteTimeExponents, Lyapunov

from ...toy_moments import LENGTHS, B, Cell, H, T, moment_of, trials_of  # noqa: TID252


@pytest.fixture(scope="module")
def moment() -> Moment:
    return moment_of(trials_of())


def blocks(moment: Moment, trial: int) -> list[np.ndarray]:
    """Return the step Jacobians of a trial's own steps, by autograd."""
    inputs, h = moment.trials.inputs[trial], torch.zeros(H, dtype=torch.float64)
    found = []
    for t in range(LENGTHS[trial]):

        def step(state: torch.Tensor, x: torch.Tensor = inputs[t]) -> torch.Tensor:
            return moment.model.step(x[None], state[None])[0]

        found.append(torch.autograd.functional.jacobian(step, h).numpy())
        h = step(h).detach()
    return found


def growth(parts: list[np.ndarray]) -> float:
    product = np.eye(H)
    for part in parts:
        product = part @ product
    return float(np.log(np.linalg.svd(product)[1][0]) / len(parts))


# -- finite-time exponents -----------------------------------------------------------------------------------


def test_a_map_of_growth_since_the_start(moment) -> None:
    found = FiniteTimeExponents().measure(moment)
    assert found.ftle.dims == ("trial", "time")
    for trial in range(B):
        parts = blocks(moment, trial)
        right = [growth(parts[: t + 1]) for t in range(LENGTHS[trial])]
        np.testing.assert_allclose(found.ftle[trial, : LENGTHS[trial]], right, rtol=1e-10)
        assert bool(found.ftle[trial, LENGTHS[trial] :].isnull().all())
    at_end = finite_time_exponents(moment.flow.A)[:, 0]
    last = [float(found.ftle[trial, length - 1]) for trial, length in enumerate(LENGTHS)]
    np.testing.assert_allclose(last, at_end, rtol=1e-10)
    assert np.ptp(last) > 0.1


def test_a_window_counts_when_it_is_full(moment) -> None:
    found = FiniteTimeExponents(window=3, dt=0.5).measure(moment)
    for trial in range(B):
        parts = blocks(moment, trial)
        for t in range(T):
            value = float(found.ftle[trial, t])
            if 2 <= t < LENGTHS[trial]:
                assert value == pytest.approx(growth(parts[t - 2 : t + 1]) / 0.5, rel=1e-10)
            else:
                assert np.isnan(value)
    assert found.ftle.attrs["units"] == "1/time"
    assert FiniteTimeExponents().measure(moment).ftle.attrs["units"] == "1/step"


def test_means_are_over_trials_that_exist(moment) -> None:
    found = FiniteTimeExponents().measure(moment)
    values = found.ftle.values
    np.testing.assert_allclose(found.ftle_mean, np.nanmean(values, axis=0), rtol=1e-12)
    count = (~np.isnan(values)).sum(axis=0)
    assert count.tolist() == [6, 6, 6, 5, 4, 3, 2]
    right = np.nanstd(values, axis=0, ddof=1) / np.sqrt(count)
    np.testing.assert_allclose(found.ftle_mean_stderr, right, rtol=1e-9)
    short = FiniteTimeExponents().measure(moment_of(trials_of(lengths=(7, 2, 2, 2, 2, 2))))
    assert np.isnan(float(short.ftle_mean_stderr[-1]))  # of one trial there is none
    assert not np.isnan(float(short.ftle_mean[-1]))
    none = FiniteTimeExponents().measure(moment_of(trials_of(lengths=(5,) * 6)))
    assert np.isnan(float(none.ftle_mean[-1]))


def test_long_trials_neither_overflow_nor_vanish() -> None:
    model = Cell()
    with torch.no_grad():
        model.W.mul_(0).add_(1e-3 * torch.eye(H, dtype=torch.float64))
        model.U.zero_()
        model.b.zero_()
    inputs = torch.zeros(1, 200, 2, dtype=torch.float64)
    long = Moment(model, None, Surroundings({"test": Probe(inputs)}))
    found = FiniteTimeExponents().measure(long)
    np.testing.assert_allclose(found.ftle[0], np.log(1e-3), rtol=1e-12)  # 1e-600 in all
    with torch.no_grad():
        model.W.zero_()
    lost = FiniteTimeExponents().measure(Moment(model, None, Surroundings({"test": Probe(inputs)})))
    assert bool((lost.ftle == -np.inf).all())


# -- Lyapunov exponents --------------------------------------------------------------------------------------


def test_exponents_are_those_of_each_trial_alone(moment) -> None:
    found = Lyapunov(k=H).measure(moment)
    for trial in range(B):
        cut = moment.trials.inputs[trial : trial + 1, : LENGTHS[trial]]
        alone = lyapunov_exponents(linearize(moment.model, cut).A)
        one = found.isel(trial=trial)
        np.testing.assert_allclose(one.lyapunov_exponent, alone.exponents[0], rtol=1e-9)
        volume = sum(np.linalg.slogdet(part)[1] for part in blocks(moment, trial)) / LENGTHS[trial]
        assert float(one.lyapunov_exponent.sum()) == pytest.approx(volume, rel=1e-9)
        assert float(one.lyapunov_expansion) == pytest.approx(float(alone.expansion_rate[0]), rel=1e-9)
        assert float(one.lyapunov_dimension) == pytest.approx(float(alone.dimension[0]), rel=1e-9)
    assert found.lyapunov_steps.values.tolist() == list(LENGTHS)
    values = found.lyapunov_exponent.values
    np.testing.assert_allclose(found.lyapunov_exponent_mean, values.mean(axis=0), rtol=1e-12)
    right = values.std(axis=0, ddof=1) / np.sqrt(B)
    np.testing.assert_allclose(found.lyapunov_exponent_mean_stderr, right, rtol=1e-9)
    assert float(found.lyapunov_expansion.max()) > 0
    assert float(values.std()) > 0.1


def test_a_trial_without_a_counted_step_has_none(moment) -> None:
    """The others keep the figures that they have without it."""
    found = Lyapunov(k=2, discard=4).measure(moment)
    kept = [0, 2, 3, 5]
    assert found.lyapunov_steps.values.tolist() == [3, 0, 2, 3, 0, 1]
    assert bool(found.lyapunov_exponent[[1, 4]].isnull().all())
    trials = moment.trials.select(kept)
    right = lyapunov_exponents(linearize(moment.model, trials.inputs, mask=trials.mask).A, k=2, discard=4)
    np.testing.assert_allclose(found.lyapunov_exponent[kept], right.exponents, rtol=1e-10)
    np.testing.assert_allclose(found.lyapunov_exponent_mean, right.mean, rtol=1e-10)
    np.testing.assert_allclose(found.lyapunov_exponent_mean_stderr, right.stderr, rtol=1e-10)
    for call in (Lyapunov(discard=T).check, Lyapunov(discard=T).measure):
        with pytest.raises(
            ArgumentError, match="discard: expected less than the 7 steps of the longest trial"
        ):
            call(moment)
    Lyapunov(discard=T - 1).check(moment)


def test_too_few_exponents_make_no_dimension_and_no_rate() -> None:
    """Three directions grow and one shrinks: one or two exponents say neither how fast nor in how many."""
    model = Cell()
    with torch.no_grad():
        model.W.copy_(torch.diag(torch.tensor([1.5, 1.2, 1.1, 0.1], dtype=torch.float64)))
        model.U.zero_()
        model.b.zero_()
    inputs = torch.zeros(2, 150, 2, dtype=torch.float64)
    moment = Moment(model, None, Surroundings({"test": Probe(inputs)}))
    found = {k: Lyapunov(k=k, discard=100).measure(moment) for k in (1, 2, 3, 4, 9)}
    logs = np.log([1.5, 1.2, 1.1, 0.1])
    for k, one in found.items():
        assert one.sizes["exponent"] == min(k, 4)
        np.testing.assert_allclose(one.lyapunov_exponent[0], logs[:k], rtol=1e-4)
        names = ("lyapunov_dimension", "lyapunov_expansion", "lyapunov_dimension_mean")
        assert all(bool(one[name].isnull().all()) == (k < 4) for name in names), k
    full = found[4]
    np.testing.assert_allclose(full.lyapunov_expansion, logs[:3].sum(), rtol=1e-4)
    np.testing.assert_allclose(full.lyapunov_dimension, 3 + logs[:3].sum() / -logs[3], rtol=1e-4)
    xr.testing.assert_allclose(found[9], full)


def test_settings_are_checked() -> None:
    for made in (lambda: Lyapunov(k=0), lambda: Lyapunov(dt=0), lambda: FiniteTimeExponents(window=0)):
        with pytest.raises(SettingsError):
            made()


@pytest.mark.parametrize("quantity", [Lyapunov(), FiniteTimeExponents()])
def test_every_variable_is_described(moment, quantity) -> None:
    for name, variable in quantity.measure(moment).variables.items():
        if name not in ("trial_angle", "trial_task"):
            assert set(variable.attrs) >= {"long_name", "units"}, name
