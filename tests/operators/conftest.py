"""What the operator tests share: comparisons, seeded values and one operator of every kind."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe.operators import (
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators._spaces import Space, state_space


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-10) -> None:
    """Assert that two tensors agree, relative to the larger norm."""
    assert actual.shape == expected.shape, f"{list(actual.shape)} and {list(expected.shape)}"
    assert actual.dtype == expected.dtype
    scale = max(float(actual.norm()), float(expected.norm()))
    assert float((actual - expected).norm()) <= rtol * scale


def differ(first: torch.Tensor, second: torch.Tensor, rtol: float = 1e-3) -> None:
    """Assert that two tensors of one shape are far apart: the partner of every equality."""
    assert first.shape == second.shape
    assert float((first - second).norm()) > rtol * max(float(first.norm()), float(second.norm()))


def by_basis(op: Operator) -> torch.Tensor:
    """Return the matrix of an operator by its products with one basis vector at a time."""
    columns = []
    for entry in range(op.domain.size):
        unit = torch.zeros(op.domain.size, dtype=op.dtype)
        unit[entry] = 1
        columns.append(op(unit.reshape(op.domain.shape)).reshape(-1))
    return torch.stack(columns, dim=1)


class Draw:
    """Seeded tensors and operators, in float64 unless told otherwise."""

    def __init__(self, seed: int, dtype: torch.dtype = torch.float64) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype = dtype

    def tensor(self, *shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64).to(self.dtype)

    def vector(self, space: Space, *probes: int) -> torch.Tensor:
        return self.tensor(*probes, *space.shape)

    def matrix(self, domain: Space, codomain: Space | None = None, name: str = "A") -> MatrixOperator:
        codomain = domain if codomain is None else codomain
        return MatrixOperator(self.tensor(codomain.size, domain.size), domain, codomain, name=name)

    def function(self, domain: Space, codomain: Space) -> FunctionOperator:
        matrix = self.tensor(codomain.size, domain.size)

        def product(q: torch.Tensor) -> torch.Tensor:
            probes = q.shape[: q.ndim - len(domain.axes)]
            return (q.reshape(*probes, -1) @ matrix.T).reshape(*probes, *codomain.shape)

        def adjoint(r: torch.Tensor) -> torch.Tensor:
            probes = r.shape[: r.ndim - len(codomain.axes)]
            return (r.reshape(*probes, -1) @ matrix).reshape(*probes, *domain.shape)

        return FunctionOperator(domain, codomain, product, adjoint, dtype=self.dtype)


def _wide(space: Space) -> Space:
    return Space.of(parameter=space.size + 2)


def _trials(space: Space) -> Space:
    return Space.of(batch=space.shape[0], output=2)


#: One maker for every kind of node: ``(draw, state space) -> operator``.
NODES: dict[str, Callable[[Draw, Space], Operator]] = {
    "identity": lambda d, s: IdentityOperator(s, dtype=d.dtype),
    "zero": lambda d, s: ZeroOperator(s, dtype=d.dtype),
    "zero rectangular": lambda d, s: ZeroOperator(s, _wide(s), dtype=d.dtype),
    "zero to a number": lambda d, s: ZeroOperator(s, Space(()), dtype=d.dtype),
    "diagonal": lambda d, s: DiagonalOperator(d.vector(s), s),
    "matrix": lambda d, s: d.matrix(s),
    "matrix rectangular": lambda d, s: d.matrix(_wide(s), s),
    "outer": lambda d, s: OuterProductOperator(d.vector(s), d.vector(s), codomain=s),
    "outer same": lambda d, s: OuterProductOperator(d.vector(s), codomain=s),
    "outer rectangular": lambda d, s: OuterProductOperator(
        d.vector(s), d.vector(_wide(s)), codomain=s, domain=_wide(s)
    ),
    "function": lambda d, s: d.function(s, _wide(s)),
    "adjoint": lambda d, s: d.matrix(_wide(s), s).T,
    "adjoint of a product": lambda d, s: (d.matrix(s) @ d.matrix(_wide(s), s)).T,
    "composition": lambda d, s: d.matrix(s) @ d.matrix(_wide(s), s),
    "composition A B A*": lambda d, s: (lambda a: a @ d.matrix(s) @ a.T)(d.matrix(s)),
    "sum": lambda d, s: d.matrix(s) + d.matrix(s) - d.matrix(s),
    "sum A + A*": lambda d, s: (lambda a: a + a.T)(d.matrix(s)),
    "scaled": lambda d, s: -2.5 * d.matrix(s),
    "power": lambda d, s: d.matrix(s) ** 3,
    "mean": lambda d, s: d.matrix(s).mean("time"),
    "mean of two": lambda d, s: d.matrix(s).mean("hidden", "batch"),
    "mean of all": lambda d, s: d.matrix(s).mean("hidden", "batch", "time"),
    "mean one side": lambda d, s: d.matrix(_wide(s), s).mean("time"),
    "mean both sides apart": lambda d, s: d.matrix(_trials(s), s).mean("batch", "time"),
    "sum over": lambda d, s: d.matrix(s).sum("batch"),
    "sum over domain": lambda d, s: d.matrix(s, _wide(s)).sum("hidden", "time"),
    "select one": lambda d, s: d.matrix(s).select(time=-1),
    "select last axis": lambda d, s: d.matrix(s).select(hidden=0),
    "select slice": lambda d, s: d.matrix(s).select(time=slice(0, 2)),
    "select list": lambda d, s: d.matrix(s).select(hidden=[1, 0], batch=0),
    "select mask": lambda d, s: d.matrix(s).select(time=torch.arange(s["time"].size) > 0),
    "select part": lambda d, s: d.matrix(s).select(hidden="c"),
    "select one side": lambda d, s: d.matrix(_wide(s), s).select(time=0),
    "project": lambda d, s: d.matrix(s).project(d.tensor(2, s["hidden"].size)),
    "project time": lambda d, s: d.matrix(s).project(d.tensor(3, s["time"].size), "time", "mode"),
    "project one side": lambda d, s: d.matrix(_wide(s), s).project(d.tensor(2, s["hidden"].size)),
    "partial trace": lambda d, s: d.matrix(s).partial_trace("time"),
    "partial trace of two": lambda d, s: d.matrix(s).partial_trace("hidden", "batch"),
    "partial trace of all": lambda d, s: d.matrix(s).partial_trace("hidden", "batch", "time"),
    "partial trace rectangular": lambda d, s: d.matrix(_trials(s), s).partial_trace("batch"),
    "reduction of a product": lambda d, s: (d.matrix(s) @ d.matrix(s)).mean("time").select(batch=0),
    "product of reductions": lambda d, s: d.matrix(s).mean("time") @ d.matrix(s).partial_trace("time"),
}


@pytest.fixture(scope="session", params=sorted(NODES))
def node(request: pytest.FixtureRequest) -> Callable[[Draw, Space], Operator]:
    return NODES[request.param]


@pytest.fixture(scope="session", name="close")
def close_fixture() -> Callable[..., None]:
    return close


@pytest.fixture(scope="session", name="differ")
def differ_fixture() -> Callable[..., None]:
    return differ


@pytest.fixture(scope="session", name="by_basis")
def by_basis_fixture() -> Callable[[Operator], torch.Tensor]:
    return by_basis


@pytest.fixture(scope="session")
def draw() -> type[Draw]:
    return Draw


@pytest.fixture(scope="session")
def states() -> Callable[..., Space]:
    """Return a maker of state spaces with two components on ``hidden``."""
    return lambda batch=2, time=3, h=1, c=1: state_space(batch, time, {"h": h, "c": c})
