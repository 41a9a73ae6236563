"""A, J, P, K and Phi of the feedforward models against automatic differentiation and closed forms."""

from __future__ import annotations

import pytest
import torch
from kpframe_feedforward.mlp import MLP

from kpframe import linearize


@pytest.mark.parametrize("given", [False, True], ids=["own start", "given start"])
@pytest.mark.rows(4)
def test_step_jacobians_of_the_perceptron(make, draw, jacobians, close, differ, samples, form, given) -> None:
    model = make(**form)
    flow = linearize(model, model.inputs(samples), draw(3, 4, seed=2) if given else None)
    assert (flow.P.method, flow.K.method) == ("sites", "sites")
    A, J = jacobians(model, flow.trajectory)
    assert not flow.A.blocks()[:, 0].any()  # the first layer reads the sample alone
    close(flow.J.to_dense(), J, 1e-12)
    if form["depth"] > 1:
        close(flow.A.blocks(), A, 1e-12)
        differ(flow.A.blocks(), A.mT)
    differ(linearize(model, model.inputs(-2 * samples)).J.to_dense(), J)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.rows(6)
def test_structured_is_autograd_is_total(
    make, draw, close, differ, total_jacobian, samples, form, masked
) -> None:
    model = make(**form)
    x, depth = model.inputs(samples), form["depth"]
    mask = torch.arange(depth) < torch.tensor([[depth], [max(1, depth - 1)], [1]]) if masked else None
    flow, twin = linearize(model, x, None, mask), linearize(model, x, None, mask, method="autograd")
    assert (twin.P.method, twin.K.method) == ("autograd", "autograd")
    names = ("J", "P", "K", "Phi") if depth == 1 else ("A", "J", "P", "K", "Phi")
    for name in names:
        ours, theirs = getattr(flow, name), getattr(twin, name)
        close(ours.to_dense(), theirs.to_dense(), 1e-12)
        close(ours.T.to_dense(), theirs.to_dense().T, 1e-12)
    if not masked:
        G = total_jacobian(model, x)
        close(flow.Phi.to_dense(), G @ G.T, 1e-12)
        differ(flow.Phi.to_dense(), 1.1 * G @ G.T)
        if depth > 1:
            differ(flow.Phi.to_dense(), flow.K.to_dense())


def test_a_layer_moves_its_own_step_only(make, samples, form) -> None:
    model = make(**form)
    flow = linearize(model, model.inputs(samples))
    depth, width = form["depth"], 4
    J = flow.J.to_dense().reshape(3, depth, width, -1)
    layers = {"weight_in": torch.zeros(width, 3, dtype=torch.int64)}
    if depth > 1:
        layers["weight"] = torch.arange(1, depth)[:, None, None].expand(depth - 1, width, width)
    if form.get("bias", True):
        layers["bias"] = torch.arange(depth)[:, None].expand(depth, width)
    assert list(model.trainable()) == list(layers)
    layer = torch.cat([value.reshape(-1) for value in layers.values()])  # of each parameter
    moved = J.abs().amax(dim=(0, 2)) > 0  # [depth, M]
    own = layer == torch.arange(depth)[:, None]
    assert not moved[~own].any()
    share = 0.4 if form.get("activation") == "relu" else 1.0  # some units are open for no sample
    assert float(moved[own].double().mean()) >= share


def test_K_is_a_gram_matrix_over_trials_for_each_layer(make, close, differ, samples) -> None:
    model = make(depth=3, parametrisation="ntk", sigma_w=1.3, sigma_b=0.4)
    flow = linearize(model, model.inputs(samples))
    K = flow.K.to_dense().reshape(3, 3, 4, 3, 3, 4)
    same = torch.eye(3, dtype=torch.bool)
    by_layer = K.permute(1, 4, 0, 2, 3, 5)  # [layer, layer, trial, unit, trial, unit]
    assert not by_layer[~same].any()
    states = flow.trajectory.states
    reads = [samples, states[:, 0], states[:, 1]]
    units = torch.eye(4, dtype=torch.float64)
    for layer, z in enumerate(reads):
        D = 1 - states[:, layer] ** 2
        gram = 1.3**2 / z.shape[1] * z @ z.T + 0.4**2
        expected = torch.einsum("bi,bc,ci,ij->bicj", D, gram, D, units)
        close(by_layer[layer, layer], expected, 1e-12)
        differ(by_layer[layer, layer], expected.flip(0))


