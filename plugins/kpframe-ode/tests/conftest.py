"""What the tests of velocity fields share: seeded problems and the check of all operators."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe import Model, create_model, linearize

INPUTS, UNITS, TRIALS, STEPS = 2, 3, 2, 4


@pytest.fixture
def make() -> Callable[..., Model]:
    """Return a maker of float64 models; nothing is left at zero."""

    def build(name: str, seed: int = 0, **settings: object) -> Model:
        settings = {"input_size": INPUTS, "hidden_size": UNITS, "seed": seed} | settings
        model = create_model(name, **settings).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(2)  # far from the linear range
            if model.trainable_initial_state:
                model.h0.copy_(torch.linspace(-1, 1, model.width, dtype=torch.float64))
        return model

    return build


@pytest.fixture
def x(draw) -> torch.Tensor:
    return draw(TRIALS, STEPS, INPUTS, seed=11)


@pytest.fixture
def mask() -> torch.Tensor:
    """The second trial ends after two of the four steps."""
    return torch.arange(STEPS) < torch.tensor([[STEPS], [2]])


@pytest.fixture
def check_operators(close, differ, total_jacobian) -> Callable[..., None]:
    """Assert that A, J, P, K and Phi of a structured model are those of automatic differentiation."""

    def check(
        model: Model, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> None:
        flow, twin = linearize(model, x, h0, mask), linearize(model, x, h0, mask, method="autograd")
        assert (flow.P.method, flow.K.method) == ("sites", "sites")
        assert (twin.P.method, twin.K.method) == ("autograd", "autograd")
        for name in ("A", "J", "P", "K", "Phi"):
            close(getattr(flow, name).to_dense(), getattr(twin, name).to_dense(), 1e-12)
        G = total_jacobian(model, x, h0, mask)
        close(flow.Phi.to_dense(), G @ G.T, 1e-12)
        differ(flow.Phi.to_dense(), flow.K.to_dense())

    return check
