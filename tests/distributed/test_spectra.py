"""Estimates, eigenpairs and exponents of a sharded flow against those of a plain one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

import kpframe
from kpframe.errors import RankError
from kpframe.operators import Operator
from kpframe.operators._tagged import TaggedAsInner
from kpframe.spectra import (
    alignment,
    effective_rank,
    eigsh,
    finite_time_exponents,
    frobenius_norm,
    lyapunov_exponents,
    partial_trace,
    randomized_svd,
    spectral_density,
    svd,
    trace,
)

from .ranks import on_ranks, own_part

COUNTS = {1: [5], 2: [4, 1], 3: [1, 2, 2]}
F64 = torch.float64
#: Without tags of its own: what is known of an operator decides how it is estimated.
Figure = Callable[[kpframe.Flow, torch.Generator], Any]
#: Of the figures, pairs and triplets those that are compared each time: one of each way to add ranks up.
SOME = (
    "xnystrace",
    "trace by rtol",
    "norm by probes",
    "exact norm of J",
    "participation",
    "threshold",
    "alignment of others",
    "block Lanczos",
    "small side",
    "within blocks",
    "svd, Golub-Kahan",
    "svd, randomised",
)


def other(flow: kpframe.Flow) -> Operator:
    """An operator that is neither symmetric nor the product of anything."""
    return flow.P @ flow.K


FIGURES: dict[str, Figure] = {
    "xnystrace": lambda flow, g: trace(flow.Phi, budget=20, generator=g),
    "xtrace": lambda flow, g: trace(other(flow), budget=20, generator=g),
    "hutchpp": lambda flow, g: trace(other(flow), budget=20, method="hutchpp", generator=g),
    "hutchinson": lambda flow, g: trace(flow.P, budget=20, method="hutchinson", generator=g),
    "exact trace": lambda flow, g: trace(flow.P, budget=300),
    "trace by rtol": lambda flow, g: trace(flow.Phi, budget=4, rtol=0.1, generator=g),
    "norm": lambda flow, g: frobenius_norm(flow.Phi, budget=20, generator=g),
    "norm of J": lambda flow, g: frobenius_norm(flow.J, budget=20, generator=g),
    "norm by probes": lambda flow, g: frobenius_norm(flow.P, budget=20, method="hutchinson", generator=g),
    "exact norm": lambda flow, g: frobenius_norm(flow.P, budget=300),
    "exact norm of J": lambda flow, g: frobenius_norm(flow.J, budget=300),
    "participation": lambda flow, g: effective_rank(flow.Phi, budget=20, generator=g),
    "participation of P": lambda flow, g: effective_rank(flow.P, budget=40, generator=g),
    "entropy": lambda flow, g: effective_rank(flow.K, kind="entropy", budget=40, generator=g),
    "threshold": lambda flow, g: effective_rank(flow.Phi, kind="threshold", budget=40, generator=g),
    "exact rank": lambda flow, g: effective_rank(flow.P, kind="entropy", budget=400),
    "rank on the small side": lambda flow, g: effective_rank(flow.Phi, budget=200),
    "alignment": lambda flow, g: alignment(flow.Phi, flow.K, budget=20, generator=g),
    "alignment of others": lambda flow, g: alignment(flow.P, other(flow), budget=40, generator=g),
    "exact alignment": lambda flow, g: alignment(flow.P, other(flow), budget=700),
}


class Units(TaggedAsInner):
    """An operator that couples no two units."""

    def block_labels(self) -> torch.Tensor:
        return torch.arange(self.domain.shape[-1])

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        units = torch.eye(q.shape[-1], dtype=q.dtype)
        return sum(unit * self.inner._apply(unit * q) for unit in units)  # type: ignore[return-value]

    _apply_adjoint = _apply


def small() -> tuple[kpframe.Model, torch.Tensor]:
    torch.manual_seed(0)
    cell = torch.nn.GRUCell(2, 5).double()
    return kpframe.wrap(cell), torch.randn(5, 8, 2, dtype=F64)


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(3)


def estimates(flow: kpframe.Flow, every: bool) -> dict[str, tuple[float, float, int, str]]:
    asked = {name: figure for name, figure in FIGURES.items() if every or name in SOME}
    found = {name: figure(flow, generator()) for name, figure in asked.items()}
    return {name: (one.value, one.stderr, one.num_matvecs, one.method) for name, one in found.items()}


#: Pairs and triplets by what finds them.
FOUND: dict[str, Callable[[kpframe.Flow], Any]] = {
    "block Lanczos": lambda flow: eigsh(flow.Phi, k=3, budget=60, generator=generator(), block_size=3),
    "small side": lambda flow: eigsh(flow.Phi, k=3),
    "zeros": lambda flow: eigsh(flow.Phi, k=3, which="smallest"),
    "dense": lambda flow: eigsh(flow.P.symmetric_part, k=3),
    "magnitude": lambda flow: eigsh(
        flow.P.symmetric_part, k=2, budget=100, which="magnitude", generator=generator(), tol=1e-3
    ),
    "of K": lambda flow: eigsh(flow.K, k=3, budget=60, generator=generator()),
    "within blocks": lambda flow: eigsh(Units(flow.K), k=3, budget=60, generator=generator()),
    "svd, dense": lambda flow: svd(flow.P, k=3),
    "svd, Golub-Kahan": lambda flow: svd(flow.P, k=2, budget=80, generator=generator(), tol=1e-3),
    "svd, of J": lambda flow: svd(flow.J, k=2, budget=60, generator=generator(), tol=1e-3),
    "svd, randomised": lambda flow: randomized_svd(flow.P, k=2, generator=generator()),
}


def vectors(flow: kpframe.Flow, every: bool) -> dict[str, tuple[Any, ...]]:
    """Values, residuals, this rank's part of vectors, flags, counts and methods."""
    found: dict[str, tuple[Any, ...]] = {}
    for name, find in FOUND.items():
        if every or name in SOME:
            one = find(flow)
            values = (one.S, one.U) if name.startswith("svd") else (one.eigenvalues, one.eigenvectors)
            parts = (part.numpy() for part in (values[0], one.residual_norms, values[1]))
            found[name] = (*parts, one.converged.tolist(), one.num_matvecs, one.method)
    return found


