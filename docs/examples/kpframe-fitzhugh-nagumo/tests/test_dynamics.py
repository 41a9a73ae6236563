"""The trajectories against an independent loop and scipy's integrator; the two forms against each other."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

import kpframe

NAMES = ("fitzhugh_nagumo", "fitzhugh_nagumo_sites")


def make(name, neurons=3, inputs=2, **settings):
    settings = {"input_size": inputs, "hidden_size": neurons, "seed": 0} | settings
    return kpframe.create_model(name, **settings).double()


def inputs(trials=2, steps=30, width=2):
    generator = torch.Generator().manual_seed(1)
    return torch.randn(trials, steps, width, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("name", NAMES)
def test_the_states_equal_a_loop_over_neurons(name):
    model, x = make(name), inputs()
    coupling, drive = (p.detach().numpy() for p in (model.coupling, model.drive))
    dt, a, b, tau = 0.1, 0.7, 0.8, 12.5
    states = model.rollout(x).states.detach().numpy()
    for trial in range(2):
        v, w = [0.0] * 3, [0.0] * 3
        for t in range(30):
            old = list(v)
            for i in range(3):
                current = sum(coupling[i, j] * old[j] for j in range(3))
                current += sum(drive[i, k] * float(x[trial, t, k]) for k in range(2))
                slow = (old[i] + a - b * w[i]) / tau
                exact = np.exp(dt) * old[i] / np.sqrt(1 + (np.exp(2 * dt) - 1) / 3 * old[i] ** 2)
                v[i] = exact + dt * (current - w[i])
                w[i] = w[i] + dt * slow
            np.testing.assert_allclose(states[trial, t], v + w, rtol=1e-12, atol=1e-13)


def final_error(dt):
    """Return how far a roll-out of 40 time units at constant input ends from scipy's solution."""
    model = make("fitzhugh_nagumo", dt=dt)
    coupling, drive = (p.detach().numpy() for p in (model.coupling, model.drive))
    push = np.array([0.6, -0.2])

    def slopes(_, y):
        v, w = y[:3], y[3:]
        dv = v - v**3 / 3 - w + coupling @ v + drive @ push
        return np.concatenate([dv, (v + 0.7 - 0.8 * w) / 12.5])

    exact = solve_ivp(slopes, (0, 40), np.zeros(6), rtol=1e-10, atol=1e-12).y[:, -1]
    with torch.no_grad():
        states = model.rollout(torch.from_numpy(push).expand(1, round(40 / dt), 2)).states
    return float(np.abs(states[0, -1].numpy() - exact).max())


def test_short_steps_approach_the_differential_equation():
    coarse, fine = final_error(0.02), final_error(0.01)
    assert fine < 5e-2
    assert coarse / fine == pytest.approx(2, rel=0.2)  # of first order


def test_a_strong_current_does_not_explode():
    with torch.no_grad():
        states = make("fitzhugh_nagumo").rollout(1e6 * inputs()).states
    assert bool(states.isfinite().all())
    assert float(states.abs().max()) < 1e6


def test_a_neuron_alone_is_excitable():
    """A strong current makes it fire again and again, none lets it rest (FitzHugh 1961)."""
    model = make("fitzhugh_nagumo", neurons=1, inputs=1)
    with torch.no_grad():
        model.coupling.zero_()
        model.drive.fill_(1)
        strong, none = (
            model.rollout(torch.full((1, 3000, 1), current, dtype=torch.float64)).component("v")[0, 1000:, 0]
            for current in (0.5, 0.0)
        )
    assert ((strong[1:] > 1) & (strong[:-1] <= 1)).sum() >= 3
    assert float(none.max()) == pytest.approx(-1.1994, abs=1e-2)  # within the order of dt


@pytest.mark.parametrize("mask", [None, torch.arange(30) < torch.tensor([[30], [12]])])
def test_the_two_forms_are_one_network(mask):
    plain, structured = (kpframe.linearize(make(name), inputs(), mask=mask) for name in NAMES)
    assert (structured.P.method, structured.K.method) == ("sites", "sites")
    assert (plain.K.method, plain.P.method) == ("autograd", "dense")

    def same(first, second):
        assert float((first - second).norm()) <= 1e-12 * float(first.norm())
        assert float(first.norm()) > 0

    same(plain.trajectory.states, structured.trajectory.states)
    generator = torch.Generator().manual_seed(2)
    q = torch.randn(2, 30, 6, generator=generator, dtype=torch.float64)
    for name in ("A", "P", "K", "Phi"):
        one, other = getattr(plain, name), getattr(structured, name)
        same(one(q), other(q))
        same(one.T(q), other.T(q))
    same(plain.J.T(q), structured.J.T(q))
    assert float((plain.P(q) - structured.P.T(q)).norm()) > 1e-2 * float(q.norm())


def test_other_weights_give_another_network():
    x = inputs()
    with torch.no_grad():
        one, other = (make("fitzhugh_nagumo", seed=seed).rollout(x).states for seed in (0, 1))
    assert float((one - other).norm()) > 1e-2 * float(one.norm())
