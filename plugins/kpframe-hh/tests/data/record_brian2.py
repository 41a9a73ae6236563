"""Record the traces that the tests compare with: the same neurons and synapses, integrated by brian2.

brian2 needs numpy < 2.4, so run this in an environment of its own and commit what it writes::

    python -m venv brian_env && brian_env/bin/pip install 'numpy<2.4' brian2
    brian_env/bin/python record_brian2.py

It writes ``brian2.npz`` beside this file, every array float64, and ``brian2.json`` with the versions and
the settings of each run. Nothing here is shared with the package under test: the equations are written
out, for brian2's own parser, from Hodgkin & Huxley (1952), Destexhe et al. (1998) and Rinzel & Ermentrout
(1998). Units are mV, ms, mS/cm2, uA/cm2 and uF/cm2, as plain numbers.
"""

import json
import platform
from pathlib import Path

import brian2 as b2
import numpy as np

b2.prefs.codegen.target = "numpy"
HERE = Path(__file__).parent

SYNAPSE = """
ds/dt = (a / (1 + exp(-(v - 2) / 5)) * (1 - s) - b * s) / ms : 1
current = stimulus(t, i) : 1
conductance : 1
drive : 1
a : 1
b : 1
"""
HODGKIN_HUXLEY = """
dv/dt = (current - 120 * m**3 * h * (v - 50) - 36 * n**4 * (v + 77) - 0.3 * (v + 54.387)
         - conductance * v + drive) / ms : 1
dm/dt = (1 / exprel(-(v + 40) / 10) * (1 - m) - 4 * exp(-(v + 65) / 18) * m) / ms : 1
dh/dt = (0.07 * exp(-(v + 65) / 20) * (1 - h) - 1 / (1 + exp(-(v + 35) / 10)) * h) / ms : 1
dn/dt = (0.1 / exprel(-(v + 55) / 10) * (1 - n) - 0.125 * exp(-(v + 65) / 80) * n) / ms : 1
"""
MORRIS_LECAR = """
dv/dt = (current - 4.4 * 0.5 * (1 + tanh((v + 1.2) / 18)) * (v - 120) - 8 * w * (v + 84) - 2 * (v + 60)
         - conductance * v + drive) / 20 / ms : 1
dw/dt = 0.04 * cosh((v - 2) / 60) * (0.5 * (1 + tanh((v - 2) / 30)) - w) / ms : 1
"""
STATE = {HODGKIN_HUXLEY: ("v", "m", "h", "n", "s"), MORRIS_LECAR: ("v", "w", "s")}


def at_rest(cell: str, a: np.ndarray, b: np.ndarray) -> dict[str, object]:
    """Return where the cells start: a voltage near rest, every gate at its steady state there."""
    v = -65.0 if cell is HODGKIN_HUXLEY else -60.0
    release = a / (1 + np.exp(-(v - 2) / 5))
    start: dict[str, object] = {"v": v, "s": release / (release + b)}
    if cell is MORRIS_LECAR:
        return start | {"w": 0.5 * (1 + np.tanh((v - 2) / 30))}
    alpha = {"m": 2.5 / (np.exp(2.5) - 1), "h": 0.07, "n": 0.1 / (np.exp(1) - 1)}
    beta = {"m": 4.0, "h": 1 / (1 + np.exp(3)), "n": 0.125}
    return start | {gate: alpha[gate] / (alpha[gate] + beta[gate]) for gate in alpha}


