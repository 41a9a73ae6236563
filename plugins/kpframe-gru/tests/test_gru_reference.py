"""The model ``gru`` against ``torch.nn.GRU`` and against a loop of both forms: states, gradients, names."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize

OTHER = {"after": "before", "before": "after"}


@pytest.fixture(params=[{}, {"bias": False}, {"num_layers": 2}], ids=["one layer", "no bias", "two layers"])
def torch_form(request) -> dict[str, object]:
    """The forms that torch has too: all that reset after the product."""
    return request.param


@pytest.fixture(params=[True, False], ids=["given h0", "zero h0"])
def given(request) -> bool:
    return request.param


@pytest.fixture
def start(draw, given):
    """A maker of states to start two trials from, or of None."""
    return lambda model: draw(2, model.width, seed=5) if given else None


def test_trajectory_of_both_forms(make, loop, start, close, differ, x, form) -> None:
    model = make(**form)
    h0 = start(model)
    states = model.rollout(x, h0).states
    close(states, loop(model, x, h0), 1e-12)
    differ(states, loop(model, x, h0, reset=OTHER[model.reset]))
    differ(states, make(**form, seed=1).rollout(x, h0).states)
    differ(states, model.rollout(x, x.new_ones(2, model.width)).states)


def test_trajectory(make, reference, start, close, differ, x, torch_form) -> None:
    model = make(**torch_form)
    h0 = start(model)
    out, h_n = reference(model)(x, None if h0 is None else model.unpack_state(h0))
    trajectory = model.rollout(x, h0)
    close(model.unpack_state(trajectory.states)[-1], out, 1e-12)
    close(model.unpack_state(trajectory.final), h_n, 1e-12)
    before = make(**torch_form, reset="before").rollout(x, h0)
    differ(model.unpack_state(before.states)[-1], out)


def test_trajectory_is_batch_first(make, reference, draw, close, differ) -> None:
    model = make()
    x = draw(4, 4, 3, seed=2)  # as many trials as steps, so that a swap of the two goes unnoticed by shape
    expected, _ = reference(model, batch_first=False)(x.transpose(0, 1).contiguous())
    close(model.rollout(x).states, expected.transpose(0, 1), 1e-12)
    differ(model.rollout(x).states, expected)


def test_a_masked_trial_ends_as_a_packed_sequence(
    make, reference, close, differ, x, mask, torch_form
) -> None:
    model = make(**torch_form)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, mask.sum(dim=1), batch_first=True)
    _, expected = reference(model)(packed)
    close(model.unpack_state(model.rollout(x, mask=mask).final), expected, 1e-12)
    differ(model.unpack_state(model.rollout(x).final), expected)


@pytest.mark.parametrize("order", [(1, 0, 2), (0, 2, 1), (2, 1, 0)])
@pytest.mark.parametrize("reset", ["after", "before"])
def test_gate_order(make, loop, close, differ, x, order, reset) -> None:
    model = make(reset=reset)
    states = model.rollout(x).states
    with torch.no_grad():
        for parameter in model.parameters():
            gates = parameter.chunk(3)
            parameter.copy_(torch.cat([gates[gate] for gate in order]))
    differ(model.rollout(x).states, states)
    close(model.rollout(x).states, loop(model, x), 1e-12)


def test_parameters_are_shared_by_name_both_ways(make, reference, close, differ, x, torch_form) -> None:
    twin, model = reference(make(**torch_form, seed=1)), make(**torch_form, seed=3)
    differ(model.unpack_state(model.rollout(x).states)[-1], twin(x)[0])
    model.load_state_dict(twin.state_dict())
    close(model.unpack_state(model.rollout(x).states)[-1], twin(x)[0], 1e-12)
    for reset in ("after", "before"):
        one = make(**torch_form, reset=reset)
        assert list(one.state_dict()) == list(twin.state_dict())
        assert [p.shape for p in one.parameters()] == [p.shape for p in twin.parameters()]


def test_gradients(make, reference, start, draw, close, differ, x, torch_form) -> None:
    """Torch's own backward pass of a loss on the states of the last layer."""
    model = make(**torch_form)
    h0 = start(model)
    twin = reference(model)
    last = draw(2, 5, 4, seed=7)
    err = torch.cat([*[torch.zeros_like(last)] * (model.num_layers - 1), last], dim=-1)
    given = None if h0 is None else model.unpack_state(h0).requires_grad_()
    out, _ = twin(x, given)
    (out * last).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in twin.parameters()])
    _check_gradient(model, x, h0, err, expected, given, close, differ)


@pytest.mark.rows(4)
def test_gradients_of_both_forms(make, loop, start, draw, close, differ, x, form) -> None:
    """The gradient through the loop, of a loss on the states of all layers."""
    model = make(**form)
    h0 = start(model)
    err = draw(2, 5, model.width, seed=7)
    given = None if h0 is None else h0.clone().requires_grad_()
    (loop(model, x, given) * err).sum().backward()
    expected = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    model.zero_grad()
    _check_gradient(model, x, h0, err, expected, given, close, differ)


def _check_gradient(model, x, h0, err, expected, given, close, differ) -> None:
    start = None if h0 is None else h0.clone().requires_grad_()
    (model.rollout(x, start).states * err).sum().backward()
    close(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected, 1e-10)
    if h0 is not None:
        grad = given.grad if given.ndim == 2 else model.pack_state(given.grad)
        close(start.grad, grad, 1e-10)

    flow = linearize(model, x, h0)
    update = flow.J.T @ flow.P.T
    close(update(err), expected, 1e-10)
    differ(flow.J.T(err), expected)
    differ(update(err.flip(1)), expected)


def test_gradient_of_a_trainable_initial_state(make, loop, draw, close, differ, x, form) -> None:
    model = make(**form, trainable_initial_state=True)
    err = draw(2, 5, model.width, seed=7)
    start = model.h0.detach().clone().requires_grad_()
    (loop(model, x, start.expand(2, -1)) * err).sum().backward()
    flow = linearize(model, x)
    part = flow.J.domain["parameter"].part("h0").slice
    close((flow.J.T @ flow.P.T)(err)[part], start.grad, 1e-10)
    given = linearize(model, x, model.h0.detach().expand(2, -1))
    assert torch.equal((given.J.T @ given.P.T)(err)[part], x.new_zeros(model.width))
    differ(flow.trajectory.states, linearize(make(**form), x).trajectory.states)
