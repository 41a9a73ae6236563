"""The model ``mlp`` against ``torch.nn.Sequential`` and a network of ``torch.nn.Linear`` layers."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kpframe import linearize
from kpframe.errors import ShapeError


def sequential(model, activation: type[nn.Module], depth: int) -> nn.Sequential:
    """Return ``Linear, phi, Linear, phi, ...`` with the model's weights."""
    layers: list[nn.Module] = []
    for weight, bias in zip([model.weight_in, *model.weight], model.bias, strict=True):
        layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
        layer.load_state_dict({"weight": weight.detach(), "bias": bias.detach()})
        layers += [layer, activation()]
    assert len(layers) == 2 * depth
    return nn.Sequential(*layers)


@pytest.mark.parametrize(
    ("name", "activation"),
    [("tanh", nn.Tanh), ("relu", nn.ReLU), ("gelu", nn.GELU), ("silu", nn.SiLU), ("sigmoid", nn.Sigmoid)],
)
def test_a_plain_network_is_sequential(make, draw, close, differ, samples, name, activation) -> None:
    model = make(depth=3, activation=name)
    twin = sequential(model, activation, 3)
    states = model.rollout(model.inputs(samples)).states
    for layer in range(3):
        close(states[:, layer], twin[: 2 * layer + 2](samples), 1e-12)
    differ(states[:, 1], twin[:2](samples))
    differ(states[:, 2], make(depth=3, activation=name, seed=6).rollout(model.inputs(samples)).final)

    err = draw(*samples.shape[:1], 4, seed=3)
    (twin(samples) * err).sum().backward()
    (model.rollout(model.inputs(samples)).final * err).sum().backward()
    linears = [module for module in twin if isinstance(module, nn.Linear)]
    close(model.weight_in.grad, linears[0].weight.grad, 1e-12)
    close(model.weight.grad, torch.stack([layer.weight.grad for layer in linears[1:]]), 1e-12)
    close(model.bias.grad, torch.stack([layer.bias.grad for layer in linears]), 1e-12)


def flat_gradient(network: nn.Module) -> torch.Tensor:
    """Return a reference's gradient in the order of the model's parameters."""
    matrices = [layer.weight.grad for layer in network.layers]
    biases = [layer.bias.grad for layer in network.layers if layer.bias is not None]
    return torch.cat([g.reshape(-1) for g in matrices + biases])


def test_every_form_is_its_reference(make, perceptron, draw, close, differ, samples, form) -> None:
    model = make(**form)
    twin = perceptron(model, form)
    flow = linearize(model, model.inputs(samples))
    states = twin(samples)
    close(flow.trajectory.states, states, 1e-12)
    if form["depth"] > 1:
        other = form | ({"form": "plain"} if form.get("form") == "residual" else {"form": "residual"})
        differ(states, perceptron(model, other)(samples))
    if form.get("parametrisation") == "ntk":
        differ(states, perceptron(model, form | {"parametrisation": "standard"})(samples))

    err = draw(*states.shape, seed=7)
    (states * err).sum().backward()
    update = flow.J.T @ flow.P.T
    close(update(err), flat_gradient(twin), 1e-10)
    differ(update(err.flip(0)), flat_gradient(twin))
    if form["depth"] > 1:
        differ(flow.J.T(err), flat_gradient(twin))


def test_a_linear_network_is_a_product(make, close, differ, samples) -> None:
    model = make(depth=3, activation="identity", bias=False)
    final = model.rollout(model.inputs(samples)).final
    close(final, samples @ (model.weight[1] @ model.weight[0] @ model.weight_in).T, 1e-12)
    differ(final, samples @ (model.weight[0] @ model.weight[1] @ model.weight_in).T)


def test_the_error_function(make, close, differ, samples) -> None:
    model = make(depth=1, activation="erf")
    u = samples @ model.weight_in.T + model.bias[0]
    # erf(u) is 2 Phi(sqrt 2 u) - 1, with Phi the normal distribution
    expected = 2 * torch.distributions.Normal(0.0, 1.0).cdf(2**0.5 * u) - 1
    close(model.rollout(model.inputs(samples)).final, expected, 1e-12)
    differ(expected, u.tanh())


def test_only_the_first_input_is_looked_at(make, draw, differ, samples, form) -> None:
    model = make(**form)
    x = model.inputs(samples)
    assert list(x.shape) == [3, form["depth"], 3]
    assert torch.equal(x[:, 0], samples)
    assert not x[:, 1:].any()
    states = model.rollout(x).states
    assert torch.equal(model.rollout(torch.cat([x[:, :1], draw(*x[:, 1:].shape)], dim=1)).states, states)
    assert torch.equal(model.rollout(x, draw(3, 4, seed=1)).states, states)  # nor is h_0
    differ(model.rollout(-x).states, states)


def test_residual_without_branches_passes_the_first_layer_on(make, close, differ, samples) -> None:
    model = make(depth=5, form="residual", scale=1e-14)
    states = model.rollout(model.inputs(samples)).states
    close(states, states[:, :1].expand_as(states), 1e-12)
    close(states[:, 0], samples @ model.weight_in.T + model.bias[0], 1e-12)
    differ(make(depth=5, form="residual").rollout(model.inputs(samples)).states, states)


def test_other_lengths_and_shapes_are_refused(make, draw) -> None:
    model = make(depth=3)
    for steps in (1, 2, 4):
        with pytest.raises(ShapeError, match=rf"x: expected 3 steps.*got shape \[2, {steps}, 3\]"):
            model.rollout(draw(2, steps, 3))
    for shape in ((2, 4), (3,), (2, 1, 3)):
        with pytest.raises(ShapeError, match=r"samples: expected shape \[batch, input=3\], got \["):
            model.inputs(draw(*shape))
