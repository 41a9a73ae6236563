"""What is impossible in a study, found before any training: networks are made, rules are applied once."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from attrs import evolve, frozen

from kpframe.errors import KpframeError, SettingsError, mismatch, printable, say
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.plugin import get_manager
from kpframe.rules._parse import parse_rule
from kpframe.rules._rule import LearningRule, create_rule
from kpframe.study._cells import Cell, expand, point_of
from kpframe.study._moment import Moment, Probe
from kpframe.study._record import record
from kpframe.study._running.build import network_of, quantities_of, surroundings_of, task_of
from kpframe.study._running.training import Trainer, backward_gradient
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.blocks import Offered
from kpframe.study._study_file.reading import to_table
from kpframe.study._study_file.tables import StudyTable
from kpframe.tasks._error import output_error
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Task, Trials

#: Trials that learning rules are tried on.
TRIED = 2
#: Operator products for each estimate of a record that is made for its names alone.
LITTLE = 8


def check_study(study: StudySettings, owner: str = "") -> None:
    """Raise for all that is impossible in a study; trains nothing and writes nothing.

    Every network is made once at each point of the sweep, every learning rule, of those that are compared and
    of those that networks are trained by, is applied to two trials, and to all of the probe where these are
    too few, and every quantity says whether it can be measured. A rule that raises an error of another kind
    than kpframe's is not held against it: where it is used, it costs its own figures alone.

    Args:
        study: what would be run.
        owner: what lines of the message begin with: the file.

    Raises:
        SettingsError: a line for each problem, beginning with the path of a key of the study.
    """
    if lines := _problems(study):
        before = f"{owner}: " if owner else ""
        raise SettingsError("\n".join(printable(f"{before}{line}") for line in lines))


def _problems(study: StudySettings) -> list[str]:
    table = StudyTable(to_table(study), Offered(get_manager(), study.plugins))
    if table.study() is None:
        return table.problems
    found = _Found(varies=bool(study.sweep))
    places = {network.label: place for place, network in enumerate(study.networks)}
    points: dict[str, list[Cell]] = {}
    for cell in expand(study):
        points.setdefault(point_of(cell), []).append(cell)
    for cells in points.values():
        place = places[cells[0].coordinates["network"]]
        _Point(study, cells, f"network[{place}]", found).check()
    return found.lines() or _taken(study)


def _taken(study: StudySettings) -> list[str]:
    """Return which axes of the sweep have the name of what is recorded; a record of little is made for that.

    Results would have one name for both, and could not be put together.
    """
    if not study.sweep:
        return []
    cell = expand(study)[0]
    task = task_of(cell)
    around = surroundings_of(cell, task)
    few = {
        name: Probe.of(probe.trials.select(slice(0, TRIED)))
        for name, probe in around.probes.items()
        if probe.trials
    }
    around = evolve(around, probes=few, budget=LITTLE)
    rate = cell.training.learning_rate
    moment = Moment(*network_of(cell, task), around, learning_rate=rate, optimizer=cell.optimizer)
    data = record(moment, quantities_of(cell))
    return [
        f"sweep.{axis.name}: expected another name for the dimension, got {axis.name!r}, which is that of "
        f'something recorded; write [sweep.NAME] path = "{axis.path}" values = [...]'
        for axis in study.sweep
        if axis.name in {*data.variables, *data.dims}
    ]


class _Found:
    """Problems, and where in the sweep each was found."""

    def __init__(self, *, varies: bool) -> None:
        self._varies = varies
        self._places: dict[tuple[str, str], tuple[str, list[str]]] = {}

    def at(self, path: str, cell: Cell) -> _At:
        """Return a context that takes an error as a problem of a key."""
        return _At(self, path, cell)

    def tell(self, line: str, cell: Cell) -> None:
        """Take a line as a problem; lines that differ in numbers alone are one."""
        fixed = ("network", "trained_by", "seed")
        place = ", ".join(f"{name} {value}" for name, value in cell.coordinates.items() if name not in fixed)
        path, _, message = line.partition(": ")
        _, places = self._places.setdefault((path, re.sub(r"[\d.]+", "0", message)), (line, []))
        if place not in places:
            places.append(place)

    def lines(self) -> list[str]:
        """Return the problems, with the points of the sweep."""
        return [self._line(line, places) for line, places in self._places.values()]

    def _line(self, line: str, places: list[str]) -> str:
        if not self._varies:
            return line
        more = f", and at {len(places) - 1} more" if len(places) > 1 else ""
        return f"{line} (at {places[0]}{more})"


@frozen
class _At:
    """Takes an error as a problem of a key."""

    found: _Found
    path: str
    cell: Cell

    def __enter__(self) -> None: ...

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        if not isinstance(error, Exception):
            return False
        notes = "".join(f" ({note})" for note in getattr(error, "__notes__", ()))
        lines = str(error).splitlines() if isinstance(error, SettingsError) else [say(error) + notes]
        for line in lines:
            self.found.tell(f"{self.path}: {line}", self.cell)
        return True


@frozen
class _Point:
    """A network at a point of the sweep, and all its trainings there."""

    study: StudySettings
    cells: list[Cell]
    path: str
    found: _Found

    def check(self) -> None:
        """Find what is wrong."""
        cell, found = self.cells[0], self.found
        network = around = tried = None
        with found.at("task", cell):
            task = task_of(cell)
            with found.at(self.path, cell):
                network = network_of(evolve(cell, network=evolve(cell.network, reads=None)), task)
        if network is None:
            return
        if cell.network.reads is not None:
            whole, network = network, None
            with found.at(f"{self.path}.reads", cell):
                whole[0].component_slice(cell.network.reads)
                network = network_of(cell, task)
        if network is None:
            return
        with found.at(f"{self.path} on task {cell.task!r}", cell):
            around = surroundings_of(evolve(cell, rules=()), task)
            trials = next(iter(around.probes.values())).trials
            assert trials is not None
            tried = _Tried(network, task, trials)
        if around is None or tried is None:
            return
        rules: dict[str, LearningRule] = {}
        for place, rule in enumerate(cell.rules):
            with found.at(f"rule[{place}]", cell):
                rules[rule.label] = create_rule(rule.name, **rule.settings)
        around = evolve(around, rules=rules)
        rate = cell.training.learning_rate
        moment = Moment(*network, around, learning_rate=rate, optimizer=cell.optimizer)
        compares = self._check_quantities(moment)
        for place, rule in enumerate(cell.rules):
            if compares and rule.label in rules:
                with found.at(f"rule[{place}] with {self._network()}", cell), _own_faults():
                    tried.compared(rules[rule.label])
            elif not compares and rule.label not in self.study.trained_by:
                expected = 'a quantity that compares rules, [[quantity]] name = "rules"'
                found.tell(mismatch(f"rule[{place}]", expected, "none"), cell)
        self._check_trainings(tried)

    def _check_quantities(self, moment: Moment) -> bool:
        """Return whether one of the quantities compares learning rules."""
        cell, compares = self.cells[0], False
        with self.found.at("quantity", cell):
            for place, (label, quantity) in enumerate(quantities_of(cell).items()):
                path = f"quantity[{place}] {label!r}"
                compares = compares or "rules" in quantity.needs
                if "rules" in quantity.needs and not cell.rules:
                    self.found.tell(mismatch(path, "learning rules to compare, [[rule]]", "none"), cell)
                    continue
                with self.found.at(f"{path} of {self._network()}", cell):
                    for name in [moment.inputs] if quantity.of_network else moment.around.probes:
                        quantity.check(moment.along(name))
        return compares

    def _check_trainings(self, tried: _Tried) -> None:
        made, seen = set(), set()
        for cell in self.cells:
            path = "training"
            if cell.rule is not None:
                path += f".rules[{self.study.trained_by.index(cell.coordinates['trained_by'])}]"
            with self.found.at(f"{path} with {self._network()}", cell):
                rule = None if cell.rule is None else parse_rule(cell.rule)
                if cell.training not in made:
                    made.add(cell.training)
                    Trainer(*tried.network, tried.task, cell.training, rule=rule)
                if cell.rule not in seen and cell.training.steps:
                    seen.add(cell.rule)
                    with nullcontext() if rule is None else _own_faults():
                        tried.trained(rule)

    def _network(self) -> str:
        return f"{self.path} {self.cells[0].network.label!r}"


@contextmanager
def _own_faults() -> Iterator[None]:
    """Let errors of a rule's own code pass: they cost its own figures, where they are recorded."""
    try:
        yield
    except KpframeError:
        raise
    except Exception:
        return


