"""Stacked layers: exactly ``torch.nn.RNN(num_layers=...)``, and the leaky forms against a loop in NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe import create_model, linearize

PHI = {"tanh": np.tanh, "relu": lambda u: np.maximum(u, 0)}


def reference(model, layers: int) -> torch.nn.RNN:
    """Return a ``torch.nn.RNN`` that took the model's parameters, name by name."""
    twin = torch.nn.RNN(
        3,
        4,
        num_layers=layers,
        nonlinearity="relu" if model.phi is torch.relu else "tanh",
        bias="bias_ih_l0" in dict(model.named_parameters()),
        batch_first=True,
        dtype=torch.float64,
    )
    twin.load_state_dict({name: p for name, p in model.state_dict().items() if name != "h0"})
    return twin


def to_torch(h0: torch.Tensor, layers: int) -> torch.Tensor:
    """Return initial states ``[B, L H]`` as torch has them, ``[L, B, H]``."""
    return h0.reshape(len(h0), layers, 4).transpose(0, 1).contiguous()


@pytest.fixture(params=["tanh", "relu"])
def nonlinearity(request) -> str:
    return request.param


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def bias(request) -> bool:
    return request.param


@pytest.mark.parametrize("layers", [2, 3])
@pytest.mark.parametrize("given", [True, False], ids=["given h0", "zero h0"])
@pytest.mark.rows(4)
def test_trajectory_and_gradients(make, draw, close, differ, x, nonlinearity, bias, layers, given) -> None:
    model = make(nonlinearity=nonlinearity, bias=bias, num_layers=layers)
    twin = reference(model, layers)
    other = make(nonlinearity=nonlinearity, bias=bias, num_layers=layers, seed=1)
    h0 = draw(2, model.width, seed=5).requires_grad_() if given else None
    theirs = None if h0 is None else h0.detach().clone().requires_grad_()
    out, final = twin(x, None if theirs is None else to_torch(theirs, layers))
    trajectory = model.rollout(x, h0)
    top = trajectory.component(f"h_l{layers - 1}")
    close(top, out, 1e-13)
    close(trajectory.final, final.transpose(0, 1).reshape(2, -1), 1e-13)
    differ(top, trajectory.component("h_l0"))
    differ(top, other.rollout(x).component(f"h_l{layers - 1}"))

    err = draw(2, 5, 4, seed=7)
    (out * err).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in twin.parameters()])
    (top * err).sum().backward()
    close(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected, 1e-10)
    if h0 is not None:
        close(h0.grad, theirs.grad, 1e-10)

    flow = linearize(model, x, None if h0 is None else h0.detach())
    at_top = torch.nn.functional.pad(err, (model.width - 4, 0))
    close((flow.J.T @ flow.P.T)(at_top), expected, 1e-10)
    differ(flow.J.T(at_top), expected)
    differ((flow.J.T @ flow.P.T)(at_top.roll(4, dims=-1)), expected)


def test_names_and_shapes_are_those_of_torch() -> None:
    model = create_model("rnn", input_size=3, hidden_size=4, num_layers=2)
    twin = torch.nn.RNN(3, 4, num_layers=2)
    assert {name: p.shape for name, p in model.named_parameters()} == {
        name: p.shape for name, p in twin.named_parameters()
    }
    assert list(model.state_dict()) == list(twin.state_dict())
    assert model.components == {"h_l0": 4, "h_l1": 4}
    assert create_model("rnn", input_size=3, hidden_size=4).components == {"h": 4}


@pytest.mark.parametrize("layers", [1, 2])
def test_initial_weights_are_those_of_torch(layers) -> None:
    torch.manual_seed(5)
    twin = torch.nn.RNN(3, 4, num_layers=layers)
    torch.manual_seed(5)
    model = create_model("rnn", input_size=3, hidden_size=4, num_layers=layers)
    for name, parameter in twin.named_parameters():
        assert torch.equal(model.get_parameter(name), parameter), name
    other = create_model("rnn", input_size=3, hidden_size=4, num_layers=layers)
    assert not torch.equal(other.weight_ih_l0, twin.weight_ih_l0)


def loop(model, x, h0, form: str, alpha: float, nonlinearity: str) -> torch.Tensor:
    """Return the states of two leaky layers, one trial and one step at a time, from the definition."""
    theta = {name: value.numpy() for name, value in model.state_dict().items()}
    phi = PHI[nonlinearity]

    def advance(k: int, source, h):
        def fed(read):
            return (
                theta[f"weight_ih_l{k}"] @ source
                + theta[f"bias_ih_l{k}"]
                + theta[f"weight_hh_l{k}"] @ read
                + theta[f"bias_hh_l{k}"]
            )

        if form == "rate":
            return (1 - alpha) * h + alpha * phi(fed(h))
        return (1 - alpha) * h + alpha * fed(phi(h))

    states = []
    for trial, inputs in enumerate(x.numpy()):
        low, high = h0[trial, :4].numpy(), h0[trial, 4:].numpy()
        for row in inputs:
            low = advance(0, row, low)
            high = advance(1, phi(low) if form == "current" else low, high)
            states.append(np.concatenate([low, high]))
    return torch.from_numpy(np.stack(states)).reshape(*x.shape[:2], 8)


@pytest.mark.parametrize("nonlinearity", ["tanh", "relu"])
@pytest.mark.parametrize(("form", "other"), [("rate", "current"), ("current", "rate")])
def test_leaky_layers(make, draw, close, differ, x, form, other, nonlinearity) -> None:
    model = make(form=form, alpha=0.4, nonlinearity=nonlinearity, num_layers=2)
    h0 = draw(2, 8, seed=5)
    states = model.rollout(x, h0).states
    close(states, loop(model, x, h0, form, 0.4, nonlinearity), 1e-13)
    differ(states, loop(model, x, h0, other, 0.4, nonlinearity))
    differ(states, loop(model, x, h0, form, 0.5, nonlinearity))


def test_rate_layers_with_alpha_one_are_vanilla(make, close, differ, x) -> None:
    vanilla = make(num_layers=2).rollout(x).states
    close(make(form="rate", num_layers=2).rollout(x).states, vanilla, 1e-15)
    differ(make(form="rate", alpha=0.9, num_layers=2).rollout(x).states, vanilla)


def test_the_upper_layer_reads_the_same_step(make, x) -> None:
    """One step from rest already moves both layers, and A couples them downwards only."""
    model = make(num_layers=2)
    blocks = linearize(model, x).A.blocks()
    assert torch.equal(blocks[..., :4, 4:], torch.zeros(2, 5, 4, 4, dtype=torch.float64))
    assert float(blocks[..., 4:, :4].abs().amin(dim=(-2, -1)).min()) > 0
    moved = model.rollout(x[:, :1]).component("h_l1") - model.rollout(0 * x[:, :1]).component("h_l1")
    assert float(moved.detach().norm()) > 0.1
