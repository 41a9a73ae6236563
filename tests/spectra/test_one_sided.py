"""Traces, norms and ranks from products with X* alone: unbiased, with honest errors, and cheaper."""

from __future__ import annotations

import pytest
import torch

from kpframe import DiagonalOperator, MatrixOperator, Operator, linearize
from kpframe.spectra import effective_rank, frobenius_norm, trace
from kpframe.spectra._numerics.one_sided import (
    OneSided,
    PairMoments,
    norm_of_moments,
    outer_factor,
    trace_of_moments,
)
from kpframe.spectra._rank import _participation
from kpframe.testing._toys import Elman

F64 = torch.float64
FUNCTIONS = {"trace": trace_of_moments, "norm": norm_of_moments, "rank": _participation}


def flow_of(trials: int, steps: int = 8, dtype: torch.dtype = F64):
    torch.manual_seed(0)
    model = Elman(3, 10).to(dtype)
    return linearize(model, torch.randn(trials, steps, 3, dtype=F64).to(dtype))


def truths(matrix: torch.Tensor) -> dict[str, float]:
    values = torch.linalg.eigvalsh(matrix.double()).clamp(min=0)
    total, square = float(values.sum()), float(values.square().sum())
    return {"trace": total, "norm": square**0.5, "rank": total**2 / square}


def operators(trials: int) -> dict[str, Operator]:
    flow = flow_of(trials)
    kept = flow.K.restrict(["weight_hh*"])
    space = flow.P.domain
    weights = DiagonalOperator(torch.linspace(0.5, 2, space.size, dtype=F64).reshape(space.shape), space)
    return {
        "Phi": flow.Phi,
        "K": flow.K,
        "P P*": flow.P @ flow.P.T,
        "of one weight": flow.P @ kept @ flow.P.T,
        "averaged": flow.Phi.mean("time"),
        "scaled": 3 * flow.Phi,
        "weighted": weights @ flow.Phi @ weights,
    }


def samples(op: Operator, num: int, runs: int) -> dict[str, torch.Tensor]:  # name -> [runs, 2]
    """Return values and standard errors of each function."""
    scale, factors = outer_factor(op)
    found = {name: [] for name in FUNCTIONS}
    for seed in range(runs):
        source = OneSided(op, factors, torch.Generator().manual_seed(seed))
        moments = source.moments(num)
        for name, function in FUNCTIONS.items():
            unit = 1 if name == "rank" else scale * source.unit
            found[name].append([unit * figure for figure in moments.estimate(function)])
    return {name: torch.tensor(rows, dtype=F64) for name, rows in found.items()}


def check_honest(op: Operator, num: int, runs: int, least: float) -> None:
    """Assert the mean against the truth, the share of intervals that cover it, and that none is too wide."""
    exact = truths(op.to_dense())
    for name, found in samples(op, num, runs).items():
        values, stderr = found.unbind(1)
        spread = float(values.std())
        assert abs(float(values.mean()) - exact[name]) <= 4 * spread / runs**0.5, name
        assert float(((values - exact[name]).abs() <= 1.96 * stderr).double().mean()) >= least, name
        assert 0.8 * spread <= float(stderr.square().mean().sqrt()) <= 2.5 * spread, name


@pytest.mark.parametrize("name", ["Phi", pytest.param("P P*", marks=pytest.mark.slow)])
def test_errors_are_honest(name: str) -> None:
    check_honest(operators(6)[name], 8, 30, least=0.85)  # of 0.95 fewer come in 1 of 60 such tests


@pytest.mark.slow
@pytest.mark.parametrize("name", ["Phi", "K", "P P*", "of one weight", "averaged", "scaled", "weighted"])
@pytest.mark.parametrize(("trials", "num"), [(16, 4), (6, 11), (1, 160)])
def test_errors_are_honest_for_each(name: str, trials: int, num: int) -> None:
    num = 64 if name == "averaged" else num  # trials are not kept apart there
    check_honest(operators(trials)[name], num, 100, least=0.88)


def test_trials_apart_are_worth_many_probes() -> None:
    flow = flow_of(12)
    apart = samples(flow.Phi, 6, 20)["rank"]
    weighted = samples(operators(12)["weighted"], 6, 20)["rank"]
    G = MatrixOperator(flow.G.to_dense())
    together = samples(G @ G.T, 6, 20)["rank"]
    for found in (apart, weighted):
        assert 5 * float(found[:, 0].std()) < float(together[:, 0].std())


