"""P against its dense inverse and against derivatives of the roll-out by its own states."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import linearize
from kpframe.errors import ArgumentError
from kpframe.flow._propagator import ScanPropagator
from kpframe.flow._step_jacobian import DenseStepJacobian, DiagonalStepJacobian

SEEDS = st.integers(0, 10_000)
SIZES = st.tuples(st.integers(1, 3), st.integers(1, 6), st.integers(1, 3))


@settings(max_examples=10)
@given(seed=SEEDS, sizes=SIZES)
def test_P_is_the_inverse_of_I_minus_AZ(lab, seed, sizes) -> None:
    batch, time, hidden = sizes
    blocks = lab.randn(seed, batch, time, hidden, hidden)
    P = ScanPropagator(DenseStepJacobian(blocks))
    one = torch.eye(P.domain.size, dtype=torch.float64)
    lab.close(P.inverse.to_dense(), one - lab.dense_shift(blocks))
    lab.close(P.to_dense(), torch.linalg.inv(one - lab.dense_shift(blocks)), 1e-9)
    lab.close((P @ P.inverse).to_dense(), one, 1e-9)
    lab.close((P.inverse @ P).to_dense(), one, 1e-9)
    if time > 1:
        lab.differ((P @ P).to_dense(), one)
        lab.differ(P.to_dense(), one)


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(10)
def test_P_of_every_toy(lab, toy, method) -> None:
    model = lab.make(toy, seed=2)
    flow = linearize(model, **lab.trials(model, h0=True, mask=True), method=method)
    blocks = lab.step_blocks(model, flow)
    one = torch.eye(flow.P.domain.size, dtype=torch.float64)
    expected = torch.linalg.inv(one - lab.dense_shift(blocks))
    lab.close(flow.P.to_dense(), expected)
    lab.differ(flow.P.to_dense(), expected.T)
    for op in (flow.P, flow.P.inverse, flow.P.truncated(2), flow.P.chunked(2), flow.P.transition(2, 1)):
        lab.check_operator(op)


def test_P_is_causal_and_block_diagonal_over_trials(lab, toy) -> None:
    model = lab.make(toy, seed=2)
    P = linearize(model, **lab.trials(model, h0=True)).P.to_dense()
    batch, time, hidden = 2, 4, model.width
    P = P.reshape(batch, time, hidden, batch, time, hidden)
    for b, other in ((0, 1), (1, 0)):
        assert not P[b, :, :, other].any()
        for t in range(time):
            assert not P[b, t, :, b, t + 1 :].any()
            assert torch.equal(P[b, t, :, b, t], torch.eye(hidden, dtype=torch.float64))
            assert P[b, t, :, b, : t + 1].any()


@settings(max_examples=10)
@given(seed=SEEDS, times=st.lists(st.integers(0, 5), min_size=3, max_size=3).map(sorted))
def test_transitions_compose(lab, seed, times) -> None:
    blocks = lab.randn(seed, 2, 6, 3, 3)
    P = ScanPropagator(DenseStepJacobian(blocks))
    r, s, t = times
    lab.close((P.transition(t, s) @ P.transition(s, r)).to_dense(), P.transition(t, r).to_dense())
    lab.close((P.transition(t, s) @ P.transition(s)).to_dense(), P.transition(t).to_dense())
    product = torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
    for step in range(s + 1, t + 1):
        product = blocks[:, step] @ product
    lab.close(P.transition(t, s).to_dense(), torch.block_diag(*product))
    dense = P.to_dense().reshape(2, 6, 3, 2, 6, 3)
    lab.close(dense[:, t, :, :, s].reshape(6, 6), P.transition(t, s).to_dense())
    lab.close(P.transition(t - 6, s - 6).to_dense(), P.transition(t, s).to_dense())
    if r < s < t:
        lab.differ((P.transition(s, r) @ P.transition(t, s)).to_dense(), P.transition(t, r).to_dense())


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.rows(6)
def test_transitions_are_derivatives_of_states_by_states(lab, toy, mask) -> None:
    model = lab.make(toy, seed=5)
    data = lab.trials(model, h0=True, mask=mask)
    P = linearize(model, **data).P
    theta = lab.parameters(model)

    def last(s: int | None, h: torch.Tensor) -> torch.Tensor:
        """Return the last states when the run starts from ``h`` after step s (None: at the start)."""
        for t in range(0 if s is None else s + 1, 4):
            index = (torch.full((2,), t),) if model.time_varying else ()
            new = torch.func.functional_call(model, theta, (data["x"][:, t], h, *index))
            h = torch.where(data["mask"][:, t, None], new, h) if mask else new
        return h

    states = lab.states(model, theta, **data)
    for s in (None, 0, 2):
        start = data["h0"] if s is None else states[:, s]
        expected = torch.func.jacrev(lambda h, s=s: last(s, h))(start)
        size = 2 * model.width
        transition = P.transition(3, s).to_dense()
        lab.close(transition, expected.reshape(size, size))
        lab.differ(transition, P.transition(2, s).to_dense())


def test_diagonal_dynamics_in_closed_form(lab) -> None:
    rate = torch.tensor([0.5, -2.0], dtype=torch.float64)
    P = ScanPropagator(DiagonalStepJacobian(rate.expand(1, 4, 2).contiguous()))
    q = lab.randn(0, 1, 4, 2)
    expected = torch.stack([sum(rate ** (t - s) * q[0, s] for s in range(t + 1)) for t in range(4)])
    lab.close(P(q)[0], expected)
    assert (P.method, repr(P), repr(P.inverse), repr(P.T)) == ("diagonal", "P", "P^-1", "P*")


def test_one_step_is_the_identity(lab) -> None:
    P = ScanPropagator(DenseStepJacobian(lab.randn(0, 2, 1, 3, 3)))
    q = lab.randn(1, 2, 1, 3)
    assert torch.equal(P(q), q)
    assert torch.equal(P.inverse(q), q)
    lab.differ(P.transition(0).to_dense(), torch.eye(6, dtype=torch.float64))


def test_names(lab) -> None:
    P = ScanPropagator(DenseStepJacobian(lab.randn(0, 2, 6, 3, 3)))
    assert repr(P.truncated(5)) == "P_5"
    assert repr(P.truncated(5).T) == "P_5*"
    assert repr(P.chunked(3)) == "P_chunk3"
    assert repr(P.chunked(3, 2)) == "P_chunk3+2"
    assert repr(P.transition(-1, 2)) == "P[5,2]"
    assert repr(P.transition(3)) == "P[3,h0]"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda P: P.truncated(0), r"window: expected a whole number >= 1, got 0"),
        (lambda P: P.truncated(-1), r"window: expected a whole number >= 1, got -1"),
        (lambda P: P.truncated(2.0), r"window: expected a whole number >= 1, got 2.0"),
        (lambda P: P.truncated(True), r"window: expected a whole number >= 1, got True"),
        (lambda P: P.chunked(0), r"length: expected a whole number >= 1, got 0"),
        (lambda P: P.chunked(3, 3), r"offset: expected a whole number in \[0, 2\], got 3"),
        (lambda P: P.chunked(3, -1), r"offset: expected a whole number in \[0, 2\], got -1"),
        (lambda P: P.transition(4), r"t: expected a time index in \[-4, 3\], got 4"),
        (lambda P: P.transition(1, -5), r"s: expected a time index in \[-4, 3\], got -5"),
        (lambda P: P.transition(1, 2), r"s: expected an index <= t = 1, got 2"),
        (lambda P: P.transition(1.0), r"t: expected a time index in \[-4, 3\], got 1.0"),
    ],
)
def test_refusals(lab, call, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        call(ScanPropagator(DenseStepJacobian(lab.randn(0, 2, 4, 3, 3))))
