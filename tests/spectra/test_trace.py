from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from kpframe.errors import ArgumentError, NonFiniteError, SpaceMismatchError
from kpframe.operators import (
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
    ZeroOperator,
)
from kpframe.operators._spaces import Space
from kpframe.spectra import trace

METHODS = ("xnystrace", "xtrace", "hutchpp", "hutchinson")
Seeded = Callable[[int], torch.Generator]
F64 = torch.float64

#: Relative root mean square errors that 60 products must reach with XNysTrace.
LIMITS = {"exponential": 2e-3, "inverse": 9e-3, "inverse_square": 1.1e-3, "step": 8e-3, "flat": 3e-3}


@pytest.mark.parametrize("name", LIMITS)
@pytest.mark.parametrize("runs", [15, pytest.param(30, marks=pytest.mark.slow)])
@pytest.mark.rows(10)
def test_accuracy_with_sixty_products(name: str, runs: int, seeded: Seeded) -> None:
    from_index = torch.arange(1, 1001, dtype=F64)
    spectra = {
        "exponential": 0.9**from_index,
        "inverse": 1 / from_index,
        "inverse_square": from_index**-2,
        "step": torch.where(from_index <= 50, 1.0, 1e-3).double(),
        "flat": torch.linspace(3, 1, 1000, dtype=F64),
    }
    op = DiagonalOperator(spectra[name])
    truth = float(spectra[name].sum())
    estimates = [trace(op, budget=60, generator=seeded(seed)) for seed in range(runs)]
    errors = torch.tensor([e.value / truth - 1 for e in estimates])
    assert float(errors.square().mean().sqrt()) < LIMITS[name]
    covered = sum(e.interval()[0] <= truth <= e.interval()[1] for e in estimates)
    assert covered >= 0.8 * runs  # of 0.95 fewer come in less than 1 of 150 such tests
    assert all(e.method == "xnystrace" and e.num_matvecs == 60 for e in estimates)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("runs", [30, pytest.param(60, marks=pytest.mark.slow)])
@pytest.mark.rows(4)
def test_every_method_is_unbiased_and_knows_its_error(
    method: str, runs: int, positive: Operator, seeded: Seeded
) -> None:
    truth = float(positive.to_dense().trace())
    estimates = [trace(positive, budget=40, method=method, generator=seeded(seed)) for seed in range(runs)]
    values = torch.tensor([e.value for e in estimates], dtype=F64)
    assert abs(values.mean() - truth) < 4 * values.std() / runs**0.5
    typical = torch.tensor([e.stderr for e in estimates]).square().mean().sqrt()
    assert 0.7 < typical / values.std() < 1.8
    assert all(e.num_matvecs <= 40 and e.method == method for e in estimates)
    wrong = float((positive + 0.1 * IdentityOperator(positive.domain, dtype=F64)).to_dense().trace())
    assert abs(values.mean() - wrong) > 10 * values.std() / runs**0.5


def test_a_general_operator_takes_xtrace(seeded: Seeded) -> None:
    matrix = torch.randn(300, 20, generator=seeded(1), dtype=F64) @ torch.randn(
        20, 300, generator=seeded(2), dtype=F64
    )
    matrix += 1e-3 * torch.randn(300, 300, generator=seeded(3), dtype=F64)
    estimate = trace(MatrixOperator(matrix), budget=80)
    assert estimate.method == "xtrace"
    assert estimate.num_matvecs == 80
    assert abs(estimate.value - float(matrix.trace())) < 4 * estimate.stderr
    assert estimate.stderr < 1.0 < float(matrix.norm())


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.rows(6)
def test_exact_from_the_dimension_on(method: str, dtype: torch.dtype, positive: Operator) -> None:
    op = MatrixOperator(positive.to_dense().to(dtype), positive.domain)
    for budget in (300, 10_000):
        estimate = trace(op, budget=budget, method=method)
        assert estimate.value == pytest.approx(float(op.matrix.double().trace()), rel=1e-12)
        assert (estimate.stderr, estimate.num_matvecs, estimate.method) == (0, 300, "exact")
    assert trace(op, budget=299, method=method).stderr > 0


