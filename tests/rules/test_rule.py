"""What every learning rule inherits: compositions, feedback, draws, and what is refused."""

from __future__ import annotations

import pytest
import torch

from kpframe import IdentityOperator, LearningRule, Readout, StochasticRule, linearize, wrap
from kpframe.errors import ArgumentError, NonFiniteError, NotLinearError, ShapeError, UnsupportedError
from kpframe.rules._rule import ComposedRule

from ..toy_rules import Exact, Window  # noqa: TID252

F64 = torch.float64
B, T, H, O = 2, 4, 3, 2  # noqa: E741


class Freeze(LearningRule):
    def change(self, update):
        return update.replace(K=update.K.freeze(["weight_hh"]))


class Feedback(LearningRule):
    needs_readout = True

    def __init__(self, matrix: torch.Tensor) -> None:
        self.matrix = matrix

    def change(self, update):
        return update.with_feedback(self.matrix)


class HalfTheTime(StochasticRule):
    """The exact gradient twice over, or nothing, each half of the time."""

    def _made(self, update, on: bool):
        factor = 2.0 if on else 0.0
        return update.replace(P=factor * update.P)

    def change(self, update):
        return self._made(update, bool(torch.rand((), generator=self.generator()) < 0.5))

    def outcomes(self, update):
        yield 0.5, self._made(update, True)
        yield 0.5, self._made(update, False)


class Sign(LearningRule):
    linear = False

    def change(self, update):
        return update

    def gradient(self, flow, err, readout=None):
        return {name: g.sign() for name, g in Exact().gradient(flow, err).items()}


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture
def model():
    torch.manual_seed(1)
    return wrap(torch.nn.GRUCell(2, H)).double()


@pytest.fixture
def flow(model):
    return linearize(model, draw(B, T, 2, seed=2))


@pytest.fixture
def readout() -> Readout:
    return Readout(H, O, generator=3, dtype=F64)


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> None:
    assert float(expected.norm()) > 0
    assert float((actual - expected).norm()) <= rtol * float(expected.norm())


def differ(one: torch.Tensor, other: torch.Tensor) -> None:
    assert float((one - other).norm()) > 1e-2 * float(other.norm())


class Squared(LearningRule):
    """``P := P P``."""

    def change(self, update):
        return update.replace(P=update.P @ update.P)


class Masked(LearningRule):
    """``P := D P``, which sees the first unit alone."""

    def change(self, update):
        keep = torch.zeros(H, dtype=F64)
        keep[0] = 1
        return update.replace(P=keep * update.P)


def test_composed_rules_change_from_the_right_to_the_left(flow) -> None:
    """``(outer @ inner)`` changes what ``inner`` has made: ``D P`` squared is not ``P P`` masked."""
    err = draw(B, T, H, seed=7)
    P, J = flow.P.to_dense(), flow.J.to_dense()
    D = torch.diag(torch.tensor([1.0, 0, 0], dtype=F64).repeat(B * T))
    e = err.reshape(-1)
    squared_last, masked_last = J.T @ (D @ P @ D @ P).T @ e, J.T @ (D @ P @ P).T @ e
    assert float((squared_last - masked_last).norm()) > 0.1 * float(masked_last.norm())
    for rule, right in (
        (Squared() @ Masked(), squared_last),
        (Masked() @ Squared(), masked_last),
        (Exact() @ Squared() @ Masked(), squared_last),
        (Masked() @ (Squared() @ Exact()), masked_last),
    ):
        found = rule.update_operator(flow)(err)
        assert float((found - right).norm()) <= 1e-10 * float(right.norm()), rule


def test_compositions_print_as_formulas(flow, readout) -> None:
    assert repr(Exact().update_operator(flow)) == "J* P*"
    assert Exact().flow_operator(flow) is flow.Phi
    assert repr(Window().flow_operator(flow)) == "P K P_2*"
    both = Freeze() @ Window()
    assert repr(both) == "Freeze() @ Window()"
    assert repr(both.flow_operator(flow)).startswith("P K[")
    matrix = draw(O, H, seed=5)
    assert repr((Feedback(matrix) @ Window()).update_operator(flow, readout)) == "J* P_2* E"
    assert repr(Feedback(matrix).update(flow, readout).output_operator) == "J* P* B*"


def test_composed_rules_replace_what_each_replaces(flow) -> None:
    both = Freeze() @ Window()
    assert isinstance(both, ComposedRule)
    dense = both.update_operator(flow).to_dense()
    expected = (
        flow.K.freeze(["weight_hh"]).metric.to_dense()
        @ flow.J.to_dense().T
        @ flow.P.truncated(2).to_dense().T
    )
    close(dense, expected)
    differ(dense, Window().update_operator(flow).to_dense())
    differ(dense, Freeze().update_operator(flow).to_dense())
    close(dense, (Window() @ Freeze()).update_operator(flow).to_dense())
    close(both.flow_operator(flow).to_dense(), flow.P.to_dense() @ flow.J.to_dense() @ dense)


