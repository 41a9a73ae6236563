"""Cases of quantities: a small network at a step of its training, with all that a study gives it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Literal

import numpy as np
import torch
from attrs import evolve, field, frozen

from kpframe.rules._rule import LearningRule
from kpframe.rules._update import Update
from kpframe.study._moment import Moment, Probe, Surroundings
from kpframe.study._quantity import Quantity
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials
from kpframe.testing._cases import FlowCase
from kpframe.testing._sources import create, show
from kpframe.testing._values import values

#: Numbers that a network reports.
OUTPUTS = 2


class Short(LearningRule):
    """Errors travel no step back."""

    def change(self, update: Update) -> Update:
        """Return the update without a past."""
        return update.replace(P=update.propagator.truncated(1))


class Whole(LearningRule):
    """The exact gradient."""

    exact = True

    def change(self, update: Update) -> Update:
        """Return the update."""
        return update


@frozen
class QuantityCase:
    """A quantity on a network at a step of its training.

    Attributes:
        quantity: a registered name, ``"package.module:Class"``, a class, a factory or an instance.
        settings: what it is built with.
        flow: the network and its trials.
        loss: of the task.
        step: updates made.
        budget: operator products for each estimate.
    """

    quantity: Any = field(repr=show)
    settings: Mapping[str, Any]
    flow: FlowCase
    loss: Loss = "mse"
    step: int = 0
    budget: int = 6

    def build(self) -> Quantity:
        """Return the quantity, made anew."""
        made: Quantity = create("quantity", self.quantity, self.settings)
        return made

    def trials(self, salt: int = 0, padding: float | None = None) -> Trials:
        """Return trials of the flow's sizes, others for another ``salt``; ``padding`` fills padded steps."""
        problem = evolve(self.flow, seed=self.flow.seed + salt).build()
        batch, time, _ = problem.x.shape
        mask = torch.ones(batch, time, dtype=torch.bool) if problem.mask is None else problem.mask
        targets = values((batch, time, OUTPUTS), self.flow.seed + salt + 104)
        if self.loss == "cross_entropy":
            targets = targets.argmax(2)
        inputs = problem.x if padding is None else problem.x.masked_fill(~mask[..., None], padding)
        scored = mask & ((torch.arange(time) > 0) | (mask.sum(1, keepdim=True) == 1))
        epoch = np.where(np.arange(time) < (time + 1) // 2, "listen", "answer")
        return Trials(
            inputs,
            targets,
            mask,
            scored,
            np.broadcast_to(epoch, (batch, time)).copy(),
            trial={"place": np.arange(batch), "group": np.array(["even", "odd"] * batch)[:batch]},
        )

    def moment(
        self,
        *,
        without: Collection[Literal["readout", "targets", "test", "rules"]] = (),
        salt: int = 0,
        padding: float | None = None,
        step: int | None = None,
        sets: int = 1,
    ) -> Moment:
        """Return the network with all that a study gives it, made anew.

        Args:
            without: what is left out.
            salt: another one is another network, on other trials.
            padding: what inputs are where trials have ended; None: as drawn.
            step: updates made; None: that of the case. Each step has weights of its own.
            sets: how many sets of inputs there are, one or two.
        """
        step = self.step if step is None else step
        probes = {"test": self.trials(salt, padding), "other": self.trials(salt + 50, padding)}
        around = Surroundings(
            {
                name: Probe(one.inputs, one.mask) if "targets" in without else Probe.of(one)
                for name, one in list(probes.items())[:sets]
            },
            loss=None if {"targets", "test"} <= set(without) else self.loss,
            test=None if "test" in without else self.trials(salt + 60, padding),
            rules={} if "rules" in without else {"exact": Whole(), "short": Short()},
            budget=self.budget,
            seed=self.flow.seed % 1000,
        )
        model = evolve(self.flow, seed=self.flow.seed + salt + 7 * step).build_model()
        readout = Readout(model.width, OUTPUTS, generator=self.flow.seed + 105, dtype=torch.float64)

        def at(other: int) -> Moment:
            return self.moment(without=without, salt=salt, padding=padding, step=other, sets=sets)

        return Moment(
            model,
            None if "readout" in without else readout,
            around,
            step=step,
            first=lambda: at(0),
            previous=lambda: at(step - 1) if step else None,
            learning_rate=0.01,
        )
