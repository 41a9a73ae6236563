"""``neural_ode`` against torchdiffeq, and every integrator against a loop in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kpframe_ode import INTEGRATORS, ODEModel
from torchdiffeq import odeint, odeint_adjoint

from kpframe import linearize, lyapunov_exponents

#: Ours -> torchdiffeq's.
METHODS = {"euler": "euler", "midpoint": "midpoint", "heun": "heun2", "rk4_38": "rk4"}


class Velocity(torch.nn.Module):
    """The perceptron as torch.nn writes it, for one input."""

    def __init__(self, model) -> None:
        super().__init__()
        layers = [torch.nn.Linear(model.width + model.input_size, len(model.bias_l0))]
        for k in range(1, sum(name.startswith("weight_l") for name in model.state_dict()) + 1):
            layers += [torch.nn.Tanh(), torch.nn.Linear(*model.get_parameter(f"weight_l{k}").shape[::-1])]
        layers += [torch.nn.Tanh(), torch.nn.Linear(*model.weight_out.shape[::-1])]
        self.net = torch.nn.Sequential(*layers).double()
        self.leak, self.x = model.leak, None
        with torch.no_grad():
            first, *rest = [layer for layer in self.net if isinstance(layer, torch.nn.Linear)]
            first.weight.copy_(torch.cat([model.weight_hh_l0, model.weight_ih_l0], dim=1))
            first.bias.copy_(model.bias_l0)
            names = [f"l{k}" for k in range(1, len(rest))] + ["out"]
            for layer, name in zip(rest, names, strict=True):
                layer.weight.copy_(model.get_parameter(f"weight_{name}"))
                layer.bias.copy_(model.get_parameter(f"bias_{name}"))

    def forward(self, t, h):
        return self.net(torch.cat([h, self.x], dim=-1)) - self.leak * h

    def gradient(self, model) -> torch.Tensor:
        """Return the gradients in the order of the model's parameters."""
        first, *rest = [layer for layer in self.net if isinstance(layer, torch.nn.Linear)]
        by_state, by_input = first.weight.grad.split([model.width, model.input_size], dim=1)
        own = {"weight_hh_l0": by_state, "weight_ih_l0": by_input, "bias_l0": first.bias.grad}
        names = [f"l{k}" for k in range(1, len(rest))] + ["out"]
        for layer, name in zip(rest, names, strict=True):
            own |= {f"weight_{name}": layer.weight.grad, f"bias_{name}": layer.bias.grad}
        return torch.cat([own[name].reshape(-1) for name in model.trainable()])


def trace(velocity, model, x, h0, method, solve=odeint) -> torch.Tensor:  # [B, T, H]
    """Return the states by torchdiffeq, the input held over each step."""
    h, states = h0, []
    for n in range(x.shape[1]):
        velocity.x = x[:, n]
        times = torch.tensor([n, n + 1], dtype=torch.float64) * model.dt
        h = solve(velocity, h, times, method=method, options={"step_size": model.dt / model.substeps})[-1]
        states.append(h)
    return torch.stack(states, dim=1)


@pytest.fixture(params=[(1, 0.0, 1), (3, 0.7, 2)], ids=["shallow", "deep, leaky, substeps"])
def build(request, make):
    depth, leak, substeps = request.param

    def model(integrator, **settings):
        chosen = {"mlp_width": 5, "mlp_depth": depth, "leak": leak, "substeps": substeps, "dt": 0.4}
        return make("neural_ode", integrator=integrator, **chosen | settings)

    return model


@pytest.mark.parametrize("integrator", METHODS)
@pytest.mark.rows(3)
def test_trajectory(build, draw, close, differ, x, integrator) -> None:
    model, h0 = build(integrator), draw(2, 3, seed=5)
    states = model.rollout(x, h0).states
    close(states, trace(Velocity(model), model, x, h0, METHODS[integrator]), 1e-12)
    differ(states, trace(Velocity(model), model, x.flip(1), h0, METHODS[integrator]))
    others = {name: trace(Velocity(model), model, x, h0, name) for name in METHODS.values()}
    for name, other in others.items():
        if name != METHODS[integrator]:
            differ(states, other, 1e-7)


