"""Trees of the operator algebra: small records that print as code and build an operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from attrs import frozen

from kpframe.operators import (
    DiagonalOperator,
    IdentityOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators._spaces import Space, state_space
from kpframe.testing._values import values

#: Leaves of an operator on the state space, simplest first.
LEAVES = ("matrix", "diagonal", "symmetric", "outer", "outer_same", "identity", "zero")
#: Nodes of one and of two children, all of which map the state space to itself.
UNARY = ("adjoint", "negated", "halved", "squared", "congruence", "symmetric_part", "cached")
BINARY = ("compose", "add", "subtract")
#: What may stand at the root: other spaces.
ROOTS = (
    "mean_time",
    "mean_batch_hidden",
    "sum_time",
    "select_last",
    "select_some",
    "project",
    "bin_time",
    "partial_trace",
    "block_diagonal",
    "to_parameters",
)


@frozen(repr=False)
class Node:
    """A node of an expression: its kind, its children, and a number that tells equal leaves apart."""

    kind: str
    children: tuple[Node, ...] = ()
    number: int = 0

    def __repr__(self) -> str:
        children = "".join(f", {child!r}" for child in self.children)
        number = f", number={self.number}" if self.number else ""
        inside = f", ({children[2:]},)" if self.children else ""
        return f"Node({self.kind!r}{inside}{number})"


@frozen
class OperatorCase:
    """An operator of the algebra on the state space, its values from a seed and a kind.

    Attributes:
        tree: the expression.
        batch, time, hidden: sizes of the state space.
        seed, kind: of the leaves' values.
    """

    tree: Node
    batch: int = 1
    time: int = 1
    hidden: int = 1
    seed: int = 0
    kind: str = "normal"

    @property
    def space(self) -> Space:
        """The state space at the leaves."""
        return state_space(self.batch, self.time, {"h": self.hidden})

    def build(self, dtype: torch.dtype = torch.float64) -> Operator:
        """Return the operator."""
        return _Builder(self, dtype).build(self.tree)

    def vector(self, space: Space, salt: int = 0, probes: Sequence[int] = ()) -> torch.Tensor:
        """Return a normal vector of a space."""
        return values((*probes, *space.shape), self.seed + 1000 + salt)


class _Builder:
    def __init__(self, case: OperatorCase, dtype: torch.dtype) -> None:
        self.case, self.space, self.dtype = case, case.space, dtype

    def draw(self, number: int, *shape: int) -> torch.Tensor:
        return values(shape, self.case.seed + 17 * number, self.case.kind, self.dtype)

    def build(self, node: Node) -> Operator:
        if node.kind in LEAVES:
            return self.leaf(node.kind, node.number)
        made: Operator = _NODES[node.kind](self, *[self.build(child) for child in node.children])
        return made

    def leaf(self, kind: str, number: int) -> Operator:
        space, n = self.space, self.space.size
        if kind == "identity":
            return IdentityOperator(space, dtype=self.dtype)
        if kind == "zero":
            return ZeroOperator(space, dtype=self.dtype)
        if kind == "diagonal":
            return DiagonalOperator(self.draw(number, *space.shape), space, name=f"D{number}")
        if kind == "outer":
            u, v = self.draw(number, *space.shape), self.draw(number + 1, *space.shape)
            return OuterProductOperator(u, v, codomain=space, domain=space)
        if kind == "outer_same":
            return OuterProductOperator(self.draw(number, *space.shape), codomain=space)
        matrix = self.draw(number, n, n)
        if kind == "symmetric":
            return MatrixOperator((matrix + matrix.mT) / 2, space, name=f"S{number}")
        return MatrixOperator(matrix, space, name=f"M{number}")


def _wide(b: _Builder) -> Operator:
    """Return an operator from the state space to a parameter space."""
    n = b.space.size
    return MatrixOperator(b.draw(99, n + 1, n), b.space, Space.of(parameter=n + 1), name="R")


_NODES: dict[str, Callable[..., Any]] = {
    "adjoint": lambda b, a: a.T,
    "negated": lambda b, a: -a,
    "halved": lambda b, a: a / 2,
    "squared": lambda b, a: a**2,
    "congruence": lambda b, a: a @ a.T,
    "symmetric_part": lambda b, a: a.symmetric_part,
    "cached": lambda b, a: a.cached(),
    "compose": lambda b, a, c: a @ c,
    "add": lambda b, a, c: a + c,
    "subtract": lambda b, a, c: a - 2 * c,
    "mean_time": lambda b, a: a.mean("time"),
    "mean_batch_hidden": lambda b, a: a.mean("hidden", "batch"),
    "sum_time": lambda b, a: a.sum("time"),
    "select_last": lambda b, a: a.select(time=-1),
    "select_some": lambda b, a: a.select(hidden=slice(0, 1), batch=0),
    "project": lambda b, a: a.project(b.draw(98, 2, b.case.hidden)),
    "bin_time": lambda b, a: a.bin(time=2),
    "partial_trace": lambda b, a: a.partial_trace("time"),
    "block_diagonal": lambda b, a: a.block_diagonal("batch"),
    "to_parameters": lambda b, a: _wide(b) @ a,
}
