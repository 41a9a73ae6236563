"""Times of the products by pytest-benchmark: ``pytest tests/benchmarks --slow --benchmark-only``.

The ratios that count are those of ``kpframe bench``, which times pairs in one process. No test here or
elsewhere fails on a time.
"""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize
from kpframe.plugin import get_manager
from kpframe.study._bench.peers import LAYERS
from kpframe.study._bench.products import INPUTS, WRAPPED, Size, make
from kpframe.study._bench.timing import Clock

pytestmark = pytest.mark.slow
NAMES = [*(spec.name for spec in get_manager().specs("model") if spec.name in LAYERS), WRAPPED]
#: Forms of P for a small state over many steps; those of plugins where they are installed.
SCANS = [
    spec.name
    for spec in get_manager().specs("propagator")
    if spec.name in ("scan", "stepwise", "dense", "parallel_scan")
]


@pytest.fixture(params=NAMES)
def problem(request, device):
    model = make(request.param, 256, torch.float32, device)
    return model, torch.randn(20, 90, INPUTS, device=device)


@pytest.mark.parametrize("probes", [1, 16])
@pytest.mark.parametrize("name", ["P", "K", "Phi"])
def test_product(benchmark, problem, name, probes) -> None:
    op = getattr(linearize(*problem), name)
    q = torch.randn(probes, *op.domain.shape, device=op.device)
    found = benchmark(op, q)
    assert found.shape == q.shape


def test_linearize(benchmark, problem) -> None:
    flow = benchmark(linearize, *problem)
    assert flow.P.domain.shape[:2] == (20, 90)


@pytest.mark.parametrize("size", [Size(20, 90, 256), Size(100, 100, 100)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_linearize_beside_the_roll_out(benchmark, device, name, size) -> None:
    """Times of ``linearize``; ``ratio`` in the extra info is to the model's own roll-out, pair by pair."""
    model = make(name, size.hidden, torch.float32, device)
    x = torch.randn(size.batch, size.time, INPUTS, device=device)

    def rollout() -> None:
        with torch.no_grad():
            model.rollout(x)

    pairs = Clock(device).paired(lambda: linearize(model, x), rollout, 15)
    benchmark.extra_info["ratio"] = round(pairs.ratio, 2)
    benchmark.pedantic(linearize, (model, x), rounds=5, warmup_rounds=1)


@pytest.mark.parametrize("probes", [1, 16])
@pytest.mark.parametrize(
    "part", ["all", "chunks of 10", "chunks of 10, 3 on", "2 terms", "88 terms", "90 terms"]
)
def test_parts_of_P(benchmark, problem, part, probes) -> None:
    """Products with P* and with its chunks and truncations, which are to cost no more."""
    P = linearize(*problem).P
    made = {
        "all": P,
        "chunks of 10": P.chunked(10),
        "chunks of 10, 3 on": P.chunked(10, 3),
        "2 terms": P.truncated(2),
        "88 terms": P.truncated(88),
        "90 terms": P.truncated(90),
    }[part]
    r = torch.randn(probes, *P.domain.shape, device=P.device)
    assert benchmark(made.T, r).shape == r.shape


@pytest.mark.parametrize("probes", [1, 16])
@pytest.mark.parametrize("adjoint", [False, True], ids=["P", "P*"])
@pytest.mark.parametrize("form", SCANS)
def test_long_sequence(benchmark, device, form, adjoint, probes) -> None:
    model = make(WRAPPED, 8, torch.float32, device)
    P = linearize(model, torch.randn(1, 2000, INPUTS, device=device), propagator=form).P
    op = P.T if adjoint else P
    q = torch.randn(probes, *op.domain.shape, device=op.device)
    found = benchmark(op, q)
    assert found.shape == q.shape
