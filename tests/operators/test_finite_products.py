"""A product that is not finite is an error that says where, and whether the argument was to blame."""

from __future__ import annotations

import math
import pickle

import pytest
import torch

from kpframe import MatrixOperator, Operator, Space, linearize, trace, wrap
from kpframe.errors import NonFiniteError, NonFiniteProductError
from kpframe.operators._finite import check_finite, is_finite
from kpframe.operators._spaces import state_space

F64 = torch.float64


class Root(torch.nn.Module):
    """``h' = h / 2 + relu(u)^power``; below 1, autograd makes NaN of its derivative where relu(u) is 0."""

    def __init__(self, power: float) -> None:
        super().__init__()
        self.input_size, self.hidden_size, self.power = 1, 2, power
        self.weight = torch.nn.Parameter(torch.tensor([[1.0], [2.0]], dtype=F64))

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return h / 2 + torch.relu(x @ self.weight.T + h) ** self.power


def flow_of(power: float, method: str = "auto"):
    x = torch.ones(2, 4, 1, dtype=F64)
    h0 = torch.ones(2, 2, dtype=F64)
    x[1, 2] = -8  # u is negative at step 2 of trial 1 alone
    return linearize(wrap(Root(power), check=False), x, h0, method=method)


@pytest.mark.parametrize("method", ["auto", "graph", "autograd"])
def test_a_derivative_that_is_not_finite(method: str) -> None:
    flow = flow_of(0.5, method)
    assert torch.isfinite(flow.trajectory.states).all()
    q = torch.ones(2, 4, 2, dtype=F64)
    with pytest.raises(NonFiniteProductError) as caught:
        flow.K(q)
    told = "product of K: expected finite numbers, got nan first at step 2, trial 1, component 'h', unit 0 "
    assert str(caught.value).startswith(told + "though the argument is finite: a derivative of the model")
    found = flow.K(q, check=False)
    good = flow_of(1.5, method).K(q)
    assert found.isnan().any()
    assert torch.isfinite(good).all()
    assert good.abs().max() > 0
    assert torch.isfinite(flow.J.T(q)).all()  # one pass cuts there, the second meets infinity times zero
    with pytest.raises(NonFiniteProductError, match=r"product of J: .* first at step 2, trial 1"):
        flow.J(torch.ones(2, dtype=F64))
    with pytest.raises(NonFiniteProductError, match=r"product of K: .* though the argument is finite"):
        flow.K.to_dense()
    assert torch.isfinite(flow_of(1.5, method).K.to_dense()).all()
    assert flow.K.to_dense(check=False).isnan().any()
    with pytest.raises(NonFiniteError, match="NaN or infinity"):
        trace(flow.K)
    with pytest.raises(NonFiniteProductError, match=r"first at step 2, trial 1, .*, probe 0, 0 though"):
        flow.K(torch.stack([torch.zeros_like(q), q])[:, None])[0]


def test_an_argument_that_is_not_finite() -> None:
    flow = flow_of(1.5)
    q = torch.ones(2, 4, 2, dtype=F64)
    q[0, 3, 1] = math.inf
    told = "argument of P: expected finite numbers, got inf first at step 3, trial 0, component 'h', unit 1"
    with pytest.raises(NonFiniteError) as caught:
        flow.P(q)
    assert str(caught.value) == told
    assert not isinstance(caught.value, NonFiniteProductError)
    assert flow.P(q, check=False).isinf().any()
    assert torch.isfinite(flow.P(torch.ones_like(q))).all()


def test_overflow() -> None:
    op = 1e30 * MatrixOperator(torch.eye(2))
    q = torch.tensor([1.0, 1e20])
    with pytest.raises(
        NonFiniteProductError, match=r"got inf first at index 1 though the argument is finite"
    ):
        op(q)
    assert op(q, check=False)[1] == math.inf
    assert op(q / 1e15).tolist() == pytest.approx([1e15, 1e35])


def test_finite_numbers_whose_sum_overflows_pass() -> None:
    large = torch.full((4,), 3e38)
    assert not torch.isfinite(large.sum())
    assert is_finite(large)
    assert torch.equal(MatrixOperator(torch.eye(4))(large), large)
    for value in (math.nan, math.inf, -math.inf):
        large[2] = value
        assert not is_finite(large)
        assert not is_finite(torch.tensor([math.inf, -math.inf, value]))


def test_places_are_named() -> None:
    space = state_space(2, 3, {"h": 2, "c": 1})
    tensor = torch.zeros(2, 3, 3)
    tensor[0, 2, 0] = tensor[1, 1, 2] = math.nan
    with pytest.raises(NonFiniteError, match=r"^it: .* first at step 1, trial 1, component 'c', unit 0$"):
        check_finite(tensor, "it", space)
    with pytest.raises(NonFiniteError, match=r"first at row 1, column 0$"):
        check_finite(torch.tensor([[0.0], [math.inf]]), "it", Space.of(row=2, column=1))
    with pytest.raises(NonFiniteError, match=r"at index \[1, 0\]$"):
        check_finite(torch.tensor([[0.0], [math.inf]]), "it")
    check_finite(torch.zeros(2, 3, 3), "it", space)


def test_the_error_survives_a_pickle() -> None:
    with pytest.raises(NonFiniteProductError) as caught:
        flow_of(0.5).K(torch.ones(2, 4, 2, dtype=F64))
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_operators_without_numbers_are_not_looked_at() -> None:
    op: Operator = MatrixOperator(torch.zeros(2, 2, device="meta"))
    assert op(torch.zeros(3, 2, device="meta")).shape == (3, 2)
    assert MatrixOperator(torch.eye(2))(torch.zeros(0, 2)).shape == (0, 2)