class _Tried:
    """Tries learning rules on a network: on a few trials, and where that fails on all of them.

    A rule may be in need of more trials than the few.
    """

    def __init__(self, network: tuple[Model, Readout], task: Task, trials: Trials) -> None:
        self.network, self.task = network, task
        self.trials = (trials.select(slice(0, TRIED)), trials)
        self._flows: dict[int, tuple[Flow, torch.Tensor]] = {}

    def compared(self, rule: LearningRule) -> None:
        """Raise where a rule is no operator, that can be compared with the exact gradient."""
        self._on_each(lambda flow, error: rule.update(flow, self.network[1]).output_operator(error))

    def trained(self, rule: LearningRule | None) -> None:
        """Raise where the network cannot be trained by a rule; None for ``loss.backward()``."""
        if rule is None:
            backward_gradient(*self.network, self.trials[1], self.task)
            return
        self._on_each(lambda flow, error: rule.gradient(flow, readout=self.network[1], output_err=error))

    def _on_each(self, use: Callable[[Flow, torch.Tensor], object]) -> None:
        try:
            use(*self._flow(0))
        except KpframeError:
            use(*self._flow(1))

    def _flow(self, place: int) -> tuple[Flow, torch.Tensor]:
        """Return the flow along trials, and the error at the outputs."""
        if place not in self._flows:
            (model, readout), trials = self.network, self.trials[place]
            flow = linearize(model, trials.inputs, mask=trials.mask)
            with torch.no_grad():
                error = output_error(readout(flow.trajectory.states), trials, self.task.loss)
            self._flows[place] = flow, error
        return self._flows[place]
