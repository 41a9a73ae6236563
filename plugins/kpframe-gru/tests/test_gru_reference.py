"""The model ``gru`` against ``torch.nn.GRU``: trajectories, gradients and parameter names."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize


def reference(model, batch_first: bool = True) -> torch.nn.GRU:
    """Return a ``torch.nn.GRU`` that took the model's parameters, name by name."""
    bias = "bias_ih_l0" in dict(model.named_parameters())
    twin = torch.nn.GRU(
        model.input_size, model.units, bias=bias, batch_first=batch_first, dtype=torch.float64
    )
    twin.load_state_dict({name: p for name, p in model.state_dict().items() if name != "h0"})
    return twin


def reset_before(model, x: torch.Tensor) -> torch.Tensor:
    """Return the states of the other published form, which resets h before the product."""
    W = model.weight_hh_l0.chunk(3)
    b = model.bias_hh_l0.chunk(3)
    h, states = x.new_zeros(len(x), model.units), []
    for row in x.unbind(1):
        i_r, i_z, i_n = (row @ model.weight_ih_l0.T + model.bias_ih_l0).chunk(3, dim=1)
        r = torch.sigmoid(i_r + h @ W[0].T + b[0])
        z = torch.sigmoid(i_z + h @ W[1].T + b[1])
        h = (1 - z) * torch.tanh(i_n + (r * h) @ W[2].T + b[2]) + z * h
        states.append(h)
    return torch.stack(states, dim=1)


@pytest.fixture(params=[True, False], ids=["bias", "no bias"])
def bias(request) -> bool:
    return request.param


@pytest.fixture(params=[True, False], ids=["given h0", "zero h0"])
def h0(request, draw) -> torch.Tensor | None:
    return draw(2, 4, seed=5) if request.param else None


def test_trajectory(make, close, differ, x, bias, h0) -> None:
    model = make(bias=bias)
    expected, _ = reference(model)(x, None if h0 is None else h0.unsqueeze(0))
    states = model.rollout(x, h0).states
    close(states, expected, 1e-12)
    differ(states, make(bias=bias, seed=1).rollout(x, h0).states)
    differ(states, model.rollout(x, x.new_ones(2, 4)).states)


def test_trajectory_is_batch_first(make, draw, close, differ) -> None:
    model = make()
    x = draw(4, 4, 3, seed=2)  # as many trials as steps, so that a swap of the two goes unnoticed by shape
    expected, _ = reference(model, batch_first=False)(x.transpose(0, 1).contiguous())
    close(model.rollout(x).states, expected.transpose(0, 1), 1e-12)
    differ(model.rollout(x).states, expected)


def test_the_reset_gate_acts_after_the_product(make, differ, x) -> None:
    differ(make().rollout(x).states, reset_before(make(), x))


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0)])
def test_gate_order(make, close, differ, x, order) -> None:
    model = make()
    states = model.rollout(x).states
    with torch.no_grad():
        for parameter in model.parameters():
            gates = parameter.chunk(3)
            parameter.copy_(torch.cat([gates[gate] for gate in order]))
    differ(model.rollout(x).states, states)
    close(model.rollout(x).states, reference(model)(x)[0], 1e-12)


def test_parameters_are_shared_by_name_both_ways(make, close, differ, x) -> None:
    torch.manual_seed(0)
    twin = torch.nn.GRU(3, 4, batch_first=True, dtype=torch.float64)
    model = make(seed=3)
    differ(model.rollout(x).states, twin(x)[0])
    model.load_state_dict(twin.state_dict())
    close(model.rollout(x).states, twin(x)[0], 1e-12)
    assert list(model.state_dict()) == list(twin.state_dict())
    assert [p.shape for p in model.parameters()] == [p.shape for p in twin.parameters()]


def test_gradients(make, draw, close, differ, x, bias, h0) -> None:
    model = make(bias=bias)
    err = draw(2, 5, 4, seed=7)
    twin = reference(model)
    given = None if h0 is None else h0.clone().requires_grad_()
    out, _ = twin(x, None if given is None else given.unsqueeze(0))
    (out * err).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in twin.parameters()])

    start = None if h0 is None else h0.clone().requires_grad_()
    (model.rollout(x, start).states * err).sum().backward()
    close(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected, 1e-10)
    if h0 is not None:
        close(start.grad, given.grad, 1e-10)

    flow = linearize(model, x, h0)
    update = flow.J.T @ flow.P.T
    close(update(err), expected, 1e-10)
    differ(flow.J.T(err), expected)
    differ(update(err.flip(1)), expected)


def test_gradient_of_a_trainable_initial_state(make, draw, close, differ, x) -> None:
    model = make(trainable_initial_state=True)
    err = draw(2, 5, 4, seed=7)
    start = model.h0.detach().clone().requires_grad_()
    out, _ = reference(model)(x, start.expand(2, 4).unsqueeze(0))
    (out * err).sum().backward()
    flow = linearize(model, x)
    part = flow.J.domain["parameter"].part("h0").slice
    close((flow.J.T @ flow.P.T)(err)[part], start.grad, 1e-10)
    given = linearize(model, x, model.h0.detach().expand(2, 4))
    assert torch.equal((given.J.T @ given.P.T)(err)[part], torch.zeros(4, dtype=torch.float64))
    differ(flow.trajectory.states, linearize(make(), x).trajectory.states)
