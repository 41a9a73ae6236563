"""What these neurons are known to do, and the differential equations that they approach as dt shrinks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from scipy.optimize import brentq

from kpframe import create_model, linearize

W = np.array([[0.3, 0.8], [0.5, 0.2]])  # conductances [mS/cm2]; the second neuron is inhibitory


def synapses(V: np.ndarray, s: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the synaptic current of two coupled neurons and ds/dt, from the definition."""
    release = 1 / (1 + np.exp(-(V - 2) / 5))
    current = (W * s * (V[:, None] - np.array([0.0, -80.0]))).sum(axis=1)
    return current, np.array([1.1, 5.0]) * release * (1 - s) - np.array([0.19, 0.18]) * s


def hodgkin_huxley(_, y: np.ndarray, current: np.ndarray, coupled: bool = True) -> np.ndarray:
    """Return the slopes of two squid axons, state V, m, h, n, s; their currents in uA/cm2."""
    V, m, h, n, s = y.reshape(5, -1)
    synaptic, ds = synapses(V, s) if coupled else (0, 0 * s)
    dV = current - 120 * m**3 * h * (V - 50) - 36 * n**4 * (V + 77) - 0.3 * (V + 54.387) - synaptic
    a = (V + 40) / 10, (V + 55) / 10
    dm = a[0] / (1 - np.exp(-a[0])) * (1 - m) - 4 * np.exp(-(V + 65) / 18) * m
    dh = 0.07 * np.exp(-(V + 65) / 20) * (1 - h) - h / (1 + np.exp(-(V + 35) / 10))
    dn = 0.1 * a[1] / (1 - np.exp(-a[1])) * (1 - n) - 0.125 * np.exp(-(V + 65) / 80) * n
    return np.concatenate([dV, dm, dh, dn, ds])


def morris_lecar(_, y: np.ndarray, current: np.ndarray) -> np.ndarray:
    """Return the slopes of two Morris-Lecar neurons of the Hopf set, state V, w, s."""
    V, w, s = y.reshape(3, -1)
    synaptic, ds = synapses(V, s)
    calcium = 4.4 * 0.5 * (1 + np.tanh((V + 1.2) / 18)) * (V - 120)
    dV = (current - calcium - 8 * w * (V + 84) - 2 * (V + 60) - synaptic) / 20
    dw = 0.04 * np.cosh((V - 2) / 60) * (0.5 * (1 + np.tanh((V - 2) / 30)) - w)
    return np.concatenate([dV, dw, ds])


