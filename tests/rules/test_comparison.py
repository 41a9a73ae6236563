"""A rule's update beside the exact gradient, against the dense operators."""

from __future__ import annotations

import math

import pytest
import torch

from kpframe import LearningRule, Readout, linearize, wrap
from kpframe.errors import ArgumentError, NonFiniteError, NotLinearError, ShapeError
from kpframe.rules._comparison import FACINGS, compare_update

from ..toy_rules import Exact, Uphill, Window  # noqa: TID252

F64 = torch.float64
B, T, H = 2, 5, 3


class Freeze(LearningRule):
    def change(self, update):
        return update.replace(K=update.K.freeze(["weight_hh"]))


class Feedback(LearningRule):
    needs_readout = True

    def change(self, update):
        return update.with_feedback(torch.linspace(-1, 1, 2 * H, dtype=F64).reshape(2, H))


class Bent(Exact):
    linear = False


@pytest.fixture
def flow():
    torch.manual_seed(1)
    return linearize(wrap(torch.nn.GRUCell(2, H)).double(), torch.randn(B, T, 2, dtype=F64))


@pytest.fixture
def readout() -> Readout:
    return Readout(H, 2, generator=3, dtype=F64)


@pytest.fixture
def err(readout) -> torch.Tensor:
    e = torch.randn(B, T, 2, generator=torch.Generator().manual_seed(4), dtype=F64)
    return e @ readout.weight.detach()


def dense_pairs(flow, err, U: torch.Tensor) -> torch.Tensor:
    """Return the update ``[T, T, M]`` taken apart by the step of the error and the step of the use."""
    P, J = flow.P.to_dense().reshape(B, T, H, B, T, H), flow.J.to_dense().reshape(B, T, H, -1)
    return torch.einsum("bsgm,btkbsg,btk->tsm", J, P * U, err)


def test_the_exact_gradient_beside_itself(flow, err) -> None:
    found = compare_update(flow, err, Exact())
    assert found.cosine == pytest.approx(1)
    assert found.descent == pytest.approx(1)
    assert found.norm_ratio == pytest.approx(1)
    assert found.metric_condition == pytest.approx(1, abs=1e-6)
    g = (flow.J.T @ flow.P.T)(err)
    assert found.loss_rate == pytest.approx(-float(g @ g))
    assert torch.allclose(found.by_time["past"], torch.ones(T, dtype=F64))
    assert torch.allclose(found.by_time["future"], torch.ones(T, dtype=F64))
    mixed = found.by_time[FACINGS[2]]
    assert float(mixed.mean()) < 0.9


