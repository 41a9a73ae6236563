"""Kronecker products, blocks, inverses, caching, scaling by tensors and LaTeX, against dense matrices."""

from __future__ import annotations

import pytest
import torch

from kpframe import DiagonalOperator, IdentityOperator, MatrixOperator, Space, ZeroOperator
from kpframe.errors import ArgumentError, AxisError, ShapeError, SpaceMismatchError, UnsupportedError
from kpframe.operators import BlockOperator, KroneckerOperator, Operator, direct_sum

F64 = torch.float64


def matrix(name: str, rows: Space, columns: Space, seed: int = 0) -> MatrixOperator:
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(rows.size, columns.size, generator=generator, dtype=F64)
    return MatrixOperator(values, columns, rows, name=name)


A = matrix("A", Space.of(a=2, b=3), Space.of(a=2, b=3), 1)
B = matrix("B", Space.of(c=2), Space.of(d=4), 2)
C = matrix("C", Space.of(a=2, b=3), Space.of(d=4), 3)
S = A + A.T
G = A @ A.T


def close(first: torch.Tensor, second: torch.Tensor) -> None:
    torch.testing.assert_close(first, second, rtol=1e-12, atol=1e-12)


def adjoint_fits(op: Operator) -> None:
    close(op.T.to_dense(), op.to_dense().T)


def test_kronecker_product() -> None:
    op = KroneckerOperator(A, B)
    close(op.to_dense(), torch.kron(A.matrix, B.matrix))
    adjoint_fits(op)
    probes = torch.randn(2, 3, *op.domain.shape, dtype=F64)
    close(op(probes).reshape(6, -1), probes.reshape(6, -1) @ op.to_dense().T)
    assert op.domain == Space.of(a=2, b=3, d=4)
    assert repr(op) == "A (x) B"
    assert not torch.allclose(op.to_dense(), torch.kron(A.matrix, 2 * B.matrix))


def test_kronecker_tags_are_those_of_both_factors() -> None:
    other = matrix("D", Space.of(c=2), Space.of(c=2))
    assert KroneckerOperator(G, other @ other.T).tags == {"self_adjoint", "positive"}
    assert KroneckerOperator(S, other @ other.T).tags == {"self_adjoint"}
    assert KroneckerOperator(G, other).tags == set()
    with pytest.raises(AxisError, match="axes a, b stand in both factors"):
        KroneckerOperator(A, C)


def test_block_operator_and_direct_sum() -> None:
    op = BlockOperator([[A, C], [None, B]])
    zero = torch.zeros(2, 6, dtype=F64)
    expected = torch.cat([torch.cat([A.matrix, C.matrix], 1), torch.cat([zero, B.matrix], 1)])
    close(op.to_dense(), expected)
    adjoint_fits(op)
    assert op.domain["block"].parts[1].shape == (4,)
    total = direct_sum(A, B)
    close(total.to_dense(), torch.block_diag(A.matrix, B.matrix))
    adjoint_fits(total)
    assert repr(total) == "A (+) B"
    assert direct_sum(G, G).tags == {"self_adjoint", "positive"}
    assert direct_sum(G, A).tags == set()
    assert op.tags == set()


def test_blocks_that_do_not_fit() -> None:
    with pytest.raises(SpaceMismatchError, match=r"column 0: domain: expected \(a=2, b=3\), got \(d=4\)"):
        BlockOperator([[A], [B]])
    with pytest.raises(ArgumentError, match="rows of one length"):
        BlockOperator([[A, C], [A]])
    with pytest.raises(ArgumentError, match="at least one operator"):
        BlockOperator([[None, C], [None, B]])


@pytest.mark.parametrize(
    "op",
    [
        A,
        2.5 * A,
        A.T,
        A @ A.T @ (3 * A),
        DiagonalOperator(torch.tensor([1.0, -2.0, 4.0], dtype=F64)),
        KroneckerOperator(A, matrix("D", Space.of(c=2), Space.of(c=2))),
        IdentityOperator(Space.of(a=3), dtype=F64),
    ],
    ids=repr,
)
def test_inverse(op: Operator) -> None:
    eye = torch.eye(op.domain.size, dtype=F64)
    torch.testing.assert_close((op.inverse @ op).to_dense(), eye, rtol=0, atol=1e-10)
    torch.testing.assert_close((op @ op.inverse).to_dense(), eye, rtol=0, atol=1e-10)
    if not isinstance(op, IdentityOperator):
        assert (op @ op).to_dense().sub(eye).abs().max() > 1e-3  # the partner: op is not its own inverse


def test_inverses_that_do_not_exist() -> None:
    with pytest.raises(UnsupportedError, match="inverse of A \\+ A\\*: no exact form is known"):
        _ = S.inverse
    with pytest.raises(ArgumentError, match="a regular matrix, got a singular one"):
        _ = MatrixOperator(torch.zeros(2, 2)).inverse
    with pytest.raises(ArgumentError, match="no zero on the diagonal"):
        _ = DiagonalOperator(torch.tensor([1.0, 0.0])).inverse
    with pytest.raises(SpaceMismatchError, match="a square matrix"):
        _ = B.inverse


def test_symmetric_part() -> None:
    close(A.symmetric_part.to_dense(), (A.matrix + A.matrix.T) / 2)
    assert A.symmetric_part.self_adjoint
    assert not A.symmetric_part.positive
    assert S.symmetric_part is S
    with pytest.raises(SpaceMismatchError):
        _ = B.symmetric_part


