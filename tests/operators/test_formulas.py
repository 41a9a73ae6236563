"""How compositions print."""

from __future__ import annotations

import pytest
import torch

from kpframe.operators import (
    PRODUCT,
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
    SelfAdjointOperator,
    ZeroOperator,
    bracket,
)
from kpframe.operators._spaces import state_space

SPACE = state_space(2, 3, {"h": 1, "c": 1})


def matrix(name: str, symmetric: bool = False) -> MatrixOperator:
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    values = torch.randn(SPACE.size, SPACE.size, generator=generator, dtype=torch.float64)
    return MatrixOperator(values + values.T if symmetric else values, SPACE, name=name)


A, B, C, P, P_5 = (matrix(name) for name in ("A", "B", "C", "P", "P_5"))
K = matrix("K", symmetric=True)
I = IdentityOperator(SPACE, dtype=torch.float64)  # noqa: E741
ONE = torch.ones(SPACE.shape, dtype=torch.float64)
W = torch.ones(1, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("operator", "formula"),
    [
        (P @ K @ P.T, "P K P*"),
        (P @ K @ P_5.T, "P K P_5*"),
        ((P @ K @ P_5.T).T, "P_5 K P*"),
        (2.0 * A @ B, "2 A B"),
        (A @ (2 * B), "2 A B"),
        ((2 * A) @ (3 * B), "6 A B"),
        (A @ (A + B).T, "A (A + B)*"),
        ((A + B) @ C, "(A + B) C"),
        ((A @ B).T, "B* A*"),
        ((A @ B.T).T, "B A*"),
        ((A @ (B + C)).T, "(B + C)* A*"),
        (A.T, "A*"),
        (K.T, "K"),
        (A + B - C, "A + B - C"),
        (A - 2 * B, "A - 2 B"),
        (-A, "-A"),
        (-(A + B), "-(A + B)"),
        (-1 * (-1 * A), "A"),
        (A - (B + C), "A - (B + C)"),
        (0.5 * (A + B), "0.5 (A + B)"),
        (A / 4, "0.25 A"),
        ((2 * A).T, "(2 A)*"),
        (A**3, "A A A"),
        (A**0, "I"),
        (A @ I @ B, "A B"),
        (I @ I, "I"),
        (A @ ZeroOperator(SPACE, dtype=torch.float64), "0"),
        ((P @ K @ P.T).mean("time"), "<P K P*>_time"),
        ((A + B).mean("time"), "<A + B>_time"),
        (A.mean("time", "batch"), "<A>_{time,batch}"),
        (A.sum("time"), "sum_time(A)"),
        (A.partial_trace("time"), "tr_time(A)"),
        ((A @ B).partial_trace("time", "hidden"), "tr_{time,hidden}(A B)"),
        ((A @ A.T).select(time=slice(0, 2)), "(A A*)[time=0:2]"),
        (A.select(time=-1), "A[time=-1]"),
        (A.select(time=slice(None, None, 2)), "A[time=::2]"),
        (A.select(time=[0, 2]), "A[time=[0, 2]]"),
        (A.select(hidden="c"), "A[hidden=c]"),
        (A.select(time=torch.tensor([True, False, True])), "A[time=mask]"),
        (A.select(time=0, batch=1), "A[time=0][batch=1]"),
        (A.T.select(time=0), "A*[time=0]"),
        (A.select(time=0).T, "A[time=0]*"),
        (A.mean("time") @ B.mean("time"), "<A>_time <B>_time"),
        (A.mean("time").select(batch=0), "<A>_time[batch=0]"),
        (A.project(W), "W A W*"),
        ((A @ B).project(W), "W A B W*"),
        ((A + B).project(W), "W (A + B) W*"),
        (DiagonalOperator(ONE, SPACE), "D"),
        (OuterProductOperator(ONE, codomain=SPACE), "(u u*)"),
        (OuterProductOperator(ONE, ONE.clone(), codomain=SPACE) @ A, "(u v*) A"),
        (FunctionOperator(SPACE, SPACE, torch.clone, torch.clone, dtype=torch.float64).T, "F*"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_formula(operator, formula) -> None:
    assert repr(operator) == formula


class _Copy(SelfAdjointOperator):
    """An operator that says nothing of how it prints."""

    def __init__(self) -> None:
        super().__init__(SPACE, SPACE, dtype=torch.float64, device="cpu")

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return q.clone()


class SmoothingOperator(_Copy):
    """One that is called as its class is."""


class Noise(_Copy):
    """One with a name for all of its kind."""

    name = "N"


class Sandwich(_Copy):
    """``A B A*``, composed of others."""

    def __init__(self, outer: Operator, inner: Operator) -> None:
        super().__init__()
        self.outer, self.inner = outer, inner

    def _formula(self) -> tuple[str, int]:
        return " ".join(bracket(part, PRODUCT) for part in (self.outer, self.inner, self.outer.T)), PRODUCT


def test_an_operator_prints_as_its_name_or_its_class() -> None:
    assert repr(_Copy()) == "Copy"
    assert repr((SmoothingOperator() + A) @ Noise() / 2) == "0.5 (Smoothing + A) N"
    named = Noise()
    named.name = "N_2"
    assert repr(named @ A.T) == "N_2 A*"
    assert repr(Noise() @ A.T) == "N A*"


def test_a_composed_formula_has_the_brackets_that_it_needs() -> None:
    assert repr(Sandwich(A + B, C)) == "(A + B) C (A + B)*"
    assert repr(Sandwich(A, B).select(time=0)) == "(A B A*)[time=0]"
    assert repr(Sandwich(A, B) @ C) == "A B A* C"