def test_rk4_of_torchdiffeq_is_the_three_eighths_rule(build, draw, x) -> None:
    model, h0 = build("rk4"), draw(2, 3, seed=5)
    gap = (model.rollout(x, h0).states - trace(Velocity(model), model, x, h0, "rk4")).detach()
    assert 1e-9 < float(gap.norm()) < 1e-2  # both of order 4, and not the same


@pytest.mark.parametrize("integrator", METHODS)
@pytest.mark.rows(3)
def test_gradients(build, draw, close, differ, x, integrator) -> None:
    model, h0, err = build(integrator), draw(2, 3, seed=5), draw(2, 4, 3, seed=7)
    expected = []
    for solve in (odeint, odeint_adjoint):
        velocity = Velocity(model)
        (trace(velocity, model, x, h0, METHODS[integrator], solve) * err).sum().backward()
        expected.append(velocity.gradient(model))
    (model.rollout(x, h0).states * err).sum().backward()
    close(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected[0], 1e-12)
    flow = linearize(model, x, h0)
    update = flow.J.T @ flow.P.T
    close(update(err), expected[0], 1e-12)
    differ(update(err.flip(1)), expected[0])
    differ(flow.J.T(err), expected[0])
    # the adjoint equation integrated backwards is the gradient of the exact solution, not of this map
    gap = float((expected[1] - expected[0]).norm() / expected[0].norm())
    assert gap > {"euler": 1e-2, "midpoint": 1e-3, "heun": 1e-3, "rk4_38": 1e-7}[integrator]


class Forced(ODEModel):
    time_varying = True

    def __init__(self, **settings) -> None:
        super().__init__(2, {"h": 2}, **{"dt": 0.4} | settings)

    def velocity(self, x, h, t=None):
        return torch.sin(3 * t).unsqueeze(-1) * h.flip(-1) - h + x


@pytest.mark.parametrize("integrator", METHODS)
def test_forcing_in_time(draw, close, differ, x, integrator) -> None:
    model, h0 = Forced(integrator=integrator, substeps=3), draw(2, 2, seed=5)

    class Field(torch.nn.Module):
        def forward(self, t, h):
            return torch.sin(3 * t) * h.flip(-1) - h + self.x

    states = model.rollout(x, h0).states
    close(states, trace(Field(), model, x, h0, METHODS[integrator]), 1e-13)
    late = model.rollout(torch.cat([x[:, :1], x], dim=1), h0).states[:, 1:]  # the same inputs a step later
    differ(late, states)


def loop(f, h, x, dt, substeps, integrator, linear):
    """Return the states ``[B, T, H]`` by the textbook's formulas, one line a method."""
    k, states = dt / substeps, []
    for n in range(x.shape[1]):
        for _ in range(substeps):
            k1 = f(h, x[:, n])
            if integrator == "euler":
                h = h + k * k1
            elif integrator == "midpoint":
                h = h + k * f(h + k * k1 / 2, x[:, n])
            elif integrator == "heun":
                h = h + k * (k1 + f(h + k * k1, x[:, n])) / 2
            elif integrator == "rk4":
                k2 = f(h + k * k1 / 2, x[:, n])
                k3 = f(h + k * k2 / 2, x[:, n])
                h = h + k * (k1 + 2 * k2 + 2 * k3 + f(h + k * k3, x[:, n])) / 6
            elif integrator == "rk4_38":
                k2 = f(h + k * k1 / 3, x[:, n])
                k3 = f(h + k * (-k1 / 3 + k2), x[:, n])
                h = h + k * (k1 + 3 * k2 + 3 * k3 + f(h + k * (k1 - k2 + k3), x[:, n])) / 8
            else:
                rest = k1 - linear * h  # variation of constants, the rest held constant
                h = np.exp(k * linear) * h + (np.exp(k * linear) - 1) / linear * rest
        states.append(h)
    return np.stack(states, axis=1)


