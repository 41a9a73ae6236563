"""The settings of a run as a reader takes them: the most telling ones in words, and all of them as rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from kpframe.study._report.words import counted, few, named

_COMMANDS = {
    "demo": "kpframe demo",
    "run": "kpframe run",
    "train": "kpframe train",
    "compare": "kpframe compare",
    "analyze": "kpframe analyze",
    "track": "kpframe.study.Tracker, in a training loop",
}


def in_words(attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the most telling settings of a run, each with its value; those that it has."""
    rows = [
        ("made by", _COMMANDS.get(str(attributes.get("command")), str(attributes.get("command", "")))),
        ("task", _task(settings)),
        ("networks", _networks(settings)),
        ("read from", _source(settings)),
        ("training", _training(settings.get("training"))),
        ("trained by", _trained_by(settings)),
        ("varied", _sweep(settings.get("sweep"))),
        ("seeds", _seeds(attributes, settings)),
        ("learning rules", _rules(settings)),
        ("recorded", _quantities(settings)),
        ("at steps", _steps(settings)),
        ("operators along", _trials(settings)),
        ("estimates", _budget(settings)),
        ("numbers", _of(settings, "dtype")),
        ("made", _made(attributes)),
    ]
    return [(name, value) for name, value in rows if value]


def _of(settings: Mapping[str, Any], key: str) -> str:
    value = settings.get(key)
    return "" if value is None or isinstance(value, Mapping | list) else str(value)


def _options(table: Mapping[str, Any], *without: str) -> str:
    shown = [f"{key.replace('_', ' ')} {_value(value)}" for key, value in table.items() if key not in without]
    return f" ({', '.join(shown)})" if shown else ""


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_value(own)}" for key, own in value.items())
    if isinstance(value, list):
        return few([named(_value(own)) for own in value], 12)
    return "none" if value is None else str(value)


def _tables(value: Any) -> list[Mapping[str, Any]]:
    return [own for own in value if isinstance(own, Mapping)] if isinstance(value, list) else []


def _task(settings: Mapping[str, Any]) -> str:
    task = settings.get("task")
    if isinstance(task, Mapping):
        return f"{task.get('name', '')}{_options(task, 'name')}"
    own = settings.get("task_settings")
    return f"{task}{_options(own) if isinstance(own, Mapping) else ''}" if task else ""


def _networks(settings: Mapping[str, Any]) -> str:
    networks = _tables(settings.get("network"))
    if networks:
        shown = [
            f"{own.get('label', own.get('name'))}: {own.get('name')}{_options(own, 'name', 'label')}"
            for own in networks
        ]
        return few(shown, 8)
    model = settings.get("model")
    if isinstance(model, Mapping):
        sizes = model.get("parameters")
        return str(model.get("class", "")) + (_options(sizes) if isinstance(sizes, Mapping) else "")
    own = settings.get("model_settings")
    return f"{model}{_options(own) if isinstance(own, Mapping) else ''}" if model else ""


def _source(settings: Mapping[str, Any]) -> str:
    checkpoints = settings.get("checkpoints")
    count = f", {counted(len(checkpoints), 'checkpoint')}" if isinstance(checkpoints, list) else ""
    source = settings.get("source")
    shown = _value(source) if source else ""
    return f"{shown}{count}" if shown else ""


def _training(training: Any) -> str:
    if not isinstance(training, Mapping):
        return ""
    steps = training.get("steps")
    first = f"{steps} updates" if steps is not None else ""
    rest = [
        f"{key.replace('_', ' ')} {_value(value)}"
        for key, value in training.items()
        if key not in ("steps", "rules")
    ]
    return ", ".join(text for text in (first, *rest) if text)


def _trained_by(settings: Mapping[str, Any]) -> str:
    training = settings.get("training")
    rules = training.get("rules") if isinstance(training, Mapping) else None
    return _value(rules) if rules else ""


def _sweep(sweep: Any) -> str:
    return "; ".join(
        f"{own.get('name')} ({own.get('path')}): {_value(own.get('values'))}" for own in _tables(sweep)
    )


def _seeds(attributes: Mapping[str, Any], settings: Mapping[str, Any]) -> str:
    seeds = settings.get("seeds")
    if isinstance(seeds, list):
        return few(seeds, 12)
    first = settings.get("seed", attributes.get("seed"))
    if isinstance(seeds, int) and seeds > 1:
        return f"{seeds}, from {first}"
    return "" if first is None else str(first)


def _rules(settings: Mapping[str, Any]) -> str:
    rules = settings.get("rules", settings.get("rule"))
    if isinstance(rules, Mapping):
        return few(list(rules), 8)
    if not isinstance(rules, list):
        return ""
    names = [
        f"{own.get('label', own.get('name'))}"
        if isinstance(own, Mapping)
        else str(own[0] if isinstance(own, list) else own)
        for own in rules
    ]
    return few([named(name) for name in names], 8)


def _quantities(settings: Mapping[str, Any]) -> str:
    own = settings.get("quantity", settings.get("quantities"))
    if isinstance(own, Mapping):
        return few([str(name) for name in own], 16)
    shown = [
        f"{table.get('label', table.get('name'))}{_options(table, 'name', 'label')}" for table in _tables(own)
    ]
    return few(shown, 16)


def _measure(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    measure = settings.get("measure")
    return measure if isinstance(measure, Mapping) else settings


def _steps(settings: Mapping[str, Any]) -> str:
    steps = _measure(settings).get("steps")
    return few(steps, 16) if isinstance(steps, list) else ""


def _trials(settings: Mapping[str, Any]) -> str:
    measure = _measure(settings)
    trials, sets = measure.get("trials"), measure.get("inputs", measure.get("sets"))
    which = f" {' and '.join(map(str, sets))}" if isinstance(sets, list) else " probe"
    return f"{trials}{which} trials" if trials is not None else ""


def _budget(settings: Mapping[str, Any]) -> str:
    budget = _measure(settings).get("budget")
    return "" if budget is None else f"at most {budget} products with an operator each"


def _made(attributes: Mapping[str, Any]) -> str:
    parts = [str(attributes.get("created", "")), f"kpframe {attributes.get('kpframe_version', '')}"]
    return ", ".join(part for part in parts if part.strip() not in ("", "kpframe"))


def flat(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return all settings as rows, each by the path of its key; items of a list of tables by number."""
    return list(_flat(settings, ""))


def _flat(value: Any, path: str) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        for key, own in value.items():
            yield from _flat(own, f"{path}.{key}" if path else str(key))
    elif (
        isinstance(value, Sequence)
        and not isinstance(value, str)
        and any(isinstance(own, Mapping | list) for own in value)
    ):
        for place, own in enumerate(value, 1):
            yield from _flat(own, f"{path}[{place}]")
    else:
        yield path, ", ".join(_plain(own) for own in value) if isinstance(value, list) else _plain(value)


def _plain(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    return repr(value) if isinstance(value, float) else str(value)
