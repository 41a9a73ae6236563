"""P and P* with steps of A cut, in every form of the scan, against the inverse of dense matrices."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from kpframe import linearize
from kpframe.models._sites import gains


def inverse(lab, blocks: torch.Tensor) -> torch.Tensor:
    AZ = lab.dense_shift(blocks)
    return torch.linalg.inv(torch.eye(len(AZ), dtype=AZ.dtype) - AZ)


def check(lab, P, expected: torch.Tensor, seed: int) -> None:
    """Compare products with no probes, and with two dimensions of them, both ways."""
    for probes in ((), (2, 3)):
        q = lab.randn(seed, *probes, *P.domain.shape)
        rows = q.flatten(-3)
        lab.close(P(q), (rows @ expected.T).reshape(q.shape))
        lab.close(P.T(q), (rows @ expected).reshape(q.shape))


@pytest.fixture(params=["side by side", "one after the other"])
def way(request, monkeypatch) -> str:
    """Make chunks always, or never, be scanned at once."""
    monkeypatch.setattr(gains, "DISPATCH", 10**9 if request.param == "side by side" else 0)
    return request.param


@pytest.mark.parametrize(("length", "offset"), [(1, 0), (2, 0), (3, 0), (3, 2), (4, 1), (5, 0), (7, 0)])
@pytest.mark.parametrize("toy", ["rnn", "leaky current", "gru", "lstm", "clocked", "extra", "plain"])
@pytest.mark.rows(4)
def test_chunks(lab, way, toy, length, offset) -> None:
    model = lab.make(toy, seed=3)
    data = lab.trials(model, h0=True, time=6)
    data["mask"] = torch.arange(6) < torch.tensor([[6], [4]])
    flow = linearize(model, **data)
    P = flow.P.chunked(length, offset)
    keep = torch.arange(6) % length != offset
    expected = inverse(lab, flow.A.blocks() * keep[:, None, None])
    check(lab, P, expected, seed=4)
    if any(t % length == offset for t in range(1, 6)):
        lab.differ(P.to_dense(), flow.P.to_dense(), 1e-6)
    if hasattr(P.A._scans, "_at_once"):
        q = torch.zeros(6, *P.domain.without("time").shape, dtype=torch.float64)
        starts = [0, *(t for t in range(1, 6) if t % length == offset), 6]
        longest = max(stop - start for start, stop in pairwise(starts))
        assert P.A._scans._at_once(q) == (way == "side by side" and longest < 7 - len(starts))


@pytest.mark.parametrize("toy", ["rnn", "leaky current", "lstm", "clocked", "plain"])
@pytest.mark.parametrize("shape", [(6,), (2, 6)])
def test_any_steps(lab, way, toy, shape) -> None:
    model = lab.make(toy, seed=3)
    flow = linearize(model, **lab.trials(model, h0=True, time=6))
    once = torch.tensor([[True, True, False, True, True, True], [True, False, True, True, True, True]])
    once, again = once[: len(shape)].reshape(shape), torch.arange(6) != 4
    blocks = flow.A.blocks()
    zero = blocks * once.expand(2, 6)[..., None, None]
    P = flow.P.with_step(flow.A.masked(once))
    check(lab, P, inverse(lab, zero), seed=4)
    lab.differ(P.to_dense(), flow.P.to_dense())
    twice = flow.P.with_step(flow.A.masked(once).masked(again))
    check(lab, twice, inverse(lab, zero * again[:, None, None]), seed=4)
    lab.differ(twice.to_dense(), P.to_dense())
    diagonal = flow.P.with_step(flow.A.diagonal().masked(once))
    check(lab, diagonal, inverse(lab, zero * torch.eye(blocks.shape[-1])), seed=4)
    lab.differ(diagonal.to_dense(), P.to_dense())


def test_a_cut_of_no_step_or_of_all(lab, way) -> None:
    model = lab.make("rnn", seed=3)
    flow = linearize(model, **lab.trials(model))
    on = torch.ones(4, dtype=torch.bool)
    check(lab, flow.P.with_step(flow.A.masked(on)), flow.P.to_dense(), seed=4)
    none = flow.P.with_step(flow.A.masked(~on))
    check(lab, none, torch.eye(none.domain.size, dtype=torch.float64), seed=4)
