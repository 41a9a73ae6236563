from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from kpframe.errors import ArgumentError, DtypeError, NonFiniteError, SpaceMismatchError
from kpframe.operators import (
    DiagonalOperator,
    IdentityOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators._spaces import Space
from kpframe.spectra import Estimate, alignment, effective_rank, frobenius_norm
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.spectral_measure import spectral_measure

F64 = torch.float64
Seeded = Callable[[int], torch.Generator]
Strip = Callable[[Operator], Operator]


def ranks(values: torch.Tensor, share: float = 0.95) -> dict[str, float]:
    p = values.sort(descending=True)[0] / values.sum()
    return {
        "participation": float(1 / p.square().sum()),
        "entropy": float(torch.exp(-torch.xlogy(p, p).sum())),
        "threshold": float((p.cumsum(0) < share * (1 - 1e-12)).sum() + 1),
    }


def honest(estimates: list[Estimate], truth: float) -> None:
    """Check the mean error, its size against the reported one, and a rough coverage."""
    errors = torch.tensor([e.value - truth for e in estimates], dtype=F64)
    stderr = torch.tensor([e.stderr for e in estimates], dtype=F64)
    assert abs(errors.mean()) < 4 * errors.std() / len(errors) ** 0.5 + 0.2 * stderr.mean()
    assert ((errors.abs() < 1.96 * stderr).double().mean()) >= 0.82
    assert stderr.median() < 3 * errors.square().mean().sqrt()


@pytest.mark.parametrize("name", ["rectangular", "its adjoint", "symmetric", "positive"])
@pytest.mark.parametrize("runs", [15, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.rows(4)
def test_norm_of_anything(name: str, runs: int, request: pytest.FixtureRequest, seeded: Seeded) -> None:
    op = request.getfixturevalue("rectangular").T if name == "its adjoint" else request.getfixturevalue(name)
    truth = float(op.to_dense().norm())
    runs = 60 if name == "symmetric" else runs  # squares of 0.8^i are covered in 0.88 of runs
    honest([frobenius_norm(op, budget=40, generator=seeded(seed)) for seed in range(runs)], truth)
    exact = frobenius_norm(op, budget=min(op.domain.size, op.codomain.size))
    assert exact.value == pytest.approx(truth, rel=1e-12)
    assert (exact.stderr, exact.method) == (0, "exact")
    assert exact.num_matvecs == min(op.domain.size, op.codomain.size)
    near = frobenius_norm(1.3 * op, budget=40)
    assert abs(near.value - truth) > 4 * near.stderr


def test_the_sketch_beats_plain_probes(rectangular: Operator) -> None:
    sketch, plain = frobenius_norm(rectangular), frobenius_norm(rectangular, method="hutchinson")
    assert sketch.stderr < 0.1 * plain.stderr
    assert (sketch.method, plain.method) == ("nystrom", "hutchinson")
    assert abs(plain.value - float(rectangular.to_dense().norm())) < 4 * plain.stderr


@pytest.mark.slow
def test_rtol(positive: Operator) -> None:
    big = DiagonalOperator(torch.arange(1, 3001, dtype=F64) ** -0.5)
    for estimate in (frobenius_norm(big, budget=20, rtol=0.01), effective_rank(big, budget=20, rtol=0.01)):
        assert estimate.stderr <= 0.01 * estimate.value
        assert 20 < estimate.num_matvecs <= 320
    aligned = alignment(big, big + IdentityOperator(big.domain, dtype=F64), budget=20, rtol=0.02)
    assert aligned.stderr <= 0.02 * aligned.value
    assert frobenius_norm(positive, budget=40, rtol=1e-9).stderr == 0
    assert effective_rank(positive, kind="entropy", budget=40, rtol=1e-9).stderr == 0


@pytest.mark.parametrize("kind", ["participation", "entropy", "threshold"])
@pytest.mark.rows(2)
def test_exact_ranks(kind: str, positive: Operator, rectangular: Operator, symmetric: Operator) -> None:
    exact = effective_rank(positive, kind=kind, budget=300)
    assert exact.value == pytest.approx(ranks(torch.linalg.eigvalsh(positive.to_dense()))[kind], rel=1e-11)
    assert exact.stderr == 0
    assert exact.method.endswith("of op, exact")
    for op, name in ((rectangular, "op op*"), (rectangular.T, "op* op"), (symmetric, "op op*")):
        exact = effective_rank(op, kind=kind, budget=320)
        assert exact.value == pytest.approx(ranks(torch.linalg.svdvals(op.to_dense()) ** 2)[kind], rel=1e-11)
        assert exact.method.endswith(f"of {name}, exact")


@pytest.mark.parametrize("kind", ["participation", "entropy", "threshold"])
@pytest.mark.parametrize("runs", [10, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.rows(3)
def test_estimated_ranks(
    kind: str, runs: int, positive: Operator, rectangular: Operator, seeded: Seeded
) -> None:
    truth = ranks(torch.linalg.eigvalsh(positive.to_dense()))[kind]
    estimates = [effective_rank(positive, kind=kind, generator=seeded(seed)) for seed in range(runs)]
    assert sum(abs(e.value - truth) < 4 * e.stderr for e in estimates) >= runs - 1
    assert all(e.num_matvecs <= 60 and " of op, " in e.method for e in estimates)
    if kind == "participation":
        honest(estimates, truth)
    truth = ranks(torch.linalg.svdvals(rectangular.to_dense()) ** 2)[kind]
    estimates = [effective_rank(rectangular, kind=kind, generator=seeded(seed)) for seed in range(runs)]
    assert sum(abs(e.value - truth) < 4 * e.stderr for e in estimates) >= runs - 1
    assert all(" of op op*, " in e.method for e in estimates)


def test_the_share_matters(positive: Operator) -> None:
    half, most = (
        effective_rank(positive, kind="threshold", threshold=share, budget=300) for share in (0.5, 0.99)
    )
    assert 1 < half.value < most.value < 300
    assert "threshold(0.5)" in half.method
    assert effective_rank(positive, kind="threshold", threshold=1.0, budget=300).value == 300


@pytest.mark.parametrize("runs", [15, pytest.param(30, marks=pytest.mark.slow)])
def test_alignment_of_positive_operators(runs: int, positive: Operator, seeded: Seeded) -> None:
    factor = torch.randn(300, 30, generator=seeded(3), dtype=F64)
    other = positive + 0.002 * MatrixOperator(factor @ factor.T, positive.domain)
    a, b = positive.to_dense(), other.to_dense()
    truth = float((a * b).sum() / a.norm() / b.norm())
    assert 0.1 < truth < 0.99
    estimates = [alignment(positive, other, generator=seeded(seed)) for seed in range(runs)]
    honest(estimates, truth)
    assert all(e.method == "nystrom" and e.num_matvecs == 60 for e in estimates)
    exact = alignment(positive, other, budget=600)
    assert exact.value == pytest.approx(truth, rel=1e-12)
    assert (exact.stderr, exact.num_matvecs) == (0, 600)


def test_alignment_of_others(rectangular: Operator, seeded: Seeded) -> None:
    noise = torch.randn(320, 350, generator=seeded(4), dtype=F64)
    other = rectangular + MatrixOperator(0.003 * noise, rectangular.domain, rectangular.codomain)
    for a, b in ((rectangular, other), (rectangular.T, other.T), (rectangular, -1.0 * other)):
        x, y = a.to_dense(), b.to_dense()
        truth = float((x * y).sum() / x.norm() / y.norm())
        estimates = [alignment(a, b, generator=seeded(seed)) for seed in range(30)]
        honest(estimates, truth)
        assert all(e.num_matvecs <= 60 for e in estimates)
        assert alignment(a, b, budget=640).value == pytest.approx(truth, rel=1e-12)


def test_alignment_with_itself_is_one(positive: Operator, symmetric: Operator, rectangular: Operator) -> None:
    for op in (positive, symmetric, rectangular):
        found = alignment(op, op, budget=10)  # too few products for an exact value of any other
        assert (found.value, found.stderr, found.method) == (1, 0, "exact")
        assert alignment(op, 2.0 * op, budget=10).stderr > 0
        assert alignment(op, -3.0 * op).value == pytest.approx(-1, abs=1e-12)


@pytest.mark.parametrize("budget", [1, 2, 3, 5, 60, 100, 1000])
@pytest.mark.rows(7)
def test_degenerate_operators(budget: int) -> None:
    space = Space.of(index=100)
    u = torch.randn(100, generator=torch.Generator().manual_seed(5), dtype=F64)
    cases: list[tuple[Operator, float, float]] = [
        (ZeroOperator(space, dtype=F64), 0.0, 0.0),
        (ZeroOperator(space, Space.of(row=150), dtype=F64), 0.0, 0.0),
        (IdentityOperator(space, dtype=F64), 10.0, 100.0),
        (-IdentityOperator(space, dtype=F64), 10.0, 100.0),
        (OuterProductOperator(u), float(u @ u), 1.0),
        (OuterProductOperator(u, u.flip(0)), float(u @ u), 1.0),
        (MatrixOperator(torch.tensor([[-3.0]], dtype=F64)), 3.0, 1.0),
    ]
    for op, norm, rank in cases:
        estimate = frobenius_norm(op, budget=budget)
        assert math.isfinite(estimate.value)
        if budget >= 5:
            assert abs(estimate.value - norm) <= 4 * estimate.stderr + 1e-12
        assert estimate.num_matvecs <= budget
        if budget >= 2:
            for kind in ("participation", "entropy", "threshold"):
                estimate = effective_rank(op, kind=kind, budget=budget)
                assert math.isfinite(estimate.value)
                assert not math.isnan(estimate.stderr)
            assert effective_rank(op, budget=max(budget, 5)).value == pytest.approx(rank, rel=0.5)
            aligned = alignment(op, op, budget=budget)
            assert math.isnan(aligned.value) if norm == 0 else aligned.value == pytest.approx(1)
            assert not math.isnan(alignment(op, op, budget=budget, rtol=0.1).num_matvecs)


def test_bad_arguments(positive: Operator, rectangular: Operator, strip: Strip) -> None:
    with pytest.raises(ArgumentError, match="budget: expected a whole number >= 1, got 0"):
        frobenius_norm(positive, budget=0)
    with pytest.raises(ArgumentError, match="budget: expected a whole number >= 2, got 1"):
        effective_rank(strip(positive), budget=1)
    assert effective_rank(positive, budget=1).stderr == math.inf
    with pytest.raises(ArgumentError, match="budget: expected a whole number >= 2, got 1"):
        alignment(positive, positive, budget=1)
    with pytest.raises(ArgumentError, match=r"kind: expected one of .*did you mean 'entropy'"):
        effective_rank(positive, kind="entrpy")
    with pytest.raises(ArgumentError, match="threshold: expected a share in"):
        effective_rank(positive, kind="threshold", threshold=1.5)
    with pytest.raises(ArgumentError, match="method: expected one of auto, nystrom, hutchinson"):
        frobenius_norm(positive, method="xtrace")
    with pytest.raises(SpaceMismatchError, match=r"alignment of M and M: .*\(parameter=350\)"):
        alignment(positive, rectangular)
    with pytest.raises(DtypeError):
        alignment(positive, IdentityOperator(positive.domain))


def test_products_that_are_not_finite() -> None:
    bad = MatrixOperator(torch.full((100, 100), math.inf, dtype=F64), name="bad")
    for call in (frobenius_norm, effective_rank, lambda op: alignment(op, op)):
        with pytest.raises(NonFiniteError, match=r"bad.*probe 0"):
            call(bad)


@pytest.mark.parametrize("kind", ["participation", "entropy", "threshold"])
@pytest.mark.rows(3)
def test_which_operator_a_rank_is_of(kind: str, positive: MatrixOperator, strip: Strip) -> None:
    """An operator known to be positive, and the same one not known to be: two ranks under two names."""
    values = torch.linalg.eigvalsh(positive.matrix)
    own, squared = ranks(values)[kind], ranks(values.square())[kind]
    assert squared < 0.8 * own
    hidden = strip(positive)
    label = "threshold(0.95)" if kind == "threshold" else kind
    for op, of, rank, name in (
        (positive, "auto", own, "op"),
        (hidden, "auto", squared, "op op*"),
        (positive, "op", own, "op"),
        (positive, "op op*", squared, "op op*"),
        (hidden, "op op*", squared, "op op*"),
    ):
        exact = effective_rank(op, kind=kind, budget=300, of=of)
        assert exact.value == pytest.approx(rank, rel=1e-9)
        assert exact.method == f"{label} of {name}, exact"
        assert f"({label} of {name}, exact, " in repr(exact)
        assert f" of {name}, " in effective_rank(op, kind=kind, of=of).method
    with pytest.raises(
        ArgumentError, match=r"of: expected 'op op\*' for an operator not known to be positive"
    ):
        effective_rank(hidden, kind=kind, of="op")
    with pytest.raises(ArgumentError, match=r"of: expected one of auto, op, op op\*, got 'G'"):
        effective_rank(positive, kind=kind, of="G")


def test_probes_outside_known_directions_have_the_length_of_what_is_left() -> None:
    """An orthogonal operator beside one of rank one: nothing is left to chance when the lengths are right.

    The range of the second is known after one adjoint product; the first keeps every length, so that its norm
    is the number of known directions plus the squared length of a probe outside them.
    """
    size, space = 40, Space.of(index=40)
    seeded = torch.Generator().manual_seed(3)
    turn = torch.linalg.qr(torch.randn(size, size, generator=seeded, dtype=torch.float64))[0]
    u, v = turn[0], torch.randn(size, generator=seeded, dtype=torch.float64)
    first, second = MatrixOperator(turn, space), MatrixOperator(torch.outer(u, v), space)
    right = float(u @ turn @ v / (math.sqrt(size) * u.norm() * v.norm()))
    for budget in (24, 36):  # two and three directions from each
        found = alignment(first, second, budget=budget)
        assert found.method == "hutchpp"
        assert found.value == pytest.approx(right, rel=1e-9)
    assert abs(right) > 1e-3


def test_the_measure_of_a_spectrum_has_the_weight_of_the_dimension() -> None:
    """What is known and the rules of the rest count every direction once."""
    values = torch.cat([torch.tensor([50.0, 40, 30]), torch.linspace(0.5, 1, 57)]).double()
    product = Matvecs(DiagonalOperator(values))
    seen = spectral_measure(product, 40, torch.Generator().manual_seed(0))
    assert len(seen.known) >= 3
    total = len(seen.known) + float(seen.rest.quadrature()[1].sum(1).mean())
    assert total == pytest.approx(60, rel=1e-9)
