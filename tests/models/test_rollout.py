"""Roll-outs against a loop of ``step``, and how trials, masks and components behave in them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kpframe import linearize
from kpframe.errors import AxisError


@settings(max_examples=6)
@given(
    seed=st.integers(0, 10_000),
    sizes=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 4), st.integers(1, 3)),
    h0=st.booleans(),
    mask=st.booleans(),
    trains=st.booleans(),
)
@pytest.mark.rows(4)
def test_rollout_is_a_loop_of_step(lab, toy, seed, sizes, h0, mask, trains) -> None:
    batch, time, hidden, inputs = sizes
    model = lab.make(toy, seed, inputs, hidden, trainable_initial_state=trains)
    data = lab.trials(model, seed, batch, time, h0, mask)
    run = model.rollout(**data)
    expected = lab.states(model, lab.parameters(model), **data)
    lab.close(run.states.detach(), expected, 1e-12)
    assert run.space.shape == (batch, time, model.width)
    assert run.given == h0
    lab.close(run.previous[:, 1:].detach(), expected[:, :-1], 1e-12)
    assert torch.equal(run.final, run.states[:, -1])
    changed = dict(data, x=data["x"] + 0.5)
    lab.differ(model.rollout(**changed).states.detach(), expected, 1e-6)  # a unit may be saturated


@pytest.mark.rows(4)
def test_trials_can_be_permuted(lab, toy) -> None:
    model = lab.make(toy)
    data = lab.trials(model, batch=4, h0=True, mask=True)
    order = torch.tensor([2, 0, 3, 1])
    run, shuffled = model.rollout(**data), model.rollout(**{k: v[order] for k, v in data.items()})
    lab.close(shuffled.states.detach(), run.states[order].detach(), 1e-12)
    lab.differ(shuffled.states.detach(), run.states.detach())
    flow = linearize(model, **data)
    other = linearize(model, **{k: v[order] for k, v in data.items()})
    q = lab.randn(3, *flow.Phi.domain.shape)
    lab.close(other.Phi(q[order]), flow.Phi(q)[order])


def test_later_inputs_do_not_change_earlier_states(lab, toy) -> None:
    model = lab.make(toy)
    x = lab.trials(model)["x"]
    late = x.clone()
    late[:, 2:] += 1
    first, second = model.rollout(x).states, model.rollout(late).states
    assert torch.equal(first[:, :2], second[:, :2])
    lab.differ(first[:, 2:].detach(), second[:, 2:].detach())


def test_rollout_is_differentiable(lab, structured) -> None:
    model = lab.make(structured)
    model.rollout(**lab.trials(model)).states.sum().backward()
    assert all(p.grad is not None and p.grad.any() for p in model.parameters())


def test_a_masked_step_holds_the_state(lab, toy) -> None:
    model = lab.make(toy)
    data = lab.trials(model, h0=True)
    mask = torch.tensor([[True, False, True, True], [False, True, True, False]])
    run = model.rollout(**data, mask=mask)
    previous = run.previous
    assert torch.equal(run.states[~mask], previous[~mask])
    assert not (run.states[mask] == previous[mask]).all(-1).any()
    assert not run.inputs[~mask].any()


def test_components_are_views_by_name(lab) -> None:
    run = lab.make("lstm").rollout(lab.randn(0, 2, 4, 2))
    assert torch.equal(run.component("c"), run.states[..., 3:])
    with pytest.raises(AxisError, match=r"axis 'hidden' has no part 'm' \(it has h, c\)"):
        run.component("m")
    assert repr(run) == "Trajectory(batch=2, time=4, hidden=6)"
    masked = lab.make("rnn").rollout(**lab.trials(lab.make("rnn"), mask=True))
    assert repr(masked) == "Trajectory(batch=2, time=4, hidden=3, 1 padded steps)"


def test_toys_are_the_cells_of_torch(lab) -> None:
    for toy, cell in (("rnn", "RNNCell"), ("gru", "GRUCell"), ("lstm", "LSTMCell")):
        model, wrapped = lab.make(toy, seed=6), lab.make(cell)
        theta = dict(model.named_parameters())
        with torch.no_grad():
            for name, p in wrapped.cell.named_parameters():
                p.copy_(theta[name] if name in theta else theta["bias"] * (name == "bias_ih"))
        x = lab.randn(1, 2, 5, 2)
        lab.close(model.rollout(x).states.detach(), wrapped.rollout(x).states.detach(), 1e-12)
        lab.differ(lab.make(cell).rollout(x).states.detach(), wrapped.rollout(x).states.detach())
