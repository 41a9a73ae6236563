"""Forecasts to a step, stable rates and changes of operators, as studies record them."""

from __future__ import annotations

import copy
from functools import cache

import numpy as np
import pytest
import torch

from kpframe.errors import ArgumentError
from kpframe.forecast import forecast, sharpness, stable_rate
from kpframe.study._moment import Moment
from kpframe.study._quantity import create_quantity

from ...toy_moments import Cell, moment_of, reseeded, trials_of  # noqa: TID252
from .test_change import ETA, descended, loss_of


@cache
def course(kind: str) -> list[Moment]:
    """Return the moments of a network after 0, 4 and 10 updates of gradient descent on the trials."""
    trials = trials_of(kind)
    first = moment_of(trials, kind, learning_rate=ETA)
    made = [first]
    for updates in (4, 6):
        made.append(descended(made[-1], trials, kind, updates, first=lambda: first))
    return made


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
def test_forecasts_are_those_of_the_steps_before(kind: str) -> None:
    first, middle, last = course(kind)
    data = create_quantity("forecast").measure(last)
    assert data.forecast_from.values.tolist() == ["first", "previous"]
    assert data.forecast_updates.values.tolist() == [10, 6]
    trials, scored = last.trials, last.trials.scored
    reached = float(loss_of(last.model, last.readout, trials, kind).detach())
    assert float(data.reached_loss) == pytest.approx(reached, rel=1e-12)
    with torch.no_grad():
        ys = [
            m.readout(m.model.rollout(trials.inputs, mask=trials.mask).states)[scored] for m in course(kind)
        ]
    for place, (before, y, updates) in enumerate(((first, ys[0], 10), (middle, ys[1], 6))):
        made = forecast(before.flow, before.readout, trials, kind, learning_rate=ETA, updates=updates)
        start = float(loss_of(before.model, before.readout, trials, kind).detach())
        then = float(made.losses[0])
        assert float(data.forecast_start_loss[place]) == pytest.approx(start, rel=1e-12)
        assert float(data.forecast_loss[place]) == pytest.approx(then, rel=1e-12)
        assert float(data.forecast_gap[place]) == pytest.approx((then - reached) / (start - reached))
        gap = float((ys[2] - made.outputs[0][scored]).norm() / (ys[2] - y).norm())
        assert float(data.forecast_output_gap[place]) == pytest.approx(gap)
        assert float(data.forecast_converged[place]) == float(data.forecast_stable[place]) == 1
    gaps = data.forecast_output_gap.values
    assert 1e-4 < gaps[1] < 0.7 * gaps[0] < 0.2  # it holds the better the nearer it is
    assert data.forecast_reason.values.tolist() == ["", ""]


def test_a_first_step_has_no_forecast_and_a_diverging_one_says_so() -> None:
    first, middle, last = course("mse")
    data = create_quantity("forecast").measure(first)
    assert np.isnan(data.forecast_loss).all()
    assert data.forecast_reason.values.tolist() == ["no step was recorded before"] * 2
    assert float(data.reached_loss) > 0
    wild = create_quantity("forecast", learning_rate=1e100).measure(last)
    assert np.isnan(wild.forecast_loss).all()
    assert "the forecast diverges beyond the range of numbers" in wild.forecast_reason.values[0]
    fast = create_quantity("forecast", learning_rate=5.0).measure(middle)
    assert fast.forecast_stable.values.tolist() == [0, 0]
    assert (fast.forecast_loss > 2 * fast.forecast_start_loss).all()
    slow = create_quantity("forecast", law="flow").measure(last)
    ratio = slow.forecast_loss / create_quantity("forecast").measure(last).forecast_loss
    assert (abs(ratio - 1) < 1e-2).all()
    assert (ratio != 1).all()


@pytest.mark.parametrize("optimizer", ["adam", "sgd with momentum 0.9", "sgd by the rule frozen()"])
def test_updates_that_are_not_of_gradient_descent_are_refused(optimizer: str) -> None:
    moment = copy.copy(course("mse")[1])
    moment.optimizer = optimizer
    with pytest.raises(ArgumentError, match="training: expected plain gradient descent") as raised:
        create_quantity("forecast").check(moment)
    assert f", got {optimizer}; its setting learning_rate" in str(raised.value)
    own = create_quantity("forecast", learning_rate=ETA)
    own.check(moment)
    right = create_quantity("forecast").measure(course("mse")[1])
    assert own.measure(moment).drop_attrs().equals(right.drop_attrs())
    rates = create_quantity("stable_rate").measure(moment)
    assert np.isnan(rates.rate_share)
    assert optimizer in str(rates.rate_reason.item())
    moment.optimizer, moment.learning_rate = None, None
    with pytest.raises(ArgumentError, match="learning_rate: expected that of the training, got none known"):
        create_quantity("forecast").check(moment)


