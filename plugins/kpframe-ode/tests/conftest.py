"""What the tests of velocity fields share: seeded problems, comparisons and the dense total Jacobian."""

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
def draw() -> Callable[..., torch.Tensor]:
    """Return a maker of seeded float64 normal values."""

    def normal(*shape: int, seed: int = 0) -> torch.Tensor:
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)

    return normal


@pytest.fixture
def x(draw) -> torch.Tensor:
    return draw(TRIALS, STEPS, INPUTS, seed=11)


@pytest.fixture
def mask() -> torch.Tensor:
    """The second trial ends after two of the four steps."""
    return torch.arange(STEPS) < torch.tensor([[STEPS], [2]])


@pytest.fixture
def close() -> Callable[..., None]:
    """Assert that two tensors agree, relative to the larger norm."""

    def check(actual: torch.Tensor, expected: torch.Tensor, rtol: float) -> None:
        assert actual.shape == expected.shape
        assert actual.dtype == expected.dtype == torch.float64
        actual, expected = actual.detach(), expected.detach()
        scale = max(float(actual.norm()), float(expected.norm()))
        assert scale > 0
        assert float((actual - expected).norm()) <= rtol * scale

    return check


@pytest.fixture
def differ() -> Callable[..., None]:
    """Assert that two tensors of one shape are far apart: the partner of every equality."""

    def check(first: torch.Tensor, second: torch.Tensor, rtol: float = 1e-2) -> None:
        assert first.shape == second.shape
        first, second = first.detach(), second.detach()
        assert float((first - second).norm()) > rtol * max(float(first.norm()), float(second.norm()))

    return check


@pytest.fixture
def total_jacobian() -> Callable[..., torch.Tensor]:
    """Return the dense ``dh/dtheta`` ``[B T H, M]`` of a whole roll-out, by automatic differentiation."""

    def jacobian(
        model: Model, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> torch.Tensor:
        states = model.rollout(x, h0, mask).states
        basis = torch.eye(states.numel(), dtype=states.dtype).reshape(-1, *states.shape)
        theta = tuple(model.trainable().values())
        rows = torch.autograd.grad(states, theta, basis, is_grads_batched=True, allow_unused=True)
        blocks = [
            states.new_zeros(len(basis), p.numel()) if g is None else g.reshape(len(basis), -1)
            for g, p in zip(rows, theta, strict=True)
        ]
        return torch.cat(blocks, dim=1)

    return jacobian


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