def others(flow: kpframe.Flow) -> dict[str, Any]:
    """Figures with entries: those of trials last."""
    density = spectral_density(flow.K, budget=60, num_lanczos=10, generator=generator())
    spectrum = lyapunov_exponents(flow.A, k=2, generator=generator())
    found = {
        "nodes": density.nodes,
        "weights": density.weights,
        "dense density": spectral_density(flow.P.symmetric_part, budget=300).nodes,
        "partial trace": partial_trace(flow.Phi, ("batch", "time"), budget=40, generator=generator()).value,
        "exact partial trace": partial_trace(flow.Phi, ("batch", "time"), budget=300).value,
        "over time": partial_trace(flow.P, ("time", "hidden"), budget=60, generator=generator()).value,
        "mean exponents": spectrum.mean,
        "stderr of exponents": spectrum.stderr,
        "exponents": spectrum.exponents,
        "finite time": finite_time_exponents(flow.A, t=5),
    }
    return {name: value.numpy() for name, value in found.items()}


def everything(group: Any, counts: list[int], every: bool) -> tuple[dict[str, Any], ...]:
    model, x = small()
    flow = kpframe.linearize(model, own_part(group, x, counts), group=group)
    return estimates(flow, every), vectors(flow, every), others(flow)


@pytest.mark.parametrize(
    ("ranks", "every"), [(2, False), *(pytest.param(n, True, marks=pytest.mark.slow) for n in (1, 2, 3))]
)
def test_figures_of_shards_are_those_of_one_process(ranks: int, every: bool) -> None:
    counts = COUNTS[ranks]
    model, x = small()
    flow = kpframe.linearize(model, x)
    wanted = (estimates(flow, every), vectors(flow, every), others(flow))
    assert every or {*wanted[0], *wanted[1]} == {*SOME}
    parts = on_ranks(ranks, everything, counts, every)
    for rank, (figures, pairs, rest) in enumerate(parts):
        for name, (value, stderr, count, method) in wanted[0].items():
            assert figures[name][0] == pytest.approx(value, rel=1e-9), (name, rank)
            assert figures[name][1] == pytest.approx(stderr, rel=1e-6, abs=1e-9 * abs(value)), (name, rank)
            assert figures[name][2:] == (count, method), (name, rank)
        start = sum(counts[:rank])
        for name, (values, residuals, rows, *how) in wanted[1].items():
            scale = max(abs(values).max(), 1.0)
            assert pairs[name][0] == pytest.approx(values, rel=1e-9, abs=1e-12 * scale), (name, rank)
            assert pairs[name][1] == pytest.approx(residuals, rel=1e-4, abs=1e-9 * scale), (name, rank)
            assert [*pairs[name][3:]] == how, (name, rank)
            if name != "zeros":
                own = rows[:, start : start + counts[rank]]
                assert pairs[name][2] == pytest.approx(own, rel=1e-5, abs=1e-6), (name, rank)
        for name, value in wanted[2].items():
            own = value[start : start + counts[rank]] if name in ("exponents", "finite time") else value
            assert rest[name] == pytest.approx(own, rel=1e-9, abs=1e-10), (name, rank)
    apart = estimates(kpframe.linearize(model, x[:2]), every)
    assert all(apart[name][0] != pytest.approx(one[0], rel=1e-6) for name, one in wanted[0].items())


def disagreeing(group: Any, counts: list[int], reduced: bool) -> str:
    model, x = small()
    flow = kpframe.linearize(model, own_part(group, x, counts), group=group)
    seed = torch.Generator().manual_seed(torch.distributed.get_rank(group))
    try:
        trace(2.0 * flow.Phi.mean("batch") if reduced else flow.Phi, budget=4, generator=seed)
    except RankError as error:
        return str(error)
    return "no error"


def test_ranks_with_different_generators_say_so_everywhere() -> None:
    texts = [text for reduced in (True, False) for text in on_ranks(2, disagreeing, COUNTS[2], reduced)]
    assert all(text.startswith("generator: expected the same on all ranks, got ") for text in texts)
    assert all("on rank 0" in text and "on rank 1" in text for text in texts)
    assert on_ranks(1, disagreeing, COUNTS[1], True) == ["no error"]
