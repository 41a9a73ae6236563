"""Noise as columns of the input: scaled as documented, frozen in A and J, the same again for one seed."""

from __future__ import annotations

import math

import pytest
import torch
from kpframe_rnn.model import RNN, NoisyRNN
from kpframe_rnn.noise import NoisyTask

from kpframe import create_model, create_task, linearize
from kpframe.errors import ArgumentError, ShapeError
from kpframe.readout import Readout
from kpframe.training import Trainer, TrainingSettings

F64 = torch.float64


def silent(**settings) -> RNN:
    """Return a network whose units nothing but noise drives: all its parameters are zero."""
    model = NoisyRNN(3, 4, **{"state_noise": 0.0} | settings).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    return model


@pytest.mark.parametrize(
    ("settings", "columns"),
    [
        ({"state_noise": 0.1}, 3 + 4),
        ({"state_noise": 0.1, "num_layers": 2}, 3 + 8),
        ({"input_noise": 0.1}, 3 + 3),
        ({"input_noise": 0.1, "state_noise": 0.1, "num_layers": 3}, 3 + 3 + 12),
        ({}, 3),
    ],
)
def test_columns(settings, columns) -> None:
    model = NoisyRNN(3, 4, **{"state_noise": 0.0} | settings)
    assert (model.signal_size, model.input_size) == (3, columns)
    x = torch.randn(2, 5, 3)
    noisy = model.with_noise(x, 0)
    assert noisy.shape == (2, 5, columns)
    assert torch.equal(noisy[..., :3], x)


def test_draws(draw) -> None:
    model = NoisyRNN(3, 100, state_noise=0.1).double()
    x = draw(20, 50, 3)
    noisy = model.with_noise(x, 4)[..., 3:]
    assert float(noisy.mean()) == pytest.approx(0, abs=0.015)  # 100,000 draws: standard error 0.003
    assert float(noisy.std()) == pytest.approx(1, abs=0.01)
    assert torch.equal(noisy, model.with_noise(x, 4)[..., 3:])
    assert not torch.equal(noisy, model.with_noise(x, 5)[..., 3:])
    single = model.with_noise(x.float(), 4)
    assert single.dtype == torch.float32
    assert torch.equal(single[..., 3:], noisy.float())
    generator = torch.Generator().manual_seed(1)
    assert not torch.equal(model.with_noise(x, generator), model.with_noise(x, generator))
    torch.manual_seed(0)
    first = model.with_noise(x)
    torch.manual_seed(0)
    assert torch.equal(first, model.with_noise(x))


@pytest.mark.parametrize("form", ["vanilla", "rate", "current"])
def test_where_noise_enters(make, draw, close, differ, form) -> None:
    """A noisy network is the plain one with the scaled draws added to its signals and preactivations."""
    leaky = form != "vanilla"
    settings = {"form": form, "alpha": 0.4 if leaky else 1.0}
    noisy, plain = make(input_noise=0.2, state_noise=0.3, **settings), make(**settings)
    noisy.load_state_dict(plain.state_dict())
    x = noisy.with_noise(draw(2, 5, 3, seed=11), 3)
    scale = math.sqrt(2 / 0.4) if leaky else 1.0
    signals = x[..., :3] + scale * 0.2 * x[..., 3:6]
    theta = plain.state_dict()

    def loop(state_scale: float) -> torch.Tensor:
        h, states = torch.zeros(2, 4, dtype=F64), []
        for t in range(5):
            read = torch.tanh(h) if form == "current" else h
            u = signals[:, t] @ theta["weight_ih_l0"].T + read @ theta["weight_hh_l0"].T
            u = u + theta["bias_ih_l0"] + theta["bias_hh_l0"] + state_scale * x[:, t, 6:]
            drive = u if form == "current" else torch.tanh(u)
            h = 0.6 * h + 0.4 * drive if leaky else drive
            states.append(h)
        return torch.stack(states, dim=1)

    states = noisy.rollout(x).states
    close(states, loop(scale * 0.3), 1e-14)
    differ(states, loop(0.3 if leaky else math.sqrt(2) * 0.3))
    differ(states, plain.rollout(x[..., :3]).states)


def test_each_layer_has_noise_of_its_own(make, draw) -> None:
    model = make(state_noise=0.3, num_layers=2)
    quiet = torch.zeros(1, 1, 11, dtype=F64)
    rest = model.rollout(quiet)
    moves = []
    for layer in (0, 1):
        x = quiet.clone()
        x[..., 3 + 4 * layer : 7 + 4 * layer] = 1.0
        moved = model.rollout(x)
        moves.append([not torch.equal(moved.component(c), rest.component(c)) for c in ("h_l0", "h_l1")])
    assert moves == [[True, True], [False, True]]


