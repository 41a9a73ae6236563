"""Eigenpairs from vectors that are near them: fewer products, and nothing that these leave out is missed."""

from __future__ import annotations

import pytest
import torch

from kpframe.errors import NonFiniteError, ShapeError
from kpframe.operators import MatrixOperator
from kpframe.operators._spaces import Space
from kpframe.spectra import eigsh
from kpframe.spectra._numerics import near as near_pairs

F64 = torch.float64
N, K = 300, 5


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def operator_of(values: torch.Tensor, seed: int = 0) -> tuple[MatrixOperator, torch.Tensor]:
    """Return a symmetric operator with the eigenvalues, the largest first, and its eigenvectors as rows."""
    vectors = torch.linalg.qr(torch.randn(N, N, generator=generator(seed), dtype=F64))[0]
    matrix = vectors * values @ vectors.mT
    op = MatrixOperator((matrix + matrix.mT) / 2, Space.of(state=N)).declare(self_adjoint=True)
    return op, vectors.mT.contiguous()


def decaying(first: float = 0.8) -> torch.Tensor:
    return first ** torch.arange(N, dtype=F64)


def moved(rows: torch.Tensor, by: float) -> torch.Tensor:
    return rows + by * torch.randn(rows.shape, generator=generator(9), dtype=F64) / N**0.5


@pytest.mark.parametrize("which", ["largest", "smallest"])
def test_fewer_products_for_the_same_pairs(which) -> None:
    sign = 1 if which == "largest" else -1
    op, vectors = operator_of(sign * decaying(0.95))
    settings = {"k": K, "tol": 0.05, "budget": 150, "which": which}
    plain = eigsh(op, **settings, generator=generator(1))
    found = eigsh(op, **settings, generator=generator(1), near=moved(vectors[:K], 0.05))
    assert found.method == "Lanczos from vectors that are near"
    assert found.converged.all()
    assert plain.converged.all()
    assert found.num_matvecs < 0.8 * plain.num_matvecs
    truth = sign * decaying(0.95)[:K]
    assert torch.allclose(found.eigenvalues, truth, rtol=1e-2)
    residuals = op(found.eigenvectors) - found.eigenvalues[:, None] * found.eigenvectors
    assert torch.allclose(residuals.norm(dim=1), found.residual_norms, atol=1e-12)
    assert (found.residual_norms <= 0.05 * truth.abs()).all()
    gram = found.eigenvectors @ found.eigenvectors.mT
    assert torch.allclose(gram, torch.eye(K, dtype=F64), atol=1e-12)
    assert not torch.allclose(truth, sign * decaying(0.95)[1 : K + 1], rtol=1e-2)


@pytest.mark.parametrize(
    "left_out", [[0], [2, 3], [0, 1, 2, 3, 4]], ids=["the first", "two within", "all of them"]
)
def test_what_they_leave_out_is_found(left_out, monkeypatch) -> None:
    """Exact eigenvectors, converged without a step, but not those wanted: the search alone can tell."""
    op, vectors = operator_of(decaying())
    kept = [place for place in range(2 * K) if place not in left_out][:K]
    settings = {"k": K, "tol": 1e-3, "budget": 200, "near": vectors[kept]}
    found = eigsh(op, **settings, generator=generator(2))
    assert found.converged.all()
    assert torch.allclose(found.eigenvalues, decaying()[:K], rtol=1e-5)
    monkeypatch.setattr(near_pairs._Known, "search", lambda self: torch.ones(K, dtype=torch.bool))
    blind = eigsh(op, **settings, generator=generator(2))
    assert torch.allclose(blind.eigenvalues, decaying()[kept], rtol=1e-9)  # wrong, and called converged
    assert blind.converged.all()


def test_copies_of_an_eigenvalue_are_found() -> None:
    values = decaying()
    values[:4] = 1.0
    op, vectors = operator_of(values)
    found = eigsh(op, k=K, tol=1e-4, budget=200, near=vectors[[0, 4, 5, 6, 7]], generator=generator(3))
    assert found.converged.all()
    assert torch.allclose(found.eigenvalues, values[:K], rtol=1e-6)
    values[3] = 0.5  # three copies are no four
    other, _ = operator_of(values.sort(descending=True).values)
    again = eigsh(other, k=K, tol=1e-4, budget=200, near=vectors[[0, 4, 5, 6, 7]], generator=generator(3))
    assert float(again.eigenvalues[3]) == pytest.approx(0.5, rel=1e-6)


@pytest.mark.parametrize("most", [100, pytest.param(200, marks=pytest.mark.slow)])
def test_flags_are_earned(most: int) -> None:
    """Of flat spectra, with a loose tolerance and vectors of any quality: the i-th is flagged alone."""
    wrong = flagged = 0
    for seed in range(4):
        values = torch.rand(N, generator=generator(seed), dtype=F64).sort(descending=True).values
        op, vectors = operator_of(values, seed)
        other = vectors[seed % 3 * K :][:K]
        for budget in (12, most):
            found = eigsh(op, k=K, tol=0.05, budget=budget, near=other, generator=generator(seed + 50))
            assert found.num_matvecs <= budget
            beyond = found.converged & (values[:K] > found.eigenvalues * 1.05)
            wrong, flagged = wrong + int(beyond.sum()), flagged + int(found.converged.sum())
    assert wrong == 0
    assert flagged >= 10


def test_few_vectors_dependent_ones_and_one_of_zeros_will_do() -> None:
    op, vectors = operator_of(decaying())
    rows = torch.stack([vectors[0], vectors[0], 0 * vectors[1]])
    found = eigsh(op, k=K, tol=1e-3, budget=200, near=rows, generator=generator(4))
    assert found.converged.all()
    assert torch.allclose(found.eigenvalues, decaying()[:K], rtol=1e-5)


def test_bad_vectors_are_refused() -> None:
    op, vectors = operator_of(decaying())
    with pytest.raises(ShapeError, match=r"near: expected shape \[\.\.\., state=300\]"):
        eigsh(op, k=K, near=vectors[:, :7])
    with pytest.raises(NonFiniteError, match="near: expected finite numbers"):
        eigsh(op, k=K, near=vectors[:2] / 0.0)
