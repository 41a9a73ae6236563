"""What a sweep varies: the paths of settings, and a study with other values at them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from attrs import evolve, frozen

from kpframe.errors import SettingsError, closest, mismatch
from kpframe.plugin._call_text import parse_call, parse_expression
from kpframe.study._settings import StudySettings

#: Settings that one value does not make, or that follow from others.
_FIXED = ("measure.steps", "training.gradient", "training.rules")
_ROOTS = ("network", "rule", "task", "training", "measure")
#: The path of the task as a whole, whose values are texts.
TASK = "task"
_TEXT = "a task such as flip_flop or flip_flop(bits=2)"


@frozen
class Place:
    """Where a path leads: a setting of networks, rules, the task, the training or the measurement.

    ``label`` is that of the one network or rule which is meant; None for all. Of the task as a whole the
    setting is empty.
    """

    part: str
    setting: str
    label: str | None = None

    def covers(self, other: Place) -> bool:
        """Whether both lead to one setting of one thing."""
        same = self.label is None or other.label is None or self.label == other.label
        if self.part == other.part == TASK and not (self.setting and other.setting):
            return True
        return (self.part, self.setting) == (other.part, other.setting) and same


def place_of(path: str, networks: Iterable[str], rules: Iterable[str]) -> Place:
    """Return where a path leads.

    Args:
        path: ``network.gain`` (of all networks), ``network.GRU.gain`` (of the one with that label),
            ``rule.LABEL.window``, ``task.delay``, ``training.learning_rate`` or ``measure.budget``; ``task``
            is the task as a whole.
        networks, rules: the labels that there are.

    Raises:
        SettingsError: for a path that leads nowhere; the message does not name the path.
    """
    part, dot, rest = path.partition(".")
    if path == TASK:
        return Place(TASK, "")
    if part not in _ROOTS or not rest.strip():
        expected = (
            "the path of a setting: network.SETTING, network.LABEL.SETTING, rule.LABEL.SETTING, "
            "task.SETTING, training.SETTING or measure.SETTING, or task"
        )
        remedy = closest(part, _ROOTS) if dot else f"; network.{path} is that of all networks"
        if part in ("seed", "seeds"):
            remedy = "; seeds are listed by seeds = [0, 1, 2]"
        raise SettingsError(f"expected {expected}, got {path!r}{remedy}")
    if path in _FIXED:
        raise SettingsError(f"expected a setting that takes one value, got {path!r}")
    labels = list({"network": networks, "rule": rules}.get(part, ()))
    for label in sorted(labels, key=len, reverse=True):
        if rest.startswith(f"{label}.") and "." not in (setting := rest.removeprefix(f"{label}.")):
            return Place(part, setting, label)
    if "." in rest and labels:
        label = rest.rpartition(".")[0]
        what = f"the label of a {part} ({', '.join(map(repr, labels))})"
        raise SettingsError(mismatch("label", what, repr(label)) + closest(label, labels))
    if "." in rest:
        raise SettingsError(f"expected one setting after {part!r}, got {rest!r}")
    return Place(part, rest)


def parse_task(text: str) -> tuple[str, dict[str, Any]]:
    """Return the name and the settings of a task as text; raises ``ArgumentError`` for another form."""
    return parse_call(parse_expression(text, "task", _TEXT), text, "task", _TEXT)


def tasks_of(study: StudySettings) -> list[str]:
    """Return the names of all tasks of a study, those that a sweep varies among them."""
    swept = [parse_task(value)[0] for axis in study.sweep if axis.path == TASK for value in axis.values]
    return list(dict.fromkeys([study.task, *swept]))


def with_values(study: StudySettings, values: Mapping[str, Any]) -> StudySettings:
    """Return a study without a sweep: with these values at the paths of its axes."""
    for path, value in values.items():
        study = _with_value(study, path, value)
    return evolve(study, sweep=())


def _with_value(study: StudySettings, path: str, value: Any) -> StudySettings:
    place = place_of(path, [n.label for n in study.networks], [r.label for r in study.rules])
    change = {place.setting: value}
    if path == TASK:
        name, settings = parse_task(value)
        return evolve(study, task=name, task_settings=settings)
    if place.part == TASK:
        return evolve(study, task_settings={**study.task_settings, **change})
    if place.part == "training":
        return evolve(study, training=evolve(study.training, **change))
    if place.part == "measure":
        return evolve(study, measure=evolve(study.measure, **change))
    if place.part == "rule":
        return evolve(study, rules=_changed(study.rules, place, change))
    if place.setting == "reads":
        networks = [
            evolve(one, reads=value) if place.label in (None, one.label) else one for one in study.networks
        ]
        return evolve(study, networks=tuple(networks))
    return evolve(study, networks=_changed(study.networks, place, change))


def _changed(parts: Sequence[Any], place: Place, change: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(
        evolve(one, settings={**one.settings, **change}) if place.label in (None, one.label) else one
        for one in parts
    )
