"""Where a parameter acts is found by what it is, not by what it is called.

Models of weight sites whose parameters act at several sites, within a site several times, or elsewhere than
sites say. The reference is automatic differentiation; each partner is what the declared names alone give.
"""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch

from kpframe import Model, Site, SiteModel, linearize, wrap
from kpframe.errors import ArgumentError
from kpframe.testing._toys import Elman

Tensors = Mapping[str, torch.Tensor]


def parameter(*shape: int, seed: int = 0) -> torch.nn.Parameter:
    generator = torch.Generator().manual_seed(seed)
    return torch.nn.Parameter(0.5 * torch.randn(shape, generator=generator, dtype=torch.float64))


class Base(SiteModel):
    """``h' = tanh(W h + U x + b)`` of three units and inputs."""

    sites_of = (Site("U", "input", ("u",), bias="b"), Site("W", "h", ("u",)))

    def __init__(self) -> None:
        super().__init__(3, 3, components=("h",), sites=self.sites_of)
        self.W, self.U = parameter(3, 3, seed=1), parameter(3, 3, seed=2)
        if not hasattr(self, "b"):
            self.b = parameter(3, seed=3)

    def combine(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"h": torch.tanh(u["u"])}


class InCombine(Base):
    """The bias is a time constant, too."""

    def combine(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"h": torch.tanh(u["u"]) * torch.sigmoid(self.b)}


class Derived(Base):
    """The recurrent matrix is the transpose of the input's, which no site says."""

    def __init__(self) -> None:
        super().__init__()
        del self.W

    def site_weight(self, name: str) -> torch.Tensor:
        return self.U.T if name == "W" else super().site_weight(name)


class Undeclared(Base):
    """A matrix that is half its parameter."""

    def site_weight(self, name: str) -> torch.Tensor:
        return 0.5 * super().site_weight(name)


class InTransform(Base):
    """What the recurrent site reads depends on the bias."""

    def __init__(self) -> None:
        self.sites_of = (self.sites_of[0], Site("W", "h", ("u",), transform=self.read))
        super().__init__()

    def read(self, z: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.b * z)


class InClosure(InTransform):
    """The same through a function that a copy of the model does not carry with it."""

    def __init__(self) -> None:
        own = self
        self.read = lambda z: torch.tanh(own.b * z)
        super().__init__()


class BiasOfBoth(Base):
    """The bias is computed from a matrix."""

    @property
    def b(self) -> torch.Tensor:
        return self.U.sum(dim=1)


class Squared(Base):
    """A matrix made twice of one parameter: ``m m^T`` declared as of m and n, which is m."""

    sites_of = (Base.sites_of[0], Site("W", "h", ("u",), parameters=("m", "n")))

    def __init__(self) -> None:
        super().__init__()
        del self.W
        self.m = parameter(3, 2, seed=4)
        self.n = self.m

    def site_weight(self, name: str) -> torch.Tensor:
        return self.m @ self.n.T if name == "W" else super().site_weight(name)


class OneMore(Squared):
    """A matrix made of more than it declares."""

    def site_weight(self, name: str) -> torch.Tensor:
        own = super().site_weight(name)
        return own + self.U if name == "W" else own


class ByStep(SiteModel):
    """Weights of each step, the same for input and state."""

    time_varying = True
    steps = 4

    def __init__(self) -> None:
        sites = (
            Site("U", "input", ("u",), bias="b", per_step=True),
            Site("W", "h", ("u",), bias="c", per_step=True),
        )
        super().__init__(3, 3, components=("h",), sites=sites)
        self.U, self.b = parameter(4, 3, 3, seed=1), parameter(4, 3, seed=2)
        self.W, self.c = self.U, self.b

    def combine(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"h": torch.tanh(u["u"])}


def own_start(shared: bool) -> Model:
    """A trainable initial state that is the bias, under the bias's name."""
    model = Elman(3, 3, trainable_initial_state=True).double()
    if shared:
        del model.h0
        model.h0 = model.bias_ih_l0
    return model


def x() -> torch.Tensor:
    return torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def same_as_autograd(model: Model) -> str:
    flow, twin = linearize(model, x()), linearize(model, x(), method="autograd")
    for operator in ("J", "K", "Phi"):
        found, expected = getattr(flow, operator).to_dense(), getattr(twin, operator).to_dense()
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    assert flow.A.method == "sites"
    return flow.K.method


@pytest.mark.parametrize(
    ("make", "method"),
    [
        (Base, "sites"),
        (Squared, "sites"),
        (ByStep, "sites"),
        (InCombine, "autograd"),
        (Derived, "autograd"),
        (Undeclared, "autograd"),
        (InTransform, "autograd"),
        (BiasOfBoth, "autograd"),
        (OneMore, "autograd"),
        (lambda: own_start(False), "sites"),
        (lambda: own_start(True), "autograd"),
    ],
)
@pytest.mark.rows(3)
def test_j_counts_every_place(make, method) -> None:
    torch.manual_seed(0)
    assert same_as_autograd(make()) == method


def test_a_parameter_read_elsewhere_that_is_frozen_leaves_the_structure() -> None:
    model = InCombine()
    model.b.requires_grad_(False)
    assert same_as_autograd(model) == "sites"


def test_a_function_that_reads_what_learns_elsewhere_is_refused() -> None:
    with pytest.raises(ArgumentError, match="InClosure: expected nothing that learns but the model's own"):
        linearize(InClosure(), x())


def test_one_parameter_at_two_sites_is_not_two() -> None:
    one = linearize(ByStep(), x())
    two = ByStep()
    two.W, two.c = torch.nn.Parameter(two.U.detach().clone()), torch.nn.Parameter(two.b.detach().clone())
    assert one.J.domain.size == 48
    other = linearize(two, x()).K.to_dense()
    assert float((one.K.to_dense() - other).norm() / other.norm()) > 0.1


@pytest.mark.parametrize("shared", ["weight", "module"])
def test_names_of_what_a_wrapped_cell_shares(shared: str) -> None:
    class Cell(torch.nn.Module):
        input_size = hidden_size = 3

        def __init__(self) -> None:
            super().__init__()
            self.a = torch.nn.Linear(3, 3).double()
            self.b = torch.nn.Linear(3, 3).double()
            if shared == "module":
                self.b = self.a
            else:
                self.b.weight = self.a.weight

        def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
            return torch.tanh(self.a(x) + self.b(h))

    model = wrap(Cell())
    expected = {"b.weight": "a.weight"} | ({"b.bias": "a.bias"} if shared == "module" else {})
    assert model.shared_names() == expected
    K = linearize(model, x()).K
    assert K.restrict(["b.weight"]).parameters == ("a.weight",)
    assert wrap(torch.nn.RNNCell(3, 3)).shared_names() == {}
