"""KeRNL with a given kernel, against sums over lags."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kpframe_rules.kernl import KeRNL

from kpframe import create_rule, linearize, wrap
from kpframe.errors import ArgumentError, NonFiniteError, SettingsError, ShapeError, UnsupportedError

SEEDS = st.integers(0, 2**31 - 1)


def by_lags(loops, kernel: torch.Tensor, decay: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Return ``Sum_t Sum_{s <= t} (A Lambda^(t-s) J_s)* Err_t``, the lag without padded steps."""
    batch, time = loops.err.shape[:2]
    total = torch.zeros(loops.J.shape[-1], dtype=torch.float64)
    for b in range(batch):
        for t in range(time):
            for s in range(t + 1):
                lag = t - s if mask is None else int(mask[b, s + 1 : t + 1].sum())
                total += loops.J[b, s].T @ (decay**lag * (kernel.T @ loops.err[b, t]))
    return total


@settings(max_examples=5)
@given(seed=SEEDS, time=st.integers(2, 5), masked=st.booleans())
@pytest.mark.rows(4)
def test_update_is_a_sum_over_lags(make, dense, close, differ, name, seed, time, masked) -> None:
    here = make(name, seed, time, masked=masked)
    flow, loops = here.flow(), dense(here)
    width = here.model.width
    generator = torch.Generator().manual_seed(seed)
    kernel = torch.randn(width, width, generator=generator, dtype=torch.float64)
    decay = torch.rand(width, generator=generator, dtype=torch.float64)
    update = KeRNL.of_kernel(kernel, decay).update_operator(flow)(here.err)
    close(update, by_lags(loops, kernel, decay, here.mask))
    differ(update, by_lags(loops, kernel.mT, decay, here.mask))
    differ(update, by_lags(loops, kernel, 0.5 * decay, here.mask), 1e-6)
    identity = torch.eye(width, dtype=torch.float64)
    one = torch.full((width,), 0.7, dtype=torch.float64)
    plain = create_rule("kernl", decay=0.7).update_operator(flow)(here.err)
    close(plain, by_lags(loops, identity, one, here.mask))
    gradient = torch.cat(
        [g.reshape(-1) for g in KeRNL.of_kernel(kernel, decay).gradient(flow, here.err).values()]
    )
    close(gradient, update)


@settings(max_examples=5)
@given(seed=SEEDS)
@pytest.mark.rows(2)
def test_identity_and_leak_are_rflo(make, close, differ, leaky, seed) -> None:
    here = make(leaky, seed)
    flow = here.flow()
    rflo = create_rule("rflo").update_operator(flow)(here.err)
    close(create_rule("kernl").update_operator(flow)(here.err), rflo)
    differ(create_rule("kernl", decay=0.9).update_operator(flow)(here.err), rflo)
    differ(create_rule("kernl", kernel="random").update_operator(flow)(here.err), rflo)


def test_random_kernel(make, close, differ) -> None:
    here = make("gru")
    flow = here.flow()
    first = create_rule("kernl", kernel="random", decay=0.5, seed=1)
    close(first.update_operator(flow).to_dense(), first.update_operator(flow).to_dense(), 0)
    other = create_rule("kernl", kernel="random", decay=0.5, seed=2)
    differ(first.update_operator(flow).to_dense(), other.update_operator(flow).to_dense())
    wide = KeRNL("random", 0.0).propagator(flow).to_dense().reshape(2, 6, 4, 2, 6, 4)
    kernel = wide[0, 2, :, 0, 2]
    close(wide[1, 4, :, 1, 4], kernel)
    assert not wide[0, 3, :, 0, 2].any()  # nothing is left after a step


def test_entries_of_the_random_kernel(make, differ) -> None:
    """Normal, with variance 1/H whatever H is: the mean square of H^2 of them is 1/H within its spread."""
    found = {}
    for hidden in (16, 64):
        flow = linearize(
            wrap(torch.nn.GRUCell(2, hidden, dtype=torch.float64)), torch.zeros(1, 1, 2).double()
        )
        kernel = KeRNL("random", 0.0, seed=3).propagator(flow).to_dense()
        assert kernel.shape == (hidden, hidden)
        spread = 2**0.5 / hidden  # relative standard deviation of the mean square
        assert abs(float(kernel.square().mean()) * hidden - 1) < 3 * spread
        assert abs(float(kernel.mean())) < 3 * hidden**-1.5
        fourth = float(kernel.pow(4).mean() / kernel.square().mean() ** 2)
        assert abs(fourth - 3) < 3 * 24**0.5 / hidden + 0.3
        found[hidden] = kernel
    differ(found[64][:16, :16] * 2, found[16], 0.1)
    expected = torch.randn(64, 64, generator=torch.Generator().manual_seed(3), dtype=torch.float64) / 8
    assert torch.equal(found[64], expected)


def test_chunks_stay_cut(make) -> None:
    flow = make("rate").flow()
    chunks = create_rule("truncated_bptt", window=2, mode="chunked")
    P = (KeRNL("random", 0.5) @ chunks).propagator(flow).to_dense().reshape(2, 6, 4, 2, 6, 4)
    assert P[0, 1, :, 0, 0].any()
    assert not P[0, 2:, :, 0, :2].any()


def test_formula_and_refusals(make) -> None:
    flow = make("gru").flow()
    identity = torch.eye(4, dtype=torch.float64)
    rule = KeRNL.of_kernel(identity, 0.5)
    assert repr(rule) == "KeRNL(kernel=<tensor [4, 4]>, decay=0.5, seed=0)"
    assert repr(KeRNL("random", 0.5).update_operator(flow)) == "J* P[Lambda]* (I (x) A)*"
    assert repr(create_rule("kernl", decay=0.5).flow_operator(flow)) == "P K P[Lambda]*"
    with pytest.raises(UnsupportedError, match="kernl without decay needs a constant leak"):
        create_rule("kernl").update(flow)
    with pytest.raises(ShapeError, match=r"kernel: expected shape \[hidden=4, hidden=4\], got \[3, 3\]"):
        KeRNL.of_kernel(identity[:3, :3], 0.5).update(flow)
    with pytest.raises(ShapeError, match=r"decay: expected shape \[hidden=4\], got \[3\]"):
        KeRNL.of_kernel(identity, identity[0, :3]).update(flow)
    with pytest.raises(NonFiniteError, match="kernel: expected finite numbers"):
        KeRNL.of_kernel(identity / 0)
    for decay in (1.5, -0.1, True, 2 * identity[0]):
        with pytest.raises(ArgumentError, match=r"decay: expected .*(0, 1|>= 0 and <= 1)"):
            KeRNL.of_kernel(identity, decay)
    with pytest.raises(SettingsError, match="kernel: expected one of 'identity', 'random', got 'eye'"):
        create_rule("kernl", kernel="eye")
    with pytest.raises(ArgumentError, match="kernel: expected one of 'identity', 'random'"):
        KeRNL("eye")
    with pytest.raises(ArgumentError, match="seed: expected int >= 0"):
        KeRNL(seed=-1)