def record(cell, stimulus, dt, method, weight, reversal, a, b) -> tuple[np.ndarray, np.ndarray]:
    """Return the initial state ``[5 n]`` and the states ``[T, 5 n]`` after each step, variable by variable.

    Args:
        cell: the equations of a neuron.
        stimulus: ``[T, n]``, the current of each step [uA/cm2].
        dt: time step [ms].
        method: brian2's integrator.
        weight: ``[n, n]``, the conductance of the synapse from column to row [mS/cm2].
        reversal: ``[n, n]``, its reversal potential [mV].
        a, b: ``[n]``, rates of rise and decay of each neuron's synapses [1/ms].
    """
    b2.start_scope()
    b2.defaultclock.dt = dt * b2.ms
    steps, size = stimulus.shape
    space = {"stimulus": b2.TimedArray(stimulus, dt=dt * b2.ms)}
    group = b2.NeuronGroup(size, cell + SYNAPSE, method=method, namespace=space)
    group.a, group.b = a, b
    for name, value in at_rest(cell, a, b).items():
        setattr(group, name, value)
    synapses = b2.Synapses(
        group,
        group,
        """weight : 1
           reversal : 1
           conductance_post = weight * s_pre : 1 (summed)
           drive_post = weight * reversal * s_pre : 1 (summed)""",
    )
    synapses.connect()
    target, source = np.asarray(synapses.j[:]), np.asarray(synapses.i[:])
    synapses.weight, synapses.reversal = weight[target, source], reversal[target, source]
    names = STATE[cell]
    initial = np.concatenate([np.asarray(getattr(group, name)[:]) for name in names])
    monitor = b2.StateMonitor(group, names, record=True, when="end")
    net = b2.Network(group, synapses, monitor)
    net.run(steps * dt * b2.ms, namespace={})
    states = np.concatenate([np.asarray(getattr(monitor, name)).T for name in names], axis=1)
    assert states.shape == (steps, len(initial))
    return initial, states


def main() -> None:
    """Record every run."""
    excitatory, inhibitory = (1.1, 0.19), (5.0, 0.18)
    alone = {"weight": np.zeros((1, 1)), "reversal": np.zeros((1, 1)), "a": [1.1], "b": [0.19]}
    weight = np.array([[0.0, 0.3, 0.5], [0.4, 0.0, 0.25], [0.6, 0.2, 0.1]])
    mixed = np.array([[0.0, 0.0, -80.0], [0.0, 0.0, -80.0], [0.0, 0.0, -80.0]])
    varied = np.array([[0.0, -20.0, -80.0], [10.0, 0.0, -70.0], [-10.0, 5.0, -75.0]])
    three = {
        "weight": weight,
        "a": [excitatory[0], excitatory[0], inhibitory[0]],
        "b": [excitatory[1], excitatory[1], inhibitory[1]],
    }
    step = np.where(np.arange(1200)[:, None] < 200, 0.0, 10.0)
    currents = np.outer(np.ones(800), [10.0, 2.0, 0.0])
    currents[400:, 2] = 8.0
    runs = {
        "hh_cell": (HODGKIN_HUXLEY, step, 0.025, "exponential_euler", alone),
        "hh_cell_euler": (HODGKIN_HUXLEY, step[:800], 0.025, "euler", alone),
        "hh_network": (HODGKIN_HUXLEY, currents, 0.025, "exponential_euler", three | {"reversal": mixed}),
        "hh_reversals": (HODGKIN_HUXLEY, currents, 0.025, "exponential_euler", three | {"reversal": varied}),
        "ml_cell": (MORRIS_LECAR, np.full((1000, 1), 100.0), 0.2, "exponential_euler", alone),
        "ml_network": (
            MORRIS_LECAR,
            np.outer(np.ones(600), [100.0, 60.0, 0.0]),
            0.2,
            "exponential_euler",
            three | {"reversal": mixed},
        ),
    }
    arrays, settings = {}, {}
    for name, (cell, stimulus, dt, method, net) in runs.items():
        net = {key: np.asarray(value, dtype=float) for key, value in net.items()}
        initial, states = record(cell, stimulus, dt, method, **net)
        every = 1 if states.shape[1] < 6 else 4
        arrays |= {f"{name}/stimulus": stimulus, f"{name}/initial": initial}
        arrays[f"{name}/states"] = states[every - 1 :: every]
        arrays |= {f"{name}/{key}": value for key, value in net.items()}
        settings[name] = {"dt": dt, "method": method, "every": every, "variables": STATE[cell]}
        print(f"{name}: {len(states)} steps, v from {states[:, 0].min():.2f} to {states[:, 0].max():.2f}")
    np.savez_compressed(HERE / "brian2.npz", **arrays)
    versions = {"brian2": b2.__version__, "numpy": np.__version__, "python": platform.python_version()}
    written = {"versions": versions, "codegen": "numpy", "runs": settings}
    (HERE / "brian2.json").write_text(json.dumps(written, indent=2) + "\n")


if __name__ == "__main__":
    main()
