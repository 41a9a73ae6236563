"""The propagator through the front door: by name on models of every kind, with masks, rules and the kit."""

from __future__ import annotations

import pytest
import torch
from kpframe_scan.propagator import ParallelScanPropagator

import kpframe
from kpframe import Model, create_model, create_rule, linearize
from kpframe.errors import SettingsError, UnsupportedError
from kpframe.testing import parametrize_with_checks

MODELS = ["rnn", "gru", "lstm", "lru"]


@parametrize_with_checks(["propagator:parallel_scan"])
@pytest.mark.rows(4)
def test_conformance(check) -> None:
    check()


class Plain(Model):
    """No structure: its step Jacobians are written out by automatic differentiation."""

    def __init__(self) -> None:
        super().__init__(3, {"a": 2, "b": 1})
        self.w = torch.nn.Parameter(torch.tensor([[0.4, -0.8, 0.1], [0.9, 0.3, 0.5], [-0.2, 0.6, 0.7]]))

    def step(self, x, h, t=None):
        return torch.tanh((h * h.mean(-1, keepdim=True) + h) @ self.w.mT + x)


def make(name: str, scale: float) -> Model:
    if name == "plain":
        return Plain().double()
    model = create_model(name, input_size=3, hidden_size=4, seed=0).double()
    with torch.no_grad():
        if name != "lru":  # its parameters are of logarithms
            for parameter in model.parameters():
                parameter.mul_(scale)
    return model


@pytest.mark.parametrize("scale", [1.0, 4.0], ids=["fresh", "saturated"])
@pytest.mark.parametrize("name", [*MODELS, "plain"])
@pytest.mark.rows(3)
def test_by_name_on_models(randn, close, differ, name, scale) -> None:
    model, x = make(name, scale), randn(1, 2, 45, 3)
    mask = torch.arange(45) < torch.tensor([[45], [31]])
    ours, theirs = linearize(model, x, mask=mask, propagator="parallel_scan"), linearize(model, x, mask=mask)
    assert (ours.P.method, ours.P.why) == ("parallel_scan", "propagator='parallel_scan'")
    assert theirs.P.method != "parallel_scan"
    q = randn(2, 3, 2, 45, model.width)
    close(ours.P(q), theirs.P(q))
    close(ours.P.T(q), theirs.P.T(q))
    close(ours.Phi(q), theirs.Phi(q), 1e-11)
    differ(ours.Phi(q), theirs.K(q), 1e-2)
    swapped = theirs.with_propagator("parallel_scan", growth=2.0)
    assert swapped.P.growth == 2.0
    close(swapped.P(q), theirs.P(q))


@pytest.mark.parametrize(
    ("rule", "kept"), [("truncated_bptt", True), ("rflo", True), ("bptt", True), ("eprop", True)]
)
def test_rules_keep_it(randn, close, rule, kept) -> None:
    model, x = make("rnn", 2.0), randn(1, 2, 40, 3)
    ours, theirs = linearize(model, x, propagator="parallel_scan"), linearize(model, x)
    rule = create_rule(rule, **({"window": 7, "mode": "chunked"} if rule == "truncated_bptt" else {}))
    q = randn(2, 2, 40, 4)
    close(rule.flow_operator(ours)(q), rule.flow_operator(theirs)(q), 1e-11)


def test_chaotic_network(randn, close) -> None:
    """Weights of gain 3: products of steps grow, the composed ones stay below their bound."""
    model, x = create_model("rnn", input_size=1, hidden_size=24, seed=3).double(), 0.1 * randn(0, 1, 600, 1)
    with torch.no_grad():
        model.weight_hh_l0.copy_(3 / 24**0.5 * randn(4, 24, 24))
    ours, theirs = linearize(model, x, propagator="parallel_scan"), linearize(model, x)
    assert 18 < ours.P.depth < 60
    q = randn(1, 2, 1, 600, 24)
    close(ours.P(q), theirs.P(q), 1e-11)
    close(ours.P.T(q), theirs.P.T(q), 1e-11)
    assert float(kpframe.lyapunov_exponents(theirs.A, k=1).exponents.max()) > 0


def test_refusals_by_name(randn) -> None:
    wide = create_model("rnn", input_size=3, hidden_size=33, seed=0).double()
    with pytest.raises(UnsupportedError, match=r"at most 32 states, and A has 33"):
        linearize(wide, randn(0, 1, 5, 3), propagator="parallel_scan")
    flow = linearize(make("rnn", 1.0), randn(0, 1, 5, 3))
    with pytest.raises(SettingsError, match=r"parallel_scan.*growth"):
        flow.with_propagator("parallel_scan", growth=-1)


@pytest.mark.parametrize(
    ("trials", "steps", "taken"),
    [(1, 500, True), (8, 200, True), (1, 100, False), (9, 200, False), (64, 500, False)],
)
def test_fastest_takes_it_where_it_wins(randn, trials: int, steps: int, taken: bool) -> None:
    x = randn(0, trials, steps, 3)
    flow = linearize(make("rnn", 1.0), x, propagator="fastest")
    assert isinstance(flow.P, ParallelScanPropagator) is taken
    plain = linearize(make("rnn", 1.0), x)
    assert (flow.P.method == plain.P.method) is not taken
    q = randn(1, *flow.P.domain.shape)
    assert float((flow.P(q) - plain.P(q)).norm()) <= 1e-12 * float(plain.P(q).norm())
    assert float((flow.P(q) - flow.P.T(q)).norm()) > 0.1 * float(flow.P(q).norm())


def test_auto_does_not_take_what_happens_to_be_installed(randn) -> None:
    P = linearize(make("rnn", 1.0), randn(0, 1, 500, 3)).P
    assert not isinstance(P, ParallelScanPropagator)
