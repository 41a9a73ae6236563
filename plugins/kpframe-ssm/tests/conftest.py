"""What the tests of the state-space models share: seeded problems, comparisons, dense references."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe import Model, create_model

INPUTS, UNITS, TRIALS, STEPS = 3, 4, 2, 6

#: Time steps under which Mamba's selection acts strongly.
FAST = {"dt_min": 0.5, "dt_max": 2.0}

#: Every form of the models that changes the mathematics, by a name that reads well in a test's id.
FORMS = {
    "lti": ("lti", {"output_size": 2}),
    "s4d": ("s4d", {"state_size": 2, "dt_max": 1.0}),
    "s4d bilinear": ("s4d", {"state_size": 2, "dt_max": 1.0, "discretisation": "bilinear", "init": "inv"}),
    "s4d legs, no encoder": ("s4d", {"state_size": 2, "init": "legs", "encoder": False, "input_size": UNITS}),
    "s4d unconstrained": ("s4d", {"state_size": 2, "dt_max": 1.0, "constrained": False, "real": -0.2}),
    "s5": ("s5", {"dt_max": 1.0, "output_size": 2}),
    "s5 bilinear": ("s5", {"dt_max": 1.0, "discretisation": "bilinear"}),
    "lru": ("lru", {"r_min": 0.4, "r_max": 0.99}),
    "lru gamma": ("lru", {"r_min": 0.4, "trainable_gamma": True, "output_size": 2}),
    "mamba": ("mamba", {"state_size": 2, "conv_size": 3, **FAST}),
    "mamba biases": (
        "mamba",
        {"state_size": 2, "conv_size": 2, "bias": True, "dt_rank": 2, **FAST},
    ),
    "mamba no conv": (
        "mamba",
        {"state_size": 3, "conv_size": 1, "conv_bias": False, **FAST},
    ),
}
DIAGONAL = [name for name in FORMS if name.startswith(("s4d", "s5", "lru"))]


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=DIAGONAL)
def diagonal(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def make() -> Callable[..., Model]:
    """Return a maker of float64 models by form or by name; no parameter is left at zero."""

    def build(form: str, seed: int = 7, **settings: object) -> Model:
        name, own = FORMS.get(form, (form, {}))
        settings = {"input_size": INPUTS, "hidden_size": UNITS, "seed": seed} | own | settings
        model = create_model(name, **settings).double()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
                parameter.add_(0.1 * noise)
            if model.trainable_initial_state:
                model.h0.copy_(torch.linspace(-1, 1, model.width, dtype=torch.float64))
        return model

    return build


@pytest.fixture
def mask() -> torch.Tensor:
    """The first trial pauses in its middle, the second ends early."""
    return torch.tensor([[1, 1, 0, 1, 1, 1], [1, 1, 1, 1, 0, 0]], dtype=torch.bool)


@pytest.fixture
def close() -> Callable[..., None]:
    """Assert that two tensors agree, relative to the larger norm."""

    def check(actual: torch.Tensor, expected: torch.Tensor, rtol: float) -> None:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype
        actual, expected = actual.detach(), expected.detach()
        scale = max(float(actual.norm()), float(expected.norm()))
        assert scale > 0
        assert float((actual - expected).norm()) <= rtol * scale

    return check
