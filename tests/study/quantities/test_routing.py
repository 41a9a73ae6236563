"""The routing map, credit by lag and action on random input, against dense matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import evolve

from kpframe.errors import ArgumentError
from kpframe.spectra import probes
from kpframe.study._moment import Moment
from kpframe.study._quantities.action import RandomAction
from kpframe.study._quantities.routing import Credit, Routing

from ...toy_moments import LENGTHS, B, H, T, jacobian_by_step, moment_of, reseeded, trials_of  # noqa: TID252


@pytest.fixture(scope="module")
def moment() -> Moment:
    return moment_of(trials_of())


@pytest.fixture(scope="module")
def steps(moment: Moment) -> list[list[torch.Tensor]]:
    """Return the step Jacobians of each trial's own steps, by autograd."""
    found = []
    for trial, length in enumerate(LENGTHS):
        h, own = torch.zeros(H, dtype=torch.float64), []
        for x in moment.trials.inputs[trial, :length]:

            def step(state: torch.Tensor, x: torch.Tensor = x) -> torch.Tensor:
                return moment.model.step(x[None], state[None])[0]

            own.append(torch.autograd.functional.jacobian(step, h))
            h = step(h).detach()
        found.append(own)
    return found


def right_routing(steps: list[list[torch.Tensor]]) -> np.ndarray:
    found = np.full((T, T), np.nan)
    for s in range(T):
        for t in range(T):
            sizes = []
            for trial, length in enumerate(LENGTHS):
                if max(s, t) < length:
                    product = torch.eye(H, dtype=torch.float64) * (s < t)
                    for A in steps[trial][s + 1 : t + 1]:
                        product = A @ product
                    sizes.append(float(product.square().sum()))
            if sizes:
                found[t, s] = np.sqrt(np.mean(sizes) / H)
    return found


def test_the_routing_map_is_that_of_products_of_step_jacobians(moment, steps) -> None:
    data, right = Routing(draws=H).measure(moment), right_routing(steps)
    np.testing.assert_allclose(data.routing, right, rtol=1e-9, atol=1e-15)
    assert data.routing.dims == ("time", "time_other")
    assert float(data.routing_stderr.max()) == 0
    assert np.all(np.triu(right) == 0)
    assert np.ptp(right[np.tril_indices(T, -1)]) > 0.3


def test_routes_exist_where_both_steps_do() -> None:
    short = moment_of(trials_of(lengths=(4,) * B))
    data = Routing().measure(short)
    assert bool(data.routing[4:].isnull().all())
    assert bool(data.routing[:, 4:].isnull().all())
    assert bool(data.routing_stderr[4:].isnull().all())
    assert bool(data.routing[:4, :4].notnull().all())


def test_estimated_routes_are_within_their_standard_errors(moment, steps) -> None:
    runs = [Routing(draws=3).measure(reseeded(moment, 60, seed)) for seed in range(40)]
    right, lower = right_routing(steps), np.tril_indices(T, -1)
    values, errors = (np.stack([run[n].values[lower] for run in runs]) for n in ("routing", "routing_stderr"))
    spread = values.std(axis=0, ddof=1)
    assert np.all(spread > 0)
    assert np.all(abs(values.mean(axis=0) - right[lower]) < 4.5 * spread / np.sqrt(len(runs)) + 0.01)
    ratio = np.sqrt((errors**2).mean(axis=0)) / spread
    assert np.all((ratio > 0.5) & (ratio < 2)), ratio
    again = Routing(draws=3).measure(reseeded(moment, 60, 0)).routing
    np.testing.assert_array_equal(again, runs[0].routing)


def test_credit_is_a_sum_over_pairs_of_steps(moment) -> None:
    trials, readout = moment.trials, moment.readout
    h = moment.model.rollout(trials.inputs, mask=trials.mask).states.detach().requires_grad_()
    loss = torch.nn.functional.mse_loss(readout(h)[trials.scored], trials.targets[trials.scored])
    (err,) = torch.autograd.grad(loss, h)
    G = jacobian_by_step(moment.model, trials)
    g = torch.einsum("bthsm,bth->m", G, err)
    pairs = torch.einsum("bthsm,bth,m->ts", G, err, g)
    data = Credit().measure(moment)
    np.testing.assert_allclose(data.credit, pairs, rtol=1e-9, atol=1e-12 * float(pairs.abs().max()))
    right = [float(pairs.diagonal(-lag).sum() / (g @ g)) for lag in range(T)]
    np.testing.assert_allclose(data.credit_by_lag, right, rtol=1e-9, atol=1e-12)
    assert float(data.credit.sum()) == pytest.approx(float(g @ g), rel=1e-12)
    assert float(data.credit_by_lag.sum()) == pytest.approx(1, rel=1e-12)
    assert right[0] > 2 * abs(right[2]) > 0


def test_credit_of_no_error_is_none(moment) -> None:
    with torch.no_grad():
        outputs = moment.readout(moment.flow.trajectory.states)
    trials = moment.trials
    done = moment_of(evolve(trials, targets=outputs))
    data = Credit().measure(done)
    assert float(abs(data.credit).max()) == 0
    assert bool(data.credit_by_lag.isnull().all())


def test_action_on_random_signs(moment) -> None:
    """The mean square at a step is the squared norm of the operator's rows there."""
    draws = 400
    data = RandomAction(draws=draws).measure(moment)
    P, J = (op.to_dense().reshape(B * T * H, -1) for op in (moment.flow.P, moment.flow.J))
    mask = moment.trials.mask.double()
    there = mask[..., None].expand(B, T, H).reshape(-1)
    for formula, matrix in (("K", J @ J.T), ("P K", P @ J @ J.T), ("P K P*", P @ J @ J.T @ P.T)):
        squares = ((matrix * there).square().sum(1) * there).reshape(B, T, H).sum(dim=(0, 2)) / mask.sum(0)
        one = data.sel(action=formula)
        apart = abs(one.action_norm.values - squares.sqrt().numpy())
        assert np.all(apart < 5 * one.action_norm_stderr.values), formula
        assert np.all(one.action_norm_stderr.values < 0.1 * squares.sqrt().numpy()), formula
    sizes = data.action_norm.mean("time")
    assert float(sizes.sel(action="P K P*")) > 1.2 * float(sizes.sel(action="K"))
    Phi = moment.flow.Phi
    z = probes(Phi.domain, draws, generator=moment.generator(230), kind="rademacher", dtype=Phi.dtype)
    y = Phi(z * mask[..., None]) * mask[..., None]
    C = torch.einsum("nbti,nbtj->nij", y, y)
    right = torch.einsum("nii->n", C) ** 2 / C.square().sum(dim=(1, 2))
    one = data.sel(action="P K P*")
    assert float(one.action_dimension) == pytest.approx(float(right.mean()), rel=1e-9)
    assert float(one.action_dimension_stderr) == pytest.approx(float(right.std()) / 20, rel=1e-9)
    assert 1 < float(right.mean()) < H


@pytest.mark.parametrize(
    ("operators", "message"),
    [(["P Kk"], "operators: expected a product of .* got 'P Kk'"), ([], "operators: expected at least one")],
)
def test_what_does_not_act_on_states_is_refused_before_training(moment, operators, message) -> None:
    for call in (RandomAction(operators=operators).check, RandomAction(operators=operators).measure):
        with pytest.raises(ArgumentError, match=message):
            call(moment)
    RandomAction().check(moment)
