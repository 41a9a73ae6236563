"""The checkpoints of one training as a cell: what they are measured along, and what can be recorded."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen

from kpframe.errors import ArgumentError, CheckpointError, KpframeError, mismatch, say
from kpframe.study._cells import Cell
from kpframe.study._moment import Moment, Surroundings
from kpframe.study._networks.analysis import Analysis
from kpframe.study._networks.given_model import GivenModel
from kpframe.study._networks.input_files import read_inputs
from kpframe.study._networks.sources import ReadNetwork, SourceCell, read_network, task_settings_of
from kpframe.study._quantity import Quantity
from kpframe.study._running.build import surroundings_of
from kpframe.study._running.training import TrainingSettings
from kpframe.study._settings import MeasureSettings, NetworkSettings
from kpframe.tasks._task import create_task


@frozen(eq=False)
class AnalyzedCell:
    """The checkpoints of one training, and what they are measured along.

    Attributes:
        source: their files.
        around: what is the same at all steps.
        quantities: what is recorded.
        left_out: which of a study's quantities cannot be measured, and for want of what.
    """

    source: SourceCell
    analysis: Analysis
    around: Surroundings
    quantities: dict[str, Quantity]
    left_out: str
    input_size: int
    moments: dict[int, Moment] = field(factory=dict)

    @classmethod
    def of(cls, source: SourceCell, analysis: Analysis) -> AnalyzedCell:
        """Return the cell, all of it checked: each file is read once, and nothing is computed."""
        paths = [file.path for file in source.files]
        probe, input_size, named = None, None, None
        if analysis.inputs is not None:
            probe, loss = read_inputs(analysis.inputs, torch.float64)
            input_size = probe.inputs.shape[2]
        elif analysis.task is not None:
            named = analysis.task, dict(analysis.task_settings)
            input_size = create_task(named[0], **named[1]).input_size
        first = _first_of(source, analysis.given, input_size)
        dtype = next((p.dtype for p in first.model.parameters()), torch.get_default_dtype())
        seed = _seed(first) if analysis.seed is None else analysis.seed
        if analysis.inputs is not None:
            probe, loss = read_inputs(analysis.inputs, dtype)
            around = Surroundings(
                {"inputs": probe},
                loss=loss,
                test=probe.trials,
                operators=analysis.operators,
                budget=analysis.budget,
                seed=seed,
            )
        else:
            if named is None:
                try:
                    named = task_settings_of(first.checkpoint, paths[0])
                except ArgumentError as error:
                    raise ArgumentError(
                        f"{error}; --task NAME or --inputs FILE says what it reads"
                    ) from error
            around = _surroundings(analysis, named, seed, dtype)
        _check_sizes(first, around, paths[0])
        quantities, left_out = _possible(analysis, first, around)
        return cls(source, analysis, around, quantities, left_out, first.model.input_size)

    def moment(self, place: int) -> Moment:
        """Return a network, which knows those before it."""
        if place not in self.moments:
            file = self.source.files[place]
            network = read_network(file.path, self.analysis.given, self.input_size)
            untrained = self.source.files[0].step == 0
            self.moments[place] = Moment(
                network.model,
                network.readout,
                self.around,
                step=file.step,
                first=partial(self.moment, 0) if untrained else None,
                previous=partial(self.moment, place - 1) if place else None,
            )
        return self.moments[place]

    def forget(self, place: int) -> None:
        """Drop networks that are not needed at the places that follow."""
        for other in [other for other in self.moments if 0 < other < place]:
            del self.moments[other]


def _first_of(source: SourceCell, given: GivenModel, input_size: int | None) -> ReadNetwork:
    """Return the first network of a training, and check that the others have the same parameters."""
    first: ReadNetwork | None = None
    shapes: dict[str, list[int]] = {}
    for file in source.files:
        network = read_network(file.path, given, input_size)
        own = {name: list(p.shape) for name, p in network.model.named_parameters()}
        if first is None:
            first, shapes = network, own
        elif own != shapes:
            lists = [
                mismatch(name, shapes.get(name, "nothing"), own.get(name, "nothing"))
                for name in {**shapes, **own}
                if shapes.get(name) != own.get(name)
            ]
            before = source.files[0].path.name
            raise CheckpointError(
                f"{str(file.path)!r} is of another network than {before!r}: {'; '.join(lists)}; give each "
                "training a folder of its own"
            )
    assert first is not None  # there is no training without a file
    return first


def _surroundings(
    analysis: Analysis, task: tuple[str, dict[str, Any]], seed: int, dtype: torch.dtype
) -> Surroundings:
    """Return what a study would measure along with this task and seed."""
    cell = Cell(
        name="",
        coordinates={},
        network=NetworkSettings(name="", label="", settings={}),
        task=task[0],
        task_settings=task[1],
        training=TrainingSettings(),
        rule=None,
        rules=(),
        measure=MeasureSettings(
            steps=(0,),
            trials=analysis.trials,
            inputs=tuple(analysis.sets),
            operators=tuple(analysis.operators),
            budget=analysis.budget,
        ),
        quantities=(),
        seed=seed,
        dtype=str(dtype).removeprefix("torch."),
        threads=1,
    )
    return surroundings_of(cell, create_task(task[0], **task[1]))


def _seed(network: ReadNetwork) -> int:
    found = None if network.checkpoint is None else network.checkpoint.extra.get("seed")
    return found if isinstance(found, int) and not isinstance(found, bool) and found >= 0 else 0


def _check_sizes(network: ReadNetwork, around: Surroundings, path: Path) -> None:
    """Raise ``ArgumentError`` where a network does not take its inputs, or has other outputs."""
    probe = next(iter(around.probes.values()))
    if probe.inputs.shape[2] != network.model.input_size:
        expected = f"{network.model.input_size} channels, as the network in {str(path)!r} reads"
        raise ArgumentError(mismatch("inputs", expected, probe.inputs.shape[2]))
    if network.model.steps not in (None, probe.inputs.shape[1]):
        expected = f"{network.model.steps} steps, as the network in {str(path)!r} makes"
        raise ArgumentError(mismatch("inputs", expected, probe.inputs.shape[1]))
    trials = probe.trials
    if network.readout is None or trials is None:
        return
    outputs, targets = network.readout.output_size, trials.targets
    if targets.is_floating_point() and targets.shape[2] != outputs:
        raise ArgumentError(mismatch("targets", f"{outputs}, as the readout has outputs", targets.shape[2]))
    if not targets.is_floating_point() and int(targets[trials.scored].max()) >= outputs:
        got = f"class {int(targets[trials.scored].max())}"
        raise ArgumentError(mismatch("targets", f"classes below {outputs}, the readout's outputs", got))


def _possible(
    analysis: Analysis, network: ReadNetwork, around: Surroundings
) -> tuple[dict[str, Quantity], str]:
    """Return the quantities that can be measured, and which of a study's cannot, for want of what.

    Raises:
        ArgumentError: for one that is asked for and cannot.
    """
    has = {
        "readout": network.readout is not None,
        "targets": all(probe.trials is not None for probe in around.probes.values()),
        "test": around.test is not None,
        "rules": bool(around.rules),
    }
    first = Moment(network.model, network.readout, around)
    found, without = {}, []
    for label, quantity in analysis.made_quantities().items():
        lacking = " and ".join(name for name in quantity.needs if not has.get(name, True))
        problem = f"no {lacking}" if lacking else ""
        try:
            if not problem:
                quantity.check(first)
        except KpframeError as error:
            problem = say(error)
        if not problem:
            found[label] = quantity
        elif analysis.quantities is None:
            without.append(f"{label} ({problem})")
        else:
            raise ArgumentError(f"quantity {label!r} cannot be measured here: {problem}")
    if not found:
        raise ArgumentError(f"nothing can be measured here: {'; '.join(without)}")
    return found, "; ".join(without)
