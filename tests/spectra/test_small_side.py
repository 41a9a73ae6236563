"""Exact figures from a smaller space that an operator goes through, against dense matrices in float64."""

from __future__ import annotations

import math

import pytest
import torch

from kpframe import (
    DiagonalOperator,
    MatrixOperator,
    Operator,
    Space,
    alignment,
    effective_rank,
    eigsh,
    frobenius_norm,
    linearize,
    spectral_density,
    svd,
    trace,
)
from kpframe.errors import NonFiniteError
from kpframe.spectra._numerics.small_side import small_side

F64 = torch.float64
B, T, H = 6, 9, 3
SMALL = "on the small side"


@pytest.fixture(scope="module")
def flow(lab):
    model = lab.make("gru", inputs=2, hidden=H)
    return linearize(model, **lab.trials(model, batch=B, time=T))


def metric(flow, kind: str) -> Operator:
    """Return a metric on the parameters."""
    size = flow.J.domain.size
    draw = torch.Generator().manual_seed(3)
    if kind == "general":
        square = torch.randn(size, size, generator=draw, dtype=F64)
        return MatrixOperator(square + square.mT, flow.J.domain)
    values = torch.rand(size, generator=draw, dtype=F64)
    if kind == "mask":
        values = (values > 0.4).to(F64)
    return DiagonalOperator(values, flow.J.domain)


def made(flow, name: str) -> tuple[Operator, int]:
    """Return an operator and the dimension of the smallest space that it goes through."""
    P, K, size = flow.P, flow.K, flow.J.domain.size
    biases = [part for part in flow.J.domain.axes[0].parts if len(part.shape) == 1]
    return {
        "Phi": lambda: (flow.Phi, size),
        "K": lambda: (K, size),
        "-2 Phi": lambda: (-2.0 * flow.Phi, size),
        "Phi of steps": lambda: (flow.Phi.select(time=slice(0, 8)), size),
        "declared": lambda: (flow.Phi.declare(positive=True), size),
        "biases": lambda: (P @ K.restrict([b.name for b in biases]) @ P.T, sum(b.size for b in biases)),
        "mask": lambda: (
            P @ K.with_metric(metric(flow, "mask")) @ P.T,
            int(metric(flow, "mask").values.sum()),
        ),
        "diagonal": lambda: (K.with_metric(metric(flow, "diagonal")), size),
        "general": lambda: (P @ K.with_metric(metric(flow, "general")) @ P.T, size),
    }[name]()


OPERATORS = ("Phi", "K", "-2 Phi", "Phi of steps", "declared", "biases", "mask", "diagonal", "general")


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.rows(3)
def test_every_figure_equals_that_of_the_dense_matrix(flow, name: str) -> None:
    op, small = made(flow, name)
    size = op.domain.size
    assert small < size - 10
    dense = op.to_dense().reshape(size, size)
    expected = torch.linalg.eigvalsh((dense + dense.mT) / 2)
    scale = float(expected.abs().max())
    total = trace(op, budget=small)
    assert total.value == pytest.approx(float(dense.trace()), abs=1e-10 * scale)
    length = frobenius_norm(op, budget=small)
    assert length.value == pytest.approx(float(dense.norm()), rel=1e-10)
    squares = expected if op.positive else expected.square()
    rank = effective_rank(op, budget=small)
    assert rank.value == pytest.approx(float(squares.sum() ** 2 / squares.square().sum()), rel=1e-10)
    for found in (total, length, rank):
        assert found.exact
        assert SMALL in found.method
        assert found.num_matvecs == small
    density = spectral_density(op, budget=small)
    counts = (density.weights[0] * size).round().long()
    assert density.num_matvecs == small
    assert SMALL in density.method
    assert int(counts.sum()) == size
    assert int(counts[-1]) == size - small
    nodes = density.nodes[0].repeat_interleave(counts).sort().values
    torch.testing.assert_close(nodes, expected, rtol=0, atol=1e-10 * scale)
    # one product less does not pay for it
    for found in (trace(op, budget=small - 1), effective_rank(op, budget=small - 1)):
        assert not found.exact
        assert SMALL not in found.method


