"""Alignments from products with X* and Y* alone: unbiased, with honest errors, taken where they pay."""

from __future__ import annotations

import math

import pytest
import torch

from kpframe import MatrixOperator, Operator, linearize
from kpframe.spectra import alignment
from kpframe.spectra._alignment import _cosine
from kpframe.spectra._numerics.one_sided import outer_factor
from kpframe.spectra._numerics.one_sided_pair import CosineMoments, OneSidedPair
from kpframe.testing._toys import Elman

F64 = torch.float64


def flow_of(trials: int, steps: int = 8, moved: float = 0.0, dtype: torch.dtype = F64):
    torch.manual_seed(0)
    model, x = Elman(3, 10).to(F64), torch.randn(trials, steps, 3, dtype=F64)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += moved * torch.randn_like(parameter)
    return linearize(model.to(dtype), x.to(dtype))


#: The names of ``pairs``, which are not made where tests are only collected.
PAIRS = ("Phi at two steps", "K at two steps", "K and Phi", "P P* and Phi", "P P* and K", "averaged")


def pairs(trials: int, steps: int = 8) -> dict[str, tuple[Operator, Operator]]:
    flow, other = flow_of(trials, steps), flow_of(trials, steps, 0.3)
    made = (
        (flow.Phi, other.Phi),
        (flow.K, other.K),
        (flow.K, 2 * flow.Phi),
        (flow.P @ flow.P.T, other.Phi),
        (flow.P @ flow.P.T, flow.K),
        (flow.Phi.mean("time"), other.Phi.mean("time")),
    )
    return dict(zip(PAIRS, made, strict=True))


def cosine_of(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a * b).sum() / a.norm() / b.norm())


def source(a: Operator, b: Operator, seed: int) -> OneSidedPair:
    return OneSidedPair(a, b, (outer_factor(a)[1], outer_factor(b)[1]), torch.Generator().manual_seed(seed))


