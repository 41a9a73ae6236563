"""Phi, K, gradients and Taylor expansions against plain backpropagation through the roll-out."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import linearize

STARTS = {"zero": {}, "given": {"h0": True}, "trainable": {}, "given over trainable": {"h0": True}}


def build(lab, toy, start, mask, seed=1, **sizes):
    model = lab.make(toy, seed, trainable_initial_state="trainable" in start)
    return model, lab.trials(model, seed, mask=mask, **STARTS[start], **sizes)


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("start", STARTS)
@pytest.mark.rows(14)
def test_Phi_is_G_Gstar(lab, toy, start, mask) -> None:
    model, data = build(lab, toy, start, mask)
    G = lab.total_jacobian(model, **data)
    for method in ("auto", "autograd"):
        flow = linearize(model, **data, method=method)
        lab.close((flow.P @ flow.J).to_dense(), G)
        lab.close(flow.Phi.to_dense(), G @ G.T)
        assert repr(flow.Phi) == "P K P*"
        assert flow.Phi.tags == {"self_adjoint", "positive"}
        if G.any():
            lab.differ(flow.K.to_dense(), G @ G.T)
            other, _ = build(lab, toy, start, mask, seed=2)
            lab.differ(linearize(other, **data, method=method).Phi.to_dense(), G @ G.T)


@settings(max_examples=5)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3)),
    mask=st.booleans(),
    trains=st.booleans(),
)
@pytest.mark.rows(14)
def test_structured_equals_autograd(lab, toy, seed, sizes, mask, trains) -> None:
    batch, time, hidden, inputs = sizes
    model = lab.make(toy, seed, inputs, hidden, trainable_initial_state=trains)
    data = lab.trials(model, seed, batch, time, mask=mask)
    fast, twin = linearize(model, **data), linearize(model, **data, method="autograd")
    for name in ("A", "J", "P", "K", "Phi"):
        first, second = getattr(fast, name), getattr(twin, name)
        assert (first.domain, first.codomain) == (second.domain, second.codomain)
        q, r = (lab.randn(seed, 2, *space.shape) for space in (first.domain, first.codomain))
        lab.close(first(q), second(q))
        lab.close(first.T(r), second.T(r))
        if first(q).any():
            lab.differ(first(q.flip(0)), second(q))


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(14)
def test_every_operator_of_a_flow_is_proper(lab, toy, method) -> None:
    model, data = build(lab, toy, "trainable", True)
    flow = linearize(model, **data, method=method)
    for op in (
        flow.J,
        flow.K,
        flow.Phi,
        flow.P @ flow.J,
        flow.Phi.mean("time"),
        flow.K.partial_trace("hidden"),
    ):
        lab.check_operator(op)


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.rows(4)
def test_adjoints_give_the_gradient_of_backward(lab, toy, start) -> None:
    model, data = build(lab, toy, start, mask=True)
    flow = linearize(model, **data)
    if not flow.J.to_dense().any():
        return
    readout = lab.randn(7, model.width, 2)
    states = model.rollout(**data).states
    loss = lambda h: ((h @ readout).sin() ** 2).sum()  # noqa: E731
    loss(states).backward()
    expected = torch.cat(
        [p.grad.flatten() if p.grad is not None else 0 * p.flatten() for p in model.parameters()]
    )
    leaf = flow.trajectory.states.clone().requires_grad_()
    (err,) = torch.autograd.grad(loss(leaf), leaf)
    lab.close((flow.J.T @ flow.P.T)(err), expected.detach())
    lab.close(flow.J.T(flow.P.T(err)), expected.detach())
    lab.differ(flow.J.T(err), expected.detach(), 1e-6)


@pytest.mark.parametrize("start", ["zero", "trainable"])
@pytest.mark.rows(6)
def test_taylor_slope_is_two(lab, toy, start) -> None:
    model, data = build(lab, toy, start, mask=True)
    flow = linearize(model, **data)
    if not flow.J.domain.size:
        return
    theta = lab.parameters(model)
    direction = lab.randn(3, flow.J.domain.size)
    direction = direction / direction.norm()
    pieces = dict(zip(theta, direction.split([p.numel() for p in theta.values()]), strict=True))
    first_order = (flow.P @ flow.J)(direction)
    base = lab.states(model, theta, **data)
    errors, sizes = [], (1e-2, 1e-3)
    for eps in sizes:
        moved = {name: p + eps * pieces[name].view_as(p) for name, p in theta.items()}
        change = lab.states(model, moved, **data) - base
        errors.append(float((change - eps * first_order).norm()))
        assert float((change - 0.9 * eps * first_order).norm()) > errors[-1]
    slope = math.log(errors[0] / errors[1]) / math.log(sizes[0] / sizes[1])
    assert abs(slope - 2) < 0.1


def test_rank_of_K_is_at_most_the_number_of_parameters(lab) -> None:
    model = lab.make("rnn", inputs=1, hidden=2)
    flow = linearize(model, **lab.trials(model, batch=3, time=6))
    assert flow.J.domain.size == 10
    for op in (flow.K, flow.Phi):
        values = torch.linalg.eigvalsh(op.to_dense())
        assert values.min() >= -1e-12 * values.max()
        assert int((values > 1e-10 * values.max()).sum()) <= 10 < op.domain.size


def test_a_model_without_parameters_does_not_learn(lab) -> None:
    for name in ("fixed", "bare"):
        model = lab.make(name)
        for method in ("auto", "autograd"):
            flow = linearize(model, **lab.trials(model), method=method)
            q = lab.randn(0, 3, *flow.K.domain.shape)
            assert not flow.Phi(q).any()
            assert flow.Phi(q).shape == q.shape
            assert flow.J.T(q).shape == (3, 0)
            assert flow.J(flow.J.T(q)).shape == q.shape
            assert flow.K.groups() == {}
            assert flow.P(q).any()


@pytest.mark.parametrize("toy_name", ["rnn", "lstm", "plain", "GRUCell"])
@pytest.mark.rows(2)
def test_cross_flow_between_two_sets_of_trials(lab, toy_name) -> None:
    model = lab.make(toy_name)
    seen, unseen = lab.trials(model, 1, batch=3, time=4), lab.trials(model, 9, batch=2, time=5, h0=True)
    train, test = linearize(model, **seen), linearize(model, **unseen)
    cross = test.P @ test.J @ train.J.T @ train.P.T
    G, G_test = lab.total_jacobian(model, **seen), lab.total_jacobian(model, **unseen)
    lab.close(cross.to_dense(), G_test @ G.T)
    assert repr(cross) == "P J J* P*"
    assert not cross.tags
    same = train.P @ train.J @ train.J.T @ train.P.T
    lab.close(same.to_dense(), train.Phi.to_dense())
    assert same.positive
    averaged = cross.mean("time")
    expected = (G_test @ G.T).reshape(2, 5, model.width, 3, 4, model.width).mean((1, 4))
    lab.close(averaged.to_dense(), expected.reshape(averaged.codomain.size, -1))


@pytest.mark.parametrize("times", [[0, 3], slice(1, 3), -1])
def test_reductions_of_Phi(lab, times) -> None:
    model = lab.make("gru")
    data = lab.trials(model)
    flow = linearize(model, **data)
    G = lab.total_jacobian(model, **data).reshape(2, 4, 3, -1)
    kept = G[:, times].reshape(-1, G.shape[-1])
    lab.close(flow.Phi.select(time=times).to_dense(), kept @ kept.T)
    mean = G.mean(1).reshape(6, -1)
    lab.close(flow.Phi.mean("time").to_dense(), mean @ mean.T)
    W = lab.randn(2, 2, 3)
    out = torch.einsum("oh,bthp->btop", W, G).reshape(16, -1)
    lab.close(flow.Phi.project(W).to_dense(), out @ out.T)
    lab.differ(flow.Phi.mean("time").to_dense(), flow.K.mean("time").to_dense())
    jacobian = flow.P @ flow.J
    lab.close(jacobian.mean("time").to_dense(), mean)
    lab.close((jacobian.mean("time") @ jacobian.mean("time").T).to_dense(), mean @ mean.T)
    trace = flow.Phi.partial_trace("time", "hidden")
    lab.close(trace.to_dense(), torch.einsum("athp,bthp->ab", G, G))
