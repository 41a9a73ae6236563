"""What one knows of an operator can be said, is tested, and then serves as if it were proven."""

from __future__ import annotations

import copy
import math

import pytest
import torch

from kpframe.errors import ArgumentError, NonFiniteError
from kpframe.operators import FunctionOperator, MatrixOperator, Operator
from kpframe.operators._spaces import Space
from kpframe.spectra import effective_rank, eigsh, trace

F64 = torch.float64
SYMMETRIC, POSITIVE = {"self_adjoint"}, {"self_adjoint", "positive"}


def spectrum(values: torch.Tensor, seed: int = 0) -> torch.Tensor:
    """A symmetric matrix with these eigenvalues."""
    seeded = torch.Generator().manual_seed(seed)
    basis = torch.linalg.qr(torch.randn(len(values), len(values), generator=seeded, dtype=F64))[0]
    matrix = (basis * values) @ basis.T
    return (matrix + matrix.T) / 2


def made(matrix: torch.Tensor, **claims: bool) -> FunctionOperator:
    """The matrix as two functions, which hide it."""
    space = Space.of(index=len(matrix))
    return FunctionOperator(
        space, space, lambda q: q @ matrix.T, lambda r: r @ matrix, dtype=matrix.dtype, **claims
    )


FALLING = spectrum(0.95 ** torch.arange(100, dtype=F64))
INDEFINITE = spectrum(torch.linspace(-0.1, 1, 100, dtype=F64))
GENERAL = FALLING + 1e-3 * torch.randn(100, 100, generator=torch.Generator().manual_seed(5), dtype=F64)
SMALL_INDEFINITE = spectrum(torch.cat([torch.tensor([-1e-6], dtype=F64), torch.ones(39, dtype=F64)]))


def test_declared_tags_flow_through_the_algebra() -> None:
    plain = made(FALLING)
    assert not plain.tags
    for op in (plain.declare(positive=True), made(FALLING, positive=True)):
        assert op.tags == POSITIVE
        assert op.T is op
        assert repr(op) == "F"
        other = made(GENERAL)
        assert (other @ op @ other.T).tags == POSITIVE
        assert (op + op @ op).tags == POSITIVE
        assert (-op).tags == SYMMETRIC
        assert (2 * op).tags == POSITIVE
        assert op.cached().tags == POSITIVE
        assert (op @ other).tags == set()
        assert torch.equal(op.to_dense(), plain.to_dense())
        assert copy.deepcopy(op).tags == POSITIVE
    symmetric = made(INDEFINITE).declare(self_adjoint=True)
    assert symmetric.tags == SYMMETRIC
    leading = eigsh(symmetric, k=2, budget=100).eigenvalues
    assert leading.tolist() == pytest.approx([1.0, 1 - 1.1 / 99], rel=1e-9)


def test_what_is_proven_needs_no_declaration() -> None:
    op = MatrixOperator(FALLING)
    assert op.declare(positive=True) is op
    assert op.declare(self_adjoint=True) is op
    with pytest.raises(ArgumentError, match="declare: expected self_adjoint=True or positive=True"):
        op.declare()


@pytest.mark.parametrize("scale", [1.0, 1e-30, 1e25])
def test_a_false_claim_is_refused(scale: float) -> None:
    """By products alone for 100 dimensions, and however large the entries are."""
    general, indefinite = (GENERAL * scale).float(), (INDEFINITE * scale).float()
    for op in (made(general), MatrixOperator(general)):
        with pytest.raises(ArgumentError, match=r"self-adjoint: .* got a difference of 0.0.*; op.symm"):
            op.declare(self_adjoint=True)
        with pytest.raises(ArgumentError, match="declared self-adjoint: "):
            op.declare(positive=True)
        assert op.symmetric_part.self_adjoint
        assert op.declare(self_adjoint=True, tol=0.1).tags == SYMMETRIC
    for op in (made(indefinite), MatrixOperator(indefinite)):
        with pytest.raises(ArgumentError, match=r"positive: .* down to -0.* times the largest; self"):
            op.declare(positive=True)
        assert op.declare(self_adjoint=True).tags == SYMMETRIC
    with pytest.raises(ArgumentError, match="declared self-adjoint: "):
        made(general, self_adjoint=True)
    with pytest.raises(ArgumentError, match="declared positive: "):
        made(indefinite, positive=True)
    with pytest.raises(ArgumentError, match="declared self-adjoint: "):
        MatrixOperator(general, self_adjoint=True)
    with pytest.raises(ArgumentError, match="declared positive: "):
        MatrixOperator(indefinite, positive=True)