def test_rates_and_curvatures_are_those_of_the_functions() -> None:
    last = course("mse")[2]
    data = create_quantity("stable_rate", tolerance=1e-6).measure(reseeded(last, 200, 0))
    here = last.flow, last.readout, last.trials, "mse"
    flow, whole = stable_rate(*here), sharpness(*here)
    assert float(data.stable_rate) == pytest.approx(flow.rate, rel=1e-9)
    assert float(data.flow_curvature) == pytest.approx(2 / flow.rate, rel=1e-9)
    assert float(data.sharpness) == pytest.approx(whole.value, rel=1e-9)
    assert float(data.rate_share) == pytest.approx(ETA / flow.rate, rel=1e-9)
    assert float(data.rate_used) == ETA
    assert float(data.flow_curvature_converged) == float(data.sharpness_converged) == 1
    few = create_quantity("stable_rate").measure(reseeded(last, 3, 0))
    assert float(few.flow_curvature_converged) == 0  # three products tell nothing for sure
    assert 0 < float(few.flow_curvature) < flow.curvature * (1 + 1e-9)


def test_the_change_of_operators_is_that_of_their_matrices() -> None:
    first, _, last = course("mse")
    data = create_quantity("kernel_change").measure(reseeded(last, 200, 0))
    rough = [create_quantity("kernel_change").measure(reseeded(last, 40, seed)) for seed in range(10)]
    for name in ("P P*", "K", "Phi"):
        then, now = (m.operators[name].to_dense() for m in (first, last))
        change = float((now - then).norm() / then.norm())
        one = data.sel(operator=name)
        assert float(one.kernel_change) == pytest.approx(change, rel=1e-9)
        assert float(one.kernel_change_stderr) == 0
        assert change > 1e-4
        off = [float(r.kernel_change.sel(operator=name)) / change - 1 for r in rough]
        said = [float(r.kernel_change_stderr.sel(operator=name)) / change for r in rough]
        assert max(map(abs, off)) > 1e-6  # which are estimates
        assert np.mean(np.abs(off) < 2.2 * np.array(said)) >= 0.8
    same = create_quantity("kernel_change").measure(first_of(first))
    assert same.kernel_change.values.tolist() == [0, 0, 0]
    assert np.isnan(create_quantity("kernel_change").measure(moment_of(trials_of())).kernel_change).all()


def first_of(moment: Moment) -> Moment:
    return moment_of(moment.trials, first=lambda: moment)


def test_another_network_moves_the_figures() -> None:
    """The partner of the equalities: figures follow the network that is measured."""
    last = course("mse")[2]
    other = moment_of(last.trials, model=Cell(3), step=10, first=lambda: course("mse")[0])
    for name in ("kernel_change", "stable_rate"):
        figure = name
        values = [create_quantity(name).measure(m)[figure] for m in (last, other)]
        assert (abs(values[1] / values[0] - 1) > 0.05).all()


@pytest.mark.parametrize("kind", ["mse", "cross_entropy"])
@pytest.mark.rows(2)
def test_a_short_descent_from_here_beside_its_forecast(kind: str) -> None:
    moment = copy.copy(course(kind)[1])
    moment.optimizer = "adam"  # of no matter
    before = [p.detach().clone() for p in moment.model.parameters()]
    data = create_quantity("forecast_ahead", updates=6, share=0.4).measure(moment)
    assert all(torch.equal(p, old) for p, old in zip(moment.model.parameters(), before, strict=True))
    trials, here = moment.trials, (moment.flow, moment.readout, moment.trials, kind)
    rate = 0.4 * stable_rate(*here).rate
    assert float(data.ahead_rate) == pytest.approx(rate, rel=1e-6)
    model, readout = copy.deepcopy((moment.model, moment.readout))
    optimizer = torch.optim.SGD([*model.parameters(), *readout.parameters()], lr=float(data.ahead_rate))
    for _ in range(6):
        optimizer.zero_grad()
        loss_of(model, readout, trials, kind).backward()
        optimizer.step()
    reached = float(loss_of(model, readout, trials, kind).detach())
    assert float(data.ahead_loss) == pytest.approx(reached, rel=1e-12)
    made = forecast(*here, learning_rate=float(data.ahead_rate), updates=(0, 6))
    with torch.no_grad():
        y = readout(model.rollout(trials.inputs, mask=trials.mask).states)[trials.scored]
    start, then = (outputs[trials.scored] for outputs in made.outputs)
    assert float(data.ahead_output_gap) == pytest.approx(float((y - then).norm() / (y - start).norm()))
    assert float(data.ahead_gap) == pytest.approx(
        (float(made.losses[1]) - reached) / (float(made.losses[0]) - reached)
    )
    near = create_quantity("forecast_ahead", updates=1, share=0.01).measure(moment)
    assert float(near.ahead_output_gap) < 0.02 < float(data.ahead_output_gap)


def test_a_descent_that_diverges_or_moves_nothing_says_so() -> None:
    moment = course("mse")[0]
    wild = create_quantity("forecast_ahead", updates=400, share=1e3).measure(moment)
    assert np.isnan(wild.ahead_output_gap)
    assert "expected finite" in wild.ahead_reason.item() or "diverges" in wild.ahead_reason.item()
    still = copy.deepcopy((moment.model, moment.readout))
    for part in still:
        part.requires_grad_(False)
    fixed = moment_of(trials_of(), model=still[0], readout=still[1])
    data = create_quantity("forecast_ahead").measure(fixed)
    assert data.ahead_reason.item().startswith("the largest stable rate is infinite")
