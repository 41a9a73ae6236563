"""Arithmetic of operators against arithmetic of their matrices."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kpframe.errors import AxisError
from kpframe.operators import (
    Composition,
    DiagonalOperator,
    IdentityOperator,
    MatrixOperator,
    OuterProductOperator,
    ScaledOperator,
    SumOperator,
    ZeroOperator,
    compose,
)
from kpframe.operators._spaces import Space

SEEDS = st.integers(0, 2**31 - 1)


@given(seed=SEEDS, n=st.integers(1, 4), m=st.integers(1, 4), k=st.integers(1, 4))
def test_product_sum_scale_and_adjoint(draw, close, seed, n, m, k) -> None:
    d = draw(seed)
    x, y, z = Space.of(x=n), Space.of(y=m), Space.of(z=k)
    a, b, c = d.matrix(y, x, "A"), d.matrix(z, y, "B"), d.matrix(z, y, "C")
    A, B, C = a.matrix, b.matrix, c.matrix
    close((a @ b).to_dense(), A @ B)
    close((b + c).to_dense(), B + C)
    close((b - c).to_dense(), B - C)
    close((a @ (b - 2 * c) / 4).to_dense(), A @ (B - 2 * C) / 4)
    close(((a @ b).T @ (a @ b)).to_dense(), (A @ B).T @ (A @ B))
    close((-(2 * a @ b)).T.to_dense(), -2 * (A @ B).T)


def test_order_and_sign_matter(draw, close, differ) -> None:
    d = draw(1)
    space = Space.of(index=4)
    a, b = d.matrix(space), d.matrix(space)
    close((a @ b).to_dense(), a.matrix @ b.matrix)
    differ((a @ b).to_dense(), b.matrix @ a.matrix)
    differ((a - b).to_dense(), (b - a).to_dense())
    differ((a @ b).T.to_dense(), a.matrix.T @ b.matrix.T)


@given(seed=SEEDS, exponent=st.integers(0, 4))
def test_power(draw, close, seed, exponent) -> None:
    a = draw(seed).matrix(Space.of(index=3))
    close((a**exponent).to_dense(), torch.linalg.matrix_power(a.matrix, exponent))


def test_numbers_of_every_kind_scale(draw, close) -> None:
    a = draw(0).matrix(Space.of(index=3))
    for two in (2, 2.0, np.float64(2), np.float32(2), np.int64(2), torch.tensor(2.0), torch.tensor(2)):
        for scaled in (two * a, a * two):
            assert isinstance(scaled, ScaledOperator)
            assert scaled.scalar == 2.0
            close(scaled.to_dense(), 2 * a.matrix)
    close((a / np.float64(4)).to_dense(), a.matrix / 4)
    close((0 * a).to_dense(), torch.zeros_like(a.matrix))


def test_scales_gather_and_one_vanishes(draw) -> None:
    a = draw(0).matrix(Space.of(index=3))
    assert 1.0 * a is a
    assert -1 * (-1 * a) is a
    assert (2 * (3 * a)).scalar == 6
    assert (2 * (3 * a)).inner is a
    product = (2 * a) @ (3 * a.T)
    assert isinstance(product, ScaledOperator)
    assert product.scalar == 6
    assert isinstance(product.inner, Composition)


def test_products_are_flat_and_resolve_identity_and_zero(draw) -> None:
    d = draw(0)
    space, wide = Space.of(index=3), Space.of(wide=5)
    a, b = d.matrix(space), d.matrix(wide, space, "B")
    one, nil = IdentityOperator(space, dtype=d.dtype), ZeroOperator(space, dtype=d.dtype)
    assert one @ a is a
    assert a @ one is a
    assert (a @ (a @ b)).factors == (a, a, b)
    assert ((a @ b).T @ a).factors[-1] is a
    product = nil @ b
    assert isinstance(product, ZeroOperator)
    assert (product.domain, product.codomain) == (wide, space)
    assert isinstance(2 * one @ one, ScaledOperator)
    assert a + nil is a
    assert nil + a is a
    assert isinstance(nil + nil, ZeroOperator)
    assert (a + (a + a)).terms == (a, a, a)
    assert isinstance(a + a, SumOperator)


def test_compose_takes_any_number(draw, close) -> None:
    d = draw(5)
    a, b, c = (d.matrix(Space.of(index=3)) for _ in range(3))
    close(compose(a, b, c).to_dense(), a.matrix @ b.matrix @ c.matrix)
    assert compose(a) is a


def test_given_matrices_choose_their_axes() -> None:
    square, wide = MatrixOperator(torch.ones(2, 2)), MatrixOperator(torch.ones(2, 3))
    assert square.domain == square.codomain == Space.of(index=2)
    assert (wide.domain, wide.codomain) == (Space.of(column=3), Space.of(row=2))
    assert DiagonalOperator(torch.ones(4)).domain == Space.of(index=4)


def test_an_operator_does_not_iterate_or_convert(draw) -> None:
    a = draw(0).matrix(Space.of(index=2))
    with pytest.raises(TypeError):
        list(a)
    with pytest.raises(AxisError, match="always named"):
        a.mean(0)


def test_what_an_operator_was_made_of_can_be_refilled(draw, states) -> None:
    d = draw(3)
    space = states()
    values, matrix, u, v, W = (
        d.vector(space),
        d.tensor(12, 12),
        d.vector(space),
        d.vector(space),
        d.tensor(2, 2),
    )
    held = torch.nn.Parameter(d.tensor(12, 12))
    matrix = matrix @ matrix.T
    symmetric = MatrixOperator(matrix, space)
    made = [
        DiagonalOperator(values.abs_(), space),
        symmetric,
        MatrixOperator(held, space),
        OuterProductOperator(u, v, codomain=space),
        d.matrix(space).project(W),
    ]
    before = [(op.to_dense(), op.tags) for op in made]
    with torch.no_grad():
        for tensor in (values, matrix, u, v, W, held):
            tensor.copy_(d.tensor(*tensor.shape))
    for op, (dense, tags) in zip(made, before, strict=True):
        assert torch.equal(op.to_dense(), dense)
        assert op.tags == tags
        assert not op.to_dense().requires_grad
