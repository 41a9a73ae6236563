"""The training loop on a toy network and a toy task: two gradients, two optimizers, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from attrs import evolve

from kpframe import LearningRule, Model, Task
from kpframe.errors import ArgumentError, NonFiniteError, NotLinearError, SettingsError
from kpframe.plugin._settings import build_settings
from kpframe.study._running.training import Trainer, TrainingSettings, backward_gradient, operator_gradient
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Trials

from ..toy_rules import Exact, Window  # noqa: TID252


class Toy(Model):
    """``h' = phi(W h + U x + b)``, with a trainable initial state."""

    def __init__(self, hidden_size: int = 6, seed: int = 0, phi=torch.tanh) -> None:
        super().__init__(2, {"h": hidden_size}, trainable_initial_state=True)
        generator = torch.Generator().manual_seed(seed)
        drawn = torch.randn(hidden_size, hidden_size + 3, generator=generator) / hidden_size**0.5
        self.W = torch.nn.Parameter(drawn[:, :hidden_size].clone())
        self.U = torch.nn.Parameter(drawn[:, hidden_size:-1].clone())
        self.b = torch.nn.Parameter(drawn[:, -1].clone())
        self.phi = phi

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        return self.phi(h @ self.W.T + x @ self.U.T + self.b)


class Sum(Task):
    """Report the sum over two channels and all steps, or its sign (two classes); some trials end early."""

    def __init__(self, loss: str = "mse", seed: int = 0) -> None:
        super().__init__(input_size=2, output_size=2 if loss == "cross_entropy" else 1, loss=loss, seed=seed)

    def draw(self, batch_size: int, generator: torch.Generator, split: str) -> Trials:
        inputs = torch.randn(batch_size, 7, 2, generator=generator, dtype=torch.float64)
        mask = torch.arange(7) < torch.randint(4, 8, (batch_size, 1), generator=generator)
        inputs = inputs * mask[..., None]
        total = inputs.sum(dim=2).cumsum(dim=1) / 4
        targets = (total > 0).long() if self.loss == "cross_entropy" else total[..., None]
        scored = mask & (torch.arange(7) >= 2)
        return Trials(inputs, targets, mask, scored, np.full((batch_size, 7), "sum"))


class Bent(Exact):
    linear = False


def trainer(rule=None, *, seed=0, loss="mse", phi=torch.tanh, stream=3, task=None, **settings) -> Trainer:
    """Return a trainer of a new network and readout, through the operators if there is a rule."""
    model, task = Toy(seed=seed, phi=phi), task or Sum(loss)
    readout = Readout(6, task.output_size, generator=seed)
    settings = {"gradient": "operators" if rule else "autograd", "batch_size": 8} | settings
    return Trainer(model, readout, task, TrainingSettings(**settings), rule=rule, seed=stream)


def losses(made: Trainer) -> list[float]:
    return [progress.loss for progress in made.run()]