@pytest.mark.parametrize("which", ["largest", "smallest", "magnitude"])
@pytest.mark.parametrize("name", ["Phi", "-2 Phi", "mask", "general"])
@pytest.mark.rows(4)
def test_eigenpairs_equal_those_of_the_dense_matrix(flow, name: str, which: str) -> None:
    op, small = made(flow, name)
    size = op.domain.size
    dense = op.to_dense().reshape(size, size)
    expected = torch.linalg.eigvalsh((dense + dense.mT) / 2)
    by_size = expected[expected.abs().argsort()]
    order = {"largest": expected.flip(0), "smallest": expected, "magnitude": by_size.flip(0)}
    scale = float(expected.abs().max())
    for k in (5, size - 8):  # more than there are on the small side, too
        pairs = eigsh(op, k=k, which=which, budget=max(small + k, 2 * k) if small + k < size else size)
        assert (SMALL in pairs.method) == (small + k < size)
        torch.testing.assert_close(pairs.eigenvalues, order[which][:k], rtol=0, atol=1e-10 * scale)
        assert pairs.converged.all()
        flat = pairs.eigenvectors.flatten(1)
        torch.testing.assert_close(flat @ flat.mT, torch.eye(k, dtype=F64), rtol=0, atol=1e-12)
        fresh = flat @ dense.mT - pairs.eigenvalues[:, None] * flat
        assert float(fresh.norm(dim=1).max()) < 1e-10 * scale
    assert eigsh(op, k=5, budget=small + 5).num_matvecs == small + 5


@pytest.mark.parametrize("name", ["Phi", "-2 Phi", "general"])
def test_singular_triplets_equal_those_of_the_dense_matrix(flow, name: str) -> None:
    op, small = made(flow, name)
    size = op.domain.size
    dense = op.to_dense().reshape(size, size)
    expected = torch.linalg.svdvals(dense)
    for k in (5, small + 3 if small + 2 * (small + 3) < size else 8):
        found = svd(op, k=k, budget=small + 2 * k)
        assert (found.method, found.num_matvecs) == (f"dense, {SMALL}", small + 2 * k)
        torch.testing.assert_close(found.S, expected[:k], rtol=0, atol=1e-10 * float(expected[0]))
        assert found.converged.all()
        left, right = found.U.flatten(1), found.V.flatten(1)
        for rows in (left, right):
            torch.testing.assert_close(rows @ rows.mT, torch.eye(k, dtype=F64), rtol=0, atol=1e-12)
        off = right @ dense.mT - found.S[:, None] * left
        assert float(off.norm(dim=1).max()) < 1e-10 * float(expected[0])
        assert float(found.residual_norms.max()) < 1e-10 * float(expected[0])
    assert svd(op, k=5, budget=size).method == f"dense, {SMALL}"
    assert SMALL not in svd(op, k=5, budget=small + 9).method
    G = svd(flow.G, k=5, budget=flow.J.domain.size)
    assert G.method == "dense"  # which is through the parameters already
    if name == "Phi":
        torch.testing.assert_close(G.S**2, expected[:5], rtol=1e-10, atol=0)


def test_zeros_beside_the_small_side_count_as_eigenvalues(flow) -> None:
    op, small = made(flow, "biases")
    k = small + 4
    pairs = eigsh(op, k=k, budget=small + k)
    assert SMALL in pairs.method
    assert pairs.num_matvecs == small + k
    assert (pairs.eigenvalues[-4:] == 0).all()
    assert pairs.eigenvalues[0] > 0
    assert pairs.converged.all()
    assert pairs.residual_norms[-4:].max() < 1e-13 * pairs.eigenvalues[0]
    share = effective_rank(op, kind="threshold", threshold=1.0, budget=small)
    assert 1 < share.value <= small


def test_a_product_that_is_not_symmetric_goes_through_its_gram_operator(flow) -> None:
    small = flow.J.domain.size
    few = linearize(flow.model, torch.randn(4, 9, 2, dtype=F64))
    wide = linearize(
        flow.model, torch.randn(10, 12, 2, generator=torch.Generator().manual_seed(5), dtype=F64)
    )
    for one, cheaper in ((few.P @ few.K, False), (wide.P @ wide.K, True)):
        assert (2 * small < one.domain.size) == cheaper
        found = frobenius_norm(one, budget=2 * small)
        rank = effective_rank(one, budget=2 * small)
        assert found.exact
        assert rank.exact
        assert (SMALL in found.method) == (SMALL in rank.method) == cheaper
    matrix = (wide.P @ wide.K).to_dense().reshape(360, 360)
    assert found.value == pytest.approx(float(matrix.norm()), rel=1e-10)
    squares = torch.linalg.svdvals(matrix).square()
    assert rank.value == pytest.approx(float(squares.sum() ** 2 / squares.square().sum()), rel=1e-10)
    assert rank.num_matvecs == found.num_matvecs == 2 * small