@pytest.mark.parametrize("method", ["exponential_euler", "forward_euler"])
@pytest.mark.parametrize(
    ("name", "slopes", "current", "time", "dt"),
    [
        ("hh", hodgkin_huxley, [12.0, 7.0], 6.0, 0.02),
        ("morris_lecar", morris_lecar, [120.0, 90.0], 60.0, 0.2),
    ],
)
@pytest.mark.rows(4)
def test_steps_are_of_first_order(name, slopes, current, time, dt, method) -> None:
    def end(dt: float) -> tuple[np.ndarray, np.ndarray]:
        settings = {"input_size": 2, "hidden_size": 2, "inhibitory_fraction": 0.5, "autapses": True}
        model = create_model(name, dt=dt, method=method, **settings).double()
        with torch.no_grad():
            model.weight_excitatory.copy_(torch.from_numpy(W[:, :1]))
            model.weight_inhibitory.copy_(torch.from_numpy(W[:, 1:]))
            x = torch.tensor(current, dtype=torch.float64).expand(1, round(time / dt), 2)
            return model.initial_state(1)[0].numpy(), model.rollout(x).final[0].numpy()

    start, coarse = end(dt)
    _, fine = end(dt / 2)
    currents = np.array(current)
    run = solve_ivp(slopes, (0, time), start, "LSODA", args=(currents,), rtol=1e-10, atol=1e-12)
    exact = run.y[:, -1]
    assert np.abs(exact[:2] - start[:2]).max() > 5  # [mV]: much has happened
    errors = [np.linalg.norm(states - exact) for states in (coarse, fine)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    assert errors[1] < 0.02 * np.linalg.norm(exact)


@pytest.mark.slow
def test_the_squid_axon_fires_at_10_and_is_silent_at_2(voltages, spikes) -> None:
    """Repetitive firing near 68 Hz at 10 uA/cm2, as scipy integrates the equations; none at 2."""
    dt = 0.025
    V = voltages("hh", [2.0, 10.0], 80.0, dt=dt)
    assert V[:, 0].max() < -55
    times = spikes(V[:, 1], dt)
    assert len(times) == 6
    rate = 1000 / np.diff(times[2:]).mean()
    assert rate == pytest.approx(68, abs=1)
    assert V[:, 1].max() == pytest.approx(41, abs=2)  # peak and undershoot of the action potential
    assert V[:, 1].min() == pytest.approx(-75, abs=1)

    def alone(time, y, current):
        return hodgkin_huxley(time, y, current, coupled=False)

    def rises(time, y, current):
        return y[0]

    rises.direction = 1
    start = create_model("hh", input_size=1, hidden_size=1).double().initial_state(1)[0].numpy()
    given = {"args": (np.array([10.0]),), "rtol": 1e-8, "atol": 1e-10, "events": rises}
    (exact,) = solve_ivp(alone, (0, 80), start, "LSODA", **given).t_events
    assert 1000 / np.diff(exact[2:]).mean() == pytest.approx(68.3, abs=0.2)
    assert rate == pytest.approx(1000 / np.diff(exact[2:]).mean(), rel=0.015)


@pytest.mark.slow
def test_a_single_neuron_is_the_squid_axon(spikes) -> None:
    """With the settings as they come: 67 to 68 Hz at 10 uA/cm2. A synapse on itself would change that."""

    def voltage(milliseconds: int, **settings: object) -> np.ndarray:
        model = create_model("hh", input_size=1, hidden_size=1, **settings).double()
        with torch.no_grad():
            x = torch.full((1, 40 * milliseconds, 1), 10.0, dtype=torch.float64)
            return model.rollout(x).component("V")[0, :, 0].numpy()

    alone = voltage(50, seed=0)
    times = spikes(alone, 0.025)
    assert len(times) == 4
    assert 67 < 1000 / np.diff(times[1:]).mean() < 68
    assert np.array_equal(voltage(20, seed=1), alone[:800])  # two spikes: nothing is left to chance
    (interval,) = np.diff(spikes(voltage(45, seed=0, autapses=True), 0.025))
    assert interval > 2 * np.diff(times).max()


def test_warmth_makes_gates_faster(voltages) -> None:
    """Q10 = 3, so at 16.3 degrees every gate's rates are threefold; spikes are shorter."""
    cold, warm = (
        create_model("hh", input_size=1, hidden_size=1, temperature=degrees).double()
        for degrees in (6.3, 16.3)
    )
    V = torch.linspace(-90, 50, 30, dtype=torch.float64)
    for gate, pair in cold.gate_rates(V).items():
        for one, other in zip(pair, warm.gate_rates(V)[gate], strict=True):
            torch.testing.assert_close(other, 3 * one, rtol=1e-12, atol=0)
    assert torch.equal(cold.rates(V)["s"][0], warm.rates(V)["s"][0])
    widths = [
        0.025 * (voltages("hh", [15.0], 8.0, temperature=degrees)[:, 0] > 0).sum() for degrees in (6.3, 16.3)
    ]
    assert widths[0] > 1.5 * widths[1] > 0


def fastest_growth(current: float, dt: float) -> complex:
    """Return the largest eigenvalue of the step's Jacobian at the equilibrium of a Morris-Lecar cell."""
    model = create_model("morris_lecar", input_size=1, hidden_size=1, g_synapse=0.0, dt=dt).double()
    x = torch.full((1, 1, 1), current, dtype=torch.float64)
    h = model.initial_state(1)
    for _ in range(30):  # Newton's method, from afar
        flow = linearize(model, x, h)
        gap = flow.trajectory.final - h
        h = h - torch.linalg.solve(flow.A.blocks()[0, 0] - torch.eye(3), gap[0])
    assert float(gap.norm()) < 1e-9
    found = torch.linalg.eigvals(flow.A.blocks()[0, 0]).numpy()
    return found[np.abs(found).argmax()]


def test_the_hopf_set_loses_stability_where_its_equations_do() -> None:
    """At 93.86 uA/cm2 the trace of the equations' Jacobian vanishes (Rinzel & Ermentrout 1998)."""

    def trace(V: float) -> float:
        w, e = 0.5 * (1 + np.tanh((V - 2) / 30)), 1e-4
        up, down = (morris_lecar(0, np.array([v, v, w, w, 0, 0]), np.zeros(2))[0] for v in (V + e, V - e))
        return (up - down) / (2 * e) - 0.04 * np.cosh((V - 2) / 60)

    V = brentq(trace, -35.0, -15.0)
    w = 0.5 * (1 + np.tanh((V - 2) / 30))
    critical = -20 * morris_lecar(0, np.array([V, V, w, w, 0, 0]), np.zeros(2))[0]
    assert critical == pytest.approx(93.86, abs=0.005)
    dt = 0.01
    grows = [fastest_growth(critical + away, dt) for away in (-0.3, 0.3)]
    assert abs(grows[0]) < 1 < abs(grows[1])
    for value in grows:  # a complex pair, which turns about ten times a second
        assert 1000 * abs(np.angle(value)) / (2 * np.pi * dt) == pytest.approx(12, abs=2)


@pytest.mark.slow
def test_firing_begins_at_a_finite_rate_or_at_zero(voltages, spikes) -> None:
    """Rinzel & Ermentrout (1998): from 88.3 uA/cm2 at a finite rate (Hopf), from 39.96 at zero (SNIC)."""
    dt = 0.5
    rates = {}
    for name, currents in {"hopf": [86.0, 91.0, 100.0], "snic": [39.0, 40.5, 50.0]}.items():
        V = voltages("morris_lecar", currents, 1200.0, 20.0, dt=dt, excitability=name)
        times = [spikes(trace, dt) for trace in V.T]
        assert len(times[0]) <= 1  # silent after the start at 20 mV
        rates[name] = [1000 / np.diff(found)[-2:].mean() for found in times[1:]]
    assert rates["hopf"][0] > 0.8 * rates["hopf"][1] > 8  # [Hz]
    assert rates["snic"][0] < 0.4 * rates["snic"][1]


def test_exponential_euler_stands_long_steps(voltages) -> None:
    """At ten times the step that forward Euler stands, gates and voltages keep their bounds."""
    V = voltages("hh", [0.0, 10.0, 100.0], 100.0, dt=0.5)
    assert -80 < V.min() < V.max() < 55
    assert V[:, 1].max() > 20
