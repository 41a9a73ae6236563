"""What is impossible in a study is found before anything is trained, all of it together."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch
import xarray as xr
from attrs import evolve, frozen

from kpframe import LearningRule, Model
from kpframe.errors import ArgumentError, SettingsError, UnknownNameError, UnsupportedError
from kpframe.plugin import ModelSpec, QuantitySpec, RuleSpec, hookimpl, setting, temporary
from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity
from kpframe.study._running.training import Trainer
from kpframe.study._settings import StudySettings
from kpframe.study._study_file import check as _check
from kpframe.study._study_file.check import check_study
from kpframe.study._study_file.reading import check_plugins, parse_study

pytestmark = pytest.mark.usefixtures("offered", "picky")


class Wide(Model):
    """A model with two components, of which no more than 8 units can be made."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        if hidden_size > 8:
            raise ArgumentError(f"hidden_size: expected at most 8 here, got {hidden_size}")
        super().__init__(input_size, {"h": hidden_size, "c": hidden_size})
        self.U = torch.nn.Parameter(torch.randn(2 * hidden_size, input_size))

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        return torch.tanh(h + x @ self.U.T)


class Narrow(LearningRule):
    """A rule for models of one component."""

    def change(self, update):
        if update.flow.P.domain.shape[-1] > 4:
            raise UnsupportedError("it needs a state of at most 4 entries")
        return update


class Clumsy(LearningRule):
    """A rule with a fault of its own."""

    def change(self, update):
        raise ZeroDivisionError("oh")


class Long(Quantity):
    """Needs long trials."""

    def __init__(self, least: int) -> None:
        self.least = least

    def check(self, moment: Moment) -> None:
        if moment.probe.inputs.shape[1] < self.least:
            raise ArgumentError(f"expected trials of {self.least} steps, got shorter ones")

    def measure(self, moment: Moment) -> xr.Dataset:
        raise AssertionError("it is measured before the study runs")


class Comparing(Long):
    needs = ("rules",)


@frozen
class Size:
    input_size: int = setting(ge=1)
    hidden_size: int = setting(ge=1)


@frozen
class Least:
    least: int = setting(1, ge=1)


class Picky:
    @hookimpl
    def kpframe_models(self):
        yield ModelSpec("wide", "kpf_picky:Wide", settings=Size)

    @hookimpl
    def kpframe_rules(self):
        yield RuleSpec("narrow", "kpf_picky:Narrow")
        yield RuleSpec("clumsy", "kpf_picky:Clumsy")

    @hookimpl
    def kpframe_quantities(self):
        yield QuantitySpec("long", "kpf_picky:Long", settings=Least)
        yield QuantitySpec("comparing", "kpf_picky:Comparing", settings=Least)


@pytest.fixture(scope="module")
def picky() -> Iterator[None]:
    module = ModuleType("kpf_picky")
    for part in (Wide, Narrow, Clumsy, Long, Comparing):
        setattr(module, part.__name__, part)
    sys.modules["kpf_picky"] = module
    try:
        with temporary(Picky()):
            yield
    finally:
        del sys.modules["kpf_picky"]


def study_of(**changes: Any) -> StudySettings:
    table = {
        "task": {"name": "sum"},
        "network": [{"name": "small"}, {"name": "wide", "hidden_size": 3}],
        "training": {"steps": 4},
        "measure": {"steps": [0, 4], "trials": 3},
        "quantity": [{"name": "long"}],
    }
    return parse_study({**table, **changes}, "here")


def lines_of(study: StudySettings) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        check_study(study)
    return str(caught.value).splitlines()


def test_what_is_possible_passes_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(Trainer, "run", lambda self: made.append(self))
    before = torch.random.get_rng_state()
    check_study(
        study_of(
            rule=[{"name": "own_window", "label": "short"}],
            quantity=[{"name": "comparing"}, {"name": "long", "label": "again", "least": 5}],
            training={"steps": 4, "rules": ["own_exact", "short"]},
            seeds=2,
            sweep={"network.wide.hidden_size": [2, 8], "training.learning_rate": [0.1, 0.2]},
        )
    )
    assert made == []
    assert torch.equal(torch.random.get_rng_state(), before)


def test_everything_impossible_is_told_at_once() -> None:
    study = study_of(
        network=[{"name": "small", "reads": "c"}, {"name": "wide", "hidden_size": 3, "reads": "c"}],
        rule=[{"name": "narrow"}, {"name": "own_twice"}],
        quantity=[{"name": "comparing"}, {"name": "long", "least": 6}],
        training={"steps": 4, "rules": ["own_exact", "narrow"]},
    )
    assert lines_of(study) == [
        "network[0].reads: component: expected one of 'h', got 'c'",
        "quantity[1] 'long' of network[1] 'wide': expected trials of 6 steps, got shorter ones",
        "rule[0] with network[1] 'wide': it needs a state of at most 4 entries",
        "training.rules[1] with network[1] 'wide': it needs a state of at most 4 entries",
    ]


def test_a_point_of_the_sweep_is_named() -> None:
    study = study_of(sweep={"network.wide.hidden_size": [3, 9, 8, 10], "network.wide.reads": ["h", "d"]})
    assert lines_of(study) == [
        "network[1].reads: component: expected one of 'h', 'c', got 'd' (at hidden_size 3, reads d, and at "
        "1 more)",
        "network[1]: hidden_size: expected at most 8 here, got 9 (at hidden_size 9, reads h, and at 3 more)",
    ]


