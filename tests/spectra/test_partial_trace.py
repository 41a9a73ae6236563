from __future__ import annotations

import math

import pytest
import torch

from kpframe.errors import ArgumentError, AxisError, MemoryBudgetError, NonFiniteError, SpaceMismatchError
from kpframe.operators import IdentityOperator, MatrixOperator, Operator, ZeroOperator
from kpframe.operators import _memory as chunks
from kpframe.operators._spaces import Space
from kpframe.spectra import partial_trace, trace

F64 = torch.float64


@pytest.mark.parametrize(
    "axes", ["batch", "hidden", ("batch", "hidden"), ("hidden", "batch"), ("time", "hidden")]
)
def test_exact_is_the_operator(axes: str | tuple[str, ...], symmetric: Operator) -> None:
    names = (axes,) if isinstance(axes, str) else axes
    truth = symmetric.partial_trace(*names).to_dense()
    result = partial_trace(symmetric, axes, budget=300)
    torch.testing.assert_close(result.value, truth, rtol=0, atol=1e-13)
    assert (result.num_matvecs, result.method) == (300, "exact")
    assert not result.stderr.any()


@pytest.mark.parametrize("runs", [20, pytest.param(40, marks=pytest.mark.slow)])
def test_estimate_is_unbiased_and_knows_its_error(runs: int, symmetric: Operator) -> None:
    truth = symmetric.partial_trace("batch", "time").to_dense()
    errors, stderr = [], []
    for seed in range(runs):
        result = partial_trace(
            symmetric, ("batch", "time"), budget=205, generator=torch.Generator().manual_seed(seed)
        )
        assert (result.num_matvecs, result.method) == (200, "hutchinson")
        errors.append(result.value - truth)
        stderr.append(result.stderr)
    error = torch.stack(errors)
    assert error.mean().abs() < 0.01
    ratio = torch.stack(stderr).square().mean().sqrt() / error.square().mean().sqrt()
    assert 0.9 < ratio < 1.3
    covered = (error.abs() <= 1.96 * torch.stack(stderr)).double().mean()
    assert 0.92 < covered < 0.99
    wrong = symmetric.partial_trace("batch", "hidden").to_dense()
    assert (error.mean(0) + truth - wrong).norm() > 3 * error.mean(0).norm()


def test_tracing_everything_is_the_trace(positive: Operator) -> None:
    result = partial_trace(positive, ("batch", "time", "hidden"), budget=100)
    assert result.value.shape == (1, 1)
    assert abs(float(result.value) - trace(positive, budget=300).value) < 4 * float(result.stderr)


def test_two_sides_that_differ_elsewhere() -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(24, 30, generator=generator, dtype=F64)
    op = MatrixOperator(matrix, Space.of(a=5, time=6), Space.of(time=6, b=4))
    truth = torch.einsum("tbat->ba", matrix.reshape(6, 4, 5, 6))
    torch.testing.assert_close(partial_trace(op, "time", budget=30).value, truth)
    one = partial_trace(op, "time", budget=25, generator=generator)
    assert float((one.value - truth).abs().max()) > 0.6  # what the mean of many is below


@pytest.mark.slow
def test_the_mean_of_many_estimates_on_two_sides_that_differ_is_right() -> None:
    generator = torch.Generator().manual_seed(2)
    matrix = torch.randn(24, 30, generator=generator, dtype=F64)
    op = MatrixOperator(matrix, Space.of(a=5, time=6), Space.of(time=6, b=4))
    truth = torch.einsum("tbat->ba", matrix.reshape(6, 4, 5, 6))
    mean = torch.stack(
        [partial_trace(op, "time", budget=25, generator=generator).value for _ in range(400)]
    ).mean(0)
    torch.testing.assert_close(mean, truth, rtol=0, atol=0.6)


def test_batches_do_not_matter(symmetric: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = partial_trace(symmetric, "time", budget=150)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4 * 2 * 300 * 8)
    monkeypatch.setattr(chunks, "STEP_BYTES", 0)
    parts = partial_trace(symmetric, "time", budget=150)
    torch.testing.assert_close(whole.value, parts.value, rtol=0, atol=1e-13)


def test_degenerate_and_bad(symmetric: Operator) -> None:
    space = Space.of(time=4, hidden=5)
    identity = partial_trace(IdentityOperator(space, dtype=F64), "time", budget=10)
    torch.testing.assert_close(identity.value, 4 * torch.eye(5, dtype=F64))
    assert not partial_trace(ZeroOperator(space, dtype=F64), "time", budget=10).value.any()
    assert (partial_trace(symmetric, "time", budget=30).stderr == math.inf).all()
    with pytest.raises(ArgumentError, match="budget: expected at least 30 products, for one probe, got 29"):
        partial_trace(symmetric, "time", budget=29)
    with pytest.raises(ArgumentError, match="budget: expected a whole number >= 1, got 0"):
        partial_trace(symmetric, "time", budget=0)
    with pytest.raises(AxisError):
        partial_trace(symmetric, "tmie")
    with pytest.raises(SpaceMismatchError):
        partial_trace(
            symmetric.select(time=0).project(torch.eye(10, dtype=F64)) @ symmetric.sum("time"), "time"
        )
    big = IdentityOperator(Space.of(time=2, hidden=100_000))
    with pytest.raises(MemoryBudgetError, match="partial_trace of I"):
        partial_trace(big, "time")
    bad = MatrixOperator(torch.full((20, 20), torch.nan, dtype=F64), space, name="bad")
    with pytest.raises(NonFiniteError, match="bad"):
        partial_trace(bad, "time")
