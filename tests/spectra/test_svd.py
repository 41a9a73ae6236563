from __future__ import annotations

import pytest
import torch

from kpframe.errors import ArgumentError, NonFiniteError
from kpframe.operators import IdentityOperator, MatrixOperator, Operator, OuterProductOperator, ZeroOperator
from kpframe.operators._spaces import Space
from kpframe.spectra import SingularTriplets, randomized_svd, svd

F64 = torch.float64


def check(op: Operator, triplets: SingularTriplets, k: int, atol: float) -> None:
    """Shapes, order, orthonormality, signs, and the reported residuals."""
    assert triplets.U.shape == (k, *op.codomain.shape)
    assert triplets.V.shape == (k, *op.domain.shape)
    assert (triplets.S.diff() <= 1e-12).all()
    assert (triplets.S >= 0).all()
    left, right = triplets.U.reshape(k, -1), triplets.V.reshape(k, -1)
    for rows in (left, right):
        torch.testing.assert_close(rows @ rows.T, torch.eye(k, dtype=rows.dtype), rtol=0, atol=atol)
    assert (left.gather(1, left.abs().argmax(1, keepdim=True)) > 0).all()
    matrix = op.to_dense()
    forward = (right @ matrix.T - triplets.S[:, None] * left).norm(dim=1)
    backward = (left @ matrix - triplets.S[:, None] * right).norm(dim=1)
    expected = (forward**2 + backward**2).sqrt()
    torch.testing.assert_close(triplets.residual_norms, expected, rtol=1e-2, atol=atol)


@pytest.mark.parametrize("transposed", [False, True])
def test_against_dense(transposed: bool, rectangular: MatrixOperator) -> None:
    op = rectangular.T if transposed else rectangular
    truth = torch.linalg.svdvals(rectangular.matrix)
    triplets = svd(op, k=7)
    check(op, triplets, 7, 1e-12)
    torch.testing.assert_close(triplets.S, truth[:7], rtol=1e-11, atol=0)
    assert triplets.converged.all()
    assert triplets.method == "block Golub-Kahan, blocks of 7"
    assert triplets.num_matvecs < 300
    dense = svd(op, k=7, budget=320)
    assert (dense.method, dense.num_matvecs) == ("dense", 320)
    check(op, dense, 7, 1e-12)
    torch.testing.assert_close(dense.S, truth[:7], rtol=1e-12, atol=0)
    torch.testing.assert_close(dense.U, triplets.U, rtol=0, atol=1e-8)
    torch.testing.assert_close(dense.V, triplets.V, rtol=0, atol=1e-8)
    assert not torch.allclose(svd(1.01 * op, k=7).S, truth[:7], rtol=1e-4)


def test_randomised(rectangular: MatrixOperator) -> None:
    truth = torch.linalg.svdvals(rectangular.matrix)[:6]
    errors = []
    for power in (0, 1, 2):
        triplets = randomized_svd(rectangular, k=6, power=power)
        check(rectangular, triplets, 6, 1e-12)
        assert triplets.num_matvecs == 16 * (2 * power + 2) + 6
        errors.append(float((triplets.S / truth - 1).abs().max()))
    assert errors[2] < errors[1] < errors[0] < 0.2
    assert errors[2] < 1e-3
    assert triplets.converged.all()
    assert randomized_svd(rectangular, k=310).method == "dense"
    with pytest.raises(ArgumentError, match="power: expected a whole number >= 0"):
        randomized_svd(rectangular, k=6, power=-1)


def test_budget_and_flags(rectangular: MatrixOperator) -> None:
    short = svd(rectangular, k=6, budget=40)
    assert short.num_matvecs <= 40
    assert not short.converged.all()
    check(rectangular, short, 6, 1e-12)
    assert svd(rectangular, k=6, budget=60, tol=0.5).converged.all()


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("solver", [svd, randomized_svd])
@pytest.mark.rows(2)
def test_degenerate_operators(solver, dtype: torch.dtype) -> None:  # type: ignore[no-untyped-def]
    space, other = Space.of(index=300), Space.of(row=400)
    u = torch.randn(300, generator=torch.Generator().manual_seed(5), dtype=dtype)
    v = torch.randn(400, generator=torch.Generator().manual_seed(6), dtype=dtype)
    atol = 1e-10 if dtype == F64 else 1e-3
    norm = float(u.norm() * v.norm())
    for op, values in (
        (ZeroOperator(space, dtype=dtype), [0.0] * 4),
        (ZeroOperator(space, other, dtype=dtype), [0.0] * 4),
        (IdentityOperator(space, dtype=dtype), [1.0] * 4),
        (OuterProductOperator(v, u, codomain=other, domain=space), [norm, 0, 0, 0]),
        (OuterProductOperator(u, v, codomain=space, domain=other), [norm, 0, 0, 0]),
    ):
        triplets = solver(op, k=4)
        torch.testing.assert_close(triplets.S, torch.tensor(values, dtype=dtype), rtol=1e-5, atol=atol)
        check(op, triplets, 4, atol)
        assert triplets.converged.all()
    one = solver(MatrixOperator(torch.tensor([[-3.0]], dtype=dtype)), k=1)
    assert (one.S.tolist(), one.U.tolist(), one.V.tolist()) == ([3.0], [[1.0]], [[-1.0]])


def test_bad_arguments(rectangular: MatrixOperator) -> None:
    for solver in (svd, randomized_svd):
        with pytest.raises(ArgumentError, match="k: expected at most 320, the dimension of M, got 321"):
            solver(rectangular, k=321)
        with pytest.raises(ArgumentError, match="k: expected a whole number >= 1, got 0"):
            solver(rectangular, k=0)
        with pytest.raises(NonFiniteError, match=r"bad: .*probe 0"):
            solver(MatrixOperator(torch.full((300, 300), torch.nan, dtype=F64), name="bad"), k=2)
    with pytest.raises(ArgumentError, match="budget: expected at least 16 products for k=4, got 15"):
        svd(rectangular, k=4, budget=15)
    with pytest.raises(ArgumentError, match="budget: expected a whole number >= 1, got 0"):
        svd(rectangular, k=4, budget=0)
    assert svd(rectangular, k=320).S.shape == (320,)
