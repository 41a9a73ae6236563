"""The model ``lstm`` against ``torch.nn.LSTM``: trajectories, gradients and parameter names."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize


def states_of(twin: torch.nn.LSTM, x: torch.Tensor, start=None) -> tuple[torch.Tensor, torch.Tensor]:
    """Return torch's h and c of all layers after every step, ``[L, B, T, ...]``: a run for each length."""
    ends = [twin(x[:, : t + 1], start)[1] for t in range(x.shape[1])]
    return tuple(torch.stack(parts, dim=2) for parts in zip(*ends, strict=True))


@pytest.fixture
def start(draw):
    """A maker of torch's ``(h_0, c_0)`` for a model and two trials."""

    def pair(model) -> tuple[torch.Tensor, torch.Tensor]:
        layers, width = model.num_layers, model.proj_size or model.hidden_size
        return draw(layers, 2, width, seed=5), draw(layers, 2, model.hidden_size, seed=6)

    return pair


@pytest.mark.parametrize("given", [True, False], ids=["given start", "zero start"])
@pytest.mark.rows(4)
def test_trajectory(make, reference, start, close, differ, x, form, given) -> None:
    model = make(**form)
    pair = start(model) if given else None
    twin = reference(model)
    trajectory = model.rollout(x, model.pack_state(*pair) if given else None)
    h, c = model.unpack_state(trajectory.states)
    expected_h, expected_c = states_of(twin, x, pair)
    close(h, expected_h, 1e-12)
    close(c, expected_c, 1e-12)
    out, (h_n, c_n) = twin(x, pair)
    close(h[-1], out, 1e-12)
    for ours, theirs in zip(model.unpack_state(trajectory.final), (h_n, c_n), strict=True):
        close(ours, theirs, 1e-12)
    differ(trajectory.states, make(**form, seed=1).rollout(x).states)
    differ(trajectory.states, model.rollout(x, x.new_ones(2, model.width)).states)


def test_trajectory_is_batch_first(make, reference, draw, close, differ) -> None:
    model = make()
    x = draw(4, 4, 3, seed=2)  # as many trials as steps, so that a swap of the two goes unnoticed by shape
    expected, _ = reference(model, batch_first=False)(x.transpose(0, 1).contiguous())
    h = model.rollout(x).component("h")
    close(h, expected.transpose(0, 1), 1e-12)
    differ(h, expected)


def test_a_masked_trial_ends_as_a_packed_sequence(make, reference, close, differ, x, mask, form) -> None:
    model = make(**form)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, mask.sum(dim=1), batch_first=True)
    _, expected = reference(model)(packed)
    final = model.unpack_state(model.rollout(x, mask=mask).final)
    for ours, theirs, whole in zip(final, expected, model.unpack_state(model.rollout(x).final), strict=True):
        close(ours, theirs, 1e-12)
        differ(ours, whole)


@pytest.mark.parametrize("order", [(1, 0, 2, 3), (0, 2, 1, 3), (0, 1, 3, 2), (3, 1, 2, 0)])
def test_gate_order(make, reference, close, differ, x, order) -> None:
    model = make()
    states = model.rollout(x).states
    with torch.no_grad():
        for parameter in model.parameters():
            gates = parameter.chunk(4)
            parameter.copy_(torch.cat([gates[gate] for gate in order]))
    differ(model.rollout(x).states, states)
    close(model.rollout(x).component("h"), reference(model)(x)[0], 1e-12)


def test_parameters_are_shared_by_name_both_ways(make, reference, close, differ, x, form) -> None:
    twin, model = reference(make(**form, seed=1)), make(**form, seed=3)
    last = list(model.components)[-2]
    differ(model.rollout(x).component(last), twin(x)[0])
    model.load_state_dict(twin.state_dict())
    close(model.rollout(x).component(last), twin(x)[0], 1e-12)
    assert list(model.state_dict()) == list(twin.state_dict())
    assert [p.shape for p in model.parameters()] == [p.shape for p in twin.parameters()]


@pytest.mark.parametrize("given", [True, False], ids=["given start", "zero start"])
@pytest.mark.rows(4)
def test_gradients(make, reference, start, draw, close, differ, x, form, given) -> None:
    model = make(**form)
    twin = reference(model)
    err_h, err_c = draw(*start(model)[0].shape, 5, seed=7), draw(*start(model)[1].shape, 5, seed=8)
    err_h, err_c = err_h.movedim(-1, 2), err_c.movedim(-1, 2)
    err = model.pack_state(err_h, err_c)  # [B, T, width]
    pair = tuple(value.requires_grad_() for value in start(model)) if given else None
    h, c = states_of(twin, x, pair)
    ((h * err_h).sum() + (c * err_c).sum()).backward()
    expected = torch.cat([p.grad.reshape(-1) for p in twin.parameters()])

    h0 = model.pack_state(*pair).detach().requires_grad_() if given else None
    (model.rollout(x, h0).states * err).sum().backward()
    close(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected, 1e-10)
    if given:
        close(h0.grad, model.pack_state(*(value.grad for value in pair)), 1e-10)

    flow = linearize(model, x, h0)
    update = flow.J.T @ flow.P.T
    close(update(err), expected, 1e-10)
    differ(flow.J.T(err), expected)
    differ(update(err.flip(1)), expected)


@pytest.mark.rows(3)
def test_gradient_of_a_trainable_initial_state(make, reference, draw, close, differ, x, form) -> None:
    model = make(**form, trainable_initial_state=True)
    last = list(model.components)[-2]
    place = linearize(model, x).P.domain["hidden"].part(last).slice
    err = x.new_zeros(2, 5, model.width)
    err[..., place] = draw(2, 5, place.stop - place.start, seed=7)
    pair = [value.requires_grad_() for value in model.unpack_state(model.h0.detach())]
    out, _ = reference(model)(x, tuple(value.unsqueeze(1).expand(-1, 2, -1).contiguous() for value in pair))
    (out * err[..., place]).sum().backward()
    flow = linearize(model, x)
    part = flow.J.domain["parameter"].part("h0").slice
    close((flow.J.T @ flow.P.T)(err)[part], model.pack_state(*(value.grad for value in pair)), 1e-10)
    given = linearize(model, x, model.h0.detach().expand(2, -1))
    assert torch.equal((given.J.T @ given.P.T)(err)[part], x.new_zeros(model.width))
    differ(flow.trajectory.states, linearize(make(**form), x).trajectory.states)
