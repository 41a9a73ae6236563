"""Trajectories against a loop over single synapses; gradients against another loop's backward pass."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from kpframe import linearize

EVERY = list(
    itertools.product(
        ("additive", "multiplicative"),
        ("hebbian", "presynaptic", "oja"),
        ("none", "row", "tanh"),
        ("tanh", "sigmoid", "relu", "identity"),
    )
)


@pytest.mark.parametrize(("form", "rule", "normalization", "nonlinearity"), EVERY)
@pytest.mark.rows(6)
def test_trajectory(make, close, differ, loop, x, h0, form, rule, normalization, nonlinearity) -> None:
    settings = {"rule": rule, "normalization": normalization, "nonlinearity": nonlinearity}
    model = make(form=form, **settings)
    states = model.rollout(x, h0).states
    close(states, loop(model, x, h0), 1e-13)
    other = make(form="additive" if form == "multiplicative" else "multiplicative", **settings)
    differ(states, loop(other, x, h0))


SHAPES = ("scalar", "pre", "post", "matrix")


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("eta_shape", SHAPES)
@pytest.mark.parametrize("lam_shape", SHAPES)
@pytest.mark.rows(6)
def test_shapes_of_the_rates(make, close, differ, loop, x, h0, eta_shape, lam_shape, trained) -> None:
    sizes = {"scalar": 1, "pre": 2, "post": 3, "matrix": 6}
    eta = tuple(0.2 + 0.1 * i for i in range(sizes[eta_shape])) if eta_shape != "scalar" else 0.2
    lam = tuple(0.9 - 0.1 * i for i in range(sizes[lam_shape])) if lam_shape != "scalar" else 0.9
    model = make(
        eta=eta,
        lam=lam,
        eta_shape=eta_shape,
        lam_shape=lam_shape,
        train_eta=trained,
        train_lam=trained,
        eta_constraint="positive",
    )
    states = model.rollout(x, h0).states
    close(states, loop(model, x, h0), 1e-13)
    for rate in (model.eta, model.lam):  # an entry at its own place
        if rate.fixed is None and rate.raw.numel() > 1:
            with torch.no_grad():
                rate.raw.copy_(rate.raw.flatten().flip(0).reshape(rate.raw.shape))
            differ(model.rollout(x, h0).states, states)
    close(model.rollout(x, h0).states, loop(model, x, h0), 1e-13)


@pytest.mark.parametrize("form", ["additive", "multiplicative"])
def test_order_of_the_update(make, close, differ, loop, x, h0, form) -> None:
    """The old M in h_t and the new h_t in M_t; both other orders are other networks."""
    model = make(form=form)
    states = model.rollout(x, h0).states
    close(states, loop(model, x, h0), 1e-13)
    differ(states, loop(model, x, h0, order="new M"))
    differ(states, loop(model, x, h0, order="old h"))
    assert torch.equal(states, model.rollout(x, torch.cat([0 * h0[:, :3], h0[:, 3:]], dim=1)).states)


def synapses(module, theta: dict[str, torch.Tensor], name: str, size: tuple[int, int]) -> torch.Tensor:
    """Return a rate ``[n, k]`` from its raw parameter."""
    if module.fixed is not None:
        return torch.full(size, module.fixed, dtype=torch.float64)
    raw = theta.get(f"{name}.raw", module.raw)
    if module.trained and module.range.low == 0:
        raw = (
            torch.log1p(raw.exp())
            if math.isinf(module.range.high)
            else module.range.high / (1 + (-raw).exp())
        )
    letters = {"scalar": "", "pre": "j", "post": "i", "matrix": "ij"}[module.shape]
    return torch.einsum(f"{letters},ij->ij", raw, torch.ones(size, dtype=torch.float64))


def written_in_torch(model, theta: dict[str, torch.Tensor], x, h0, mask) -> torch.Tensor:
    """Return the states, from the equations on whole tensors and from the raw parameters in ``theta``."""
    W = theta["weight_ih_l0"]
    eta, lam = (synapses(getattr(model, name), theta, name, W.shape) for name in ("eta", "lam"))
    n, k = W.shape
    h, M = h0[:, :n], h0[:, n:].reshape(-1, n, k)
    states = []
    for t, row in enumerate(x.unbind(1)):
        effective = W + M if model.form == "additive" else W + W * M
        u = torch.einsum("bij,bj->bi", effective, row) + theta.get("bias_ih_l0", 0)
        new = {"tanh": u.tanh, "sigmoid": u.sigmoid, "relu": lambda u=u: u.clamp(min=0), "identity": u.clone}[
            model.nonlinearity
        ]()
        post = torch.full_like(new, n**-0.5) if model.rule == "presynaptic" else new
        change = torch.einsum("ij,bi,bj->bij", eta, post, row)
        if model.rule == "oja":
            change = change - torch.einsum("ij,bi,bij->bij", eta.abs(), new**2, M)
        R = lam * M + change
        if model.normalization == "row":
            R = torch.nn.functional.normalize(R, dim=2)
        elif model.normalization == "tanh":
            R = R.tanh()
        on = torch.ones(len(x), dtype=torch.bool) if mask is None else mask[:, t]
        h, M = torch.where(on[:, None], new, h), torch.where(on[:, None, None], R, M)
        states.append(torch.cat([h, M.reshape(len(x), -1)], dim=1))
    return torch.stack(states, dim=1)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.rows(6)
def test_gradients(make, draw, close, differ, variant, x, mask, masked) -> None:
    model = make(**variant, trainable_initial_state=True)
    chosen = mask if masked else None
    err = draw(*x.shape[:2], model.width, seed=7)
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    states = written_in_torch(model, theta, x, theta["h0"].expand(len(x), -1), chosen)
    (states * err).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in theta.values()])

    close(model.rollout(x, mask=chosen).states, states, 1e-13)
    (model.rollout(x, mask=chosen).states * err).sum().backward()
    close(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected, 1e-12)
    flow = linearize(model, x, mask=chosen)
    update = flow.J.T @ flow.P.T
    close(update(err), expected, 1e-12)
    differ(flow.J.T(err), expected)
    differ(update(err.flip(1)), expected)


def test_a_given_initial_state_is_a_constant(make, draw, x) -> None:
    model = make(trainable_initial_state=True)
    flow = linearize(model, x, model.h0.detach().expand(2, -1))
    part = flow.J.domain["parameter"].part("h0").slice
    gradient = (flow.J.T @ flow.P.T)(draw(2, 4, model.width, seed=7))
    assert torch.equal(gradient[part], torch.zeros(model.width, dtype=torch.float64))
    assert bool(gradient.any())
