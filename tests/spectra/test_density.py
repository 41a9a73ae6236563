from __future__ import annotations

import pytest
import torch

from kpframe.errors import ArgumentError, NonFiniteError, SpaceMismatchError
from kpframe.operators import DiagonalOperator, IdentityOperator, MatrixOperator, Operator, ZeroOperator
from kpframe.operators._spaces import Space
from kpframe.spectra import spectral_density

F64 = torch.float64


def test_moments_of_the_density() -> None:
    values = torch.cat([torch.linspace(-1, 1, 800), torch.linspace(2, 3, 1200)]).double()
    density = spectral_density(DiagonalOperator(values), budget=400)
    assert density.nodes.shape == density.weights.shape == (10, 40)
    assert density.num_matvecs == 400
    assert float(density.weights.sum()) == pytest.approx(1, rel=1e-12)
    for power in range(1, 6):
        estimate = float((density.weights * density.nodes**power).sum())
        assert estimate == pytest.approx(float((values**power).mean()), rel=0.05)
    below = float(density.weights[density.nodes < 1.5].sum())
    assert below == pytest.approx(0.4, abs=0.03)
    assert abs(below - 0.5) > 0.05
    assert -1.0001 < float(density.nodes.min()) < float(density.nodes.max()) < 3.0001


def test_broadening_keeps_the_mass(positive: Operator) -> None:
    density = spectral_density(positive, budget=100)
    grid = torch.linspace(-1, 2, 3001, dtype=F64)
    curve = density.broadened(grid, 0.05)
    assert curve.shape == grid.shape
    assert float(torch.trapezoid(curve, grid)) == pytest.approx(1, rel=1e-6)
    assert float(density.broadened(grid, 0.5).max()) < float(curve.max())
    with pytest.raises(ArgumentError, match="sigma: expected a finite number > 0, got 0"):
        density.broadened(grid, 0)


def test_dense_when_the_budget_allows(symmetric: MatrixOperator) -> None:
    density = spectral_density(symmetric, budget=300)
    assert density.method == "dense"
    torch.testing.assert_close(density.nodes[0], torch.linalg.eigvalsh(symmetric.matrix), rtol=0, atol=1e-12)
    torch.testing.assert_close(density.weights[0], torch.full((300,), 1 / 300, dtype=F64))


def test_breakdown_ends_the_run() -> None:
    """Two eigenvalues: two steps find all there is, whatever number is asked for."""
    calls = 0

    class Counted(DiagonalOperator):
        def _apply(self, q: torch.Tensor) -> torch.Tensor:
            nonlocal calls
            calls += len(q)
            return super()._apply(q)

    op = Counted(torch.tensor([1.0] * 400 + [5.0] * 600, dtype=F64))
    density = spectral_density(op, budget=200, num_lanczos=40)
    assert density.num_matvecs == calls == 5 * 2
    heavy = density.nodes[density.weights > 1e-12]
    torch.testing.assert_close(
        heavy.sort()[0], torch.tensor([1.0] * 5 + [5.0] * 5, dtype=F64), rtol=1e-10, atol=0
    )
    assert float(density.weights.sum()) == pytest.approx(1)
    for op, place in (
        (ZeroOperator(Space.of(index=500), dtype=F64), 0.0),
        (IdentityOperator(Space.of(index=500), dtype=F64), 1.0),
    ):
        density = spectral_density(op, budget=60)
        assert float((density.weights * (density.nodes - place).abs()).sum()) < 1e-12
    assert spectral_density(MatrixOperator(torch.tensor([[2.0]])), budget=1).nodes.tolist() == [[2.0]]


def test_bad_arguments(symmetric: MatrixOperator, rectangular: Operator) -> None:
    skewed = symmetric.matrix.clone()
    skewed[0, 1] += 1e-3
    for budget in (200, 300):
        with pytest.raises(ArgumentError, match="op: expected a self-adjoint operator"):
            spectral_density(MatrixOperator(skewed), budget=budget)
    with pytest.raises(SpaceMismatchError, match="spectral_density of M"):
        spectral_density(rectangular)
    with pytest.raises(ArgumentError, match="budget: expected at least 40 products for 40 steps, got 30"):
        spectral_density(symmetric, budget=30, num_lanczos=40)
    for number in (0, 1.5):
        with pytest.raises(ArgumentError, match="num_lanczos: expected a whole number >= 1"):
            spectral_density(symmetric, budget=30, num_lanczos=number)  # type: ignore[arg-type]
        with pytest.raises(ArgumentError, match="budget: expected a whole number >= 1"):
            spectral_density(symmetric, budget=number)  # type: ignore[arg-type]
    with pytest.raises(NonFiniteError):
        spectral_density(MatrixOperator(torch.full((300, 300), torch.nan, dtype=F64)))