def test_small_operators_are_tested_for_certain() -> None:
    """One eigenvalue in 40 is negative, by a millionth."""
    for op in (made(SMALL_INDEFINITE), MatrixOperator(SMALL_INDEFINITE)):
        with pytest.raises(ArgumentError, match=r"declared positive: .* down to -1e-06 times"):
            op.declare(positive=True)
    assert made(SMALL_INDEFINITE + 1e-5 * torch.eye(40, dtype=F64)).declare(positive=True).positive


def test_rounding_is_no_asymmetry() -> None:
    """A matrix that is symmetric but for rounding has no tag of its own and can be declared."""
    seeded = torch.Generator().manual_seed(0)
    factor = torch.randn(100, 30, generator=seeded)
    gram = factor @ torch.diag(torch.rand(30, generator=seeded)) @ factor.T
    assert not torch.equal(gram, gram.T)
    assert not MatrixOperator(gram).tags
    assert MatrixOperator(gram, positive=True).tags == POSITIVE
    assert MatrixOperator(gram, self_adjoint=True).tags == SYMMETRIC
    assert MatrixOperator((gram + gram.T) / 2).tags == POSITIVE


def test_what_cannot_be_declared() -> None:
    wide = MatrixOperator(torch.ones(2, 3))
    with pytest.raises(ArgumentError, match="declare M: expected a square operator"):
        wide.declare(self_adjoint=True)
    with pytest.raises(ArgumentError, match="tol: expected None or a number in"):
        made(FALLING).declare(positive=True, tol=-1.0)
    with pytest.raises(NonFiniteError, match="product of F: expected finite"):
        made(FALLING * math.nan).declare(positive=True)
    with pytest.raises(ArgumentError, match=r"M, declared self-adjoint: .* got a difference of nan"):
        MatrixOperator(FALLING * math.nan, self_adjoint=True)
    space = Space.of(index=3)
    with pytest.raises(ArgumentError, match="adjoint: expected a function"):
        FunctionOperator(space, space, torch.clone)
    assert FunctionOperator(space, space, torch.clone, positive=True).T(torch.ones(3)).tolist() == [1, 1, 1]


def test_few_products_are_spent() -> None:
    spent = 0

    def product(q: torch.Tensor) -> torch.Tensor:
        nonlocal spent
        spent += q.reshape(-1, 100).shape[0]
        return q @ FALLING

    space = Space.of(index=100)
    FunctionOperator(space, space, product, dtype=F64, self_adjoint=True)
    assert spent == 3
    FunctionOperator(space, space, product, dtype=F64, positive=True)
    assert spent == 3 + 15


def test_a_trace_is_nearer_with_the_tag() -> None:
    """Eigenvalues 0.9^i, 60 products: by a factor of four over many runs (1.8e-3 and 7.3e-3)."""
    values = 0.9 ** torch.arange(200, dtype=F64)
    plain = made(spectrum(values))
    right = float(values.sum())

    def error(op: Operator) -> float:
        runs = [trace(op, generator=torch.Generator().manual_seed(seed)) for seed in range(12)]
        assert {run.method for run in runs} == {"xnystrace" if op.positive else "xtrace"}
        return math.sqrt(sum((run.value / right - 1) ** 2 for run in runs) / len(runs))

    tagged = plain.declare(positive=True)
    assert error(tagged) < 3e-3 < 4e-3 < error(plain)
    assert effective_rank(tagged).method.startswith("participation of op,")
    assert effective_rank(plain).method.startswith("participation of op op*,")
