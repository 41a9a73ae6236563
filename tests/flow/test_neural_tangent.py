"""Phi and G against the dense total derivative, in the forms that compose them and that of one graph."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize
from kpframe.flow import neural_tangent, total_jacobian
from kpframe.models._autograd.rollout import GraphJacobian, GraphTangent
from kpframe.operators import DiagonalOperator


@pytest.mark.parametrize("method", ["auto", "autograd", "graph", "dense"])
@pytest.mark.parametrize("toy", ["rnn", "lstm", "plain"])
@pytest.mark.rows(4)
def test_G_and_Phi(lab, toy, method) -> None:
    model = lab.make(toy, seed=2)
    data = lab.trials(model, mask=True)
    flow = linearize(model, **data, method=method)
    theta = lab.parameters(model)
    moved = torch.func.jacrev(lambda theta: lab.states(model, theta, **data))(theta)
    size = flow.P.domain.size
    expected = torch.cat([moved[part.name].reshape(size, -1) for part in flow.J.domain.axes[0].parts], dim=1)
    lab.check_operator(flow.G)
    lab.close(flow.G.to_dense(), expected)
    lab.differ(flow.G.to_dense(), flow.J.to_dense())
    lab.close(flow.Phi.to_dense(), expected @ expected.T)
    lab.differ(flow.Phi.to_dense(), flow.K.to_dense())
    assert (repr(flow.G), repr(flow.Phi)) == ("P J", "P K P*")
    assert isinstance(flow.G, GraphJacobian) == isinstance(flow.Phi, GraphTangent) == (method == "graph")
    metric = DiagonalOperator(lab.randn(5, flow.J.domain.size).abs(), flow.J.domain)
    scaled = neural_tangent(flow.P, flow.K.with_metric(metric)).to_dense()
    lab.close(scaled, expected @ torch.diag(metric.to_dense().diagonal()) @ expected.T)
    lab.differ(scaled, flow.Phi.to_dense())


def test_the_graph_serves_its_own_roll_out_only(lab) -> None:
    model = lab.make("plain", seed=2)
    one, other = (linearize(model, **lab.trials(model, seed=seed), method="graph") for seed in (1, 2))
    for made, expected in (
        (neural_tangent(one.P, other.K), one.P.to_dense() @ other.K.to_dense() @ one.P.to_dense().T),
        (total_jacobian(one.P, other.J), one.P.to_dense() @ other.J.to_dense()),
    ):
        lab.close(made.to_dense(), expected)
    lab.differ(neural_tangent(one.P, other.K).to_dense(), one.Phi.to_dense())
    lab.differ(total_jacobian(one.P, other.J).to_dense(), one.G.to_dense())
    model.requires_grad_(False)
    nothing = linearize(model, **lab.trials(model), method="graph")
    assert nothing.G.to_dense().shape == (nothing.P.domain.size, 0)
    assert not nothing.Phi.to_dense().any()
