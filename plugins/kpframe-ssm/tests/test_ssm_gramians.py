"""Gramians from compositions of the flow's operators, against SciPy's discrete Lyapunov equations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.linalg
import torch
from kpframe_ssm.gramians import (
    controllability_gramian,
    input_operator,
    observability_gramian,
    output_operator,
)

from kpframe import linearize
from kpframe.errors import UnsupportedError

FORMS = ["lti", "s4d", "s5 bilinear", "lru"]

#: Settings under which what a short horizon leaves out is far below the whole.
FAST = {"lti": {"spectral_radius": 0.5}, "s4d": {"dt_min": 0.3}}


def system(model) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the real A, B, C of a linear model, A by differentiating its step."""
    x = torch.zeros(1, model.input_size, dtype=torch.float64)
    A = torch.func.jacrev(lambda h: model.step(x, h[None])[0])(torch.zeros(model.width, dtype=torch.float64))
    B = torch.func.jacrev(lambda x: model.step(x[None], torch.zeros(1, model.width).double())[0])(x[0])
    return A.detach().numpy(), B.detach().numpy(), model.output_weight().detach().numpy()


def flow_of(model, draw, steps: int):
    return linearize(model, draw(1, steps, model.input_size, seed=1))


@pytest.mark.parametrize("form", FORMS)
def test_finite_horizon(make, draw, close, differ, form) -> None:
    """The block [t, t] of P B B* P* is Sum_{k<=t} A^k B B* A*^k, written out; dually for C."""
    model = make(form)
    A, B, C = system(model)
    flow = flow_of(model, draw, 6)
    power, W, M = np.eye(len(A)), np.zeros_like(A), np.zeros_like(A)
    for t in range(6):
        W += power @ B @ B.T @ power.T
        M += power.T @ C.T @ C @ power
        power = A @ power
        close(controllability_gramian(flow, t).to_dense(), torch.from_numpy(W), 1e-12)
        close(observability_gramian(flow, 5 - t).to_dense(), torch.from_numpy(M), 1e-12)
    differ(controllability_gramian(flow, 0).to_dense(), torch.from_numpy(W))


@pytest.mark.parametrize("form", FORMS)
def test_convergence_to_the_lyapunov_solution(make, draw, close, differ, form) -> None:
    """What T steps leave out is A^T W A*^T: exactly, and so it falls as |lambda|^(2 T)."""
    model = make(form, **FAST.get(form, {}))
    A, B, C = system(model)
    W = scipy.linalg.solve_discrete_lyapunov(A, B @ B.T)
    M = scipy.linalg.solve_discrete_lyapunov(A.T, C.T @ C)
    radius = np.abs(np.linalg.eigvals(A)).max()
    assert radius < 1
    horizons = [20, 40, 60]
    left = []
    for steps in horizons:
        flow = flow_of(model, draw, steps)
        found = (
            controllability_gramian(flow).to_dense().numpy(),
            observability_gramian(flow).to_dense().numpy(),
        )
        power = np.linalg.matrix_power(A, steps)
        scale = np.linalg.norm(W)
        np.testing.assert_allclose(W - found[0], power @ W @ power.T, rtol=0, atol=1e-11 * scale)
        rest = power.T @ M @ power
        np.testing.assert_allclose(M - found[1], rest, rtol=0, atol=1e-11 * np.linalg.norm(M))
        left.append(np.linalg.norm(W - found[0]) / scale)
    if left[-1] > 1e-10:  # above rounding: the rate is that of the slowest mode
        rate = (left[2] / left[1]) ** (1 / 40)
        assert rate == pytest.approx(radius, rel=0.02)
    assert left[0] > 1.2 * left[1] > 1.44 * left[2]


def test_infinitely_many_steps(make, draw, close, differ) -> None:
    model = make("lti", spectral_radius=0.7)
    A, B, _ = system(model)
    W = torch.from_numpy(scipy.linalg.solve_discrete_lyapunov(A, B @ B.T))
    radius = np.abs(np.linalg.eigvals(A)).max()
    steps = int(np.ceil(np.log(1e-14) / (2 * np.log(radius))))
    close(controllability_gramian(flow_of(model, draw, steps)).to_dense(), W, 1e-12)
    differ(controllability_gramian(flow_of(model, draw, 3)).to_dense(), W)


@pytest.mark.parametrize("form", FORMS)
def test_operators_of_input_and_output(make, draw, close, form) -> None:
    """P B x is the roll-out from rest, and C h + D x the output."""
    model = make(form)
    x = draw(2, 6, 3, seed=1)
    run = model.rollout(x)
    flow = linearize(model, x)
    close(flow.P(input_operator(flow)(x)), run.states, 1e-13)
    skip = model.output(model.rollout(x)) - output_operator(flow)(run.states.detach())
    with torch.no_grad():
        for parameter in ("A", "B"):
            if hasattr(model, parameter) and parameter in dict(model.named_parameters()):
                model.get_parameter(parameter).zero_()
    assert float(skip.detach().norm()) > 0
    close(skip, model.output(run) - run.states @ model.output_weight().T, 1e-12)
    gramian = controllability_gramian(flow)
    assert repr(gramian).startswith("(P B B* P*)")
    assert gramian.positive


def test_masked_steps_take_no_input_and_give_no_output(make, draw, close, mask) -> None:
    model = make("lru")
    x = draw(2, 6, 3, seed=1)
    flow = linearize(model, x, None, mask)
    free = linearize(model, x)
    W, short = controllability_gramian(flow).to_dense(), controllability_gramian(free, 3).to_dense()
    close(W[8:, 8:], short[8:, 8:], 1e-13)  # the second trial makes four of the six steps
    assert not bool(output_operator(flow)(flow.trajectory.states)[~mask].any())
    close(
        observability_gramian(flow).to_dense()[8:, 8:],
        observability_gramian(free, 2).to_dense()[8:, 8:],
        1e-13,
    )


def test_only_linear_models(make, draw) -> None:
    flow = linearize(make("mamba"), draw(1, 4, 3, seed=1))
    with pytest.raises(UnsupportedError, match=r"flow: expected .* linear state-space model .* got Mamba"):
        controllability_gramian(flow)
