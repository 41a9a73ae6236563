"""Backpropagation through time is the gradient of ``loss.backward()``."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import create_rule

SEEDS = st.integers(0, 2**31 - 1)


@settings(max_examples=8)
@given(seed=SEEDS, time=st.integers(2, 7), start=st.sampled_from(["zero", "given", "trainable"]))
@pytest.mark.rows(2)
def test_update_is_the_gradient(problem, close, differ, name, seed, time, start) -> None:
    here = problem(name, seed, time, start)
    flow = here.flow()
    update = create_rule("bptt").update_operator(flow)
    close(update(here.err), here.backward())
    differ(flow.J.T(here.err), here.backward())
    differ(update(here.err.flip(1)), here.backward())


@pytest.mark.parametrize("start", ["zero", "given", "trainable"])
@pytest.mark.rows(4)
def test_padded_steps(problem, close, differ, name, start) -> None:
    here, whole = problem(name, start=start, masked=True), problem(name, start=start)
    close(create_rule("bptt").update_operator(here.flow())(here.err), here.backward())
    differ(create_rule("bptt").update_operator(whole.flow())(here.err), here.backward())


def test_gradient_by_name_of_a_loss_that_bends(problem, close, differ, name) -> None:
    here = problem(name)

    def loss(states: torch.Tensor) -> torch.Tensor:
        return ((2 * states).sin() - here.err).pow(2).mean()

    states = here.model.rollout(here.x, here.h0).states
    loss(states).backward()
    leaf = states.detach().requires_grad_()
    (err,) = torch.autograd.grad(loss(leaf), leaf)
    gradient = create_rule("bptt").gradient(here.flow(), err)
    parameters = here.model.trainable()
    assert list(gradient) == list(parameters)
    for key, parameter in parameters.items():
        close(gradient[key], parameter.grad)
        differ(2 * gradient[key], parameter.grad)


def test_flow_operator_is_Phi(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    Phi = create_rule("bptt").flow_operator(flow)
    q = torch.stack([here.err, here.err.flip(0)])
    close(Phi(q), flow.Phi(q))
    close(Phi.T(q), flow.Phi(q))
    differ(flow.K(q), flow.Phi(q))
    assert Phi.self_adjoint
    assert Phi.positive
    assert repr(Phi) == repr(flow.Phi) == "P K P*"
    assert repr(create_rule("bptt").update_operator(flow)) == "J* P*"


def test_states_move_by_Phi_to_first_order(problem, name) -> None:
    here = problem(name)
    flow = here.flow()
    rule = create_rule("bptt")
    gradient = rule.gradient(flow, here.err)
    predicted = rule.flow_operator(flow)(here.err)
    remainders = []
    for eta in (1e-4, 5e-5):
        moved = {key: p.detach() - eta * gradient[key] for key, p in flow.model.trainable().items()}
        with torch.no_grad():
            for key, parameter in here.model.trainable().items():
                parameter.copy_(moved[key])
            states = here.model.rollout(here.x, here.h0).states
        remainders.append(float((states - flow.trajectory.states + eta * predicted).norm()))
        assert remainders[-1] < 0.05 * eta * float(predicted.norm())
    assert remainders[0] / remainders[1] == pytest.approx(4, rel=0.05)
