"""Numbers in front of operators, however far from 1: no product overflows by how it is written."""

from __future__ import annotations

import math
import re
from fractions import Fraction

import pytest
import torch

from kpframe.operators import Composition, IdentityOperator, MatrixOperator, Operator
from kpframe.operators._scale import gathered, multiplied
from kpframe.operators._spaces import Space

SPACE = Space.of(index=5)
I = IdentityOperator(SPACE)  # noqa: E741


def matrix(name: str, scale: float = 1.0, dtype: torch.dtype = torch.float32) -> MatrixOperator:
    seeded = torch.Generator().manual_seed(sum(map(ord, name)))
    values = torch.randn(5, 5, generator=seeded, dtype=torch.float64)
    return MatrixOperator((values * scale).to(dtype), SPACE, name=name)


def double(op: MatrixOperator) -> torch.Tensor:
    return op.matrix.double()


A, B = matrix("A"), matrix("B")
LARGE, OTHER = matrix("A", 1e25), matrix("B", 1e25)
SMALL = matrix("A", 1e-25)
a, b, large, other, small = (double(op) for op in (A, B, LARGE, OTHER, SMALL))


@pytest.mark.parametrize(
    ("op", "right", "formula"),
    [
        ((LARGE / 1e25) @ (OTHER / 1e25), large @ other * 1e-50, "1e-50 A B"),
        (LARGE @ (OTHER / 1e25), large @ other * 1e-25, "1e-25 A B"),
        ((SMALL * 1e25) @ (SMALL * 1e25), small @ small * 1e50, "1e+50 A A"),
        ((LARGE / 1e25) @ (LARGE / 1e25).T, large @ large.mT * 1e-50, "1e-50 A A*"),
        ((LARGE / -1e25) @ (OTHER / 1e25), large @ other * -1e-50, "-1e-50 A B"),
        (2 * ((LARGE / 1e25) @ (OTHER / 1e25)), large @ other * 2e-50, "2e-50 A B"),
        (((LARGE / 1e25) @ (OTHER / 1e25)).T, (large @ other).mT * 1e-50, "1e-50 B* A*"),
        (((LARGE / 1e25) @ (OTHER / 1e25)).T @ A, (large @ other).mT @ a * 1e-50, "1e-50 B* A* A"),
        ((LARGE / 1e25) ** 3, torch.linalg.matrix_power(large * 1e-25, 3), "1e-75 A A A"),
        ((1e-25 * I) @ LARGE @ I @ (1e-25 * I) @ OTHER, large @ other * 1e-50, "1e-50 A B"),
        (1e-50 * matrix("A", 1e30), double(matrix("A", 1e30)) * 1e-50, "1e-50 A"),
        (1e50 * matrix("A", 1e-40), double(matrix("A", 1e-40)) * 1e50, "1e+50 A"),
        ((1e-11 * SMALL) @ I, small * 1e-11, "1e-11 A"),
        ((1e-10 * A) @ (1e-11 * I), a * 1e-21, "1e-21 A"),
        ((2 * A) @ (3 * B), a @ b * 6, "6 A B"),
        ((0 * LARGE) @ (1e-25 * OTHER), 0 * a, "0 A B"),
    ],
)
def test_products_of_scaled_operators(op: Operator, right: torch.Tensor, formula: str) -> None:
    assert repr(op) == formula
    size = float(right.norm())
    assert float((op.to_dense().double() - right).norm()) <= 1e-6 * size
    assert float((op.T.to_dense().double() - right.mT).norm()) <= 1e-6 * size
    assert float((op.T.to_dense().double() - right).norm()) >= 0.1 * size or formula == "1e-50 A A*"


def test_tags_see_through_the_numbers() -> None:
    gram = (LARGE / 1e25) @ (LARGE / 1e25).T
    assert gram.tags == {"self_adjoint", "positive"}
    assert (-gram).tags == {"self_adjoint"}
    turned = -gram
    assert (-turned).tags == gram.tags
    assert not ((LARGE / 1e25) @ (OTHER / 1e25)).tags


def test_numbers_of_ordinary_size_are_pulled_to_the_front() -> None:
    product = (1e-3 * A) @ (1e3 * B)
    assert isinstance(product, Composition)
    assert set(product.numbers) == {1.0}
    assert ((0.5 * A) @ B).scalar == 0.5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_inverse_of_a_product(dtype: torch.dtype) -> None:
    """Of factors that do not commute, in the reverse order."""
    first, second, third = (matrix(name, 1.0, dtype) for name in "ABC")
    tolerance = 200 * torch.finfo(dtype).eps
    for op, size in (
        (first @ second @ third, 1.0),
        ((2 * first) @ second.T, 2.0),
        ((first * 1e-20) @ (second * 1e-10), 1e-30),
        ((first @ second).T @ third, 1.0),
    ):
        right = torch.linalg.inv(op.to_dense().double() / size) / size
        found = op.inverse.to_dense().double()
        assert float((found - right).norm()) <= tolerance * 20 * float(right.norm())
    swapped = (third.inverse @ second.inverse @ first.inverse).to_dense()
    kept = (first.inverse @ second.inverse @ third.inverse).to_dense()
    assert float((swapped - kept).norm()) > 0.1 * float(kept.norm())
    assert repr((first @ second).inverse) == "B^-1 A^-1"


def test_what_no_number_holds_stays_apart() -> None:
    """Beyond the range of Python's numbers two numbers are not gathered into one."""
    op = matrix("A", 1e300, torch.float64)
    twice = 1e-200 * (1e-200 * op)
    right = double(op) * 1e-200 * 1e-200
    assert float((twice.to_dense() - right).norm()) <= 1e-12 * float(right.norm())
    assert 1e-101 < float(right.norm()) < 1e-98
    square = (1e-200 * op) @ (1e-200 * op)  # the second factor of a vector of 1e100
    half = double(op) * 1e-200 / 1e50
    assert float((square.to_dense() / 1e100 - half @ half).norm()) <= 1e-12 * float((half @ half).norm())
    assert repr(square) == "1e-200 1e-200 A A"
    with pytest.raises(ValueError, match=re.escape("scalar: expected a finite number")):
        _ = math.inf * op


@pytest.mark.parametrize("number", [1e300, 1e-300, -1e60, 1e-60, 0.0, 3.0])
@pytest.mark.parametrize("value", [0.0, 1e-38, 1e38, 1.0])
def test_multiplied(number: float, value: float) -> None:
    exact = Fraction(number) * Fraction(float(torch.tensor(value)))
    found = float(multiplied(number, torch.tensor(value)))
    if abs(exact) > Fraction(torch.finfo(torch.float32).max):
        assert abs(found) == math.inf
    else:
        assert found == pytest.approx(float(exact), rel=1e-6, abs=2.0**-149)


def test_gathered() -> None:
    assert gathered(2.0, 3.0) == 6
    assert gathered(1e-200, 1e-200) is None
    assert gathered(1e200, 1e200) is None
    assert gathered(0.0, 1e-200) == 0