@pytest.mark.parametrize("frozen", [["weight"], ["bias"], ["weight_in", "bias"]])
def test_frozen_layers(make, close, differ, samples, frozen) -> None:
    model = make(depth=3)
    x = model.inputs(samples)
    whole = linearize(model, x)
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    flow = linearize(model, x)
    close(flow.K.to_dense(), whole.K.freeze(frozen).to_dense(), 1e-12)
    close(flow.K.to_dense(), linearize(model, x, method="autograd").K.to_dense(), 1e-12)
    differ(flow.K.to_dense(), whole.K.to_dense())


class Tempered(MLP):
    """A perceptron with one more parameter, which is at no weight site."""

    def __init__(self, **settings) -> None:
        super().__init__(**settings)
        self.gain = torch.nn.Parameter(torch.tensor(1.3))

    def combine(self, u, h, t=None):
        return {"h": self.gain * super().combine(u, h, t)["h"]}


def test_a_parameter_at_no_site_is_not_lost(close, samples) -> None:
    model = Tempered(input_size=3, hidden_size=4, depth=3, seed=1).double()
    x = model.inputs(samples)
    flow = linearize(model, x)
    assert (flow.P.method, flow.K.method) == ("sites", "autograd")
    close(flow.Phi.to_dense(), linearize(model, x, method="autograd").Phi.to_dense(), 1e-12)
    assert float(flow.K.restrict(["gain"]).to_dense().norm()) > 0.1


def test_step_jacobians_of_attention(make_attention, draw, jacobians, close, differ, block) -> None:
    model = make_attention(**block)
    flow = linearize(model, model.inputs(draw(2, 6, seed=1)))
    A, J = jacobians(model, flow.trajectory)
    close(flow.A.blocks(), A, 1e-12)
    close(flow.J.to_dense(), J, 1e-12)
    differ(flow.A.blocks(), A.mT)
    differ(flow.J.to_dense(), J.reshape(2, -1, J.shape[1]).flip(0).reshape(J.shape))


@pytest.mark.rows(2)
def test_phi_of_attention_is_total(make_attention, draw, close, differ, total_jacobian, block) -> None:
    model = make_attention(**block)
    x = model.inputs(draw(2, 6, seed=1))
    flow, twin = linearize(model, x), linearize(model, x, method="autograd")
    G = total_jacobian(model, x)
    close(flow.Phi.to_dense(), G @ G.T, 1e-12)
    close(twin.Phi.to_dense(), G @ G.T, 1e-12)
    differ(flow.Phi.to_dense(), flow.K.to_dense())
    K = flow.K.to_dense().reshape(2, model.steps, -1, 2, model.steps, model.width)
    assert not K.permute(1, 4, 0, 2, 3, 5)[~torch.eye(model.steps, dtype=torch.bool)].any()


def test_a_wide_residual_stream_keeps_graphs(make_attention, draw, close, differ, total_jacobian) -> None:
    model = make_attention(hidden_size=6, blocks=2, heads=2, mlp_size=5)
    x = model.inputs(draw(2, 6, seed=1))
    flow = linearize(model, x)
    assert flow.P.method == "graph"  # a state of 18 entries; narrower ones are written out
    G = total_jacobian(model, x)
    q = draw(3, 2, 5, 18, seed=2)
    close(flow.Phi(q).flatten(1), q.flatten(1) @ G @ G.T, 1e-12)
    close(flow.P.T(q), linearize(model, x, method="autograd").P.T(q), 1e-12)
    differ(flow.Phi(q), flow.K(q))
