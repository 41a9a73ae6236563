"""Spectra and estimates of real flows against dense autograd Jacobians."""

from __future__ import annotations

import pytest
import torch

from kpframe import Flow, alignment, create_model, create_rule, effective_rank, eigsh, linearize, svd, trace

F64 = torch.float64
pytestmark = pytest.mark.slow  # dense matrices of 9600 rows


@pytest.fixture(scope="module")
def flow() -> Flow:
    torch.manual_seed(0)
    model = create_model("gru", input_size=4, hidden_size=32, seed=0).to(F64)
    return linearize(model, torch.randn(10, 30, 4, dtype=F64))


@pytest.fixture(scope="module")
def total_jacobian(flow: Flow) -> torch.Tensor:  # [B T H, M]
    """Return G = dh/dtheta of the roll-out by autograd, one reverse pass a state, trial by trial."""
    parameters = list(flow.model.trainable().values())
    rows = []
    for trial in flow.trajectory.inputs:
        out = flow.model.rollout(trial.unsqueeze(0)).states.reshape(-1)
        unit = torch.eye(len(out), dtype=F64)
        gradients = torch.autograd.grad(out, parameters, unit, is_grads_batched=True)
        rows.append(torch.cat([g.reshape(len(out), -1) for g in gradients], dim=1))
    return torch.cat(rows)


def test_leading_singular_values_of_phi(flow: Flow, total_jacobian: torch.Tensor) -> None:
    expected = torch.linalg.svdvals(total_jacobian)[:20] ** 2
    for values in (svd(flow.Phi, k=20).S, eigsh(flow.Phi, k=20).eigenvalues):
        torch.testing.assert_close(values, expected, rtol=1e-8, atol=0)
    other = svd(create_rule("truncated_bptt", window=5).flow_operator(flow), k=3).S
    assert (other / expected[:3] - 1).abs().max() > 1e-3


def test_singular_vectors_are_those_of_the_operator(flow: Flow) -> None:
    G = flow.P @ flow.J
    found = svd(G, k=5)
    assert found.U.shape == (5, *flow.P.domain.shape)
    torch.testing.assert_close(G(found.V), found.S.reshape(-1, 1, 1, 1) * found.U, rtol=0, atol=1e-6)
    assert bool(found.converged.all())


def test_estimates_cover_the_exact_values(flow: Flow, total_jacobian: torch.Tensor) -> None:
    gram = total_jacobian.T @ total_jacobian  # the same nonzero spectrum as Phi
    exact_trace, square = float(gram.trace()), float((gram * gram).sum())
    estimate = trace(flow.Phi, budget=60)
    assert 0 < estimate.stderr < 0.05 * exact_trace
    assert abs(estimate.value - exact_trace) < 4 * estimate.stderr
    rank = effective_rank(flow.Phi, budget=60)
    assert 0 < rank.stderr < 0.05 * rank.value
    assert abs(rank.value - exact_trace**2 / square) < 4 * rank.stderr
    truncated = create_rule("truncated_bptt", window=3).flow_operator(flow)
    close = alignment(truncated, flow.Phi, budget=60)
    assert abs(close.value) < 1 - 4 * close.stderr  # a truncation is not the exact flow
    assert alignment(flow.Phi, flow.Phi, budget=60).value == pytest.approx(1, abs=1e-9)