def test_rules_that_nothing_compares_and_comparisons_of_nothing() -> None:
    assert lines_of(study_of(rule=[{"name": "own_twice"}, {"name": "own_exact"}])) == [
        f'rule[{n}]: expected a quantity that compares rules, [[quantity]] name = "rules", got none'
        for n in (0, 1)
    ]
    trained = {"steps": 4, "rules": ["own_twice"]}
    check_study(study_of(rule=[{"name": "own_twice"}], training=trained))  # a table may be to train by
    assert lines_of(study_of(quantity=[{"name": "comparing"}])) == [
        "quantity[0] 'comparing': expected learning rules to compare, [[rule]], got none"
    ]


def test_a_rule_with_a_fault_of_its_own_costs_its_own_figures_alone() -> None:
    check_study(study_of(rule=[{"name": "clumsy"}], quantity=[{"name": "comparing"}]))


def test_studies_made_in_python_are_held_to_the_same() -> None:
    good = study_of()
    wrong = evolve(
        good,
        seeds=(0, 1),
        measure=evolve(good.measure, steps=(0, 9), operators=("K", "J")),
        networks=(evolve(good.networks[0], settings={"seed": 3}), *good.networks[1:]),
    )
    assert lines_of(wrong) == [
        "network[0].seed: expected one of the settings of model 'small' (input_size, gain), "
        "got an unknown name",
        "network[0].seed: expected none where the study has several seeds, each of which draws initial "
        "weights of its own, got 3",
        "measure.steps[1]: expected a whole number from 0 to 4, the last step of the training, got 9",
        "measure.operators[1]: expected a product that maps states to states, got 'J', which maps parameters "
        "to states",
    ]


def test_names_are_looked_up_before_anything_is_made() -> None:
    study = study_of(task={"name": "summ"}, quantity=[{"name": "longer"}], plugins=["kpf-not-there"])
    found = lines_of(study)
    assert found[0].startswith("task.name: no task 'summ': this study needs kpf-not-there")
    assert found[1].startswith("quantity[0].name: no quantity 'longer': this study needs kpf-not-there")
    with pytest.raises(UnknownNameError, match="pip install kpf-not-there"):
        check_plugins(study)
    check_plugins(study_of())


def test_an_axis_has_another_name_than_what_is_recorded() -> None:
    sweep = [
        {"name": "weights", "path": "training.learning_rate", "values": [0.1, 0.2]},
        {"name": "weight", "path": "training.batch_size", "values": [1, 2]},
    ]
    assert lines_of(study_of(sweep=sweep, quantity=[{"name": "own_noise"}])) == [
        "sweep.weights: expected another name for the dimension, got 'weights', which is that of something "
        'recorded; write [sweep.NAME] path = "training.learning_rate" values = [...]'
    ]
    check_study(study_of(sweep=sweep, quantity=[{"name": "own_moved"}]))


def test_a_setting_that_one_network_alone_has_is_swept_by_its_label() -> None:
    assert lines_of(study_of(sweep={"network.hidden_size": [2, 3]})) == [
        "sweep[0]: expected one of the settings of model 'small' (input_size, gain), got 'hidden_size'; "
        "network.wide.hidden_size is that of 'wide' alone"
    ]
    check_study(study_of(sweep={"network.wide.hidden_size": [2, 3]}))


def test_lines_begin_with_the_file_where_there_is_one() -> None:
    with pytest.raises(SettingsError, match=r"^a\\udcff.toml: network\[0\].reads: "):
        check_study(study_of(network=[{"name": "small", "reads": "x"}]), "a\udcff.toml")


def test_a_network_that_cannot_be_trained_by_its_loss_is_found() -> None:
    class Cut(Wide):
        def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
            if torch.is_grad_enabled():
                raise ArithmeticError("it has no derivative")
            return super().step(x, h)

    cut = study_of(network=[{"name": "wide", "hidden_size": 3}])
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(sys.modules["kpf_picky"], "Wide", Cut)
        assert lines_of(cut) == ["training with network[0] 'wide': ArithmeticError: it has no derivative"]
        check_study(
            study_of(
                network=[{"name": "wide", "hidden_size": 3}], training={"steps": 0}, measure={"steps": [0]}
            )
        )


def test_a_rule_that_needs_more_trials_gets_them() -> None:
    class Many(LearningRule):
        least = 3

        def change(self, update):
            if update.flow.P.domain.shape[0] < self.least:
                raise UnsupportedError(f"it needs {self.least} trials")
            return update

    study = study_of(rule=[{"name": "own_twice"}], quantity=[{"name": "comparing"}])  # of 3 trials
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_check, "create_rule", lambda name: Many())
        check_study(study)
        Many.least = 4
        assert lines_of(study)[0] == "rule[0] with network[0] 'small': it needs 4 trials"


def test_rules_are_tried_on_few_trials() -> None:
    seen = []

    class Watching(LearningRule):
        def change(self, update):
            seen.append(update.flow.P.domain.shape[0])
            return update

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(_check, "create_rule", lambda name: Watching())
        check_study(study_of(rule=[{"name": "own_twice"}], quantity=[{"name": "comparing"}]))
    assert seen == [_check.TRIED] * 2