def with_each_itself(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Return the cosine of the whole Gram matrices, a vector and itself counted as a pair: biased."""
    _, stderr = CosineMoments(first, second).estimate(_cosine)
    return cosine_of(first, second), stderr


def check_honest(a: Operator, b: Operator, num: int, runs: int, estimate=None) -> None:
    exact, found = cosine_of(a.to_dense(), b.to_dense()), []
    for seed in range(runs):
        both = source(a, b, seed)
        moments = both.moments(num)
        grams = [side.gram for side in both._sides]
        found.append(moments.estimate(_cosine) if estimate is None else estimate(*grams))
    values, stderr = torch.tensor(found, dtype=F64).unbind(1)
    spread = float(values.std())
    assert abs(float(values.mean()) - exact) <= 4 * spread / runs**0.5
    assert float(((values - exact).abs() <= 1.96 * stderr).double().mean()) >= 0.88
    assert 0.8 * spread <= float(stderr.square().mean().sqrt()) <= 2.5 * spread


@pytest.mark.parametrize("name", ["Phi at two steps", "P P* and Phi"])
def test_errors_are_honest(name: str) -> None:
    check_honest(*pairs(6)[name], 8, 30)


def test_a_biased_estimate_is_found_out() -> None:
    with pytest.raises(AssertionError):
        check_honest(*pairs(6)["Phi at two steps"], 8, 30, with_each_itself)


@pytest.mark.slow
@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize(("trials", "num"), [(16, 4), (6, 11), (1, 64)])
def test_errors_are_honest_for_each(name: str, trials: int, num: int) -> None:
    num = 64 if name == "averaged" else num  # trials are not kept apart there
    check_honest(*pairs(trials)[name], num, 100)


@pytest.mark.parametrize(
    "name",
    ["K and Phi", *(pytest.param(f"{one} at two steps", marks=pytest.mark.slow) for one in ("Phi", "K"))],
)
def test_better_than_sketches_of_as_many_products(name: str) -> None:
    a, b = pairs(16)[name]
    exact = cosine_of(a.to_dense(), b.to_dense())
    errors = []
    for seed in range(12):
        both = source(a, b, seed)
        value, _ = both.moments(4).estimate(_cosine)
        assert both.count == 4
        sketch = alignment(a, b, budget=4, generator=torch.Generator().manual_seed(seed))
        errors.append([value - exact, sketch.value - exact])
    own, sketches = torch.tensor(errors, dtype=F64).square().mean(0).sqrt().tolist()
    assert 1.2 * own < sketches


def test_the_same_gram_matrices_are_aligned_by_one() -> None:
    w = torch.randn(2, 5, 3, 7, generator=torch.Generator().manual_seed(0), dtype=F64)
    first, second = (torch.einsum("ibx,jcx->ibjc", one, one) for one in w)
    assert CosineMoments(first, 3 * first).estimate(_cosine)[0] == pytest.approx(1, abs=1e-12)
    assert CosineMoments(first, second).estimate(_cosine)[0] < 0.9
    cross = CosineMoments(first, second)
    kept = torch.ones(5, 3, dtype=torch.bool)
    kept[2, 1] = False
    less = 0.0
    for b in range(3):
        for c in range(3):
            products = [
                first[i, b, j, c] * second[i, b, j, c]
                for i in kept[:, b].nonzero().flatten()
                for j in kept[:, c].nonzero().flatten()
                if b != c or i != j
            ]
            less += float(torch.stack(products).mean())
    assert float(cross.without[2, 1, 0]) == pytest.approx(less, rel=1e-12)


def test_taken_where_it_is_better() -> None:
    flow, other = flow_of(24, 12, dtype=torch.float32), flow_of(24, 12, 0.3, torch.float32)
    exact = cosine_of(flow.K.to_dense().double(), other.K.to_dense().double())
    found = alignment(flow.K, other.K, rtol=0.15)
    assert found.method == "one-sided"
    assert found.stderr <= 0.15 * found.value
    assert abs(found.value - exact) <= 3 * found.stderr
    assert found.num_matvecs <= 24
    again = alignment(3 * flow.K, 1e-12 * other.K, rtol=0.15)
    assert again.value == pytest.approx(found.value, rel=1e-5)  # no scale, and reproducible
    assert alignment(flow.K, other.K, rtol=0.15, generator=torch.Generator().manual_seed(1)) != found
    assert alignment(flow.K, other.K).method == "nystrom"  # a budget alone is for sketches


def test_where_sketches_are_better() -> None:
    flow, other = flow_of(24, 12, dtype=torch.float32), flow_of(24, 12, 0.3, torch.float32)
    for op in (other.P @ other.P.T, other.K):
        found = alignment(flow.P @ flow.P.T, op, rtol=0.5, budget=40)
        assert (found.method, found.num_matvecs) == ("nystrom", 40)  # nothing was tried
    short, moved = flow_of(1, 60), flow_of(1, 60, 0.1)  # a few directions hold most of both
    found = alignment(short.Phi, moved.Phi, rtol=0.2, budget=64)
    spent = 64 // 2 * 2
    assert (found.method, found.num_matvecs) == ("nystrom", 64 + spent)  # what was tried counts
    nothing = MatrixOperator(torch.zeros(flow.K.domain.size, 5), None, flow.K.domain)
    zero = nothing @ nothing.T
    assert math.isnan(alignment(zero, zero + 0 * zero, rtol=0.2).value)


def test_one_that_knows_its_trials_apart_and_one_that_does_not() -> None:
    flow = flow_of(3)
    X = MatrixOperator(flow.G.to_dense() + 0.1, None, flow.K.domain)
    plain = X @ X.T
    both = source(plain, flow.K, 0)
    value, stderr = both.moments(200).estimate(_cosine)
    exact = cosine_of(plain.to_dense(), flow.K.to_dense())
    assert both.count == 400  # the first products of K, trial by trial, were of no use
    assert abs(value - exact) <= 3 * stderr
    assert stderr < 0.1 * exact
