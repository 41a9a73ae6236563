"""Honest errors where the probes nearly span the space, and at every budget below the dimension."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch

from kpframe.operators import FunctionOperator, MatrixOperator, Operator
from kpframe.spectra import Estimate, alignment, effective_rank, frobenius_norm, trace
from kpframe.spectra._numerics.statistics import FEW, SampleCorrelation

from .runs import F64, covered, estimates, rotated

SIZE = 21
INDEX = torch.arange(1, SIZE + 1, dtype=F64)
SPECTRA = {
    "linear": torch.linspace(1, 3, SIZE, dtype=F64),
    "exponential": 0.9**INDEX,
    "inverse": 1 / INDEX,
    "step": torch.where(INDEX <= 7, 1.0, 1e-3).to(F64),
}
Call = Callable[[int, torch.Generator], Estimate]


def untagged(matrix: torch.Tensor) -> Operator:
    space = MatrixOperator(matrix).domain
    return FunctionOperator(space, space, lambda q: q @ matrix, lambda q: q @ matrix, dtype=F64)


def quantity(name: str, values: torch.Tensor) -> tuple[Call, float]:
    """Return an estimator and the truth."""
    factors = 2 * torch.rand(len(values), generator=torch.Generator().manual_seed(9), dtype=F64)
    op, other = MatrixOperator(rotated(values)), MatrixOperator(rotated(values * factors))
    bare, squares, shares = untagged(op.matrix), values**2, values / values.sum()
    assert op.positive
    assert not bare.positive
    cosine = values @ (values * factors) / values.norm() / (values * factors).norm()
    calls: dict[str, tuple[Call, torch.Tensor]] = {
        "trace": (lambda b, g: trace(op, budget=b, generator=g), values.sum()),
        "norm": (lambda b, g: frobenius_norm(op, budget=b, generator=g), values.norm()),
        "rank": (lambda b, g: effective_rank(op, budget=b, generator=g), values.sum() ** 2 / squares.sum()),
        "alignment": (lambda b, g: alignment(op, other, budget=2 * b, generator=g), cosine),
        "xtrace": (lambda b, g: trace(bare, budget=b, generator=g), values.sum()),
        "norm of op op*": (lambda b, g: frobenius_norm(bare, budget=b, generator=g), values.norm()),
        "entropy": (
            lambda b, g: effective_rank(op, kind="entropy", budget=b, generator=g),
            (-(shares * shares.log()).sum()).exp(),
        ),
    }
    call, truth = calls[name]
    return call, float(truth)


def coverage(call: Call, truth: float, budget: int, runs: int) -> float:
    """Return the share of runs whose interval covers the truth."""
    found = estimates(partial(call, budget), runs)
    assert not any(estimate.exact for estimate in found)
    return covered(found, truth)


@pytest.mark.parametrize(
    ("missing", "runs", "least"),
    [(1, 40, 0.85), *(pytest.param(missing, 100, 0.90, marks=pytest.mark.slow) for missing in (1, 3))],
)
@pytest.mark.parametrize(("name", "spectrum"), [
    ("trace", "linear"), ("norm", "exponential"), ("rank", "inverse"), ("alignment", "linear"),
])  # fmt: skip
@pytest.mark.rows(8)
def test_probes_that_nearly_span_the_space(
    name: str, spectrum: str, missing: int, runs: int, least: float
) -> None:
    call, truth = quantity(name, SPECTRA[spectrum])
    assert coverage(call, truth, SIZE - missing, runs) >= least  # of 0.95, in all but 1 of 100 such tests
    errors = [e.stderr for e in estimates(partial(call, SIZE - missing), 20)]
    assert max(errors) < 0.2 * truth  # and not by being useless


@pytest.mark.slow
def test_the_default_budget_one_below_the_dimension() -> None:
    values = torch.linspace(1, 3, 61, dtype=F64)
    op = MatrixOperator(rotated(values))
    found = estimates(lambda generator: trace(op, generator=generator), 60)
    assert all(estimate.method == "xnystrace" for estimate in found)
    truth = float(values.sum())
    assert covered(found, truth) >= 0.9
    narrower = sum(abs(e.value - truth) <= 0.6 * 1.96 * e.stderr for e in found)
    assert narrower / 60 < covered(found, truth)


def test_what_looks_share_is_what_turned_probes_share() -> None:
    """The variance of tr(B S) over turned probes is proportional to the squared norm of S."""
    size, num = 9, 7
    seed = torch.Generator().manual_seed(3)
    probes = torch.linalg.qr(torch.randn(size, num, generator=seed, dtype=F64)).Q
    mixed = probes @ torch.randn(num, num, generator=seed, dtype=F64)
    gram = torch.linalg.inv(mixed.T @ mixed)
    parts = mixed @ gram / gram.diagonal().sqrt()  # p_i, of unit length
    missing = size - num
    outside = torch.eye(size, dtype=F64) - probes @ probes.T
    seen = torch.stack([missing * torch.outer(p, p) - outside for p in parts.T])
    turned = torch.linalg.qr(torch.randn(20_000, size, size, generator=seed, dtype=F64)).Q
    values = torch.linspace(-1, 1, size, dtype=F64)  # B
    diagonals = torch.einsum("tij,j,tkj->tik", turned, values, turned).flatten(1)
    errors = diagonals @ seen.flatten(1).T  # [turns, num], tr(B S_i)
    correlation = SampleCorrelation((parts.T @ parts).square(), missing)
    within = float(errors.var(1).mean())
    assert float(errors.mean(1).square().mean()) / within == pytest.approx(
        correlation.variance_of_mean, rel=0.05
    )
    assert correlation.variance_of_mean > 3 / num  # far from independent samples
    assert 1 <= correlation.degrees_of_freedom <= num - 1
    far = SampleCorrelation(torch.eye(num, dtype=F64) + 1e-6, 10**6)
    assert far.variance_of_mean == pytest.approx(1 / num, rel=1e-3)
    assert far.degrees_of_freedom == pytest.approx(num - 1, rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("budget", [2, 3, 5, 8, 10, 15, 18, 19, 20])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("name", ["trace", "norm", "rank", "alignment", "xtrace", "norm of op op*"])
def test_coverage_at_every_budget(name: str, spectrum: str, budget: int) -> None:
    call, truth = quantity(name, SPECTRA[spectrum])
    probes = budget if name in ("trace", "norm", "rank", "alignment") else budget // 2
    head = (
        spectrum == "step" and probes == 7
    )  # as many as there are large eigenvalues: none is left to err on
    least = 0.75 if probes == 2 else 0.85 if head else 0.89
    most = 1.0 if probes < FEW else 0.99  # wider than they need to be on flat spectra
    assert least <= coverage(call, truth, budget, 400) <= most