def test_parts_against_the_dense_operators(flow, err) -> None:
    lags = torch.arange(T)[:, None] - torch.arange(T)
    kept = ((lags >= 0) & (lags < 2)).to(F64)[None, :, None, None, :, None]
    exact, ours = dense_pairs(flow, err, torch.ones(())), dense_pairs(flow, err, kept)
    g = exact.sum((0, 1))
    found = compare_update(flow, err, Window(2))
    assert torch.allclose(found.by_pair, -(ours @ g), rtol=1e-10, atol=1e-14)
    assert found.loss_rate == pytest.approx(float(found.by_pair.sum()))
    assert found.loss_rate == pytest.approx(float(found.by_lag.sum()))
    assert torch.equal(found.by_lag[2:], torch.zeros(T - 2, dtype=F64))
    assert float(found.by_lag[1].abs()) > 1e-3 * abs(found.loss_rate)
    assert sum(found.by_parameter.values()) == pytest.approx(found.loss_rate)

    def cosines(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.cosine_similarity(one, other, dim=1)

    past, future = (ours.sum(1), exact.sum(1)), (ours.sum(0), exact.sum(0))
    expected = (cosines(*past), cosines(*future), cosines(past[0], future[1]), cosines(future[0], past[1]))
    for facing, values in zip(FACINGS, expected, strict=True):
        assert torch.allclose(found.by_time[facing], values, rtol=1e-9), facing
    assert not torch.allclose(expected[0], expected[2], rtol=1e-2)
    total = ours.sum((0, 1))
    assert found.cosine == pytest.approx(float(total @ g / total.norm() / g.norm()))
    assert found.cosine < 0.9999


def test_a_metric_turns_by_at_most_its_condition_number(flow, err) -> None:
    """The least condition number is reached in the plane of the two gradients."""
    found = compare_update(flow, err, Window(1))
    sine = math.sqrt(1 - found.cosine**2)
    k = found.metric_condition
    assert (k - 1) / (k + 1) == pytest.approx(sine)
    v = torch.tensor([math.sqrt(1 / (1 + k)), math.sqrt(k / (1 + k))], dtype=F64)
    turned = torch.tensor([k, 1.0], dtype=F64) * v
    assert float(turned @ v / turned.norm()) == pytest.approx(found.cosine)
    uphill = compare_update(flow, err, Uphill())
    assert uphill.metric_condition == math.inf
    assert uphill.cosine == pytest.approx(-1)
    assert uphill.loss_rate > 0


def test_metrics_and_feedback_are_part_of_it(flow, err, readout) -> None:
    frozen = compare_update(flow, err, Freeze())
    assert frozen.by_parameter["weight_hh"] == 0
    assert frozen.by_parameter["weight_ih"] < 0
    assert frozen.loss_rate == pytest.approx(float(frozen.by_pair.sum()))
    rule = Feedback()
    found = compare_update(flow, err, rule, readout)
    update = rule.update_operator(flow, readout)(err)
    g = (flow.J.T @ flow.P.T)(err)
    assert found.loss_rate == pytest.approx(-float(update @ g))
    assert found.loss_rate == pytest.approx(float(found.by_pair.sum()))
    assert abs(found.cosine) < 0.99


def test_figures_do_not_depend_on_the_size_of_the_error() -> None:
    """In float32, from an error whose squares are no float32 to one at which they vanish."""
    torch.manual_seed(1)
    flow = linearize(wrap(torch.nn.GRUCell(2, H)), torch.randn(B, T, 2))
    err = torch.randn(B, T, H, generator=torch.Generator().manual_seed(4))
    ordinary = compare_update(flow, err, Window(2))
    assert 0.1 < ordinary.cosine < 0.999
    for power in (-83, -60, 60, 83):
        scale = 2.0**power
        found = compare_update(flow, err * scale, Window(2))
        assert found.cosine == pytest.approx(ordinary.cosine, rel=1e-12)
        assert found.norm_ratio == pytest.approx(ordinary.norm_ratio, rel=1e-12)
        assert found.descent == pytest.approx(ordinary.descent, rel=1e-12)
        assert found.metric_condition == pytest.approx(ordinary.metric_condition, rel=1e-9)
        assert found.loss_rate == pytest.approx(scale**2 * ordinary.loss_rate, rel=1e-12)
        assert torch.allclose(found.by_pair / scale**2, ordinary.by_pair, rtol=1e-12, atol=0)
        assert {n: v / scale**2 for n, v in found.by_parameter.items()} == pytest.approx(
            ordinary.by_parameter, rel=1e-12
        )
        for facing, cosines in found.by_time.items():
            assert torch.allclose(cosines, ordinary.by_time[facing], rtol=1e-12, atol=0), facing


def test_cosines_of_a_gradient_that_fades() -> None:
    """The exact gradient agrees with itself at every step, 1e-25 of it at the first."""
    torch.manual_seed(0)
    cell = torch.nn.RNNCell(2, H)
    with torch.no_grad():
        cell.weight_hh.copy_(0.3 * torch.linalg.qr(torch.randn(H, H))[0])
    steps = 50
    flow = linearize(wrap(cell), 0.1 * torch.randn(1, steps, 2))
    err = torch.zeros(1, steps, H)
    err[:, -1] = 1
    weakest = (flow.J.T @ flow.P.T)(err).abs().max() * 0.3**steps
    assert 0 < float(weakest) < 1e-25
    future = compare_update(flow, err, Exact()).by_time["future"]
    assert torch.allclose(future, torch.ones(steps, dtype=F64), rtol=1e-6)


def test_refusals(flow, err) -> None:
    with pytest.raises(ArgumentError, match="err: expected an error with a gradient that is not zero"):
        compare_update(flow, torch.zeros_like(err), Exact())
    with pytest.raises(
        NonFiniteError, match="err: expected finite numbers, got nan first at step 0, trial 0"
    ):
        compare_update(flow, err * torch.nan, Exact())
    with pytest.raises(NotLinearError, match="no operator"):
        compare_update(flow, err, Bent())
    with pytest.raises(ShapeError, match="err"):
        compare_update(flow, err[:, :2], Exact())
