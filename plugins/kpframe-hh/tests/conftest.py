"""What the tests of ``hh`` and ``morris_lecar`` share: seeded problems, the total Jacobian."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch

from kpframe import Model, create_model

INPUTS, NEURONS, TRIALS, STEPS = 2, 3, 2, 5

#: Every form of the models that changes the mathematics, by a name that reads well in a test's id.
FORMS = {
    "hh": {"name": "hh"},
    "hh currents": {"name": "hh", "input_size": NEURONS},
    "hh forward": {"name": "hh", "method": "forward_euler"},
    "hh mixed": {"name": "hh", "inhibitory_fraction": 1 / 3, "bias": True},
    "hh inhibitory": {"name": "hh", "inhibitory_fraction": 1.0},
    "hh nonnegative": {
        "name": "hh",
        "inhibitory_fraction": 1 / 3,
        "nonnegative": True,
        "trainable_conductances": ("g_na", "g_l"),
    },
    "hh reversals": {
        "name": "hh",
        "reversals": ((0, -70, 10), (-80, 0, -75), (20, -60, -90)),
        "nonnegative": True,
    },
    "hh conductances": {"name": "hh", "trainable_conductances": ("g_na", "g_k", "g_l"), "temperature": 10.0},
    "hh start": {"name": "hh", "trainable_initial_state": True},
    "ml": {"name": "morris_lecar", "input_size": NEURONS, "bias": True},
    "ml mixed": {
        "name": "morris_lecar",
        "excitability": "snic",
        "inhibitory_fraction": 1 / 3,
        "trainable_conductances": ("g_ca", "g_k"),
    },
    "ml forward": {"name": "morris_lecar", "excitability": "homoclinic", "method": "forward_euler"},
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, object]:
    return FORMS[request.param]


@pytest.fixture
def make() -> Callable[..., Model]:
    """Return a maker of float64 networks."""

    def build(name: str = "hh", seed: int = 1, **settings: object) -> Model:
        given = {"input_size": INPUTS, "hidden_size": NEURONS, "g_synapse": 2.0, "seed": seed} | settings
        return create_model(name, **given).double()

    return build


@pytest.fixture
def active() -> Callable[..., torch.Tensor]:
    """Return a maker of states ``[B, H]`` of active cells: V from -80 to 40 mV, gates 0 to 1."""

    def states(model: Model, trials: int = TRIALS, seed: int = 5) -> torch.Tensor:
        generator = torch.Generator().manual_seed(seed)
        h = torch.rand(trials, model.width, generator=generator, dtype=torch.float64)
        h[:, : model.units] = 120 * h[:, : model.units] - 80
        return h

    return states


@pytest.fixture
def mask() -> torch.Tensor:
    """The second trial ends after three of the five steps."""
    return torch.arange(STEPS) < torch.tensor([[STEPS], [3]])


@pytest.fixture
def voltages() -> Callable[..., np.ndarray]:
    """Return a function that gives the voltages ``[T, n]`` [mV] of unconnected cells at constant currents."""

    def run(
        name: str, currents: list[float], time: float, start: float | None = None, **settings
    ) -> np.ndarray:
        n = len(currents)
        model = create_model(name, input_size=n, hidden_size=n, g_synapse=0.0, seed=0, **settings).double()
        h0 = model.initial_state(1).clone()
        if start is not None:
            h0[:, :n] = start
        steps = round(time / model.settings.dt)
        x = torch.tensor(currents, dtype=torch.float64).expand(1, steps, n)
        with torch.no_grad():
            return model.rollout(x, h0).component("V")[0].numpy()

    return run


@pytest.fixture
def spikes() -> Callable[[np.ndarray, float], np.ndarray]:
    """Return a function that gives the times [ms] at which a trace ``[T]`` rises through 0 mV."""

    def times(V: np.ndarray, dt: float) -> np.ndarray:
        (before,) = np.nonzero((V[:-1] <= 0) & (V[1:] > 0))
        return dt * (before + V[before] / (V[before] - V[before + 1]))

    return times
