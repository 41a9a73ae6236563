"""A pair is called converged only where its residual and a count of what comes before it show it."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe.errors import ArgumentError
from kpframe.operators import DiagonalOperator, MatrixOperator, Operator
from kpframe.operators._spaces import Space
from kpframe.spectra import EigenPairs, SingularTriplets, _randomized, eigsh, probes, randomized_svd, svd
from kpframe.spectra._numerics import block_lanczos, golub_kahan
from kpframe.spectra._numerics.convergence import (
    Answer,
    MultiplicityDoubts,
    Tolerance,
    converged_flags,
    exists_above,
)

F64 = torch.float64
#: 5 and 3 three times, 4 twice, then a bulk.
HEAD = [5.0, 5, 5, 4, 4, 3, 3, 3, 2.5]
VALUES = torch.cat([torch.tensor(HEAD), torch.linspace(0, 2, 991)]).to(F64)


def values_of(found: EigenPairs | SingularTriplets) -> torch.Tensor:
    return found.eigenvalues if isinstance(found, EigenPairs) else found.S


def lanczos(sign: float, **options: int) -> EigenPairs:
    """The same spectrum seen from its upper end, and, turned over, from its lower one."""
    which = "largest" if sign > 0 else "smallest"
    return eigsh(sign * DiagonalOperator(VALUES), k=8, which=which, **options)


SOLVERS: dict[str, Callable[..., EigenPairs | SingularTriplets]] = {
    "largest": lambda **options: lanczos(1.0, **options),
    "smallest": lambda **options: lanczos(-1.0, **options),
    "svd": lambda **options: svd(DiagonalOperator(VALUES), k=8, **options),
}


@pytest.mark.parametrize("block_size", [1, 2, 3])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.rows(3)
def test_copies_beyond_the_start_vectors_are_found(solver: str, block_size: int) -> None:
    found = SOLVERS[solver](block_size=block_size)
    expected = torch.tensor(HEAD[:8], dtype=F64)
    torch.testing.assert_close(values_of(found).abs(), expected, rtol=1e-9, atol=0)
    assert found.converged.all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("between", [80, pytest.param(40, marks=pytest.mark.slow)])
@pytest.mark.rows(4)
def test_within_any_budget_flags_are_true_of_right_pairs_alone(solver: str, between: int) -> None:
    expected = torch.tensor(HEAD[:8], dtype=F64)
    flagged = {}
    for budget in range(40, 320, between):
        found = SOLVERS[solver](block_size=1, budget=budget)
        assert found.num_matvecs <= budget
        right = (values_of(found).abs() - expected).abs() <= 1e-9
        assert not (found.converged & ~right).any(), budget
        flagged[budget] = int(found.converged.sum())
    assert 0 < flagged[120] < 8  # it does say True, and not at once of all
    assert flagged[280] == 8


def test_an_eigenvalue_of_a_hundred_copies() -> None:
    values = torch.cat([torch.full((100,), 2.0), torch.ones(1900)]).to(F64)
    pairs = eigsh(DiagonalOperator(values), k=50)
    assert pairs.method == "block Lanczos, blocks of 32"
    torch.testing.assert_close(pairs.eigenvalues, torch.full((50,), 2.0, dtype=F64), rtol=1e-12, atol=0)
    assert pairs.converged.all()
    short = eigsh(DiagonalOperator(values), k=50, budget=130)  # too few to look for more copies
    wrong = short.eigenvalues < 1.5
    assert not (short.converged & wrong).any()
    triplets = svd(DiagonalOperator(values), k=50)
    torch.testing.assert_close(triplets.S, torch.full((50,), 2.0, dtype=F64), rtol=1e-12, atol=0)
    assert triplets.converged.all()


class Labelled(MatrixOperator):
    """A matrix in two blocks, of even and of odd entries."""

    def block_labels(self) -> torch.Tensor:
        return torch.arange(2)


@pytest.mark.parametrize("between", [15, pytest.param(6, marks=pytest.mark.slow)])
def test_copies_within_one_block(between: int) -> None:
    even = torch.cat([torch.tensor([5.0, 5, 5, 2]), torch.linspace(0, 1, 196)]).to(F64)
    odd = torch.cat([torch.tensor([4.0, 4, 3]), torch.linspace(0, 1, 197)]).to(F64)
    matrix = torch.zeros(400, 400, dtype=F64)
    for start, values in ((0, even), (1, odd)):
        seed = torch.Generator().manual_seed(start)
        basis = torch.linalg.qr(torch.randn(200, 200, generator=seed, dtype=F64)).Q
        matrix[start::2, start::2] = (basis * values) @ basis.T
    op = Labelled((matrix + matrix.T) / 2, Space.of(time=200, hidden=2))
    expected = torch.tensor([5.0, 5, 5, 4, 4, 3], dtype=F64)
    pairs = eigsh(op, k=6)
    assert pairs.method == "Lanczos within 2 blocks of the operator"
    torch.testing.assert_close(pairs.eigenvalues, expected, rtol=1e-9, atol=0)
    assert pairs.converged.all()
    for budget in range(14, 80, between):
        short = eigsh(op, k=6, budget=budget)
        assert short.num_matvecs <= budget
        right = (short.eigenvalues - expected).abs() <= 1e-9
        assert not (short.converged & ~right).any(), budget


def test_a_pair_is_not_flagged_before_those_in_front_of_it() -> None:
    residuals, limits = torch.tensor([0.1, 0.9, 0.1]), torch.tensor([0.5, 0.5, 0.5])
    assert converged_flags(residuals, limits, torch.tensor([True, True, True])).tolist() == [
        True,
        False,
        False,
    ]
    assert converged_flags(residuals, 2 * limits, torch.tensor([True, True, False])).tolist() == [
        True,
        True,
        False,
    ]


def test_the_tolerance_is_relative_to_each_value() -> None:
    """A residual of 1% of the largest value says nothing about a value at the other, smaller end."""
    values = torch.cat([torch.tensor([-5.5, -3.9]), torch.linspace(-3.7, 80, 1497), torch.tensor([125.0])])
    op = DiagonalOperator(values.to(F64))
    pairs = eigsh(op, k=1, budget=200, tol=1e-2, which="smallest")
    assert float(pairs.eigenvalues[0]) == pytest.approx(-5.5, rel=1e-2)
    assert float(pairs.residual_norms[0]) <= 1e-2 * 5.5
    assert pairs.converged.all()
    few = eigsh(op, k=1, budget=18, tol=1e-2, which="smallest")
    assert 0.055 < float(few.residual_norms[0]) < 1e-2 * 125
    assert not few.converged.any()
    limits = Tolerance.of(1e-2, F64).limits(torch.tensor([100.0, 1.0, 0.0], dtype=F64), 100.0)
    eps = torch.finfo(F64).eps
    torch.testing.assert_close(limits, torch.tensor([1.0, 0.01, 12800 * eps], dtype=F64), rtol=1e-12, atol=0)
    default = Tolerance.of(None, F64).limits(torch.tensor([100.0, 1.0], dtype=F64), 100.0)
    expected = torch.tensor([100.0, 1.0], dtype=F64) * eps ** (2 / 3)
    torch.testing.assert_close(default, expected, rtol=1e-12, atol=0)


def test_a_randomised_decomposition_of_a_wide_range() -> None:
    values = 10.0 ** -torch.arange(0, 1000, dtype=F64).clamp(max=12)
    triplets = randomized_svd(DiagonalOperator(values), k=12, power=0, oversample=2)
    errors = (triplets.S / values[:12] - 1).abs()
    assert errors[-1] > 0.5
    assert not triplets.converged[errors > 1e-3].any()
    assert triplets.converged[:8].all()
    assert (triplets.residual_norms <= 1e-10 * values[0]).all()  # by the largest they would all pass


@pytest.mark.parametrize(
    ("top", "power", "draws"),
    [
        (1.05, 5, 30),
        *(pytest.param(*values, 60, marks=pytest.mark.slow) for values in ((1.05, 2), (1.05, 5), (1.2, 2))),
    ],
)
def test_a_random_direction_that_hardly_sees_the_first_vector_does_not_converge_to_the_second(
    top: float, power: int, draws: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = torch.cat([torch.tensor([top, 1.0], dtype=F64), torch.linspace(0.3, 0, 48, dtype=F64)])
    turned = (
        torch.linalg.qr(torch.randn(size, size, generator=torch.Generator().manual_seed(size), dtype=F64))[0]
        for size in (60, 50)
    )
    left, right = turned
    op = MatrixOperator((left[:, :50] * values) @ right)

    def flags(oversample: int) -> list[tuple[bool, bool]]:
        """Return whether the triplet is called converged, and whether it is the first one."""
        sources = (torch.Generator().manual_seed(seed) for seed in range(draws))
        found = [
            randomized_svd(op, k=1, power=power, oversample=oversample, generator=one) for one in sources
        ]
        return [(bool(one.converged), abs(float(one.S) / top - 1) <= 0.011) for one in found]

    assert flags(10) == [(True, True)] * draws
    alone = flags(0)
    assert not all(first for _, first in alone)
    assert (True, False) not in alone
    monkeypatch.setattr(_randomized, "doubted", lambda keys, *_: torch.zeros(len(keys), dtype=torch.bool))
    assert (True, False) in flags(0)


def test_the_dense_solution_where_iterating_costs_as_much() -> None:
    values = torch.linspace(0, 1, 300, dtype=F64)
    op = DiagonalOperator(values)
    for pairs in (eigsh(op, k=10), svd(op, k=10)):
        assert (pairs.method, pairs.num_matvecs) == ("dense", 300)
        assert pairs.converged.all()
        torch.testing.assert_close(values_of(pairs), values.flip(0)[:10], rtol=1e-12, atol=0)
    assert eigsh(op, k=9).method != "dense"
    crowded = DiagonalOperator(torch.linspace(0, 1, 310, dtype=F64))
    pairs = eigsh(crowded, k=6)  # the space becomes whole before the pairs converge
    assert pairs.num_matvecs <= 310 + 6
    assert pairs.converged.all()
    with pytest.raises(ArgumentError, match="budget: expected at least 300 products for k=299, got 299"):
        eigsh(DiagonalOperator(torch.linspace(0, 1, 300, dtype=F64)), k=299, budget=299)
    with pytest.raises(ArgumentError, match="budget: expected at least 300 products for k=80, got 299"):
        svd(DiagonalOperator(torch.linspace(0, 1, 300, dtype=F64)), k=80, budget=299)


def look(op: Operator, level: float, low: float, room: int, seed: int, dimension: int = 500) -> Answer:
    start = torch.randn(1, 500, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return exists_above(op, start, lambda found: found, level, low, room, op.domain, dimension)


@pytest.mark.parametrize("draws", [60, pytest.param(200, marks=pytest.mark.slow)])
def test_what_a_random_vector_rules_out(draws: int) -> None:
    values = torch.linspace(0, 1, 500, dtype=F64)
    values[-1] = 1.5
    op = DiagonalOperator(values, Space.of(index=500))
    answers = [look(op, 1.5 - 1e-6, 0.0, 100, seed) for seed in range(draws)]
    assert answers.count(Answer.YES) == draws
    assert [look(op, 1.6, 0.0, 100, seed) for seed in range(20)] == [Answer.NO] * 20
    assert look(op, 1.6, 0.0, 5, 0) is Answer.UNKNOWN
    # in more dimensions a random vector may see less of one, and more products are needed
    assert [look(op, 1.6, 0.0, 28, 0, dimension) for dimension in (500, 10**12)] == [
        Answer.NO,
        Answer.UNKNOWN,
    ]
    small = torch.zeros(1, 500, dtype=F64)
    small[0, :499] = 1.0
    small[0, 499] = 1e-9  # a start vector that hardly sees the one: no answer can help it
    assert exists_above(op, small, lambda found: found, 1.4, 0.0, 12, op.domain, 500) is not Answer.YES


def test_doubts() -> None:
    scores, limits = torch.tensor([5.0, 5.0, 4.0, 3.0]), torch.full((4,), 0.1)
    doubts = MultiplicityDoubts.of(scores, limits, 2)
    assert doubts.pairs.tolist() == [False, False, True, True]
    assert doubts.level == pytest.approx(4.9)
    assert MultiplicityDoubts.of(scores, limits, 3).level is None
    assert MultiplicityDoubts.of(scores, limits, 2, torch.tensor([0, 1, 0, 1])).level is None
    assert MultiplicityDoubts.of(scores, limits, 1).level == pytest.approx(3.9)


@pytest.mark.parametrize("side", [1, -1])
def test_an_eigenvector_that_the_start_hardly_sees_is_not_passed_over(
    side: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second value looks like the first to a start vector with a hundredth of the usual part."""
    n, space, tol = 300, Space.of(hidden=300), 1e-2
    start = probes(space, 1, generator=torch.Generator().manual_seed(1), dtype=F64)[0]
    ahead = torch.randn(n, generator=torch.Generator().manual_seed(2), dtype=F64)
    ahead -= (ahead @ start) / (start @ start) * start
    ahead = ahead / ahead.norm() + 4e-4 / start.norm() * start / start.norm()
    basis = torch.randn(n, n, generator=torch.Generator().manual_seed(3), dtype=F64)
    basis[:, 0] = ahead
    columns = torch.linalg.qr(basis)[0]
    values = torch.cat([torch.tensor([1.03, 1.0], dtype=F64), torch.linspace(0.4, 0, n - 2, dtype=F64)])
    op = MatrixOperator(side * (columns * values) @ columns.T, space)
    which = "largest" if side == 1 else "smallest"

    def found() -> list[tuple[float, bool]]:
        pair = eigsh(op, k=1, budget=60, tol=tol, which=which, generator=torch.Generator().manual_seed(1))
        triplet = svd(op, k=1, budget=180, tol=tol, generator=torch.Generator().manual_seed(1))
        pairs = (float(side * pair.eigenvalues), pair.converged), (float(triplet.S), triplet.converged)
        return [(value, bool(done)) for value, done in pairs]

    assert all(done and value == pytest.approx(1.03, rel=tol) for value, done in found())
    for module in (block_lanczos, golub_kahan):
        monkeypatch.setattr(module, "overlooked", lambda keys, *_: torch.zeros(len(keys), dtype=torch.bool))
    assert any(done and value == pytest.approx(1.0, rel=tol) for value, done in found())
