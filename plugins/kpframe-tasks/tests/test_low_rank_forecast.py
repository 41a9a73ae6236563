"""Low-rank forecasting: targets from a naive loop, ranks, and forecasts that are exact or cannot be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from kpframe_tasks.low_rank_forecast import LowRankForecast

from kpframe.errors import ArgumentError
from kpframe.readout import task_loss

KINDS = [(dynamics, observation) for dynamics in ("linear", "tanh") for observation in ("linear", "sine")]


def draw(task, batch=30, seed=1, **settings):
    return task.sample(batch, generator=seed, dtype=torch.float64, **settings)


@pytest.mark.parametrize(("dynamics", "observation"), KINDS)
@pytest.mark.parametrize("horizon", [0, 1, 4])
def test_trials_equal_a_naive_loop(dynamics, observation, horizon):
    settings = {"rank": 3, "dynamics": dynamics, "horizon": horizon, "input_size": 5, "output_size": 4}
    task = LowRankForecast(observation=observation, steps=8, **settings)
    trials = draw(task)
    # The same states, seen through invertible channels: linear observation has the same draws.
    plain = draw(LowRankForecast(observation="linear", steps=8, **settings))
    states = np.linalg.lstsq(task.read_in.numpy(), plain.inputs[:, 0].numpy().T, rcond=None)[0].T
    assert trials.trial["norm"] == pytest.approx(np.linalg.norm(states, axis=1))
    Q, U = task.rotation.numpy(), task.transition.numpy()
    show = np.sin if observation == "sine" else np.asarray
    for b in range(5):
        z = [states[b]]
        for _ in range(7 + horizon):
            leaky = 0.8 * z[-1] + 0.2 * np.tanh(2 * Q @ z[-1])
            z.append(U @ z[-1] if dynamics == "linear" else leaky)
        for t in range(8):
            seen = show(task.read_in.numpy() @ z[t] + task.input_bias.numpy())
            wanted = show(task.read_out.numpy() @ z[t + horizon] + task.output_bias.numpy())
            assert trials.inputs[b, t].numpy() == pytest.approx(seen, abs=1e-12)
            assert trials.targets[b, t].numpy() == pytest.approx(wanted, abs=1e-12)


def test_the_transition_is_the_orthogonal_matrix_next_to_the_mixture_and_commutes_with_the_rotation():
    task = LowRankForecast(rank=6, mixing=0.3)
    Q, U, eye = task.rotation, task.transition, torch.eye(6, dtype=torch.float64)
    for matrix in (Q, U):
        torch.testing.assert_close(matrix @ matrix.T, eye, rtol=0, atol=1e-13)
    stretch = U.T @ (0.7 * eye + 0.3 * Q)  # the polar decomposition: symmetric and positive
    torch.testing.assert_close(stretch, stretch.T, rtol=0, atol=1e-13)
    assert torch.linalg.eigvalsh(stretch).min() > 0.39
    torch.testing.assert_close(U @ Q, Q @ U, rtol=0, atol=1e-13)
    assert (U - Q).norm() > 0.1


@pytest.mark.parametrize("rank", [1, 3, 7])
@pytest.mark.parametrize("dynamics", ["linear", "tanh"])
def test_linear_channels_have_the_rank_asked_for_and_sines_fill_theirs(rank, dynamics):
    def ranks(observation):
        task = LowRankForecast(rank=rank, dynamics=dynamics, observation=observation)
        trials = draw(task, batch=60)
        return [int(torch.linalg.matrix_rank(part.flatten(0, 1))) for part in (trials.inputs, trials.targets)]

    assert ranks("linear") == [rank, rank]
    assert min(ranks("sine")) > 2 * rank


@pytest.mark.parametrize("dynamics", ["linear", "tanh"])
def test_the_best_forecast_from_one_observation_is_exact_and_that_of_another_step_is_not(dynamics):
    task = LowRankForecast(rank=4, dynamics=dynamics, horizon=3)
    trials = draw(task)
    states = trials.inputs @ torch.linalg.pinv(task.read_in).T
    right, late = (task.advance(states, steps) @ task.read_out.T for steps in (3, 2))
    assert float(task_loss(right, trials, "mse")) <= 1e-26
    assert float(task_loss(late, trials, "mse")) > 1e-3


def test_fewer_channels_than_variables_need_several_observations():
    task = LowRankForecast(rank=4, input_size=2, horizon=2)
    trials = draw(task, batch=200)

    def loss(window):
        """Return the loss of the best linear forecast from so many observations."""
        history = torch.cat([trials.inputs[:, k : 30 - window + 1 + k] for k in range(window)], dim=2)
        target = trials.targets[:, window - 1 :].flatten(0, 1)
        design = history.flatten(0, 1)
        answer = design @ torch.linalg.lstsq(design, target, driver="gelsd").solution
        return float((answer - target).square().mean() / target.square().mean())

    assert loss(1) > 0.1
    assert loss(2) <= 1e-20


def test_linear_signals_keep_their_size_and_start_with_unit_variance():
    task = LowRankForecast(rank=5, input_size=400, output_size=300, steps=40)
    trials = draw(task, batch=400)
    path = trials.inputs @ torch.linalg.pinv(task.read_in).T
    norms = path.norm(dim=2)
    torch.testing.assert_close(norms, norms[:, :1].expand_as(norms), rtol=1e-10, atol=0)
    assert float(trials.inputs.square().mean()) == pytest.approx(1, rel=0.15)
    assert float(trials.targets.square().mean()) == pytest.approx(1, rel=0.15)
    assert (path[:, 20] - path[:, 0]).norm() > 0.5 * path[:, 0].norm()


def test_noise_is_on_the_inputs_alone():
    quiet, noisy = (draw(LowRankForecast(noise=noise)) for noise in (0.0, 0.3))
    assert torch.equal(quiet.targets, noisy.targets)
    rest = noisy.inputs - quiet.inputs
    assert rest.std() == pytest.approx(0.3, rel=4 / math.sqrt(2 * rest.numel()))


def test_the_system_follows_from_the_seed_and_is_the_same_in_both_splits():
    one, same, other = (LowRankForecast(seed=seed) for seed in (0, 0, 1))
    one.sample(5)
    for name in ("rotation", "transition", "read_in", "read_out"):
        assert torch.equal(getattr(one, name), getattr(same, name))
        assert not torch.equal(getattr(one, name), getattr(other, name))
    test = draw(one, split="test")
    states = test.inputs @ torch.linalg.pinv(one.read_in).T
    assert float(task_loss(one.advance(states) @ one.read_out.T, test, "mse")) <= 1e-26


def test_scored_from_the_transient_on():
    trials = draw(LowRankForecast(transient=4))
    assert not trials.scored[:, :4].any()
    assert trials.scored[:, 4:].all()
    assert ((trials.epoch == "forecast") == trials.scored.numpy()).all()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 0}, r"rank: expected int >= 1, got 0"),
        ({"horizon": -1}, r"horizon: expected int >= 0, got -1"),
        ({"dynamics": "relu"}, r"dynamics: expected one of 'linear', 'tanh', got 'relu'"),
        ({"observation": "sin"}, r"observation: expected one of 'linear', 'sine', got 'sin'"),
        ({"mixing": 0.5}, r"mixing: expected float > 0 and < 0.5, got 0.5"),
        ({"steps": 5, "transient": 5}, r"transient: expected from 0 to 4, below steps, got 5"),
        ({"noise": math.inf}, r"noise: expected float >= 0 and < inf, got inf"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises(ArgumentError, match=message):
        LowRankForecast(**settings)
