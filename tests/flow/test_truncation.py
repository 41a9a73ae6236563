"""Truncated and chunked propagators against their series and against windowed backpropagation."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import linearize
from kpframe.flow._propagator import ScanPropagator, TruncatedPropagator, WindowedPropagator
from kpframe.flow._step_jacobian import DenseStepJacobian

SEEDS = st.integers(0, 10_000)


def series(AZ: torch.Tensor, weights: list[float]) -> torch.Tensor:
    """Return ``Sum_j w_j (A Z)^j``."""
    return sum(w * torch.linalg.matrix_power(AZ, j) for j, w in enumerate(weights))


@settings(max_examples=10)
@given(seed=SEEDS, time=st.integers(1, 6), window=st.integers(1, 8))
def test_truncated_is_the_neumann_sum(lab, seed, time, window) -> None:
    blocks = lab.randn(seed, 2, time, 2, 2)
    P, AZ = ScanPropagator(DenseStepJacobian(blocks)), lab.dense_shift(blocks)
    truncated = P.truncated(window)
    lab.check_operator(truncated)
    lab.close(truncated.to_dense(), series(AZ, [1.0] * window), 1e-9)
    left = P.to_dense() - truncated.to_dense()
    expected = torch.linalg.matrix_power(AZ, window) @ P.to_dense()
    assert float((left - expected).norm()) <= 1e-9 * float(P.to_dense().norm())
    if window >= time:
        assert torch.equal(truncated.to_dense(), P.to_dense())
    else:
        lab.differ(truncated.to_dense(), P.to_dense(), 1e-9)
        lab.differ(truncated.to_dense(), P.truncated(window + 1).to_dense(), 1e-9)


def test_window_one_is_the_identity(lab) -> None:
    P = ScanPropagator(DenseStepJacobian(lab.randn(0, 2, 4, 2, 2)))
    q = lab.randn(1, 2, 4, 2)
    assert torch.equal(P.truncated(1)(q), q)
    lab.differ(P.truncated(2)(q), q)


@settings(max_examples=10)
@given(seed=SEEDS, time=st.integers(1, 7), length=st.integers(1, 8))
def test_the_mean_over_offsets_weights_the_series_linearly(lab, seed, time, length) -> None:
    blocks = lab.randn(seed, 2, time, 2, 2)
    P, AZ = ScanPropagator(DenseStepJacobian(blocks)), lab.dense_shift(blocks)
    chunks = [P.chunked(length, offset).to_dense() for offset in range(length)]
    expected = series(AZ, [1 - j / length for j in range(length)])
    lab.close(sum(chunks) / length, expected, 1e-9)
    if 1 < length < time:
        lab.differ(chunks[0], expected)
        lab.differ(chunks[0], chunks[1])
        lab.differ(expected, P.truncated(length).to_dense())


@pytest.mark.parametrize(("time", "length"), [(6, 2), (7, 3), (5, 5), (5, 8), (4, 1)])
@pytest.mark.rows(6)
def test_chunked_is_backpropagation_with_detach(lab, structured, time, length) -> None:
    model = lab.make(structured, seed=3)
    data = lab.trials(model, time=time)
    flow = linearize(model, **data)
    err = lab.randn(4, *flow.P.domain.shape)
    for offset in range(length):
        h, out = torch.zeros(2, model.width, dtype=torch.float64), []
        for t in range(time):
            h = h.detach() if t % length == offset else h
            h = model.step(data["x"][:, t], h, torch.full((2,), t))
            out.append(h)
        model.zero_grad()
        (torch.stack(out, 1) * err).sum().backward()
        expected = torch.cat([p.grad.flatten() for p in model.parameters()])
        lab.close((flow.J.T @ flow.P.chunked(length, offset).T)(err), expected)
        if length < time:
            lab.differ((flow.J.T @ flow.P.T)(err), expected, 1e-6)


@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.rows(6)
def test_truncated_is_windowed_backpropagation(lab, toy, window) -> None:
    model = lab.make(toy, seed=3)
    data = lab.trials(model, h0=True)
    flow = linearize(model, **data)
    if not flow.J.domain.size:
        return
    err = lab.randn(4, *flow.P.domain.shape)
    model.zero_grad()
    for t in range(4):  # the error at t reaches back over the last `window` steps
        first = max(0, t - window + 1)
        h = flow.trajectory.previous[:, first]
        for s in range(first, t + 1):
            h = model.step(data["x"][:, s], h, torch.full((2,), s))
        (h * err[:, t]).sum().backward()
    expected = torch.cat([p.grad.flatten() for p in model.parameters()])
    lab.close((flow.J.T @ flow.P.truncated(window).T)(err), expected)
    if window < 3:
        lab.differ((flow.J.T @ flow.P.T)(err), expected, 1e-6)


def test_one_chunk_is_all_of_P_and_chunks_of_one_the_identity(lab) -> None:
    P = ScanPropagator(DenseStepJacobian(lab.randn(0, 2, 5, 2, 2)))
    lab.close(P.chunked(5).to_dense(), P.to_dense())
    lab.close(P.chunked(1).to_dense(), torch.eye(20, dtype=torch.float64))
    lab.differ(P.chunked(5, 2).to_dense(), P.to_dense())


@pytest.mark.parametrize("toy", ["rnn", "lstm", "plain"])
def test_long_windows_are_a_scan(lab, toy) -> None:
    model = lab.make(toy, seed=3)
    long = linearize(model, **lab.trials(model, time=8)).P
    kinds = {2: TruncatedPropagator, 5: TruncatedPropagator, 6: WindowedPropagator, 7: WindowedPropagator}
    AZ = lab.dense_shift(long.A.blocks())
    for window, kind in kinds.items():
        made = long.truncated(window)
        assert type(made) is kind
        assert repr(made) == f"P_{window}"
        lab.check_operator(made)
        lab.close(made.to_dense(), series(AZ, [1.0] * window))
        lab.differ(made.to_dense(), series(AZ, [1.0] * (window - 1)), 1e-12)
    assert type(long.truncated(8)) is TruncatedPropagator
    assert torch.equal(long.truncated(8).to_dense(), long.to_dense())
