"""What the tests of the model ``rnn`` share: seeded problems."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe import Model, create_model

INPUTS, UNITS, TRIALS, STEPS = 3, 4, 2, 5

#: Every form of the model, by a name that reads well in a test's id.
FORMS = {
    "vanilla": {"form": "vanilla"},
    "relu": {"form": "vanilla", "nonlinearity": "relu"},
    "rate": {"form": "rate", "alpha": 0.3},
    "rate relu": {"form": "rate", "alpha": 0.6, "nonlinearity": "relu"},
    "current": {"form": "current", "alpha": 0.3},
    "current relu": {"form": "current", "alpha": 0.6, "nonlinearity": "relu"},
    "masked": {"density": 0.5, "self_connections": False},
    "masked current": {"density": 0.5, "form": "current", "alpha": 0.3},
    "dale": {"excitatory_fraction": 0.5, "nonlinearity": "relu"},
    "dale relu": {"excitatory_fraction": 0.5, "rectifier": "relu", "form": "rate", "alpha": 0.3},
    "dale softplus masked": {"excitatory_fraction": 0.5, "rectifier": "softplus", "density": 0.7},
    "low rank": {"rank": 2, "gain": None},
    "low rank and bulk": {"rank": 1, "form": "current", "alpha": 0.3},
    "low rank and trained bulk masked": {"rank": 1, "train_bulk": True, "density": 0.5},
    "stacked": {"num_layers": 2},
    "stacked current": {"num_layers": 2, "form": "current", "alpha": 0.3},
    "stacked dale": {"num_layers": 3, "excitatory_fraction": 0.5, "form": "rate", "alpha": 0.6},
    "stacked low rank": {"num_layers": 2, "rank": 1, "form": "rate", "alpha": 0.6},
    "state noise": {"state_noise": 0.3, "form": "rate", "alpha": 0.3},
    "noise": {"input_noise": 0.2, "state_noise": 0.3, "form": "current", "alpha": 0.3, "num_layers": 2},
    "input noise": {"input_noise": 0.2, "density": 0.5},
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, object]:
    return FORMS[request.param]


@pytest.fixture
def make() -> Callable[..., Model]:
    """Return a maker of float64 networks; the trainable initial state, if any, is not left at zero.

    With the default seed about half of the relu units are active, and some at every step.
    """

    def build(seed: int = 74, **settings: object) -> Model:
        settings = {"hidden_size": UNITS, "gain": 1.4, "seed": seed} | settings
        if "input_noise" in settings or "state_noise" in settings:
            model = create_model("noisy_rnn", **{"input_size": INPUTS, "state_noise": 0.0} | settings)
        else:
            model = create_model("rnn", **{"input_size": INPUTS} | settings)
        model = model.double()
        if model.trainable_initial_state:
            with torch.no_grad():
                model.h0.copy_(torch.linspace(-1, 1, model.width, dtype=torch.float64))
        return model

    return build


@pytest.fixture
def scramble(draw) -> Callable[[Model], Model]:
    """Move a network's parameters, so that nothing holds of initial values only; signs change as well."""

    def moved(model: Model) -> Model:
        with torch.no_grad():
            for i, p in enumerate(model.parameters()):
                p.add_(0.7 * draw(*p.shape, seed=30 + i))
        return model

    return moved


@pytest.fixture
def x(draw) -> torch.Tensor:
    return draw(TRIALS, STEPS, INPUTS, seed=11)


@pytest.fixture
def mask() -> torch.Tensor:
    """The second trial ends after three of the five steps."""
    return torch.arange(STEPS) < torch.tensor([[STEPS], [3]])
