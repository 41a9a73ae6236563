"""P by parallel scan against (I - A Z)^-1 written out, and against the scan of A on long sequences."""

from __future__ import annotations

import copy
import math
import pickle

import pytest
import torch
from kpframe_scan.propagator import ParallelScanPropagator

from kpframe.errors import MemoryBudgetError, NonFiniteProductError, SettingsError, UnsupportedError
from kpframe.flow import DenseStepJacobian, DiagonalStepJacobian, ScanPropagator

F32, F64 = torch.float32, torch.float64


def pair(blocks, **settings):
    A = DenseStepJacobian(blocks)
    return ParallelScanPropagator(A, **settings), ScanPropagator(A)


def rotations(angle: float, time: int) -> torch.Tensor:  # [1, T, 2, 2]
    c, s = math.cos(angle), math.sin(angle)
    return torch.tensor([[c, -s], [s, c]], dtype=F64).expand(1, time, 2, 2).contiguous()


def test_it_is_the_inverse_written_out(sizes, randn, written_out, close, differ) -> None:
    batch, time, hidden = sizes
    blocks = randn(0, batch, time, hidden, hidden)
    P, _ = pair(blocks, growth=math.inf)
    expected = written_out(blocks)
    close(P.to_dense(), expected)
    close(P.T.to_dense(), expected.T)
    assert P.depth <= 2 * math.log2(max(1, batch * time))
    if time > 1:
        differ(P.to_dense(), expected.T)
        other = blocks.clone()
        other[-1, -1] = 0
        differ(P.to_dense(), written_out(other), 1e-6)


@pytest.mark.parametrize("growth", [1.0, 3.0, 30.0])
def test_it_is_the_inverse_however_far_steps_are_composed(randn, written_out, close, growth) -> None:
    blocks = randn(1, 2, 21, 2, 2)
    P, _ = pair(blocks, growth=growth)
    close(P.to_dense(), written_out(blocks))
    close(P.T.to_dense(), written_out(blocks).T)
    assert P.depth >= pair(blocks, growth=math.inf)[0].depth


def test_depths(randn) -> None:
    blocks = 0.3 * randn(0, 1, 1000, 2, 2)
    assert pair(blocks)[0].depth == 2 * 9
    assert pair(blocks, growth=math.inf)[0].depth == 18
    assert pair(rotations(0.1, 1000))[0].depth == 18
    assert (
        pair(20.0 * rotations(0.1, 1000), growth=1e3)[0].depth == 999 // 2 + 2
    )  # pairs, one after the other
    assert pair(200.0 * rotations(0.1, 1000), growth=1e3)[0].depth == 999  # A's own scan


@pytest.mark.parametrize("probes", [(), (1,), (5,), (2, 3), (0,)])
def test_probes(randn, close, probes) -> None:
    P, expected = pair(0.5 * randn(0, 3, 37, 4, 4))
    q = randn(1, *probes, 3, 37, 4)
    kept = q.clone()
    for ours, theirs in ((P, expected), (P.T, expected.T)):
        close(ours(q), theirs(q))
        ours(q).zero_()
        assert torch.equal(q, kept)


@pytest.mark.parametrize(("dtype", "rtol"), [(F64, 1e-13), (F32, 1e-5)])
@pytest.mark.parametrize(
    ("batch", "time", "hidden", "scale"),
    [(1, 3000, 1, 0.6), (1, 1000, 2, 0.4), (2, 500, 8, 0.3), (1, 500, 3, 1e-30), (4, 100, 16, 0.25)],
)
@pytest.mark.rows(3)
def test_long_sequences_are_as_the_scan_has_them(
    randn, close, differ, dtype, rtol, batch, time, hidden, scale
) -> None:
    """Contracting dynamics; at 1e-30 the products of a few steps have no digits in either dtype."""
    P, expected = pair(scale * randn(0, batch, time, hidden, hidden, dtype=dtype))
    q = randn(1, batch, time, hidden, dtype=dtype)
    for ours, theirs in ((P, expected), (P.T, expected.T)):
        close(ours(q), theirs(q), rtol)
    if scale > 1e-6:
        differ(P(q), q, 1e-2)
    assert P.depth < 40


def test_neither_growing_nor_decaying(randn, close, differ) -> None:
    """Rotations and held steps keep a change for 3,000 steps."""
    blocks = rotations(0.01, 3_000)
    blocks[:, 600:1500] = torch.eye(2, dtype=F64)
    P, expected = pair(blocks)
    q = torch.zeros(1, 3_000, 2, dtype=F64)
    q[:, 0, 0] = 1
    close(P(q), expected(q))
    assert float(P(q)[0, -1].norm()) == pytest.approx(1, rel=1e-11)
    q = randn(0, 1, 3_000, 2)
    close(P.T(q), expected.T(q))
    differ(P(q), P.T(q))