def gradients(
    rule: LearningRule | None, loss: str, dtype: torch.dtype
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return the gradients of model and readout by name, and the loss."""
    made = trainer(rule, loss=loss)
    model, readout = made.model.to(dtype), made.readout.to(dtype)
    trials = made.task.sample(8, generator=1, dtype=dtype)
    if rule is None:
        value = backward_gradient(model, readout, trials, made.task)
    else:
        value = operator_gradient(model, readout, trials, made.task, rule)
    named = [*model.named_parameters(prefix="model"), *readout.named_parameters(prefix="readout")]
    return {name: p.grad for name, p in named}, value


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    assert one.dtype == other.dtype
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_operators_give_the_gradient_of_backward(loss, dtype, rtol) -> None:
    expected, value = gradients(None, loss, dtype)
    found, same_value = gradients(Exact(), loss, dtype)
    short, _ = gradients(Window(), loss, dtype)
    assert list(found) == list(expected)
    assert set(found) == {"model.W", "model.U", "model.b", "model.h0", "readout.weight", "readout.bias"}
    assert abs(float(value - same_value)) <= rtol * float(value)
    for name, gradient in expected.items():
        assert distance(found[name], gradient) <= rtol
        if name.startswith("model."):
            assert distance(short[name], gradient) > 1e-2
        else:
            assert torch.equal(short[name], found[name])


@pytest.mark.parametrize("rule", [None, Exact()], ids=["autograd", "operators"])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
def test_padding_is_not_looked_at(loss, rule) -> None:
    """Padded inputs change no gradient, be they so large that a step on them leaves the finite numbers."""
    task = Sum(loss)
    trials = task.sample(8, generator=1)
    huge = evolve(trials, inputs=torch.where(trials.mask[..., None], trials.inputs, 3e38))
    whole = evolve(huge, mask=torch.ones_like(trials.mask))

    def gradient(own: Trials) -> torch.Tensor:
        model, readout = Toy(phi=lambda u: u), Readout(6, task.output_size, generator=0)
        if rule is None:
            backward_gradient(model, readout, own, task)
        else:
            operator_gradient(model, readout, own, task, rule)
        return torch.cat([p.grad.flatten() for p in (*model.parameters(), *readout.parameters())])

    expected = gradient(trials)
    assert bool(torch.isfinite(expected).all())
    assert distance(gradient(huge), expected) <= 1e-6
    with pytest.raises(NonFiniteError):
        operator_gradient(Toy(phi=lambda u: u), Readout(6, task.output_size), whole, task, Exact())


@pytest.mark.parametrize("rule", [None, Exact()], ids=["autograd", "operators"])
def test_an_infinite_loss_of_finite_outputs_is_seen(rule) -> None:
    """1e25 is a number in float32, and its square is not."""
    made = trainer(rule, steps=2)
    with torch.no_grad():
        made.readout.bias.fill_(1e25)
    states = made.model.rollout(made.task.sample(2, generator=0).inputs).states
    assert bool(torch.isfinite(made.readout(states)).all())
    with pytest.raises(NonFiniteError, match=r"diverged at step 1; .*loss: expected a finite number"):
        losses(made)
    with torch.no_grad():
        made.readout.bias.fill_(1e15)
    assert losses(trainer(rule, steps=1))[0] < 10


@pytest.mark.parametrize(("optimizer", "rate"), [("adam", 0.01), ("sgd", 0.2)])
@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("rule", [None, Exact()], ids=["autograd", "operators"])
@pytest.mark.rows(6)
def test_training_learns(optimizer, rate, loss, rule) -> None:
    made = trainer(rule, loss=loss, optimizer=optimizer, learning_rate=rate, steps=30, batch_size=32)
    trials = made.task.sample(200, split="test", generator=0)
    before, worse = made.evaluate(trials)
    progress = list(made.run())
    after, better = made.evaluate(trials)
    assert [p.step for p in progress] == list(range(1, 31))
    assert after < 0.75 * before
    assert better > worse + 0.1
    still = trainer(rule, loss=loss, optimizer=optimizer, learning_rate=1e-9, steps=2)
    list(still.run())
    assert still.evaluate(trials)[0] == pytest.approx(before, rel=1e-6)


def test_one_step_of_sgd_by_hand() -> None:
    for rule in (Exact(), Window()):
        made, copy = trainer(rule, optimizer="sgd", learning_rate=0.3, steps=1), trainer(rule)
        trials = copy.task.sample(8, generator=torch.Generator().manual_seed(3))
        loss = operator_gradient(copy.model, copy.readout, trials, copy.task, rule)
        assert losses(made) == [float(loss)]
        for module, twin in ((made.model, copy.model), (made.readout, copy.readout)):
            for name, parameter in twin.named_parameters():
                moved = parameter.detach() - 0.3 * parameter.grad
                assert torch.allclose(dict(module.named_parameters())[name], moved, rtol=1e-6, atol=1e-8)
                # the first scored step is the third: a window of two does not reach the initial state
                still = name == "h0" and isinstance(rule, Window)
                assert torch.equal(moved, parameter) == still


@pytest.mark.parametrize("rule", [None, Exact()], ids=["autograd", "operators"])
@pytest.mark.rows(2)
def test_seeds(rule) -> None:
    settings = {"learning_rate": 0.01, "steps": 4}
    first = losses(trainer(rule, **settings))
    assert len(first) == 4
    assert losses(trainer(rule, **settings)) == first
    assert losses(trainer(rule, **settings, stream=4)) != first
    assert losses(trainer(rule, **settings, seed=1)) != first
    assert losses(trainer(rule, **settings, batch_size=9)) != first


def test_without_a_seed_the_task_draws() -> None:
    def run(task_seed: int) -> list[float]:
        return losses(trainer(stream=None, task=Sum(seed=task_seed), steps=5))

    assert run(0) == run(0)
    assert run(0) != run(1)


@pytest.mark.slow
def test_both_gradients_train_alike() -> None:
    settings = {"learning_rate": 0.01, "steps": 20}
    expected = np.array(losses(trainer(**settings)))
    assert np.abs(np.array(losses(trainer(Exact(), **settings))) / expected - 1).max() < 1e-5
    assert np.abs(np.array(losses(trainer(Window(), **settings))) / expected - 1).max() > 1e-2


def test_momentum() -> None:
    settings = {"optimizer": "sgd", "learning_rate": 0.05, "steps": 5}
    plain, heavy = losses(trainer(**settings)), losses(trainer(**settings, momentum=0.9))
    assert heavy[:2] == plain[:2]  # the first update is the same, and shows in the second loss
    assert heavy[2] != plain[2]


def test_frozen_readout_and_frozen_parameters_stay() -> None:
    for rule in (None, Exact()):
        made = trainer(rule, learning_rate=0.05, steps=3)
        made.readout.requires_grad_(False)
        made.model.W.requires_grad_(False)
        made = Trainer(made.model, made.readout, made.task, made.settings, rule=rule, seed=3)
        before = {**made.model.state_dict(), **made.readout.state_dict()}
        before = {name: value.clone() for name, value in before.items()}
        list(made.run())
        after = {**made.model.state_dict(), **made.readout.state_dict()}
        moved = {name for name, value in after.items() if not torch.equal(value, before[name])}
        assert moved == {"U", "b", "h0"}


@pytest.mark.parametrize("rule", [None, Exact()], ids=["autograd", "operators"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.rows(4)
def test_divergence_names_the_step(rule, optimizer) -> None:
    made = trainer(rule, phi=torch.relu, optimizer=optimizer, learning_rate=1e25, steps=10, batch_size=32)
    run = made.run()
    seen = [next(run).loss]
    with pytest.raises(NonFiniteError, match=r"training diverged at step \d+; lower learning_rate") as caught:
        seen += [progress.loss for progress in run]
    assert f"at step {len(seen) + 1};" in str(caught.value)
    assert all(np.isfinite(seen))
    assert len(losses(trainer(rule, phi=torch.relu, optimizer=optimizer, steps=10))) == 10


def test_a_parameter_that_is_not_finite_is_seen_at_step_one() -> None:
    made = trainer(Exact(), steps=2)
    with torch.no_grad():
        made.model.U[1, 0] = torch.nan
    with pytest.raises(NonFiniteError, match=r"step 1; .*parameter U: .* got nan at index \[1, 0\]"):
        losses(made)


def test_model_and_readout_share_no_parameter() -> None:
    model, readout = Toy(), Readout(6, 1, generator=0)
    readout.weight = model.U = torch.nn.Parameter(torch.ones(1, 6))
    with pytest.raises(ArgumentError, match="parameters of its own, got the model's U as its weight"):
        Trainer(model, readout, Sum(), TrainingSettings())


def test_rule_and_gradient_go_together() -> None:
    with pytest.raises(ArgumentError, match="rule: expected a LearningRule, got None"):
        trainer(gradient="operators")
    with pytest.raises(ArgumentError, match=r"rule: expected None with gradient='autograd', got Exact\(\)"):
        trainer(Exact(), gradient="autograd")
    with pytest.raises(NotLinearError, match=r"Bent\(\) is not linear in the error"):
        losses(trainer(Bent()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"learning_rate": 0}, "learning_rate: expected .* > 0, got 0"),
        ({"batch_size": 0}, "batch_size: expected .* >= 1, got 0"),
        ({"steps": -1}, "steps: expected .* >= 0, got -1"),
        ({"momentum": 1.0}, "momentum: expected .* < 1, got 1.0"),
        ({"optimizer": "adamw"}, "optimizer: expected .* did you mean 'adam'"),
        ({"gradient": "autgrad"}, "gradient: expected .* did you mean 'autograd'"),
        ({"lr": 0.1}, "lr: expected one of its settings"),
    ],
)
def test_refused_settings(settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        build_settings(TrainingSettings, settings, owner="training")


def test_no_steps_is_no_training() -> None:
    made = trainer(steps=0)
    before = {name: value.clone() for name, value in made.model.state_dict().items()}
    assert losses(made) == []
    assert all(torch.equal(value, before[name]) for name, value in made.model.state_dict().items())
