"""No figure depends on the size of an operator's entries but those that scale with it, and they do."""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import deepcopy

import pytest
import torch

from kpframe import linearize, wrap
from kpframe.operators import MatrixOperator, Operator
from kpframe.operators._base import SelfAdjointOperator
from kpframe.operators._scale import clamped, cosine, divided, norm, unit_of
from kpframe.operators._spaces import Space
from kpframe.spectra import (
    Estimate,
    alignment,
    effective_rank,
    eigsh,
    frobenius_norm,
    partial_trace,
    randomized_svd,
    spectral_density,
    svd,
    trace,
)
from kpframe.spectra._lyapunov import finite_time_exponents, lyapunov_exponents

#: Powers of two near 1e-30 ... 1e25 and 1e-150, 1e150: multiplying by them is exact.
SCALES = [(torch.float32, power) for power in (-100, -83, -66, 66, 83)]
SCALES += [(torch.float64, power) for power in (-498, 498)]

SPACE = Space.of(batch=4, time=4, hidden=4)
SIZE = SPACE.size


class Positive(SelfAdjointOperator):
    """A positive matrix that carries its tag."""

    def __init__(self, matrix: torch.Tensor) -> None:
        super().__init__(SPACE, SPACE, dtype=matrix.dtype, device=matrix.device)
        self.matrix = matrix

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return (q.reshape(-1, SIZE) @ self.matrix).reshape(q.shape)

    @property
    def positive(self) -> bool:
        return True

    def _formula(self) -> tuple[str, int]:
        return "S", 3


def matrices() -> dict[str, torch.Tensor]:
    """Return a general, another general, a symmetric and a positive matrix with decaying spectra."""
    seeded = torch.Generator().manual_seed(3)
    draws = torch.randn(2, SIZE, SIZE, generator=seeded, dtype=torch.float64)
    first = draws[0] * torch.logspace(0, -2, SIZE, dtype=torch.float64)
    second = first + 0.3 * draws[1]
    return {
        "general": first,
        "other": second,
        "symmetric": (second + second.mT) / 2,
        "positive": (first @ first.mT + first @ first.mT) / 2,
    }


