"""What a study is: a TOML file, checked against settings before anything runs."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from attrs import frozen

from kpframe.errors import ArgumentError, SettingsError, UnknownNameError, closest, mismatch, whole
from kpframe.plugin import get_manager
from kpframe.plugin._discovery import normalized
from kpframe.plugin._settings import build_settings, setting
from kpframe.study._labels import check_labels
from kpframe.study._training import TrainingSettings


@frozen
class NetworkSettings:
    """A network of a study: a registered model and its settings."""

    name: str = setting(help="registered name of the model")
    label: str = setting(help="what figures and tables call it")
    settings: dict[str, Any] = setting(help="the model's own settings; input_size comes from the task")
    reads: str | None = setting(None, help="component of the state that is read out; all of it by default")


@frozen
class RuleSettings:
    """A learning rule of a study."""

    name: str = setting(help="registered name of the rule")
    label: str = setting(help="what figures and tables call it")
    settings: dict[str, Any] = setting(help="the rule's own settings")


Named = TypeVar("Named", NetworkSettings, RuleSettings)


@frozen
class MeasureSettings:
    """When and how the operators are measured."""

    steps: tuple[int, ...] = setting(help="training steps to measure at; 0 is the untrained network")
    trials: int = setting(24, ge=2, help="trials of the fixed probe batch")
    budget: int = setting(60, ge=4, help="operator products spent on each estimate")
    values: int = setting(16, ge=1, help="leading singular values kept")
    tolerance: float = setting(1e-2, gt=0, help="residual of a singular vector, relative to its own value")


@frozen
class StudySettings:
    """A whole study.

    ``threads`` is the number of threads inside a torch operation: small networks are fastest with one,
    whatever else the machine is doing. ``plugins`` are the distributions that offer what it names.
    """

    title: str
    task: str
    task_settings: dict[str, Any]
    seed: int
    dtype: str
    threads: int
    networks: tuple[NetworkSettings, ...]
    rules: tuple[RuleSettings, ...]
    training: TrainingSettings
    measure: MeasureSettings
    plugins: tuple[str, ...] = ()


def load_study(path: str | Path) -> StudySettings:
    """Read a study from a TOML file.

    Raises:
        ArgumentError: for a file that is missing or no TOML.
        SettingsError: for unknown, missing or unusable settings.
    """
    path = Path(path)
    try:
        return parse_study(tomllib.loads(path.read_text(encoding="utf-8")), str(path))
    except FileNotFoundError as error:
        raise ArgumentError(
            mismatch("study", "a TOML file", f"{str(path)!r}, which does not exist")
        ) from error
    except tomllib.TOMLDecodeError as error:
        raise ArgumentError(mismatch("study", "a TOML file", f"{str(path)!r}: {error}")) from error


def bundled_study(name: str) -> StudySettings:
    """Return a study that ships with kpframe: ``"demo"`` or ``"demo_quick"``."""
    text = files("kpframe.study").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return parse_study(tomllib.loads(text), name)


def parse_study(table: Mapping[str, Any], owner: str) -> StudySettings:
    """Return a study from a parsed TOML table; raises ``SettingsError``."""
    known = (
        *("title", "plugins", "seed", "dtype", "threads"),
        *("task", "network", "rule", "training", "measure"),
    )
    for key in table:
        if key not in known:
            raise SettingsError(f"{owner}: unknown table or key {key!r}{closest(key, known)}")
    for key in ("task", "network", "measure"):
        if key not in table:
            raise SettingsError(f"{owner}: expected [{key}] or [[{key}]], got none")
    dtype = table.get("dtype", "float32")
    if dtype not in ("float32", "float64"):
        raise SettingsError(f"{owner}: " + mismatch("dtype", "'float32' or 'float64'", repr(dtype)))
    threads = whole(table.get("threads", 1), f"{owner}: threads", error=SettingsError)
    task = dict(table["task"])
    if "name" not in task:
        raise SettingsError(f"{owner}: [task]: expected name, got {sorted(task) or 'nothing'}")
    training = build_settings(TrainingSettings, table.get("training", {}), owner=f"{owner}: [training]")
    measure = build_settings(MeasureSettings, table["measure"], owner=f"{owner}: [measure]")
    late = [step for step in measure.steps if not 0 <= step <= training.steps]
    if late:
        raise SettingsError(
            f"{owner}: [measure]: " + mismatch("steps", f"steps in [0, {training.steps}]", late)
        )
    networks = tuple(_named(NetworkSettings, row, f"{owner}: [[network]]") for row in table["network"])
    rules = tuple(_named(RuleSettings, row, f"{owner}: [[rule]]") for row in table.get("rule", ()))
    check_labels([network.label for network in networks], f"{owner}: [[network]]")
    check_labels([rule.label for rule in rules], f"{owner}: [[rule]]")
    return StudySettings(
        title=str(table.get("title", owner)),
        task=task.pop("name"),
        task_settings=task,
        seed=int(table.get("seed", 0)),
        dtype=dtype,
        threads=threads,
        networks=networks,
        rules=rules,
        training=training,
        measure=measure,
        plugins=tuple(map(str, table.get("plugins", ()))),
    )


def _named(cls: type[Named], row: Mapping[str, Any], owner: str) -> Named:
    rest = dict(row)
    name = rest.pop("name", None)
    values = {} if name is None else {"name": name, "label": rest.pop("label", name)}
    if cls is NetworkSettings and "reads" in rest:
        values["reads"] = rest.pop("reads")
    return build_settings(cls, {**values, "settings": rest}, owner=owner)


def check_plugins(study: StudySettings) -> None:
    """Raise unless plugins offer the task, the networks and the rules of a study; computes nothing.

    Raises:
        UnknownNameError: naming the distributions to install, where the study says which it needs.
    """
    manager = get_manager()
    wanted = [
        ("task", study.task),
        *(("model", network.name) for network in study.networks),
        *(("rule", rule.name) for rule in study.rules),
    ]
    for kind, name in wanted:
        try:
            manager.find(kind, name)
        except UnknownNameError as error:
            installed = {normalized(info.distribution) for info in manager.plugins}
            missing = [name for name in study.plugins if normalized(name) not in installed]
            if not missing:  # they are disabled or broken, which the error says
                raise
            raise UnknownNameError(
                f"no {kind} {name!r}: this study needs {', '.join(missing)}, not installed here: "
                f"pip install {' '.join(missing)}"
            ) from error
