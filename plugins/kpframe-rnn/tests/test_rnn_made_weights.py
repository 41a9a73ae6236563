"""Masks, Dale's law and low rank: the matrices that act, their gradients and K, against explicit ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe import linearize

RECTIFY = {
    "abs": np.abs,
    "relu": lambda w: np.where(w > 0, w, 0),
    "softplus": lambda w: np.log1p(np.exp(w)),
}

MADE = {
    "masked": {"density": 0.5},
    "masked without self-connections": {"density": 1.0, "self_connections": False},
    "dale": {"excitatory_fraction": 0.5},
    "dale relu": {"excitatory_fraction": 0.75, "rectifier": "relu"},
    "dale softplus masked": {"excitatory_fraction": 0.5, "rectifier": "softplus", "density": 0.5},
    "low rank": {"rank": 2, "gain": None},
    "low rank and bulk": {"rank": 1},
    "low rank, trained bulk, masked": {"rank": 1, "train_bulk": True, "density": 0.5},
}


@pytest.fixture(params=MADE)
def made(request) -> dict[str, object]:
    return MADE[request.param]


def effective(theta: dict[str, np.ndarray], settings: dict[str, object]) -> np.ndarray:
    """Return the recurrent matrix, entry by entry from the parameters and buffers."""
    n = len(theta["weight_ih_l0"])
    W = np.zeros((n, n))
    for i in range(n):
        for j in range(n):
            if "rank" in settings:
                w = sum(theta["m_l0"][i, r] * theta["n_l0"][j, r] for r in range(settings["rank"])) / n
                w += theta["bulk_hh_l0"][i, j] if "bulk_hh_l0" in theta else 0.0
            else:
                w = theta["weight_hh_l0"][i, j]
            if "excitatory_fraction" in settings:
                excitatory = j < round(settings["excitatory_fraction"] * n)
                w = RECTIFY[settings.get("rectifier", "abs")](w) * (1 if excitatory else -1)
            W[i, j] = w * (theta["mask_hh_l0"][i, j] if "mask_hh_l0" in theta else 1.0)
    return W


def loop(model, x, W: np.ndarray) -> torch.Tensor:
    """Return the states of a rate network of alpha 0.4, one trial and one step at a time."""
    theta = {name: value.numpy() for name, value in model.state_dict().items()}
    states = np.zeros((*x.shape[:2], len(W)))
    for trial, inputs in enumerate(x.numpy()):
        h = np.zeros(len(W))
        for t, row in enumerate(inputs):
            u = W @ h + theta["weight_ih_l0"] @ row + theta["bias_ih_l0"] + theta["bias_hh_l0"]
            h = 0.6 * h + 0.4 * np.tanh(u)
            states[trial, t] = h
    return torch.from_numpy(states)


def test_trajectory(make, scramble, close, differ, x, made) -> None:
    model = scramble(make(form="rate", alpha=0.4, **made))
    theta = {name: value.numpy() for name, value in model.state_dict().items()}
    W = effective(theta, made)
    close(model.site_weight("weight_hh_l0"), torch.from_numpy(W), 1e-14)
    states = model.rollout(x).states
    close(states, loop(model, x, W), 1e-13)
    differ(states, loop(model, x, W.T))
    raw = theta["m_l0"] @ theta["n_l0"].T if "rank" in made else theta["weight_hh_l0"]
    differ(states, loop(model, x, raw))


def test_gradients(make, scramble, draw, close, differ, x, made) -> None:
    """The update through the operators is the gradient of a loop over an explicit matrix, chained by hand."""
    model = scramble(make(form="rate", alpha=0.4, **made))
    err = draw(2, 5, 4, seed=7)
    theta = {name: p.detach().clone().requires_grad_() for name, p in model.named_parameters()}
    W = model.site_weight("weight_hh_l0").detach().requires_grad_()
    h, loss = torch.zeros(2, 4, dtype=torch.float64), 0.0
    for t in range(5):
        u = h @ W.T + x[:, t] @ theta["weight_ih_l0"].T + theta["bias_ih_l0"] + theta["bias_hh_l0"]
        h = 0.6 * h + 0.4 * torch.tanh(u)
        loss = loss + (h * err[:, t]).sum()
    loss.backward()
    direct = W.grad * getattr(model, "mask_hh_l0", 1.0)
    chained = {"bulk_hh_l0": direct}
    if "rank" in made:
        chained["m_l0"] = direct @ theta["n_l0"].detach() / 4
        chained["n_l0"] = direct.T @ theta["m_l0"].detach() / 4
    else:
        w = theta["weight_hh_l0"].detach()
        slope = {"abs": w.sign(), "relu": (w > 0).double(), "softplus": 1 / (1 + (-w).exp())}
        dale = "excitatory_fraction" in made
        factor = slope[made.get("rectifier", "abs")] * model.signs if dale else 1.0
        chained["weight_hh_l0"] = direct * factor
    expected = torch.cat([chained.get(n, p.grad).reshape(-1) for n, p in theta.items()])
    flow = linearize(model, x)
    close((flow.J.T @ flow.P.T)(err), expected, 1e-12)
    differ(flow.J.T(err), expected)
    (model.rollout(x).states * err).sum().backward()
    close(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected, 1e-12)


def gram(flow, unit: int) -> torch.Tensor:
    """Return one unit's block of K over trials and steps, its gains divided out."""
    rows = flow.P.domain.shape[0] * flow.P.domain.shape[1]
    K = flow.K.to_dense().reshape(rows, 4, rows, 4)[:, unit, :, unit]
    gain = 1 - flow.trajectory.states.reshape(rows, 4)[:, unit] ** 2
    return K / torch.outer(gain, gain)


@pytest.mark.parametrize(
    ("settings", "shared"),
    [
        ({}, True),
        ({"density": 1.0}, True),
        ({"excitatory_fraction": 0.5}, True),  # the derivative of |w| is 1 but for its sign
        ({"density": 0.5}, False),
        ({"excitatory_fraction": 0.5, "rectifier": "softplus"}, False),
        ({"rank": 1}, False),
    ],
)
def test_when_units_share_a_gram_matrix(make, x, settings, shared) -> None:
    flow = linearize(make(**settings), x)
    z = torch.cat([flow.trajectory.inputs, flow.trajectory.previous], dim=-1).flatten(0, 1)
    whole = z @ z.T + 2
    apart = max(float((gram(flow, i) - whole).norm() / whole.norm()) for i in range(4))
    assert apart <= 1e-12 if shared else apart > 1e-2


def test_a_masked_units_own_gram_matrix(make, x, close, differ) -> None:
    model = make(density=0.5)
    flow = linearize(model, x)
    for unit in range(4):
        z = (flow.trajectory.previous * model.mask_hh_l0[unit]).flatten(0, 1)
        inputs = flow.trajectory.inputs.flatten(0, 1)
        close(gram(flow, unit), z @ z.T + inputs @ inputs.T + 2, 1e-12)
        other = (flow.trajectory.previous * (1 - model.mask_hh_l0[unit])).flatten(0, 1)
        differ(gram(flow, unit), other @ other.T + inputs @ inputs.T + 2)