def test_chaos_is_scanned_where_products_grow(randn, close) -> None:
    """A growth of e^50 over the sequence: composed until entries reach 8192, the rest step by step."""
    time = 1000
    blocks = math.exp(0.05) * rotations(0.3, time)
    P, expected = pair(blocks)
    assert 18 < P.depth < 30
    for q in (randn(0, 1, time, 2), randn(1, 2, 1, time, 2)):
        close(P(q), expected(q))
        close(P.T(q), expected.T(q))


def test_products_that_overflow_are_not_made(randn, close) -> None:
    """A growth of e^1000 overflows over the whole sequence; what is sent near its end does not."""
    time = 2000
    P, expected = pair(math.exp(0.5) * rotations(0.3, time), growth=math.inf)
    q = torch.zeros(1, time, 2, dtype=F64)
    q[:, -100:] = randn(0, 1, 100, 2)
    close(P(q), expected(q))
    r = torch.zeros_like(q)
    r[:, :100] = q[:, -100:]
    close(P.T(r), expected.T(r))
    q[:, 0] = 1
    for op in (P, expected):
        with pytest.raises(NonFiniteProductError, match="product of P"):
            op(q)


def test_growth_after_decay(close) -> None:
    """Zero within rounding in the middle of the sequence is zero in the end."""
    blocks = torch.eye(2, dtype=F64).repeat(1, 400, 1, 1)
    blocks[:, 1:200] *= 1e-3
    blocks[:, 200:] *= 1.5
    P, expected = pair(blocks, growth=math.inf)
    q = torch.zeros(1, 400, 2, dtype=F64)
    q[:, 0] = 1
    q[:, 399] = 1
    close(P(q), expected(q))
    q[:, 250] = 1
    close(P(q), expected(q))


def test_cancellation_is_not_lost_in_long_products(randn) -> None:
    """Sources that a growing A would blow up but that cancel after a step: ``(I - A Z) e``."""
    time, growth = 500, 8192.0
    blocks = math.exp(0.05) * rotations(0.3, time) + 1e-3 * randn(0, 1, time, 2, 2)
    P, _ = pair(blocks)
    e = torch.zeros(1, time, 2, dtype=F64)
    e[:, 400] = 1
    found = P(P.inverse(e))
    assert float((found - e).norm()) < 50 * growth * torch.finfo(F64).eps