@pytest.mark.parametrize("alpha", [0.05, 0.5, 1.0])
@pytest.mark.rows(2)
def test_stationary_variance_of_state_noise(draw, alpha) -> None:
    """A leaky unit that only noise drives: variance 2 sigma^2 / (2 - alpha), nearly sigma^2."""
    model = silent(form="current", alpha=alpha, state_noise=0.3)
    x = model.with_noise(torch.zeros(500, 400, 3, dtype=F64), 8)
    late = model.rollout(x).states[:, 200:].detach()
    expected = 2 * 0.3**2 / (2 - alpha)
    # 2000 unit-trials of at least 10 correlation times: standard error at most 1 %
    assert float(late.var()) == pytest.approx(expected, rel=0.03)
    assert float(late.var()) != pytest.approx(0.3**2 * alpha / (2 - alpha), rel=0.1)  # were sigma not scaled
    neighbours = float((late[:, 1:] * late[:, :-1]).mean() / late.var())
    assert neighbours == pytest.approx(1 - alpha, abs=0.02)


def test_stationary_variance_of_input_noise() -> None:
    model = silent(form="current", alpha=0.2, input_noise=0.3)
    with torch.no_grad():
        model.weight_ih_l0[:, 0] = 2.0
        model.weight_ih_l0[0] = 1.0
    x = model.with_noise(torch.zeros(500, 200, 3, dtype=F64), 8)
    late = model.rollout(x).states[:, 100:].detach()
    one = 2 * 0.3**2 / (2 - 0.2)
    assert float(late[..., 1:].var()) == pytest.approx(4 * one, rel=0.03)  # one signal, weight 2
    assert float(late[..., 0].var()) == pytest.approx(3 * one, rel=0.03)  # three signals, weight 1
    assert float(torch.corrcoef(late[..., 1:3].reshape(-1, 2).T)[0, 1]) == pytest.approx(1)  # shared


def test_noise_is_frozen_in_A_and_J(make, draw, close, differ) -> None:
    """A and J at the noise that was given, which is no source of its own: the same noise, the same flow."""
    model = make(form="rate", alpha=0.4, state_noise=0.3)
    x = draw(2, 5, 3, seed=11)
    flow, again, other = (linearize(model, model.with_noise(x, seed)) for seed in (1, 1, 2))
    assert torch.equal(flow.trajectory.states, again.trajectory.states)
    assert torch.equal(flow.J.to_dense(), again.J.to_dense())
    differ(flow.trajectory.states, other.trajectory.states)
    differ(flow.A.blocks(), other.A.blocks())
    assert set(flow.K.parameters) == {"weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"}
    rate = (flow.trajectory.states - 0.6 * flow.trajectory.previous) / 0.4
    slope = 0.4 * (1 - rate**2)
    expected = 0.6 * torch.eye(4, dtype=F64) + slope.unsqueeze(-1) * model.weight_hh_l0.detach()
    close(flow.A.blocks(), expected, 1e-12)


def test_without_noise_in_the_columns_it_is_the_plain_network(make, draw, close) -> None:
    settings = {"form": "rate", "alpha": 0.4, "num_layers": 2}
    noisy, plain = make(input_noise=0.2, state_noise=0.3, **settings), make(**settings)
    assert list(noisy.state_dict()) == list(plain.state_dict())
    x = draw(2, 5, 3, seed=11)
    quiet = torch.cat([x, torch.zeros(2, 5, noisy.input_size - 3, dtype=F64)], dim=-1)
    close(noisy.rollout(quiet).states, plain.rollout(x).states, 1e-14)
    close(linearize(noisy, quiet).Phi.to_dense(), linearize(plain, x).Phi.to_dense(), 1e-12)


def test_signals_alone_are_refused(make, draw) -> None:
    model = make(state_noise=0.3)
    with pytest.raises(ShapeError, match=r"3 signals and 4 columns of noise, as model.with_noise\(x, gen"):
        model.rollout(draw(2, 5, 3))
    with pytest.raises(ShapeError, match=r"x: expected shape \[batch, time, input=7\], got shape"):
        model.rollout(draw(2, 5, 6))
    with pytest.raises(ShapeError, match=r"x: expected shape \[..., input=3\], got shape \[2, 5, 7\]"):
        model.with_noise(draw(2, 5, 7))
    assert model.rollout(model.with_noise(draw(2, 5, 3))).states.shape == (2, 5, 4)


def test_a_noisy_task_trains_a_noisy_network() -> None:
    task = create_task("flip_flop", bits=2, steps=20)
    model = create_model("noisy_rnn", input_size=2, hidden_size=16, state_noise=0.05, seed=1)
    noisy = NoisyTask(task, model.noise)
    plain, trials = task.sample(4, generator=3), noisy.sample(4, generator=3)
    assert torch.equal(trials.inputs[..., :2], plain.inputs)
    assert torch.equal(trials.targets, plain.targets)
    assert torch.equal(trials.inputs, noisy.sample(4, generator=3).inputs)
    assert float(trials.inputs[..., 2:].std()) == pytest.approx(1, abs=0.1)
    settings = TrainingSettings(steps=40, batch_size=32, learning_rate=5e-3)
    losses = [p.loss for p in Trainer(model, Readout(16, 2, generator=0), noisy, settings, seed=1).run()]
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    with pytest.raises(ArgumentError, match="noise: expected that of a model of 2 inputs, got a model of 3"):
        NoisyTask(task, RNN(3, 4).noise)
