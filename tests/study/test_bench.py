"""The benchmarks measure what they say: the same products, pair by pair, with honest figures."""

from __future__ import annotations

import time

import pytest
import torch
from attrs import evolve

from kpframe import linearize, wrap
from kpframe.errors import MissingDependencyError, UnsupportedError
from kpframe.study._bench.peers import by_hand, reference_package, training_step
from kpframe.study._bench.products import WRAPPED, Size, make, product_rows
from kpframe.study._bench.sweeps import SWEEPS
from kpframe.study._bench.timing import Clock, fitted_exponent, flops, matmul_rate, peak_bytes
from kpframe.testing._toys import Elman

CPU = torch.device("cpu")


def test_exponents_of_powers() -> None:
    sizes = (10, 20, 50, 100)
    assert fitted_exponent(sizes, [3e-3 * n**1.5 for n in sizes]) == pytest.approx(1.5)
    assert fitted_exponent(sizes, [7.0] * 4) == pytest.approx(0)
    assert all(values[-1] / values[0] >= 8 for values in SWEEPS.values())


def test_a_pair_is_timed_in_turn() -> None:
    order: list[str] = []
    timing = Clock(CPU).paired(
        lambda: (order.append("a"), time.sleep(0.01)), lambda: (order.append("b"), time.sleep(0.002)), 3
    )
    assert order == ["a", "b"] * 4  # one pair of warm-up
    assert timing.runs == 3
    assert timing.seconds >= 0.01
    assert timing.ratio > 1


def test_flops_and_rate() -> None:
    a, b = torch.ones(3, 5), torch.ones(5, 7)
    assert flops(lambda: a @ b) == 2 * 3 * 5 * 7
    assert flops(lambda: a + a) == 0
    assert flops(lambda: torch.ones(3, 7).addmm_(a, b)) == 2 * 3 * 5 * 7
    stack = torch.ones(2, 3, 7)
    assert flops(lambda: stack.baddbmm_(a.expand(2, 3, 5), b.expand(2, 5, 7))) == 2 * 2 * 3 * 5 * 7
    assert flops(lambda: torch.bmm(a.expand(2, 3, 5), b.expand(2, 5, 7), out=stack)) == 2 * 2 * 3 * 5 * 7
    assert matmul_rate(torch.float32, CPU, size=64) > 1e6


def test_peak_memory_is_what_is_held_at_once() -> None:
    def hold() -> None:
        a = torch.ones(2**18)  # 1 MiB
        b = a + 1
        del a
        b.mul_(2)
        c = b * 2
        del b
        c.sum()

    assert peak_bytes(hold, CPU) == pytest.approx(2 * 2**20, rel=1e-3)
    assert peak_bytes(lambda: torch.ones(2**18), CPU) == pytest.approx(2**20, rel=1e-3)


def test_by_hand_is_phi() -> None:
    torch.manual_seed(0)
    model = wrap(torch.nn.GRUCell(3, 5)).double()
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    Phi = linearize(model, x).Phi
    q = torch.randn(Phi.domain.shape, dtype=torch.float64)
    found, expected = by_hand(model, x, q)(), Phi(q)
    assert float((found - expected).norm()) <= 1e-12 * float(expected.norm())
    other = by_hand(model, x + 0.5, q)()
    assert float((other - expected).norm()) > 1e-3 * float(expected.norm())


class _Doubled(torch.autograd.Function):
    @staticmethod
    def forward(states):
        return 2 * states

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


class NoForwardMode(Elman):
    """Its own roll-out is made with a function that has no forward mode, and gives twice the states."""

    def rollout(self, x, h0=None, mask=None):
        run = super().rollout(x, h0, mask)
        return evolve(run, states=_Doubled.apply(run.states))


def test_by_hand_goes_step_by_step_where_a_rollout_has_no_forward_mode() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 4, 3, dtype=torch.float64)
    plain = Elman(3, 5).double()
    model = NoForwardMode(3, 5).double()
    model.load_state_dict(plain.state_dict())
    q = torch.randn(2, 4, 5, dtype=torch.float64)
    torch.testing.assert_close(by_hand(model, x, q)(), linearize(plain, x).Phi(q), rtol=1e-10, atol=0)


def test_a_training_step_is_torchs_where_there_is_one() -> None:
    model = make(WRAPPED, 4, torch.float32, CPU)
    x = torch.randn(2, 3, model.input_size)
    assert training_step("gru", model, x)[0] == "torch.nn.GRU"
    name, own = training_step(WRAPPED, model, x)
    assert name == "its own roll-out"
    own()
    assert all(p.grad is not None for p in model.parameters())


def test_a_peer_that_is_not_there() -> None:
    model = make(WRAPPED, 4, torch.float32, CPU)
    x = torch.randn(2, 3, model.input_size)
    with pytest.raises(MissingDependencyError, match="--peer no_such_package: it cannot be imported"):
        reference_package("no_such_package", "gru", model, x, x)
    with pytest.raises(UnsupportedError, match="it takes the cells of torch, of rnn, gru"):
        reference_package("no_such_package", WRAPPED, model, x, x)


@pytest.mark.slow
def test_every_product_has_a_row() -> None:
    rows = list(product_rows(WRAPPED, Size(2, 3, 4), runs=1, dtype=torch.float32, device=CPU))
    names = [row.what for row in rows]
    for what in ("linearize", "P", "P*", "J", "J*", "K", "Phi", "Phi, 16 probes", "100 updates"):
        assert what in names, what
    assert all(row.milliseconds > 0 for row in rows)
    assert all((row.ratio is None) == (row.beside == "") for row in rows)
    (phi,) = [row for row in rows if row.what == "Phi"]
    assert "matrix-product rate" in phi.note
    assert rows[-1].to_dict()["what"].startswith("10 eigenpairs")