def operator(kind: str, dtype: torch.dtype, power: int) -> Operator:
    matrix = matrices()[kind].to(dtype)
    for half in (power // 2, power - power // 2):  # exact also where 2**power is no float32
        matrix = matrix * 2.0**half
    return Positive((matrix + matrix.mT) / 2) if kind == "positive" else MatrixOperator(matrix, SPACE)


Figures = dict[str, tuple[list[float], int]]  # name -> values, and how often the scale is in them


def numbers(estimate: Estimate, degree: int) -> tuple[list[float], int]:
    return [estimate.value, estimate.stderr], degree


def figures(kind: str, dtype: torch.dtype, power: int) -> Figures:
    """Return every figure of one operator, exact and estimated."""
    op, other = operator(kind, dtype, power), operator("other", dtype, power)
    found: Figures = {}
    for budget in (12, 40, SIZE * 2):
        for method in ("auto", "hutchinson", "hutchpp", "xtrace"):
            found[f"trace {method} {budget}"] = numbers(trace(op, budget=budget, method=method), 1)
        for method in ("auto", "hutchinson"):
            found[f"norm {method} {budget}"] = numbers(frobenius_norm(op, budget=budget, method=method), 1)
        for name in ("participation", "entropy", "threshold"):
            found[f"{name} {budget}"] = numbers(effective_rank(op, kind=name, budget=budget), 0)
        found[f"alignment {budget}"] = numbers(alignment(op, other, budget=budget), 0)
        ordinary = operator("positive", dtype, 0)
        found[f"alignment with an ordinary one {budget}"] = numbers(alignment(op, ordinary, budget=budget), 0)
        found[f"partial {budget}"] = blocks(op, budget)
        triplets = svd(op, k=2, budget=budget)
        found[f"svd {budget}"] = (listed(triplets.S, triplets.residual_norms), 1)
        found[f"svd vectors {budget}"] = (listed(triplets.U, triplets.V, triplets.converged), 0)
    triplets = randomized_svd(op, k=2)
    found["randomised"] = (listed(triplets.S, triplets.residual_norms), 1)
    if kind in ("symmetric", "positive"):
        for budget in (12, 40, SIZE):
            for which in ("largest", "smallest", "magnitude"):
                pairs = eigsh(op, k=2, budget=budget, which=which)
                found[f"{which} {budget}"] = (listed(pairs.eigenvalues, pairs.residual_norms), 1)
                found[f"{which} vectors {budget}"] = (listed(pairs.eigenvectors, pairs.converged), 0)
            density = spectral_density(op, budget=budget)
            found[f"nodes {budget}"] = (listed(density.nodes), 1)
            found[f"weights {budget}"] = (listed(density.weights), 0)
    return found


def blocks(op: Operator, budget: int) -> tuple[list[float], int]:
    traced = partial_trace(op, ("batch", "time"), budget=budget)
    return listed(traced.value, traced.stderr), 1


def listed(*tensors: torch.Tensor) -> list[float]:
    return torch.cat([values.flatten().double() for values in tensors]).tolist()


@pytest.mark.parametrize("kind", ["general", "symmetric", "positive"])
@pytest.mark.rows(6)
def test_every_figure_at_every_scale(kind: str) -> None:
    """To the last bits, also in float32: nothing but powers of two is multiplied and divided."""
    ordinary = {dtype: figures(kind, dtype, 0) for dtype in (torch.float32, torch.float64)}
    for dtype, power in SCALES:
        for name, (values, degree) in figures(kind, dtype, power).items():
            expected = ordinary[dtype][name][0]
            assert len(values) == len(expected)
            for value, right in zip(values, expected, strict=True):
                value = math.ldexp(value, -degree * power)
                assert value == right or abs(value - right) <= 1e-12 * abs(right), (name, dtype, power)


def test_the_figures_are_right() -> None:
    """Against the dense matrix in float64: at a scale whose squares are no float32."""
    dense = matrices()
    for power in (-83, 83):
        general, other = (operator(kind, torch.float32, power) for kind in ("general", "other"))
        spectrum = torch.linalg.svdvals(dense["general"])
        scale = 2.0**power
        assert frobenius_norm(general, budget=SIZE).value == pytest.approx(
            scale * float(spectrum.square().sum().sqrt()), rel=1e-6
        )
        rank = float(spectrum.square().sum() ** 2 / spectrum.pow(4).sum())
        assert effective_rank(general, budget=SIZE).value == pytest.approx(rank, rel=1e-5)
        inner = float((dense["general"] * dense["other"]).sum())
        right = inner / float(dense["general"].norm() * dense["other"].norm())
        assert 0.5 < right < 0.99
        assert alignment(general, other, budget=2 * SIZE).value == pytest.approx(right, rel=1e-5)
        low, high = alignment(general, other, budget=SIZE).interval(0.9999)
        assert low <= right <= high
        assert high - low < 0.5
        assert svd(general, k=2).S.double().tolist() == pytest.approx(
            (scale * spectrum[:2]).tolist(), rel=1e-5
        )


def test_entries_of_very_different_size() -> None:
    """Columns from 1e-30 to 1e30, the least first: their norms are summed in units that grow."""
    space = Space.of(parameter=61)
    sizes = torch.logspace(-30, 30, 61, dtype=torch.float64)
    op = MatrixOperator(torch.diag(sizes).float(), space)
    right = float(torch.diag(sizes).float().double().norm())
    assert frobenius_norm(op, budget=61).value == pytest.approx(right, rel=1e-12)
    assert alignment(op, op, budget=122).value == pytest.approx(1, rel=1e-12)
    assert alignment(op, -op, budget=122).value == pytest.approx(-1, rel=1e-12)
    assert effective_rank(op, budget=61).value == pytest.approx(0.99 / 0.81, rel=1e-5)
    assert trace(op, budget=61).value == pytest.approx(float(sizes.sum()), rel=1e-6)


@pytest.mark.parametrize(
    "figure",
    [
        lambda op: trace(op, budget=20),
        lambda op: frobenius_norm(op, budget=20),
        lambda op: effective_rank(op, budget=20),
        lambda op: effective_rank(op, budget=500),
    ],
)
def test_zero_stays_zero(figure: Callable[[Operator], Estimate]) -> None:
    assert figure(MatrixOperator(torch.zeros(SIZE, SIZE), SPACE)).value == 0


def test_units() -> None:
    assert [unit_of(torch.tensor([v, 0.0])) for v in (0.0, 1.0, -3e4, 1e-4)] == [1.0] * 4
    least = torch.tensor([2.0**-149])
    for value in (1e-30, 1e25, -3.4e38, 2.0**-149):
        values = torch.tensor([value, value / 3])
        unit = unit_of(values)
        assert math.frexp(unit)[0] == 0.5
        assert 1 <= abs(value) / unit < 2
        assert torch.equal(divided(values, unit).double(), values.double() / unit)
    assert norm(least) == 2.0**-149
    assert norm(torch.tensor([3e200, 4e200], dtype=torch.float64)) == pytest.approx(5e200, rel=1e-15)
    assert norm(torch.zeros(3)) == 0 == norm(torch.zeros(0))
    assert math.isinf(norm(torch.tensor([math.inf, 1.0])))
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([2.0, -1.5])
    right = -1 / (math.sqrt(5) * 2.5)
    assert cosine(1e-30 * one, 1e30 * other) == pytest.approx(right, rel=1e-6)
    assert math.isnan(cosine(one, 0 * other))


def test_clamped_hides_no_nan() -> None:
    assert [clamped(x) for x in (1 + 1e-9, -1 - 1e-9, 0.25)] == [1, -1, 0.25]
    assert math.isnan(clamped(math.nan))


def test_a_transition_that_has_almost_faded() -> None:
    """Real networks make such operators: the transition over 45 steps of an RNN that contracts."""
    torch.manual_seed(0)
    cell = torch.nn.RNNCell(3, 16)
    seeded = torch.Generator().manual_seed(1)
    with torch.no_grad():
        cell.weight_hh.copy_(0.3 * torch.linalg.qr(torch.randn(16, 16, generator=seeded))[0])
    model = wrap(cell)
    x = torch.randn(2, 50, 3, generator=torch.Generator().manual_seed(0))
    single = linearize(model, x).P.transition(48, 3)
    double = linearize(deepcopy(model).double(), x.double()).P.transition(48, 3)
    assert 0 < float(double.to_dense().norm()) < 1e-20
    right = effective_rank(double, budget=40)
    assert right.exact
    assert right.value > 2
    assert effective_rank(single, budget=40).value == pytest.approx(right.value, rel=1e-4)
    estimated = effective_rank(single, budget=20)
    assert abs(estimated.value - right.value) <= 4 * estimated.stderr <= right.value
    assert frobenius_norm(single, budget=40).value == pytest.approx(
        frobenius_norm(double, budget=40).value, rel=1e-4
    )


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_exponents_of_scaled_steps(scale: float) -> None:
    """Every exponent grows by the logarithm of the factor."""
    A = linearize(wrap(torch.nn.RNNCell(3, 6)), torch.randn(2, 12, 3)).A
    shift = math.log(scale)
    found, right = lyapunov_exponents(scale * A).exponents - shift, lyapunov_exponents(A).exponents
    assert float((found - right).abs().max()) <= 1e-4
    found = finite_time_exponents(scale * A, t=6, s=2) - shift
    assert float((found - finite_time_exponents(A, t=6, s=2)).abs().max()) <= 1e-3


def test_eigenpairs_of_an_operator_that_is_small_by_its_inputs() -> None:
    """K of inputs of 1e-12 has entries near 1e-24, whose squares are no float32."""
    torch.manual_seed(0)
    model = wrap(torch.nn.RNNCell(3, 16))
    x = torch.randn(4, 10, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 1e-12
    single = linearize(model, x.float()).K.restrict(["weight_ih"])
    double = linearize(deepcopy(model).double(), x).K.restrict(["weight_ih"])
    for budget in (200, 4 * 10 * 16):
        right = eigsh(double, k=2, budget=budget)
        found = eigsh(single, k=2, budget=budget)
        assert found.eigenvalues.double().tolist() == pytest.approx(right.eigenvalues.tolist(), rel=1e-4)
        assert 0 < float(right.eigenvalues[0]) < 1e-20
        assert found.converged.all()
        assert float(found.residual_norms.max()) <= 2e-5 * float(found.eigenvalues[0])