@pytest.mark.parametrize("scale", [1e-170, -1e-160, 1e160])
def test_numbers_whose_square_leaves_the_range_are_told_with_the_figure(scale: float) -> None:
    draw = torch.Generator().manual_seed(0)
    X, M = (torch.randn(n, 5, generator=draw, dtype=F64) for n in (40, 5))
    outer = MatrixOperator(X, Space.of(a=5), Space.of(b=40))
    dense = X @ M @ X.T
    one = outer @ MatrixOperator(M, Space.of(a=5)) @ outer.T
    op = scale * one
    length = frobenius_norm(op, budget=10)  # by way of op op*
    assert length.method == f"exact, {SMALL}"
    assert length.value == pytest.approx(abs(scale) * float(dense.norm()), rel=1e-12)
    squares = torch.linalg.svdvals(dense).square()
    rank = effective_rank(op, budget=10)
    assert rank.value == pytest.approx(float(squares.sum() ** 2 / squares.square().sum()), rel=1e-10)
    gram = op @ op.T
    assert effective_rank(gram, budget=5).value == pytest.approx(
        effective_rank(one @ one.T, budget=5).value, rel=1e-10
    )
    assert alignment(gram, one @ one.T, budget=15).value == pytest.approx(1.0, rel=1e-12)
    if scale > 1:
        with pytest.raises(NonFiniteError, match="expected figures within the range of numbers"):
            trace(gram, budget=5)
    else:
        assert trace(gram, budget=5).value == pytest.approx(0.0, abs=1e-300)


@pytest.mark.parametrize(("name", "other"), [("Phi", "K"), ("mask", "general"), ("biases", "-2 Phi")])
@pytest.mark.rows(2)
def test_alignments_equal_those_of_dense_matrices(flow, name: str, other: str) -> None:
    (a, first), (b, second) = made(flow, name), made(flow, other)
    size, cost = a.domain.size, max(first, second) + 2 * min(first, second)
    assert cost < 2 * size
    left, right = (op.to_dense().reshape(size, size) for op in (a, b))
    expected = float((left * right).sum() / (left.norm() * right.norm()))
    assert 0.01 < abs(expected) < 0.99
    for pair in ((a, b), (b, a), (1e-20 * a, 1e20 * b)):
        found = alignment(*pair, budget=cost)
        assert found.value == pytest.approx(expected, rel=1e-10)
        assert (found.num_matvecs, found.method) == (cost, f"exact, {SMALL}")
    assert not alignment(a, b, budget=cost - 1).exact
    assert alignment(a, flow.P @ flow.P.T, budget=2 * size).method == "exact"  # one of them has none
    assert alignment(a, 0.0 * b, budget=cost).value != alignment(a, b, budget=cost).value


def test_it_is_not_chosen_where_it_is_not_known_or_not_cheaper(flow, lab) -> None:
    few = flow.Phi.select(time=0, batch=[0, 1])  # 6 states, 63 parameters
    assert small_side(few) is None
    assert trace(few, budget=80).method == "exact"
    assert eigsh(few, k=2).method == "dense"
    for op in (flow.P @ flow.P.T, flow.P, flow.P @ flow.K, flow.Phi + flow.K):
        assert small_side(op) is None
    # K is solved within its blocks for less
    assert "blocks" in eigsh(flow.K, k=3, budget=flow.J.domain.size + 3).method


@pytest.mark.parametrize("scale", [1e-25, 1.0, 1e25])
def test_float32_of_any_scale_loses_roundings_of_the_largest_alone(flow, lab, scale: float) -> None:
    model = lab.make("gru", inputs=2, hidden=H, dtype=torch.float32)
    single = linearize(model, **lab.trials(model, batch=B, time=T, dtype=torch.float32))
    small, op = flow.J.domain.size, scale * single.Phi
    expected = torch.linalg.eigvalsh(flow.Phi.to_dense().reshape(B * T * H, -1)).flip(0)
    pairs = eigsh(op, k=10, budget=small + 10)
    found = small_side(op).eigenvalues.flip(0)
    for values in (pairs.eigenvalues.double(), found[:10]):
        torch.testing.assert_close(values / scale, expected[:10], rtol=0, atol=1e-5 * float(expected[0]))
    rank = effective_rank(flow.Phi, budget=small).value
    assert effective_rank(op, budget=small).value == pytest.approx(rank, rel=1e-5)
    assert math.isfinite(frobenius_norm(op, budget=small).value)


def test_a_space_without_dimensions_makes_zero() -> None:
    none = MatrixOperator(torch.empty(5, 0, dtype=F64), Space.of(a=0), Space.of(b=5))
    op = none @ none.T
    assert (trace(op, budget=1).value, frobenius_norm(op, budget=1).value) == (0.0, 0.0)
    assert effective_rank(op, budget=1).value == 0.0
