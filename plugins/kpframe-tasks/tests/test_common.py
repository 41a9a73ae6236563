"""What holds for every task of the distribution."""

from __future__ import annotations

import inspect
import subprocess
import sys
from importlib import import_module

import kpframe_tasks
import pytest
import torch
from attrs import fields
from kpframe_tasks.adding import Adding
from kpframe_tasks.contextual_integration import ContextualIntegration
from kpframe_tasks.delayed_addition import DelayedAddition
from kpframe_tasks.digits import Digits
from kpframe_tasks.flip_flop import FlipFlop
from kpframe_tasks.low_rank_forecast import LowRankForecast
from kpframe_tasks.memory_pro import MemoryPro
from kpframe_tasks.polynomial_map import PolynomialMap

from kpframe import create_task
from kpframe.errors import SettingsError
from kpframe.readout import Readout, accuracy, error, task_loss

MAKERS = {
    "digits": Digits,
    "flip_flop": FlipFlop,
    "flip_flop_transient": lambda seed=0: FlipFlop(bits=1, steps=9, transient=4, seed=seed),
    "memory_pro": MemoryPro,
    "memory_jitter": lambda seed=0: MemoryPro(variant="delay_anti", jitter=4, noise=0.1, seed=seed),
    "memory_mixed": lambda seed=0: MemoryPro(
        variant=("pro", "anti", "delay_pro"), cue=2, jitter=1, distractor=3, seed=seed
    ),
    "adding": lambda seed=0: Adding(delay=2, jitter=3, seed=seed),
    "delayed_addition": DelayedAddition,
    "contextual_integration": ContextualIntegration,
    "contextual_jitter": lambda seed=0: ContextualIntegration(jitter=2, levels=(0.1, 0.4), seed=seed),
    "low_rank_forecast": LowRankForecast,
    "low_rank_sine": lambda seed=0: LowRankForecast(
        dynamics="tanh", observation="sine", horizon=3, noise=0.1, seed=seed
    ),
    "polynomial_map": lambda seed=0: PolynomialMap(target_dimension=6, delay=2, noise=0.1, seed=seed),
}


@pytest.fixture(params=list(MAKERS))
def make(request):
    return MAKERS[request.param]


def same(one, other) -> bool:
    return (
        torch.equal(one.inputs, other.inputs)
        and torch.equal(one.targets, other.targets)
        and torch.equal(one.mask, other.mask)
        and (one.epoch == other.epoch).all()
        and all((one.trial[name] == other.trial[name]).all() for name in one.trial)
    )


def test_the_same_seed_gives_the_same_trials_and_another_does_not(make):
    task = make()
    assert same(task.sample(6, generator=1), make().sample(6, generator=1))
    assert not same(task.sample(6, generator=1), task.sample(6, generator=2))
    assert same(make(seed=3).sample(6), make(seed=3).sample(6))
    assert not same(make(seed=3).sample(6), make(seed=4).sample(6))
    assert not same(task.sample(6), task.sample(6))


def test_the_splits_have_different_trials(make):
    task = make()
    assert not same(task.sample(6, generator=1), task.sample(6, generator=1, split="test"))


def test_the_global_random_state_is_neither_read_nor_written(make):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = make().sample(5)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(1)
    assert same(one, make().sample(5))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_readout_a_loss_and_err_work_on_them(make, dtype):
    task = make()
    trials = task.sample(7, generator=0, dtype=dtype)
    assert trials.inputs.shape[2] == task.input_size
    assert trials.inputs.dtype == dtype
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(*trials.mask.shape, 11, generator=generator, dtype=dtype)
    readout = Readout(11, task.output_size, generator=1, dtype=dtype)
    loss = task_loss(readout(states), trials, task.loss)
    assert loss.isfinite()
    err = error(readout, states, trials, task.loss)
    assert (err[~trials.scored] == 0).all()
    assert (err[trials.scored] != 0).any()
    assert isinstance(accuracy(readout(states), trials), float)


def test_a_step_against_err_lowers_the_loss(make):
    task = make()
    trials = task.sample(7, generator=0, dtype=torch.float64)
    states = torch.zeros(*trials.mask.shape, 11, dtype=torch.float64)
    readout = Readout(11, task.output_size, generator=1, dtype=torch.float64)
    err = error(readout, states, trials, task.loss)
    before, down, up = (
        float(task_loss(readout(states + step * err).detach(), trials, task.loss)) for step in (0, -0.1, 0.1)
    )
    assert down < before < up


def test_the_hook_offers_tasks_whose_settings_are_the_factories_arguments():
    specs = {spec.name: spec for spec in kpframe_tasks.kpframe_tasks()}
    assert set(specs) == {
        "digits",
        "memory_pro",
        "flip_flop",
        "adding",
        "delayed_addition",
        "contextual_integration",
        "low_rank_forecast",
        "polynomial_map",
        "neurogym",
        "time_series",
    }
    for spec in specs.values():
        module, name = spec.factory.split(":")
        arguments = inspect.signature(getattr(import_module(module), name)).parameters
        settings = {setting.name: setting.default for setting in fields(spec.settings)}
        assert {name: argument.default for name, argument in arguments.items()} == settings


def test_the_hook_module_needs_no_torch():
    code = "import sys, kpframe_tasks; list(kpframe_tasks.kpframe_tasks()); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("digits", {"test_fraction": 1}, r"test_fraction: expected float > 0 and < 1, got 1"),
        ("memory_pro", {"variant": "memory"}, r"variant: expected one of 'pro', 'anti'"),
        ("memory_pro", {"stimulus": 2.5}, r"stimulus: expected int >= 1, got 2.5"),
        ("flip_flop", {"probability": 1.1}, r"probability: expected float >= 0 and <= 1, got 1.1"),
        ("flip_flop", {"bit": 2}, r"bit: expected one of its settings .*did you mean 'bits'"),
    ],
)
def test_settings_are_checked_before_a_task_is_built(name, values, message):
    with pytest.raises(SettingsError, match=message):
        create_task(name, **values)
