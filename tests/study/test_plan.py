"""What a study would do and cost: what is counted is exact, what is measured is measured."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import frozen

from kpframe.plugin import QuantitySpec, hookimpl, setting, temporary
from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity
from kpframe.study._settings import StudySettings
from kpframe.study._study_file import measured as _measured
from kpframe.study._study_file.peak import forget_peak, peak_bytes
from kpframe.study._study_file.plan import Cost, Plan, plan
from kpframe.study._study_file.reading import parse_study

pytestmark = pytest.mark.usefixtures("offered", "spending")
ABOUT = {"long_name": "a figure", "units": "1"}


class Spending(Quantity):
    """Spends 3 products, and 2 for each of the budget, beside what it is told to."""

    slept = 0.0

    @classmethod
    def pass_time(cls, seconds: float) -> None:
        cls.slept += seconds

    def __init__(self, seconds: float, megabytes: int, fails: bool) -> None:
        self.seconds, self.megabytes, self.fails = seconds, megabytes, fails

    def measure(self, moment: Moment) -> xr.Dataset:
        time.sleep(self.seconds * moment.around.budget)
        assert moment.first is not None
        assert moment.previous is not None
        q = torch.ones(moment.flow.P.domain.shape, dtype=torch.float64)
        for number in (3, 2 * moment.around.budget):
            moment.flow.P(q.expand(number, *q.shape))
        held = np.ones(self.megabytes * 2**17)
        if self.fails:
            raise ArithmeticError("it cannot")
        return xr.Dataset({"size": ((), held.sum(), ABOUT), "much": ("place", np.ones(5000), ABOUT)})


@frozen
class Spends:
    seconds: float = setting(0.0, ge=0)
    megabytes: int = setting(1, ge=1)
    fails: bool = setting(False)


class Offers:
    @hookimpl
    def kpframe_quantities(self):
        yield QuantitySpec("spending", "kpf_spending:Spending", settings=Spends)


@pytest.fixture(scope="module")
def spending() -> Iterator[None]:
    module = ModuleType("kpf_spending")
    module.Spending = Spending
    sys.modules["kpf_spending"] = module
    try:
        with temporary(Offers()):
            yield
    finally:
        del sys.modules["kpf_spending"]


def study_of(quantity: dict[str, Any] | None = None, **changes: Any) -> StudySettings:
    table = {
        "dtype": "float64",
        "task": {"name": "sum"},
        "network": [{"name": "small", "label": "A"}, {"name": "small", "label": "B"}],
        "training": {"steps": 7, "rules": ["own_exact", "own_twice"]},
        "measure": {"steps": [0, 2, 7], "trials": 3, "budget": 40},
        "quantity": [{"name": "spending", **(quantity or {})}],
        "seeds": 2,
    }
    return parse_study({**table, **changes}, "here")


def test_what_is_counted_is_exact() -> None:
    found = plan(study_of())
    assert [(c.network, c.point, c.cells, c.updates, c.records) for c in found.costs] == [
        (network, rule, 2, 7, (3, 3) if rule == "own_exact" else (2, 2))  # step 0 is recorded once
        for network in "AB"
        for rule in ("own_exact", "own_twice")
    ]
    assert (found.cells, found.updates, found.records) == (8, 8 * 7, 20)
    assert found.products == 20 * (3 + 2 * 40)
    assert found.problems == ()


def test_what_a_sweep_varies_nothing_of_costs_once() -> None:
    sweep = {"network.B.gain": [0.5, 0.6, 0.7]}
    for patience in (1e9, 0):
        found = plan(study_of(training={"steps": 7}, sweep=sweep), patience=patience)
        assert [(c.network, c.point, c.cells, c.same, c.records) for c in found.costs] == [
            ("A", "", 2, 4, (3, 3)),
            *(("B", f"gain {gain}", 2, 0, (3, 3)) for gain in (0.5, 0.6, 0.7)),
        ]
        assert (found.cells, found.same, found.updates, found.records) == (8, 4, 8 * 7, 24)


@pytest.mark.slow
def test_times_are_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    cost = plan(study_of({"seconds": 0.01}, measure={"steps": [0, 7], "budget": 20})).costs[0]
    assert 0.2 <= cost.record_seconds < 2
    assert 0 < cost.update_seconds < 1
    # on a clock of its own: 0.01 s for each of the budget, and what else there is takes no time
    clock = SimpleNamespace(perf_counter=lambda: Spending.slept, monotonic=time.monotonic)
    monkeypatch.setattr(_measured, "time", clock)
    monkeypatch.setattr(time, "sleep", Spending.pass_time)
    for budget, scaled in ((32, False), (790, False), (810, True), (2000, True), (8, False), (5, False)):
        for cost in plan(study_of({"seconds": 0.01}, measure={"steps": [0, 7], "budget": budget})).costs[:1]:
            assert cost.record_seconds == pytest.approx(0.01 * budget)
            assert cost.products == 3 + 2 * budget
            assert (cost.scaled, cost.update_seconds) == (scaled, 0)


def test_what_is_not_measured_is_like_the_mean_of_the_same_network() -> None:
    study = study_of(sweep={"measure.trials": [2, 3]}, training={"steps": 3}, measure={"steps": [0, 3]})
    every = plan(study, patience=1e9).costs
    assert [(cost.point, cost.measured) for cost in every] == [("trials 2", True), ("trials 3", True)] * 2
    few = plan(study, patience=0).costs
    assert [(cost.point, cost.measured) for cost in few] == [("trials 2", True), ("trials 3", False)] * 2
    assert few[1].record_seconds == few[0].record_seconds
    assert few[1].products == few[0].products > 0


@pytest.mark.slow
def test_a_learning_rate_makes_no_other_cost() -> None:
    study = study_of(sweep={"training.learning_rate": [0.1, 0.2], "training.batch_size": [2, 3]})
    assert [cost.point for cost in plan(study).costs[:2]] == [
        "own_exact, batch_size 2",
        "own_exact, batch_size 3",
    ]


def test_failures_are_told() -> None:
    found = plan(study_of({"fails": True}, seeds=1, training={"steps": 0}, measure={"steps": [0]}))
    assert found.problems == tuple(f"{label}: spending: ArithmeticError: it cannot" for label in "AB")


def test_the_peak_of_memory_and_the_size_of_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    one = {"network": [{"name": "small"}], "training": {"steps": 7}, "seeds": 1}
    small, large = (plan(study_of({"megabytes": size}, **one)) for size in (1, 200))
    if small.memory_bytes is not None:
        assert 150 * 2**20 < large.memory_bytes - small.memory_bytes < 300 * 2**20
    (first, *_) = small.costs
    assert 40_000 < first.record_bytes < 80_000  # 5000 numbers, and what stands beside them
    tensors = 8 * (4 * 4 + 4 * 2 + 4 + 4 + 1)
    assert first.checkpoint_bytes == _measured.NAMES + tensors
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="no peak that can be forgotten")
def test_a_peak_can_be_forgotten() -> None:
    held = np.ones(2**25)  # 256 MiB
    high = peak_bytes()
    del held
    forget_peak()
    assert peak_bytes() < high - 200 * 2**20


def test_a_process_that_is_done_takes_the_next_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    costs = [
        Cost("A", "", 2, 10, (1, 1), 0.2, 1.0, 0, 0, 0, 0),
        Cost("B", "", 1, 10, (2,), 0.2, 1.0, 0, 0, 0, 0),
    ]
    found = Plan(tuple(costs), None)
    assert found.seconds() == pytest.approx(3 + 3 + 4)
    assert found.seconds(2) == pytest.approx(3 + 4)
    assert found.seconds(3) == pytest.approx(3 + 4)  # there are two cores
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    assert found.seconds(3) == pytest.approx(4)
