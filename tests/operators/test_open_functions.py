"""What the methods of an operator call: declared beside it, implemented beside the operators that result."""

from __future__ import annotations

from functools import singledispatch

import pytest
import torch

from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.operators import (
    FunctionOperator,
    KroneckerOperator,
    MatrixOperator,
    Operator,
    Space,
    _base,
)

DECLARED = {name: value for name, value in vars(_base).items() if hasattr(value, "registry")}
SPACE = Space.of(index=2)
A = MatrixOperator(torch.tensor([[2.0, 1.0], [0.0, 1.0]]), name="A")


def test_each_declared_function_has_an_implementation() -> None:
    assert len(DECLARED) == 18
    for name, function in DECLARED.items():
        kind = torch.Tensor if name == "diagonal" else Operator
        assert function.dispatch(kind) is not function.dispatch(object), name


@pytest.mark.parametrize("name", sorted(DECLARED))
def test_another_argument_is_refused(name) -> None:
    expected = "Tensor" if name == "diagonal" else "Operator"
    arguments = {"declare": {"self_adjoint": True, "positive": False, "tol": None}}.get(name, {})
    others = {"adjoint": 0, "compose": 0, "declare": 0, "to_scipy": 0, "project": 3}.get(name, 1)
    with pytest.raises(ArgumentError, match=rf"^first argument of {name}: expected {expected}.*, got 'A'"):
        DECLARED[name]("A", *[A] * others, **arguments)


def test_one_without_an_implementation_says_so() -> None:
    @singledispatch
    def trace_of(operator: Operator) -> float:
        raise _base._unregistered(trace_of, operator)

    with pytest.raises(ArgumentError, match=r"^first argument of trace_of: expected a type for which an"):
        trace_of(A)

    @trace_of.register
    def _(operator: MatrixOperator) -> float:
        return float(operator.matrix.trace())

    assert trace_of(A) == 3
    with pytest.raises(ArgumentError, match=r"^first argument of trace_of: expected MatrixOperator, got 3"):
        trace_of(3)


class Halved(Operator):
    """``A / 2`` with what is open to a class of another author: an adjoint, an inverse, no formula."""

    def __init__(self, inner: Operator) -> None:
        super().__init__(inner.domain, inner.codomain, dtype=inner.dtype, device=inner.device)
        self.inner = inner

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.inner._apply(q) / 2

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.inner._apply_adjoint(r) / 2

    def _inverse(self) -> Operator:
        return 2 * self.inner.inverse


def test_an_inverse_of_ones_own_is_found_from_outside() -> None:
    half = Halved(A)
    identity = torch.eye(2)
    assert torch.equal((half.inverse @ half).to_dense(), identity)
    assert torch.equal(half.T.inverse.to_dense(), half.inverse.to_dense().T)
    assert torch.equal((half @ A).inverse.to_dense() @ (half @ A).to_dense(), identity)
    pair = KroneckerOperator(half, MatrixOperator(A.matrix, Space.of(other=2)))
    assert torch.equal(pair.inverse.to_dense() @ pair.to_dense(), torch.eye(4))
    plain = FunctionOperator(SPACE, SPACE, torch.clone, torch.clone)
    product = Halved(plain) @ A
    with pytest.raises(UnsupportedError, match=r"^inverse of F: no exact form is known"):
        _ = product.inverse


class Doubled(Halved):
    """A class with a dense form of its own, registered from outside."""


@_base.to_dense.register
def _(operator: Doubled, max_bytes: int, *, check: bool = True) -> torch.Tensor:
    return 2 * _base.to_dense(operator.inner, max_bytes, check=check)


def test_a_form_registered_for_a_class_is_the_one_that_is_used() -> None:
    assert torch.equal(Doubled(A).to_dense(), 2 * A.matrix)
    assert torch.equal(Halved(A).to_dense(), A.matrix / 2)
    assert repr(Doubled(A) @ A) == "Doubled A"
