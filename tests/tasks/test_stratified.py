"""Fixed batches that hold each class and each sub-task as evenly as their number allows."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from kpframe import Task
from kpframe.tasks._stratified import stratified
from kpframe.tasks._task import Trials
from kpframe.tasks._trials_task import TrialsTask

DTYPE = torch.float64


class Mixed(Task):
    """Four classes of which one is rare, in two contexts, without end; one context or no class if asked."""

    def __init__(self, contexts: int = 2, loss: str = "cross_entropy", names: bool = False) -> None:
        super().__init__(input_size=1, output_size=4 if loss == "cross_entropy" else 1, loss=loss)
        self.contexts, self.names = contexts, names

    def draw(self, batch_size: int, generator: torch.Generator, split: str) -> Trials:
        shape = (batch_size, 3)
        inputs = torch.rand(*shape, 1, generator=generator, dtype=torch.float64)
        label = torch.tensor([0, 0, 0, 0, 1, 1, 2, 2, 2, 3])[
            torch.randint(10, (batch_size,), generator=generator)
        ]
        context = torch.randint(self.contexts, (batch_size,), generator=generator)
        scored = torch.zeros(shape, dtype=torch.bool)
        scored[:, 1] = True
        classes = torch.stack((label * 0, label, label * 0 + 1), dim=1)  # only the scored step tells
        names = [f"trial {i}" for i in range(batch_size)]
        text = names if self.names else np.array(["A", "B"])[context.numpy()]
        return Trials(
            inputs,
            classes if self.loss == "cross_entropy" else inputs,
            torch.ones(shape, dtype=torch.bool),
            scored,
            np.full(shape, "step"),
            {"rank": label.numpy(), "context": np.array(text)},
        )


def counts(trials: Trials, name: str = "class") -> list[int]:
    values = trials.targets[:, 1].tolist() if name == "class" else trials.trial[name].tolist()
    return sorted(Counter(values).values())


def draw(task: Task, count: int, seed: int = 0):
    return stratified(task, count, generator=seed, split="test", dtype=DTYPE)


@pytest.mark.parametrize("count", [3, 10, 18, 24])
def test_classes_and_contexts_differ_by_one_at_most(count: int) -> None:
    found, plain = draw(Mixed(), count).trials, Mixed().sample(count, generator=0, split="test", dtype=DTYPE)
    for name in ("class", "context"):
        sizes = counts(found, name)
        assert sum(sizes) == count
        assert sizes[-1] - sizes[0] <= 1
    assert len(counts(found)) == min(count, 4)
    assert counts(plain)[-1] - counts(plain)[0] > 1 or len(counts(plain)) < min(count, 4)


def test_what_a_batch_holds_is_said() -> None:
    both = "24 test trials, 6 of each of 4 classes, 12 of each of 2 values of context"
    assert draw(Mixed(), 24).text == both
    assert draw(Mixed(1), 10).text == "10 test trials, 2 to 3 of each of 4 classes"
    assert draw(Mixed(1), 3).text == "3 test trials, 1 of 3 of the 4 classes"
    assert draw(Mixed(1, "mse"), 1).text == "1 test trial"


def test_a_batch_follows_from_task_and_seed_alone() -> None:
    task = Mixed()
    first = draw(task, 10).trials
    task.sample(7)  # the task's own stream goes on
    assert torch.equal(draw(task, 10).trials.inputs, first.inputs)
    assert not torch.equal(draw(task, 10, seed=1).trials.inputs, first.inputs)


@pytest.mark.parametrize("task", [Mixed(1, "mse"), Mixed(2, "mse", names=True)])
def test_without_classes_a_batch_is_drawn_as_ever(task: Task) -> None:
    plain = task.sample(9, generator=4, split="test", dtype=DTYPE)
    assert torch.equal(draw(task, 9, 4).trials.inputs, plain.inputs)


def test_a_plain_draw_that_is_even_is_kept() -> None:
    kept = []
    for seed in range(80):
        plain = Mixed(1).sample(4, generator=seed, split="test", dtype=DTYPE)
        same = torch.equal(plain.targets, draw(Mixed(1), 4, seed).trials.targets)
        assert same == (len(counts(plain)) == 4)
        kept.append(same)
    assert 0 < sum(kept) < 80


def test_of_a_finite_set_each_trial_comes_once_and_rare_classes_whole() -> None:
    labels = torch.tensor([0] * 40 + [1] * 2 + [2] * 9)
    own = Trials.from_tensors(torch.arange(51.0)[:, None, None].expand(51, 3, 1).contiguous(), labels)
    task = TrialsTask(own, own)
    found = stratified(task, 20, generator=0, split="test", dtype=torch.float32)
    assert Counter(found.trials.trial["label"].tolist()) == {0: 9, 1: 2, 2: 9}
    assert len(set(found.trials.inputs[:, 0, 0].tolist())) == 20
    assert found.text == "20 test trials, 2 to 9 of each of 3 classes"