def test_what_is_left_out() -> None:
    m, trials = 4, 3
    w = torch.randn(m, trials, 7, generator=torch.Generator().manual_seed(0), dtype=F64)
    gram = torch.einsum("ibx,jcx->ibjc", w, w)
    found = PairMoments(gram)

    def moments(kept: torch.Tensor) -> torch.Tensor:  # [m, B], bool
        total = sum(gram[i, b, i, b] / kept[:, b].sum() for i, b in kept.nonzero().tolist())
        square = torch.zeros((), dtype=F64)
        for b in range(trials):
            for c in range(trials):
                pairs = [
                    gram[i, b, j, c] ** 2
                    for i in kept[:, b].nonzero().flatten()
                    for j in kept[:, c].nonzero().flatten()
                    if b != c or i != j
                ]
                square += torch.stack(pairs).mean()
        return torch.stack([total, square])

    every = torch.ones(m, trials, dtype=torch.bool)
    torch.testing.assert_close(found.whole, moments(every), rtol=1e-12, atol=0)
    for i in range(m):
        for b in range(trials):
            kept = every.clone()
            kept[i, b] = False
            torch.testing.assert_close(found.without[i, b], moments(kept), rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("figure", "rtol"),
    [(effective_rank, 0.1), (trace, 0.03), (frobenius_norm, 0.06)],
    ids=lambda v: str(v)[:12],
)
@pytest.mark.rows(3)
def test_taken_where_it_is_cheaper(figure, rtol: float) -> None:
    flow = flow_of(24, 12, torch.float32)
    op, G = flow.Phi, flow.G.to_dense().double()
    exact = {effective_rank: "rank", trace: "trace", frobenius_norm: "norm"}[figure]
    found = figure(op, rtol=rtol)
    assert found.method.endswith("one-sided")
    assert found.stderr <= rtol * found.value
    assert abs(found.value - truths(G.T @ G)[exact]) <= 3 * found.stderr
    assert found.num_matvecs <= 40
    assert "one-sided" not in figure(op).method  # a budget alone is for sketches
    assert "one-sided" not in figure(op, rtol=1e-4, budget=20).method


def test_where_it_would_cost_more() -> None:
    torch.manual_seed(0)
    low = MatrixOperator(torch.randn(300, 300, dtype=F64) * 0.7 ** torch.arange(300, dtype=F64))
    op = low @ low.T
    found = effective_rank(op, rtol=0.01)
    assert "nystrom" in found.method
    spent = OneSided(op, outer_factor(op)[1], torch.Generator()).first // 2
    assert found.num_matvecs == spent + effective_rank(op, budget=60).num_matvecs  # what was tried counts


def test_which_operators_have_two_equal_sides() -> None:
    flow = flow_of(2)
    J = flow.J
    mixing = torch.randn(J.domain.size, 4, generator=torch.Generator().manual_seed(0), dtype=F64)
    metric = MatrixOperator(mixing @ mixing.T, J.domain, positive=True)
    assert outer_factor(flow.Phi)[0] == 1
    assert outer_factor(4 * flow.Phi)[0] == 4
    for op in (-1 * flow.Phi, flow.K.with_metric(metric), flow.P, flow.P @ J @ J.T, flow.Phi + flow.K):
        assert outer_factor(op) is None
    root = MatrixOperator(mixing, None, J.domain)
    assert outer_factor(flow.K.with_metric(root @ root.T)) is not None


@pytest.mark.parametrize("size", [1e-25, 1e25])
@pytest.mark.rows(2)
def test_scale(size: float) -> None:
    flow = flow_of(24, 12, torch.float32)
    J = MatrixOperator((size * flow.G.to_dense()).float(), flow.G.domain, flow.G.codomain)
    small, usual = (
        trace(X @ X.T, rtol=0.1) for X in (J, MatrixOperator(J.matrix / size, J.domain, J.codomain))
    )
    assert small.method == usual.method == "one-sided"
    assert small.value == pytest.approx(size**2 * usual.value, rel=1e-5)