@pytest.mark.parametrize("substeps", [1, 3])
@pytest.mark.parametrize("integrator", INTEGRATORS)
@pytest.mark.parametrize("name", ["neural_ode", "hopfield", "soft_spin"])
@pytest.mark.rows(6)
def test_loop(make, draw, close, differ, x, name, integrator, substeps) -> None:
    own = {"leak": 0.8, "mlp_width": 4} if name == "neural_ode" else {"coupling": 0.7}
    model = make(name, dt=0.3, integrator=integrator, substeps=substeps, **own)
    W = {key: value.numpy() for key, value in model.state_dict().items()}
    V = (W["weight_hh_l0"] + W["weight_hh_l0"].T) / 2 * (1 - np.eye(3)) if name != "neural_ode" else None

    def velocity(h, x):
        if name == "neural_ode":
            z = np.tanh(h @ W["weight_hh_l0"].T + x @ W["weight_ih_l0"].T + W["bias_l0"])
            return z @ W["weight_out"].T + W["bias_out"] - 0.8 * h
        drive = x @ W["weight_ih_l0"].T + W["bias_ih_l0"]
        if name == "hopfield":
            return -h + np.tanh(h) @ V.T + drive
        return h - h**3 + h @ V + drive

    linear = {"neural_ode": -0.8, "hopfield": -1.0, "soft_spin": 1.0}[name]
    h0 = draw(2, 3, seed=5)
    states = model.rollout(x, h0).states
    expected = loop(velocity, h0.numpy(), x.numpy(), 0.3, substeps, integrator, linear)
    close(states, torch.from_numpy(expected), 1e-12)
    for other in INTEGRATORS:
        if other != integrator:
            wrong = torch.from_numpy(loop(velocity, h0.numpy(), x.numpy(), 0.3, substeps, other, linear))
            differ(states, wrong, 1e-8)
    differ(states, torch.from_numpy(loop(velocity, h0.numpy(), x.numpy(), 0.2, substeps, integrator, linear)))


class Lorenz(ODEModel):
    def __init__(self, integrator) -> None:
        super().__init__(1, {"xyz": 3}, 0.01, integrator)
        self.constants = torch.nn.Parameter(torch.tensor([10, 28, 8 / 3], dtype=torch.float64))

    def velocity(self, x, h, t=None):
        sigma, rho, beta = self.constants
        X, Y, Z = h.unbind(-1)
        return torch.stack([sigma * (Y - X) + x[:, 0], X * (rho - Z) - Y, X * Y - beta * Z], dim=-1)


@pytest.mark.slow
def test_lyapunov_exponents_of_lorenz(draw) -> None:
    """0.9056, 0, -14.572 (Sprott 2003, Chaos and Time-Series Analysis); their sum is -(sigma + 1 + beta)."""
    x, h0, sums = torch.zeros(60, 3000, 1, dtype=torch.float64), 20 + draw(60, 3, seed=1), {}
    for integrator in ("rk4", "euler"):
        flow = linearize(Lorenz(integrator), x, h0)
        spectrum = lyapunov_exponents(flow.A, dt=0.01, discard=1000)
        sums[integrator] = spectrum.exponents.sum(1).tolist()
        if integrator == "rk4":
            assert spectrum.mean.tolist() == pytest.approx([0.9056, 0, -14.572], abs=0.03)
            assert float(spectrum.stderr.max()) < 0.01
    assert sums["rk4"] == pytest.approx([-(10 + 1 + 8 / 3)] * 60, abs=1e-3)
    assert min(abs(value + 41 / 3) for value in sums["euler"]) > 0.1