@pytest.mark.parametrize("kind", ["normal", "far apart", "rotations", "sparse", "slow"])
@pytest.mark.rows(4)
def test_single_precision_is_as_exact_as_the_scan_has_it(randn, kind) -> None:
    """Both against float64, decaying and growing, with sources everywhere, at one step, and cancelling."""
    for seed in range(9):
        batch, time, hidden = 1 + seed % 3, 5 + 13 * seed, 1 + seed % 5
        blocks = 10 ** (-2 + seed / 4) / hidden**0.5 * randn(seed, batch, time, hidden, hidden)
        if kind == "far apart":  # factors from 1e-6 to 100 between steps
            blocks *= 10 ** (-2 + 4 * torch.tanh(randn(seed + 50, batch, time, 1, 1)))
        elif kind == "rotations":
            blocks = torch.linalg.qr(blocks).Q
        elif kind == "sparse":
            blocks *= randn(seed + 50, *blocks.shape) > 0.3
        elif kind == "slow":
            blocks = torch.eye(hidden, dtype=F64) + 0.05 * blocks
        ours, theirs = pair(blocks.float())
        exact = ScanPropagator(DenseStepJacobian(blocks.float().double()))
        one = torch.zeros(batch, time, hidden)
        one[:, time // 3] = 1
        for q in (randn(seed + 99, batch, time, hidden, dtype=F32), one, theirs.inverse(one)):
            for op, scan, reference in ((ours, theirs, exact), (ours.T, theirs.T, exact.T)):
                right = reference(q.double(), check=False)
                if not float(right.abs().max()) < 1e36:  # out of the range of float32
                    continue
                errors = [float((f(q).double() - right).norm() / right.norm()) for f in (op, scan)]
                assert errors[0] <= 20 * errors[1] + 5e-6


def test_blocks_that_are_not_finite_are_named(randn) -> None:
    blocks = 0.5 * randn(0, 1, 64, 2, 2)
    for value in (math.inf, math.nan):
        blocks[0, 40, 0, 1] = value
        P, expected = pair(blocks)
        for op in (P, expected, P.T):
            with pytest.raises(NonFiniteProductError, match="product of P"):
                op(torch.ones(1, 64, 2, dtype=F64))
    assert pair(blocks)[0].depth == 63  # A's own scan
    q = torch.zeros(1, 64, 2, dtype=F64)
    q[0, 41:] = 1
    with pytest.raises(NonFiniteProductError):  # infinity times zero, as in the scan
        pair(blocks)[0](q)


def test_changed_A_stays_a_parallel_scan(randn, written_out, close, differ) -> None:
    blocks = 0.5 * randn(0, 2, 24, 3, 3)
    P = ParallelScanPropagator(DenseStepJacobian(blocks), growth=500.0, max_bytes=2**20, name="P_rule")
    keep = torch.arange(24) % 5 != 2
    cut = P.with_step(P.A.masked(keep))
    assert (type(cut), cut.settings, repr(cut)) == (ParallelScanPropagator, P.settings, "P_rule")
    assert cut.settings == {"growth": 500.0, "max_bytes": 2**20}
    close(cut.to_dense(), written_out(blocks * keep[:, None, None]))
    differ(cut.to_dense(), P.to_dense())
    chunks = P.chunked(6, 1)
    start = torch.arange(24) % 6 == 1
    assert isinstance(chunks, ParallelScanPropagator)
    close(chunks.to_dense(), written_out(blocks * ~start[:, None, None]))
    close(P.truncated(4).to_dense(), ScanPropagator(P.A).truncated(4).to_dense())
    assert P.truncated(24).method == "parallel_scan"
    close(P.truncated(24).to_dense(), P.to_dense())
    diagonal = P.with_step(P.A.diagonal())
    close(diagonal.to_dense(), written_out(torch.diag_embed(blocks.diagonal(dim1=-2, dim2=-1))))
    close((P.inverse @ P).to_dense(), torch.eye(P.domain.size, dtype=F64))
    assert (P.method, P.why) == ("parallel_scan", "asked for")


def test_what_it_is_made_of_is_not_changed(randn) -> None:
    blocks = randn(0, 2, 6, 2, 2)
    kept = blocks.clone()
    P, _ = pair(blocks)
    before = P(torch.ones(2, 6, 2, dtype=F64))
    assert torch.equal(blocks, kept)
    for twin in (copy.deepcopy(P), pickle.loads(pickle.dumps(P))):
        assert torch.equal(twin(torch.ones(2, 6, 2, dtype=F64)), before)


def test_what_does_not_fit(randn) -> None:
    wide = DiagonalStepJacobian(randn(0, 1, 3, 33))
    assert ParallelScanPropagator.fits(wide) == "products of steps pay for at most 32 states, and A has 33"
    with pytest.raises(UnsupportedError, match=r"ParallelScanPropagator does not fit A .*32 states"):
        ParallelScanPropagator(wide)
    many = DiagonalStepJacobian(randn(0, 130, 2, 4))
    with pytest.raises(UnsupportedError, match=r"2048 entries .* has 2080; take fewer trials"):
        ParallelScanPropagator(many)
    fitting = DiagonalStepJacobian(randn(0, 32, 2, 8))
    assert ParallelScanPropagator.fits(fitting) is None
    P = ParallelScanPropagator(DenseStepJacobian(randn(0, 1, 3, 2, 2)))
    assert type(P.with_step(DiagonalStepJacobian(randn(0, 1, 3, 33)))) is ScanPropagator


def test_settings_out_of_bounds(randn) -> None:
    A = DenseStepJacobian(randn(0, 1, 8, 2, 2))
    with pytest.raises(SettingsError, match=r"growth: expected .*>= 1, got 0.5"):
        ParallelScanPropagator(A, growth=0.5)
    with pytest.raises(SettingsError, match=r"max_bytes: expected .*>= 1048576, got 0"):
        ParallelScanPropagator(A, max_bytes=0)
    needed = 4 * 129 * 16 * 16 * 8
    larger = DenseStepJacobian(randn(0, 1, 129, 16, 16))
    ParallelScanPropagator(larger, max_bytes=needed)
    with pytest.raises(MemoryBudgetError, match=rf"max_bytes={needed - 1}, got {needed} bytes .*'scan'"):
        ParallelScanPropagator(larger, max_bytes=needed - 1)