@pytest.mark.parametrize("method", METHODS)
def test_low_rank_is_as_good_as_exact(method: str, seeded: Seeded) -> None:
    factor = torch.randn(500, 8, generator=seeded(4), dtype=F64)
    matrix = factor @ factor.T
    op = MatrixOperator((matrix + matrix.T) / 2, positive=True)  # of which nothing says that it is A A*
    estimate = trace(op, budget=60, method=method)
    truth = float(factor.square().sum())
    if method == "hutchinson":
        assert estimate.stderr > 1e-2 * truth
    else:
        assert estimate.value == pytest.approx(truth, rel=1e-11)
        assert abs(estimate.value - truth) <= 4 * estimate.stderr
        assert estimate.stderr < 1e-10 * truth


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("budget", [1, 2, 3, 4, 5, 60, 99])
@pytest.mark.rows(4)
def test_ordinary_degenerate_operators(method: str, budget: int) -> None:
    space = Space.of(index=100)
    u = torch.randn(100, generator=torch.Generator().manual_seed(5), dtype=F64)
    for op, truth in [
        (ZeroOperator(space, dtype=F64), 0.0),
        (IdentityOperator(space, dtype=F64), 100.0),
        (OuterProductOperator(u), float(u @ u)),
    ]:
        estimate = trace(op, budget=budget, method=method)
        assert math.isfinite(estimate.value)
        assert not math.isnan(estimate.stderr)
        assert estimate.num_matvecs <= budget
        if budget == 1 and not (truth == 0 and method in ("xnystrace",)):
            assert estimate.stderr == math.inf
        if budget >= 60:
            assert abs(estimate.value - truth) <= 4 * estimate.stderr + 1e-12
    one = trace(MatrixOperator(torch.tensor([[3.0]], dtype=F64)), budget=budget, method=method)
    assert (one.value, one.stderr, one.num_matvecs) == (3.0, 0.0, 1)


def test_an_antisymmetric_operator_has_trace_zero(seeded: Seeded) -> None:
    matrix = torch.randn(200, 200, generator=seeded(6), dtype=F64)
    op = MatrixOperator(matrix - matrix.T)
    estimate = trace(op, budget=60)
    assert abs(estimate.value) < 4 * estimate.stderr
    adaptive = trace(op, budget=20, rtol=0.01)  # no estimate is ever within 1% of zero
    assert adaptive.method == "exact"
    assert abs(adaptive.value) < 1e-12


def test_rtol_spends_what_it_takes(positive: Operator, strip: Callable[[Operator], Operator]) -> None:
    big = DiagonalOperator(torch.arange(1, 2001, dtype=F64) ** -1.0)
    cheap, dear = trace(big, budget=20, rtol=0.1), trace(big, budget=20, rtol=0.01)
    assert cheap.stderr <= 0.1 * cheap.value
    assert dear.stderr <= 0.01 * dear.value
    assert cheap.num_matvecs < dear.num_matvecs <= 320
    assert dear.value == pytest.approx(float(big.values.sum()), rel=0.04)
    # The probes of the first rounds are kept: the result is that of the last budget.
    assert trace(big, budget=dear.num_matvecs).value == dear.value
    assert trace(positive, budget=60, rtol=1e-9).method == "exact"
    stopped = trace(big, budget=10, rtol=1e-9, max_budget=40)
    assert (stopped.method, stopped.num_matvecs) == ("xnystrace, rtol not reached", 40)
    assert trace(strip(big), budget=20, rtol=0.05).stderr > 0


@pytest.mark.parametrize("budget", [0, -3, 2.5, True, "60", None])
def test_bad_budgets(budget: object, positive: Operator) -> None:
    with pytest.raises(ArgumentError, match=r"budget: expected a whole number >= 1, got"):
        trace(positive, budget=budget)  # type: ignore[arg-type]


@pytest.mark.parametrize("rtol", [0, -0.1, math.nan, math.inf, "0.1", True])
def test_bad_tolerances(rtol: object, positive: Operator) -> None:
    with pytest.raises(ArgumentError, match=r"rtol: expected a finite number > 0, got"):
        trace(positive, rtol=rtol)  # type: ignore[arg-type]


def test_other_bad_arguments(
    positive: Operator, rectangular: Operator, strip: Callable[[Operator], Operator]
) -> None:
    with pytest.raises(ArgumentError, match=r"method: expected one of auto.*did you mean 'xtrace'"):
        trace(positive, method="xtrase")
    with pytest.raises(ArgumentError, match=r"method: expected xtrace.* got 'xnystrace'"):
        trace(strip(positive), method="xnystrace")
    with pytest.raises(ArgumentError, match="op: expected an Operator, got"):
        trace(torch.eye(3))  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="generator: expected"):
        trace(positive, generator=0)  # type: ignore[arg-type]
    with pytest.raises(ArgumentError, match="max_budget: expected a whole number >= 60, got 10"):
        trace(positive, budget=60, rtol=0.1, max_budget=10)
    with pytest.raises(
        SpaceMismatchError, match=r"trace of M: .* \(parameter=350\) to \(time=10, hidden=32\)"
    ):
        trace(rectangular)


def test_a_product_that_is_not_finite_is_named() -> None:
    space = Space.of(index=200)

    def broken(q: torch.Tensor) -> torch.Tensor:
        out = q.clone()
        out[7:8] = torch.nan
        return out

    op = FunctionOperator(space, space, broken, broken, dtype=F64, name="broken")
    for budget in (60, 200):
        with pytest.raises(NonFiniteError, match=r"broken: .*NaN or infinity with probe 7"):
            trace(op, budget=budget)
