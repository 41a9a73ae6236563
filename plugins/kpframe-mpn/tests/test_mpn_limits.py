"""What is known of these networks: limits of the rates, closed forms, and what the rules converge to."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize


def test_without_plasticity_it_is_a_feedforward_layer(make, close, differ, x, h0) -> None:
    model = make(eta=0, train_eta=False, lam=0.7, train_lam=False)
    layer = torch.nn.functional.linear(x, model.weight_ih_l0, model.bias_ih_l0).tanh()
    states = model.rollout(x).states
    close(states[..., :3], layer, 1e-14)
    assert not bool(states[..., 3:].any())
    differ(make(eta=0.5, train_eta=False, lam=0.7, train_lam=False).rollout(x).states[..., :3], layer)
    # a given M fades on its own, and A on M is the fading alone
    flow = linearize(model, x, h0)
    steps = torch.arange(1, 5, dtype=x.dtype)
    close(flow.trajectory.component("M"), 0.7 ** steps[:, None] * h0[:, None, 3:], 1e-14)
    close(flow.A.blocks()[..., 3:, 3:], (0.7 * torch.eye(6, dtype=x.dtype)).expand(2, 4, 6, 6), 1e-15)


def test_without_memory_one_step_is_left(make, close, differ, x, h0) -> None:
    """lambda = 0: M holds the last step alone."""
    model = make(lam=0, train_lam=False, eta=0.5, train_eta=False)
    flow = linearize(model, x, h0)
    h, M = flow.trajectory.component("h"), flow.trajectory.component("M").reshape(2, 4, 3, 2)
    close(M, 0.5 * torch.einsum("bti,btj->btij", h, x), 1e-14)
    assert not bool(flow.A.direct().blocks().any())

    presynaptic = make(rule="presynaptic", lam=0, train_lam=False)
    moved = x.clone()
    moved[:, 0] += 1
    one, other = presynaptic.rollout(x).states[..., :3], presynaptic.rollout(moved).states[..., :3]
    differ(one[:, :2], other[:, :2])
    assert torch.equal(one[:, 2:], other[:, 2:])
    P = linearize(presynaptic, x).P
    assert not bool(P.transition(3, 1).to_dense().any())
    assert bool(P.transition(2, 1).to_dense().any())


def attention(W: torch.Tensor, x: torch.Tensor, eta: float, lam: float, late: int = 1) -> torch.Tensor:
    """Return ``h_t = W x_t + eta Sum_{s<t} lambda^(t-late-s) h_s (x_s . x_t)``: linear attention."""
    h: list[torch.Tensor] = []
    for t in range(x.shape[1]):
        new = x[:, t] @ W.T
        for s in range(t):
            match = (x[:, s] * x[:, t]).sum(dim=1, keepdim=True)
            new = new + eta * lam ** (t - late - s) * match * h[s]
        h.append(new)
    return torch.stack(h, dim=1)


def test_linear_and_additive_it_is_linear_attention(make, draw, close, differ) -> None:
    """Fast weights are attention without softmax (Ba et al. 2016; Schlag et al. 2021)."""
    x = draw(2, 8, 2, seed=21)
    rates = {"eta": 0.3, "lam": 0.9, "train_eta": False, "train_lam": False}
    model = make(form="additive", nonlinearity="identity", bias=False, **rates)
    h = model.rollout(x).states[..., :3]
    close(h, attention(model.weight_ih_l0, x, 0.3, 0.9), 1e-13)
    differ(h, attention(model.weight_ih_l0, x, 0.3, 0.9, late=0))
    differ(h, x @ model.weight_ih_l0.T)


@pytest.mark.parametrize("normalization", ["none", "tanh", "row"])
def test_bounds_of_M(make, draw, normalization) -> None:
    """Unit rows; |M| < 1, with which no modulated weight changes its sign; without either, it may."""
    model = make(normalization=normalization, eta=3.0)
    M = model.rollout(2 * draw(2, 50, 2, seed=1)).states[..., 3:].reshape(2, 50, 3, 2)
    unit = (M.norm(dim=-1) - 1).abs() < 1e-14
    W = model.weight_ih_l0
    kept = W.sign() == (W * (1 + M)).sign()
    assert bool(unit.all()) == (normalization == "row")
    assert bool((M.abs() < 1).all()) == (normalization != "none")
    assert bool(kept.all()) == (normalization != "none")


def test_oja_finds_the_principal_component(make, draw) -> None:
    """Linear neurons whose weights are M alone, lambda = 1: each row of M becomes the unit eigenvector."""
    covariance = torch.tensor([[2.0, 0.9], [0.9, 1.0]], dtype=torch.float64)
    x = draw(1, 4000, 2, seed=2) @ torch.linalg.cholesky(covariance).T
    values, vectors = torch.linalg.eigh(x[0].T @ x[0] / 4000)
    start = torch.cat([torch.zeros(3), torch.tensor([0.5, -0.3, 0.1, 0.4, -0.6, 0.2])]).double().unsqueeze(0)
    rates = {"eta": 2e-3, "lam": 1.0, "train_eta": False, "train_lam": False, "bias": False}

    def final(rule: str, steps: int) -> torch.Tensor:
        model = make(form="additive", nonlinearity="identity", rule=rule, **rates)
        with torch.no_grad():
            model.weight_ih_l0.zero_()
            return model.rollout(x[:, :steps], start).final[0, 3:].reshape(3, 2)

    rows = final("oja", 4000)
    assert torch.allclose(rows.norm(dim=1), torch.ones(3, dtype=x.dtype), atol=0.03)
    assert float((rows @ vectors[:, -1]).abs().min()) > 0.999
    assert float(values[1] / values[0]) > 3
    assert float(final("hebbian", 2000).norm(dim=1).min()) > 1e3  # Hebb's rule alone does not stop


@pytest.mark.parametrize("rule", ["hebbian", "oja", "presynaptic"])
def test_without_input_activity_tells_nothing_of_M(make, draw, rule) -> None:
    """There are no recurrent weights: memory is read by an input, and fades without one."""
    model = make(rule=rule, lam=0.6, train_lam=False)
    start = draw(2, 9, seed=4)
    states = model.rollout(torch.zeros(2, 3, 2, dtype=torch.float64), start).states
    assert torch.equal(states[0, :, :3], states[1, :, :3])
    assert not torch.equal(states[0, :, 3:], states[1, :, 3:])
    assert bool((states[:, 2, 3:].abs() < states[:, 0, 3:].abs()).all())
