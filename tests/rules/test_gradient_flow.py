"""Predicted loss rates, where they come from, and first-order prediction against what happens."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from kpframe import Flow, LearningRule, Update, linearize, wrap
from kpframe.errors import ArgumentError, NonFiniteError, SpaceMismatchError
from kpframe.rules._gradient_flow import (
    actual_change,
    contributions,
    cross_flow,
    effective_dimension,
    loss_rate,
    predicted_change,
    taylor_test,
)

F64 = torch.float64


class OneStep(LearningRule):
    """P := I."""

    def change(self, update: Update) -> Update:
        return update.replace(P=update.propagator.truncated(1))


def make(seed: int = 0, batch: int = 3, trained_start: bool = False) -> tuple[Flow, torch.Tensor]:
    """Return a flow and an error: that of the loss sum(W h_t) ** 2 / 2 summed over trials and steps."""
    torch.manual_seed(seed)
    model = wrap(torch.nn.GRUCell(2, 4), trainable_initial_state=trained_start).double()
    flow = linearize(model, torch.randn(batch, 5, 2, dtype=F64))
    states = flow.trajectory.states
    return flow, states.sum(-1, keepdim=True).expand(states.shape).contiguous()


def loss(flow: Flow, states: torch.Tensor) -> torch.Tensor:
    return states.sum(-1).square().sum() / 2


@pytest.mark.parametrize("trained_start", [False, True])
def test_loss_rate_is_the_derivative_of_the_loss_along_the_update(trained_start: bool) -> None:
    flow, err = make(trained_start=trained_start)
    update = (flow.J.T @ flow.P.T)(err)
    eta = 1e-6
    before = loss(flow, flow.trajectory.states)
    up, down = (
        loss(flow, flow.trajectory.states + actual_change(flow, update, step)) for step in (eta, -eta)
    )
    assert loss_rate(flow, err) == pytest.approx(float((up - down) / (2 * eta)), rel=1e-7)
    assert loss_rate(flow, err) == pytest.approx(-float(update @ update), rel=1e-12)
    assert float(up) < float(before)


def test_loss_rate_of_a_rule() -> None:
    flow, err = make()
    update = OneStep().update_operator(flow)(err)
    exact = (flow.J.T @ flow.P.T)(err)
    assert loss_rate(flow, err, OneStep()) == pytest.approx(-float(exact @ update), rel=1e-12)
    assert loss_rate(flow, err, OneStep()) != pytest.approx(loss_rate(flow, err), rel=1e-3)


@pytest.mark.parametrize("rule", [None, OneStep()])
def test_contributions_add_up_and_are_what_they_say(rule: LearningRule | None) -> None:
    flow, err = make()
    parts = contributions(flow, err, rule)
    rate = loss_rate(flow, err, rule)
    for total in (
        parts.total,
        sum(parts.parameter.values()),
        float(parts.time.sum()),
        float(parts.batch_of_update.sum()),
        float(parts.time_of_update.sum()),
    ):
        assert total == pytest.approx(rate, rel=1e-12)
    # a group's part is the rate when it alone learns
    group = "weight_hh"
    alone = flow.P @ flow.K.restrict([group]) @ (flow.P if rule is None else rule.propagator(flow)).T
    assert parts.parameter[group] == pytest.approx(-float((err * alone(err)).sum()), rel=1e-12)
    # a trial's part of the update is the rate when only its error makes the update
    only = torch.zeros_like(err)
    only[1] = err[1]
    Phi = flow.Phi if rule is None else rule.flow_operator(flow)
    assert float(parts.batch_of_update[1]) == pytest.approx(-float((err * Phi(only)).sum()), rel=1e-12)
    assert float(parts.batch[1]) == pytest.approx(-float((only * Phi(err)).sum()), rel=1e-12)
    same = torch.allclose(parts.time, parts.time_of_update)
    assert same == (rule is None)  # Phi is symmetric, a rule's flow is not


@pytest.mark.parametrize("trained_start", [False, True])
def test_taylor_slope_is_two(trained_start: bool) -> None:
    flow, err = make(trained_start=trained_start)
    result = taylor_test(flow, (flow.J.T @ flow.P.T)(err))
    assert result.slope == pytest.approx(2, abs=0.1)
    assert result.errors[-1] < 1e-2 * result.changes[-1]
    wrong = torch.tensor(  # the partner: with a wrong prediction the error shrinks like eta only
        [
            float(
                (
                    actual_change(flow, err_unit(flow, err), e) * 1.1
                    - predicted_change(flow, err_unit(flow, err), e)
                ).norm()
            )
            for e in (1e-2, 1e-3)
        ]
    )
    assert float(torch.log10(wrong[0] / wrong[1])) == pytest.approx(1, abs=0.1)


def err_unit(flow: Flow, err: torch.Tensor) -> torch.Tensor:
    update = (flow.J.T @ flow.P.T)(err)
    return update / update.norm()


def test_taylor_test_refuses_what_it_cannot_fit() -> None:
    flow, err = make()
    update = (flow.J.T @ flow.P.T)(err)
    with pytest.raises(ArgumentError, match="etas: expected two or more positive step sizes"):
        taylor_test(flow, update, [0.1])
    with pytest.raises(ArgumentError, match="update: expected a vector other than zero"):
        taylor_test(flow, 0 * update)
    with pytest.raises(ArgumentError, match="update: expected shape"):
        actual_change(flow, update[:-1], 0.1)


def test_actual_change_leaves_the_flow_alone() -> None:
    flow, err = make()
    before = copy.deepcopy(flow.model.state_dict())
    update = (flow.J.T @ flow.P.T)(err)
    assert actual_change(flow, update, 0.5).abs().max() > 1e-3
    assert all(torch.equal(before[name], value) for name, value in flow.model.state_dict().items())


@pytest.mark.parametrize("given", [False, True])
def test_actual_change_holds_the_state_at_padded_steps(given: bool) -> None:
    whole, _ = make()
    x, mask = whole.trajectory.inputs, torch.arange(5) < torch.tensor([[5], [3], [2]])
    h0 = torch.ones(3, 4, dtype=F64) / 2 if given else None
    flow = linearize(whole.model, x, h0, mask)
    update = torch.randn(flow.J.domain.size, generator=torch.Generator().manual_seed(1), dtype=F64)
    found = actual_change(flow, update, 1e-6)
    predicted = predicted_change(flow, update, 1e-6)
    torch.testing.assert_close(found, predicted, rtol=1e-3, atol=1e-11)
    assert torch.equal(found[2, 2:], found[2, 1].expand(3, 4))
    loose = actual_change(linearize(whole.model, x, h0), update, 1e-6)
    assert float((loose - found)[1:].norm() / found.norm()) > 0.1


def test_cross_flow() -> None:
    train, err = make()
    torch.manual_seed(5)
    test = linearize(train.model, torch.randn(2, 7, 2, dtype=F64))
    G_test, G_train = ((f.P @ f.J).to_dense() for f in (test, train))
    between = cross_flow(test, train)
    torch.testing.assert_close(between.to_dense(), G_test @ G_train.T, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(
        cross_flow(train, train).to_dense(), train.Phi.to_dense(), rtol=1e-12, atol=1e-12
    )
    predicted = -1e-6 * between(err)
    model = copy.deepcopy(train.model)
    update = (train.J.T @ train.P.T)(err)
    moved = actual_change(test, update, 1e-6)
    torch.testing.assert_close(moved, predicted, rtol=1e-4, atol=1e-10)
    other = linearize(wrap(torch.nn.RNNCell(2, 4)).double(), torch.randn(1, 2, 2, dtype=F64))
    with pytest.raises(SpaceMismatchError, match="train: expected a flow with the parameters"):
        cross_flow(linearize(model, test.trajectory.inputs), other)


def test_effective_dimension_is_the_participation_of_the_units() -> None:
    generator = np.random.default_rng(0)
    y = torch.from_numpy(generator.normal(size=(3, 4, 5)))
    C = np.einsum("bti,btj->ij", y, y)
    values = np.linalg.eigvalsh(C)
    assert effective_dimension(y) == pytest.approx(values.sum() ** 2 / (values**2).sum(), rel=1e-12)
    wide = y.reshape(1, 2, 30)
    assert effective_dimension(wide) == pytest.approx(
        np.trace(wide[0] @ wide[0].T) ** 2 / np.linalg.norm(wide[0] @ wide[0].T) ** 2, rel=1e-12
    )
    line = torch.ones(2, 3, 1, dtype=F64) * torch.tensor([1.0, 2.0, 3.0], dtype=F64)
    assert effective_dimension(line) == pytest.approx(1, rel=1e-12)
    with pytest.raises(ArgumentError, match="y: expected a state vector other than zero"):
        effective_dimension(torch.zeros(2, 2, 2))


def test_figures_scale_with_the_error() -> None:
    """In float32, where the squares of the error are no float32 or vanish."""
    torch.manual_seed(0)
    flow = linearize(wrap(torch.nn.GRUCell(2, 4)), torch.randn(3, 5, 2))
    err = torch.randn(3, 5, 4)
    ordinary = contributions(flow, err, OneStep())
    update = (flow.J.T @ flow.P.T)(err)
    slopes = taylor_test(flow, update)
    for power in (-83, 83):
        scale = 2.0**power
        assert loss_rate(flow, err * scale, OneStep()) == pytest.approx(
            scale**2 * loss_rate(flow, err, OneStep()), rel=1e-12
        )
        found = contributions(flow, err * scale, OneStep())
        for name in ("batch", "time", "batch_of_update", "time_of_update"):
            assert torch.allclose(getattr(found, name) / scale**2, getattr(ordinary, name), rtol=1e-12)
        assert found.total == pytest.approx(scale**2 * ordinary.total, rel=1e-12)
        assert sum(found.parameter.values()) == pytest.approx(found.total, rel=1e-5)
        assert taylor_test(flow, update * scale).errors == slopes.errors
    assert abs(ordinary.total) > 1e-3


def test_effective_dimension_does_not_depend_on_scale() -> None:
    y = torch.randn(2, 8, 16, generator=torch.Generator().manual_seed(3))
    right = effective_dimension(y.double())
    assert 6 < right < 7
    for scale in (1e-30, 1e-18, 1e20, 1e30):
        assert effective_dimension(y * scale) == pytest.approx(right, rel=1e-5)
    for scale in (1e-150, 1e150):
        assert effective_dimension(y.double() * scale) == pytest.approx(right, rel=1e-12)
    with pytest.raises(NonFiniteError, match="y: expected finite numbers"):
        effective_dimension(y * torch.inf)
