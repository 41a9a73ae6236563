"""Rules that define their gradient themselves: the errors they get, and what surrounds a call."""

from __future__ import annotations

import pytest
import torch

from kpframe import LearningRule, Readout, linearize
from kpframe.errors import ArgumentError
from kpframe.flow import split_parameters
from kpframe.testing import Elman

F64 = torch.float64


class Own(LearningRule):
    """Takes hidden errors only, and multiplies by a matrix, which autocast would do in half precision."""

    linear = False

    def change(self, update):
        raise NotImplementedError

    def gradient(self, flow, err, readout=None):
        back = flow.P.T(err)
        return split_parameters(flow.J.domain, flow.J.T(back @ torch.eye(back.shape[-1], dtype=back.dtype)))


class OwnStep(Own):
    """Has its way of filling gradients, too."""

    def apply_gradient(self, model, flow, err, readout=None):
        for name, value in self.gradient(flow, err, readout).items():
            model.trainable()[name].grad = 2 * value


@pytest.fixture
def case():
    torch.manual_seed(0)
    model = Elman(2, 4).double()
    flow = linearize(model, torch.randn(2, 5, 2, dtype=F64))
    readout = Readout(4, 3, generator=1, dtype=F64)
    slope = torch.randn(2, 5, 3, dtype=F64)
    return model, flow, readout, slope, slope @ readout.weight.detach()


@pytest.mark.parametrize("rule", [Own(), OwnStep()])
def test_an_output_error_comes_as_the_hidden_one(case, rule) -> None:
    model, flow, readout, slope, err = case
    expected = rule.gradient(flow, err)
    found = rule.gradient(flow, readout=readout, output_err=slope)
    other = rule.gradient(flow, readout=readout, output_err=2 * slope)
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-12, atol=0)
        assert not torch.allclose(other[name], value)
    rule.apply_gradient(model, flow, readout=readout, output_err=slope)
    factor = 2 if isinstance(rule, OwnStep) else 1
    for name, value in expected.items():
        torch.testing.assert_close(model.trainable()[name].grad, factor * value, rtol=1e-12, atol=0)
    with pytest.raises(ArgumentError, match="err, output_err: expected one of the two, got both"):
        rule.gradient(flow, err, readout, output_err=slope)


def test_what_surrounds_a_call_changes_no_figure(case) -> None:
    _, flow, _, _, err = case
    expected = Own().gradient(flow, err)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        halves = torch.ones(2, 2) @ torch.ones(2, 2)
        found = Own().gradient(linearize(flow.model.float(), flow.trajectory.inputs.float()), err.float())
    assert halves.dtype == torch.bfloat16  # it was on
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name].double(), value, rtol=1e-4, atol=1e-5)
