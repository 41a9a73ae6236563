"""Leave-one-out samples against their definitions: each probe left out by hand, all matrices dense."""

from __future__ import annotations

import pytest
import torch

from kpframe import MatrixOperator
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.matvecs import Sampler
from kpframe.spectra._numerics.nystrom import Sketch, inner_samples, trace_samples
from kpframe.spectra._traces.hutchpp import hutchpp
from kpframe.spectra._traces.xtrace import xtrace

F64 = torch.float64
N, M = 14, 5


def normal(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def others(rows: torch.Tensor, i: int) -> torch.Tensor:  # [m, n] -> [n, m - 1]
    """Return all columns but one."""
    return torch.cat([rows[:i], rows[i + 1 :]]).T


def projection(columns: torch.Tensor) -> torch.Tensor:
    basis = torch.linalg.qr(columns).Q
    return basis @ basis.T


def positive(seed: int) -> torch.Tensor:
    factor = normal(N, N, seed=seed) * 0.7 ** torch.arange(N, dtype=F64)
    return factor @ factor.T


def left_over(A: torch.Tensor, probes: torch.Tensor) -> torch.Tensor:
    """Return A less its Nystrom approximation from the columns of ``probes``."""
    products = A @ probes
    return A - products @ torch.linalg.solve(probes.T @ products, products.T)


def test_a_sample_of_xtrace_is_the_trace_on_the_range_of_the_others_and_one_sample_outside() -> None:
    A = normal(N, N, seed=1)
    source = Sampler(MatrixOperator(A), torch.Generator().manual_seed(0))
    value, _ = xtrace(source, 2 * M)
    probes, samples = source.probes(M, "gaussian"), []
    for i, probe in enumerate(probes):
        P = projection(A @ others(probes, i))
        outside = probe - P @ probe
        scale = (N - M + 1) / float(outside @ outside)
        samples.append(float((P @ A @ P).trace() + scale * (outside @ A @ outside)))
    assert value == pytest.approx(sum(samples) / M, rel=1e-12)
    assert source.count == 2 * M
    plain = [float((projection(A @ others(probes, i)) @ A).trace()) for i in range(M)]
    assert abs(sum(plain) / sum(samples) - 1) > 0.1  # what is outside counts


def test_hutchpp_is_the_trace_on_a_range_and_the_mean_of_samples_outside() -> None:
    A, budget = normal(N, N, seed=2), 9
    source = Sampler(MatrixOperator(A), torch.Generator().manual_seed(0))
    value, _ = hutchpp(source, budget)
    signs = source.probes(6, "rademacher")
    P = projection(A @ signs[3:].T)
    outside = signs[:3] - signs[:3] @ P
    right = (P @ A @ P).trace() + ((outside @ A) * outside).sum(1).mean()
    assert value == pytest.approx(float(right), rel=1e-12)
    assert source.count == budget
    assert abs(value / float((P @ A @ P).trace()) - 1) > 0.05


def test_samples_of_a_nystrom_sketch_are_those_of_what_it_leaves_without_each_probe() -> None:
    A, B, probes = positive(3), positive(4), normal(M, N, seed=5)
    a, b = (Sketch.of(probes, probes @ matrix, Space.of(index=N)) for matrix in (A, B))
    first, second = a.approximations()[0], b.approximations()[0]
    cross = (a.basis.T @ b.basis).to(F64)
    for i, probe in enumerate(probes):
        rest = others(probes, i)
        R, S = left_over(A, rest), left_over(B, rest)
        assert float((R @ rest).norm()) < 1e-9 * float(A.norm())
        p = probe - projection(rest) @ probe
        p = p * ((N - M + 1) ** 0.5 / p.norm())
        trace = (A - R).trace() + p @ R @ p
        assert float(trace_samples(first)[0, i]) == pytest.approx(float(trace), rel=1e-9)
        known = ((A - R) * (B - S)).sum()
        inner = known + p @ (A - R) @ S @ p + p @ R @ (B - S) @ p + p @ R @ S @ p
        assert float(inner_samples(first, second, cross)[0, i]) == pytest.approx(float(inner), rel=1e-8)
        assert abs(float(known / inner) - 1) > 1e-6
    assert abs(float(trace_samples(second)[0, 0] / trace_samples(first)[0, 0]) - 1) > 1e-3


@pytest.mark.parametrize("decay", [0.0, 1.0, 3.0])
def test_inner_products_in_float64_give_what_factors_in_float32_give(decay: float) -> None:
    """And no worse: both are held against the same products in float64."""
    source = torch.Generator().manual_seed(0)
    values = torch.arange(1, 3001, dtype=F64) ** -decay
    probes = torch.randn(8, 3000, generator=source)
    products = (probes.double() * values).float()
    space = Space.of(index=probes.shape[1])
    exact = Sketch.of(probes.double(), products.double(), space)
    found, factors = (Sketch.of(probes, products, space, with_basis=some) for some in (False, True))
    assert (found.basis.shape, factors.basis.shape) == ((3000, 0), (3000, 8))
    every = [trace_samples(sketch.approximations()[0]) for sketch in (exact, found, factors)]
    off, others = (float((one - every[0]).norm() / every[0].norm()) for one in every[1:])
    assert off <= max(2 * others, 3e-6)
    torch.testing.assert_close(found.triangle.abs(), exact.triangle.abs(), rtol=1e-6, atol=1e-6)


def test_directions_too_close_for_inner_products_are_told_apart_by_factors() -> None:
    probes = torch.randn(3, 500, generator=torch.Generator().manual_seed(0))
    probes[2] = probes[1]  # of which Cholesky's factor does not exist
    sketch = Sketch.of(probes, 2 * probes, Space.of(index=probes.shape[1]))
    assert sketch.basis.shape == (500, 3)
    assert bool(sketch.products.isfinite().all())
