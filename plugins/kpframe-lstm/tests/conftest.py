"""What the tests of the model ``lstm`` share: seeded problems, ``torch.nn.LSTM`` itself."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import pytest
import torch

from kpframe import Model, create_model

INPUTS, UNITS, TRIALS, STEPS = 3, 4, 2, 5

#: Every form of the model, by a name that reads well in a test's id.
FORMS = {
    "one layer": {},
    "no bias": {"bias": False},
    "two layers": {"num_layers": 2},
    "two layers, no bias": {"num_layers": 2, "bias": False},
    "projected": {"proj_size": 2},
    "projected, no bias": {"proj_size": 2, "bias": False},
    "projected, two layers": {"proj_size": 2, "num_layers": 2},
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, object]:
    return FORMS[request.param]


@pytest.fixture
def make() -> Callable[..., Model]:
    """Return a maker of float64 networks; the trainable initial state, if any, is not left at zero."""

    def build(seed: int = 0, **settings: object) -> Model:
        settings = {"input_size": INPUTS, "hidden_size": UNITS, "seed": seed} | settings
        model = create_model("lstm", **settings).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)  # gates that open and close, far from their linear range
            if model.trainable_initial_state:
                model.h0.copy_(torch.linspace(-1, 1, model.width, dtype=torch.float64))
        return model

    return build


@pytest.fixture
def reference() -> Callable[..., torch.nn.LSTM]:
    """Return a maker of the ``torch.nn.LSTM`` that has a model's parameters, taken over by name."""

    def build(model: Model, batch_first: bool = True) -> torch.nn.LSTM:
        twin = torch.nn.LSTM(
            model.input_size,
            model.hidden_size,
            model.num_layers,
            bias="bias_ih_l0" in model.state_dict(),
            batch_first=batch_first,
            proj_size=model.proj_size,
            dtype=torch.float64,
        )
        twin.load_state_dict({name: p for name, p in model.state_dict().items() if name != "h0"})
        return twin

    return build


@pytest.fixture(autouse=True)
def plain_torch() -> object:
    """Torch says once that its faster kernels know no projections."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="LSTM with projections is not supported with oneDNN")
        yield


@pytest.fixture
def x(draw) -> torch.Tensor:
    return draw(TRIALS, STEPS, INPUTS, seed=11)


@pytest.fixture
def mask() -> torch.Tensor:
    """The second trial ends after three of the five steps."""
    return torch.arange(STEPS) < torch.tensor([[STEPS], [3]])