def test_feedback_on_states_and_on_outputs(flow, readout) -> None:
    W, other = readout.weight.detach(), draw(O, H, seed=5)
    e = draw(B, T, O, seed=6)
    err = e @ W
    exact = Exact().update_operator(flow)
    close(Feedback(W).update_operator(flow, readout)(err), exact(err))
    rule = Feedback(other)
    close(rule.update_operator(flow, readout)(err), exact(e @ other))
    differ(rule.update_operator(flow, readout)(err), exact(err))
    close(rule.update(flow, readout).output_operator(e), exact(e @ other))
    close(Exact().update(flow, readout).output_operator(e), exact(err))
    operator = rule.update(flow, readout).output_operator
    close(operator.T.to_dense(), operator.to_dense().T)
    E = rule.update(flow, readout).error_map
    close(E.T.to_dense(), E.to_dense().T)
    assert isinstance(Exact().update(flow, readout).error_map, IdentityOperator)


def test_apply_gradient_fills_grad(model, flow) -> None:
    err = draw(B, T, H, seed=6)
    Exact().apply_gradient(model, flow, err)
    got = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    (model.rollout(flow.trajectory.inputs).states * err).sum().backward()
    doubled = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    close(got, doubled / 2)
    Window().apply_gradient(model, flow, err)
    differ(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), got)
    other = wrap(torch.nn.GRUCell(2, H + 1)).double()
    with pytest.raises(ArgumentError, match=r"model: expected the parameters of the flow, .*got"):
        Exact().apply_gradient(other, flow, err)


def test_draws(flow) -> None:
    exact = Exact().update_operator(flow).to_dense()
    close(HalfTheTime().expectation(flow).to_dense(), exact)
    generator = torch.Generator().manual_seed(0)
    draws = [HalfTheTime().sample(generator) for _ in range(20)]
    found = [rule.update_operator(flow).to_dense() for rule in draws]
    again = draws[0].update_operator(flow).to_dense()
    assert torch.equal(again, found[0])
    on = sum(bool(matrix.any()) for matrix in found)
    assert 3 <= on <= 17
    for matrix in found:
        if bool(matrix.any()):
            close(matrix, 2 * exact)


class Unbalanced(HalfTheTime):
    def outcomes(self, update):
        yield 0.5, update


class Continuum(StochasticRule):
    def change(self, update):
        return update


def test_refusals(flow, readout) -> None:
    err = draw(B, T, H, seed=6)
    with pytest.raises(UnsupportedError, match="readout: expected the readout that the error comes through"):
        Feedback(draw(O, H, seed=5)).gradient(flow, err)
    with pytest.raises(ShapeError, match=r"feedback: expected the readout's shape \[output=2, hidden=3\]"):
        Feedback(draw(H, O, seed=5)).gradient(flow, err, readout)
    with pytest.raises(NonFiniteError, match="feedback: expected finite numbers, got nan"):
        Feedback(draw(O, H, seed=5) / 0 * 0).gradient(flow, err, readout)
    with pytest.raises(NotLinearError, match=r"Sign\(\) is not linear in the error"):
        Sign().update_operator(flow)
    assert set(Sign().gradient(flow, err)["weight_hh"].unique().tolist()) <= {-1.0, 0.0, 1.0}
    with pytest.raises(NotLinearError, match="rule: expected rules that are linear"):
        Sign() @ Exact()
    with pytest.raises(UnsupportedError, match="P_2 is no propagator of a step Jacobian any more"):
        (Window() @ Window()).update(flow)
    with pytest.raises(ArgumentError, match=r"expected probabilities that add up to 1, got 0\.5"):
        Unbalanced().expectation(flow)
    with pytest.raises(UnsupportedError, match="a continuum of outcomes"):
        Continuum().expectation(flow)
    with pytest.raises(ArgumentError, match="seed: expected a whole number"):
        HalfTheTime(-1)
    with pytest.raises(TypeError):
        Exact() @ 3


def test_a_rule_shows_itself_in_a_notebook() -> None:
    html = Exact()._repr_html_()
    assert "Exact()" in html
    assert "linear: it has an operator" in html
    assert "the readout" in Feedback(torch.ones(1, 1))._repr_html_()
    assert "the readout" not in html

    class Own(LearningRule):
        """What <b>it</b> is.

        And more.
        """

        linear = False

        def change(self, update):
            return update

    own = Own()._repr_html_()
    assert "What &lt;b&gt;it&lt;/b&gt; is.</td>" in own
    assert "not linear" in own
