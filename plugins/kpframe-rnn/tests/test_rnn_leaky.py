"""The leaky forms against a loop in NumPy, and against each other."""

from __future__ import annotations

import numpy as np
import pytest
import torch

PHI = {"tanh": np.tanh, "relu": lambda u: u * (u > 0)}


def loop(model, x, h0, form: str, alpha: float, nonlinearity: str) -> torch.Tensor:
    """Return the states, one trial and one step at a time, from the definition."""
    W, U, b, c = (
        model.state_dict()[name].numpy()
        for name in ("weight_hh_l0", "weight_ih_l0", "bias_ih_l0", "bias_hh_l0")
    )
    phi = PHI[nonlinearity]
    states = np.zeros((*x.shape[:2], len(W)))
    for trial, inputs in enumerate(x.numpy()):
        h = h0[trial].numpy()
        for t, row in enumerate(inputs):
            if form == "rate":
                h = (1 - alpha) * h + alpha * phi(W @ h + U @ row + b + c)
            else:
                h = (1 - alpha) * h + alpha * (W @ phi(h) + U @ row + b + c)
            states[trial, t] = h
    return torch.from_numpy(states)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize("alpha", [0.1, 0.7, 1.0])
@pytest.mark.parametrize(("form", "other"), [("rate", "current"), ("current", "rate")])
def test_trajectory(make, draw, close, differ, x, form, other, alpha, nonlinearity) -> None:
    model = make(form=form, alpha=alpha, nonlinearity=nonlinearity)
    h0 = draw(2, 4, seed=5)
    states = model.rollout(x, h0).states
    close(states, loop(model, x, h0, form, alpha, nonlinearity), 1e-12)
    differ(states, loop(model, x, h0, other, alpha, nonlinearity))
    differ(states, loop(model, x, h0, form, 0.9 * alpha, nonlinearity))


def test_rate_with_alpha_one_is_vanilla(make, close, differ, x) -> None:
    vanilla = make(form="vanilla").rollout(x).states
    close(make(form="rate", alpha=1.0).rollout(x).states, vanilla, 1e-15)
    differ(make(form="rate", alpha=0.9).rollout(x).states, vanilla)
    differ(make(form="current", alpha=1.0).rollout(x).states, vanilla)


def test_rates_of_currents_with_alpha_one_are_vanilla(make, close, differ, x) -> None:
    vanilla = make(form="vanilla").rollout(x).states
    close(make(form="current", alpha=1.0).rollout(x).states.tanh(), vanilla, 1e-12)
    differ(make(form="current", alpha=0.5).rollout(x).states.tanh(), vanilla)


@pytest.mark.parametrize("form", ["rate", "current"])
def test_without_weights_the_state_decays(make, close, form) -> None:
    model = make(form=form, alpha=0.25)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    h0 = torch.tensor([[1.0, -2.0, 3.0, 0.5]], dtype=torch.float64)
    states = model.rollout(torch.ones(1, 6, 3, dtype=torch.float64), h0).states
    steps = torch.arange(1, 7, dtype=torch.float64)
    close(states[0], 0.75 ** steps[:, None] * h0, 1e-14)
