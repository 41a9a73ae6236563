from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import scipy.sparse.linalg
import torch

from kpframe.errors import ArgumentError, NonFiniteError, SpaceMismatchError
from kpframe.operators import (
    DiagonalOperator,
    IdentityOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators._spaces import Space
from kpframe.spectra import eigsh

F64 = torch.float64


@pytest.mark.parametrize(
    ("which", "scipy_name"), [("largest", "LA"), ("smallest", "SA"), ("magnitude", "LM")]
)
@pytest.mark.rows(3)
def test_against_scipy_and_numpy(which: str, scipy_name: str, symmetric: MatrixOperator) -> None:
    pairs = eigsh(symmetric, k=6, which=which)
    assert pairs.method.startswith("block Lanczos")
    values = scipy.sparse.linalg.eigsh(symmetric.to_scipy(), 6, which=scipy_name, return_eigenvectors=False)
    key = {"largest": -values, "smallest": values, "magnitude": -np.abs(values)}[which]
    np.testing.assert_allclose(pairs.eigenvalues.numpy(), values[np.argsort(key)], rtol=1e-10, atol=1e-12)
    everything = np.linalg.eigh(symmetric.matrix.numpy())[0]
    assert np.abs(everything[:, None] - pairs.eigenvalues.numpy()).min(0).max() < 1e-12


def test_vectors_residuals_and_flags(symmetric: MatrixOperator) -> None:
    pairs = eigsh(symmetric, k=6)
    assert pairs.eigenvectors.shape == (6, 3, 10, 10)
    flat = pairs.eigenvectors.flatten(1)
    torch.testing.assert_close(flat @ flat.T, torch.eye(6, dtype=F64), rtol=0, atol=1e-12)
    residuals = symmetric(pairs.eigenvectors) - pairs.eigenvalues[:, None, None, None] * pairs.eigenvectors
    torch.testing.assert_close(residuals.flatten(1).norm(dim=1), pairs.residual_norms, rtol=1e-3, atol=1e-15)
    assert pairs.converged.all()
    assert pairs.converged.dtype == torch.bool
    assert (flat.gather(1, flat.abs().argmax(1, keepdim=True)) > 0).all()
    assert (pairs.eigenvalues.diff() <= 0).all()
    again = eigsh(symmetric, k=6)
    assert torch.equal(pairs.eigenvectors, again.eigenvectors)
    other = eigsh(symmetric, k=6, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(pairs.eigenvectors, other.eigenvectors, rtol=0, atol=1e-8)
    assert not torch.equal(pairs.eigenvectors, other.eigenvectors)


def test_budget_bounds_the_products_and_flags_say_what_is_missing() -> None:
    op = DiagonalOperator(torch.linspace(1, 2, 2000, dtype=F64))
    short = eigsh(op, k=4, budget=40)
    assert short.num_matvecs <= 40
    assert not short.converged.all()
    assert (short.residual_norms > 1e-6).any()
    assert (short.eigenvalues <= 2 + 1e-12).all()
    loose = eigsh(op, k=4, budget=400, tol=1e-3)
    assert loose.converged.all()
    assert loose.num_matvecs < 400


@pytest.mark.parametrize("blocks", [False, True])
def test_a_run_ends_as_soon_as_measured_residuals_are_within_the_tolerance(monkeypatch, blocks: bool) -> None:
    values = torch.linspace(1, 3, 900, dtype=F64).reshape(9, 100)
    op = DiagonalOperator(values, Space.of(time=9, hidden=100))
    if blocks:
        monkeypatch.setattr(DiagonalOperator, "block_labels", lambda self: torch.arange(100))
    found = {}
    for kept in (2**27, 0):
        monkeypatch.setattr("kpframe.spectra._numerics.block_lanczos.KEPT_BYTES", kept)
        found[kept] = pairs = eigsh(op, k=4, tol=0.02, budget=200)
        assert pairs.converged.all()
        fresh = op(pairs.eigenvectors) - pairs.eigenvalues[:, None, None] * pairs.eigenvectors
        torch.testing.assert_close(fresh.flatten(1).norm(dim=1), pairs.residual_norms, rtol=1e-10, atol=1e-13)
    # products at the end, and those for half of the tolerance
    assert found[2**27].num_matvecs <= found[0].num_matvecs - 4 - (0 if blocks else 4)
    if not blocks:
        assert not eigsh(op, k=4, tol=0.02, budget=found[2**27].num_matvecs - 1).converged.all()
        assert found[2**27].residual_norms.max() > 0.01 * 3 > found[0].residual_norms.max()


def test_ten_pairs_of_a_decaying_operator_in_fifteen_steps() -> None:
    op = DiagonalOperator(torch.arange(1, 1001, dtype=F64) ** -2.0)
    pairs = eigsh(op, k=10, tol=1e-6)
    assert pairs.num_matvecs <= 160
    torch.testing.assert_close(pairs.eigenvalues, op.values[:10], rtol=1e-8, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_dense_when_small(dtype: torch.dtype) -> None:
    matrix = torch.randn(40, 40, generator=torch.Generator().manual_seed(1), dtype=dtype)
    op = MatrixOperator((matrix + matrix.T) / 2)
    for budget, method in ((None, "dense"), (40, "dense"), (39, "block Lanczos, blocks of 6")):
        pairs = eigsh(op, k=6, budget=budget)
        assert pairs.method == method
        expected = torch.linalg.eigvalsh(op.matrix.double()).flip(0)[:6].to(dtype)
        if method == "dense":
            tolerance = 1e-12 if dtype == F64 else 1e-5
            torch.testing.assert_close(pairs.eigenvalues, expected, rtol=tolerance, atol=tolerance)
            assert pairs.num_matvecs == 40
    whole = eigsh(op, k=40)
    assert whole.eigenvalues.shape == (40,)
    assert whole.converged.all()


def test_repeated_eigenvalues_are_found_as_often_as_they_occur() -> None:
    op = DiagonalOperator(torch.tensor([3.0] * 4 + [2.0] * 3 + [0.0] * 493, dtype=F64))
    pairs = eigsh(op, k=8)
    expected = torch.tensor([3.0] * 4 + [2.0] * 3 + [0.0], dtype=F64)
    torch.testing.assert_close(pairs.eigenvalues, expected, rtol=0, atol=1e-12)
    assert pairs.converged.all()


@pytest.mark.parametrize("budget", [None, 60])
def test_degenerate_operators(budget: int | None) -> None:
    space = Space.of(index=300)
    u = torch.randn(300, generator=torch.Generator().manual_seed(5), dtype=F64)
    for op, first in (
        (ZeroOperator(space, dtype=F64), 0.0),
        (IdentityOperator(space, dtype=F64), 1.0),
        (OuterProductOperator(u), float(u @ u)),
    ):
        pairs = eigsh(op, k=5, budget=budget)
        assert float(pairs.eigenvalues[0]) == pytest.approx(first, rel=1e-12)
        expected = first if isinstance(op, IdentityOperator) else 0.0
        torch.testing.assert_close(
            pairs.eigenvalues[1:], torch.full((4,), expected, dtype=F64), rtol=0, atol=1e-9
        )
        assert pairs.converged.all()
        flat = pairs.eigenvectors.flatten(1)
        torch.testing.assert_close(flat @ flat.T, torch.eye(5, dtype=F64), rtol=0, atol=1e-10)
    one = eigsh(MatrixOperator(torch.tensor([[-3.0]], dtype=F64)), k=1)
    assert one.eigenvalues.tolist() == [-3.0]
    assert one.eigenvectors.tolist() == [[1.0]]


def test_float32(symmetric: MatrixOperator) -> None:
    op = MatrixOperator(symmetric.matrix.float(), symmetric.domain)
    pairs = eigsh(op, k=4)
    assert pairs.eigenvectors.dtype == torch.float32
    assert pairs.converged.all()
    torch.testing.assert_close(
        pairs.eigenvalues, eigsh(symmetric, k=4).eigenvalues.float(), rtol=1e-5, atol=1e-6
    )


def test_symmetry_is_tested_where_it_is_not_proven(
    symmetric: MatrixOperator, strip: Callable[[Operator], Operator]
) -> None:
    pairs = eigsh(strip(symmetric), k=4)
    torch.testing.assert_close(pairs.eigenvalues, eigsh(symmetric, k=4).eigenvalues, rtol=1e-10, atol=1e-12)
    skewed = symmetric.matrix.clone()
    skewed[0, 1] += 1e-3
    for budget in (None, 300):
        with pytest.raises(ArgumentError, match="op: expected a self-adjoint operator, got M, which differs"):
            eigsh(MatrixOperator(skewed), k=4, budget=budget)


def test_bad_arguments(symmetric: MatrixOperator, rectangular: Operator) -> None:
    with pytest.raises(ArgumentError, match="k: expected at most 300, the dimension of M, got 301"):
        eigsh(symmetric, k=301)
    for k in (0, -1, 2.0, True):
        with pytest.raises(ArgumentError, match="k: expected a whole number >= 1"):
            eigsh(symmetric, k=k)  # type: ignore[arg-type]
    for budget in (0, -1, 3.5):
        with pytest.raises(ArgumentError, match="budget: expected a whole number >= 1"):
            eigsh(symmetric, k=4, budget=budget)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="budget: expected at least 8 products for k=4, got 7"):
        eigsh(symmetric, k=4, budget=7)
    with pytest.raises(ArgumentError, match="which: expected one of largest, smallest, magnitude, got 'LA'"):
        eigsh(symmetric, k=4, which="LA")
    with pytest.raises(ArgumentError, match="tol: expected a finite number > 0"):
        eigsh(symmetric, k=4, tol=0)
    with pytest.raises(SpaceMismatchError, match="eigsh of M: expected a square operator"):
        eigsh(rectangular)
    bad = MatrixOperator(torch.full((300, 300), torch.nan, dtype=F64), name="bad")
    for budget in (60, 300):
        with pytest.raises(NonFiniteError, match=r"bad: .*probe 0"):
            eigsh(bad, k=2, budget=budget)