def test_cached_form_keeps_products_tags_and_print() -> None:
    op = G.mean("b")
    kept = op.cached()
    q = torch.randn(3, *op.domain.shape, dtype=F64)
    close(kept(q), op(q))
    close(kept.T(q), op.T(q))
    assert (repr(kept), kept.tags) == (repr(op), op.tags)
    plain = A.cached()
    adjoint_fits(plain)
    assert plain.tags == set()
    with pytest.raises(MemoryError, match="max_bytes=16"):
        A.cached(16)


def test_scaling_by_tensors_is_a_diagonal_operator() -> None:
    w = torch.tensor([2.0, 3.0, 5.0], dtype=F64)  # broadcasts over a
    after, before = w * A, A * w
    close(after.to_dense(), w.repeat(2)[:, None] * A.matrix)
    close(before.to_dense(), A.matrix * w.repeat(2))
    assert not torch.allclose(after.to_dense(), before.to_dense())
    assert repr(after) == "D A"
    with pytest.raises(ShapeError, match=r"broadcasts to \[a=2, b=3\], got shape \[4\]"):
        _ = torch.ones(4, dtype=F64) * A


def test_like_takes_spaces_dtype_and_device() -> None:
    assert IdentityOperator.like(B).domain == B.domain
    assert (ZeroOperator.like(B).domain, ZeroOperator.like(B).codomain) == (B.domain, B.codomain)
    assert ZeroOperator.like(B).dtype == F64


@pytest.mark.parametrize(
    ("op", "tex"),
    [
        (A @ A.T, "$A\\, A^{*}$"),
        (G.mean("b"), r"$\langle A\, A^{*} \rangle_{b}$"),
        (2 * A, "$2\\, A$"),
        (1e-5 * A, r"$1\times 10^{-5}\, A$"),
        (KroneckerOperator(A, B), r"$A\, \otimes\, B$"),
        (MatrixOperator(torch.eye(2), name="P_chunk4"), r"$P_{\mathrm{chunk4}}$"),
        (MatrixOperator(torch.eye(2), name="K[weight_hh_l0]"), r"$K\left[\mathrm{weight\_hh\_l0}\right]$"),
        (MatrixOperator(torch.eye(2), name="Phi"), r"$\Phi$"),
        (A.inverse, "$A^{-1}$"),
    ],
)
def test_latex(op: Operator, tex: str) -> None:
    assert op._repr_latex_() == tex


def test_bins_average_windows() -> None:
    T = A.to_dense().reshape(2, 3, 2, 3)
    R = torch.tensor([[0.5, 0.5, 0.0], [0.0, 0.0, 1.0]], dtype=F64)
    binned = A.bin(b=2)
    close(binned.to_dense().reshape(2, 2, 2, 2), torch.einsum("ij,ajbk,lk->aibl", R, T, R))
    adjoint_fits(binned)
    assert repr(binned) == "<A>_{b/2}"
    assert G.bin(b=2).positive
    close(A.bin(b=3).to_dense(), A.mean("b").to_dense())
    with pytest.raises(ArgumentError, match=r"bin\(b=...\): expected a window length >= 1, got 0"):
        A.bin(b=0)


def test_block_diagonal_part() -> None:
    T = A.to_dense().reshape(2, 3, 2, 3)
    kept = A.block_diagonal("a")
    expected = torch.zeros_like(T)
    for i in range(2):
        expected[i, :, i] = T[i, :, i]
    close(kept.to_dense().reshape(2, 3, 2, 3), expected)
    adjoint_fits(kept)
    close(kept.partial_trace("a").to_dense(), A.partial_trace("a").to_dense())
    assert not torch.allclose(kept.to_dense(), A.to_dense())
    assert G.block_diagonal("b").tags == {"self_adjoint", "positive"}
    q = torch.randn(2, 4, 2, 3, dtype=F64)
    close(kept(q)[1, 2], kept(q[1, 2]))


def test_last_valid_step() -> None:
    space = Space.of(batch=2, time=3, hidden=2)
    op = matrix("M", space, space)
    mask = torch.tensor([[True, True, False], [True, True, True]])
    last = op.last_valid(mask)
    T = op.to_dense().reshape(2, 3, 2, 2, 3, 2)
    steps = [1, 2]
    for b in range(2):
        for c in range(2):
            block = last.to_dense().reshape(2, 2, 2, 2)[b, :, c]
            close(block, T[b, steps[b], :, c, steps[c]])
    adjoint_fits(last)
    assert not torch.allclose(last.to_dense(), op.select(time=-1).to_dense())
    assert (op @ op.T).last_valid(mask).positive
    gap = torch.tensor([[True, False, False], [True, False, True]])  # the number of valid steps misleads
    T_gap = op.last_valid(gap).to_dense().reshape(2, 2, 2, 2)
    close(T_gap[0, :, 1], T[0, 0, :, 1, 2])
    close(T_gap[1, :, 1], T[1, 2, :, 1, 2])
    assert not torch.allclose(T[1, 2, :, 1, 2], T[1, 1, :, 1, 1])
    with pytest.raises(ArgumentError, match="at least one valid step in each trial, got none in trial 1"):
        op.last_valid(torch.tensor([[True, True, True], [False, False, False]]))
    with pytest.raises(ShapeError, match="mask"):
        op.last_valid(mask[:, :2])
