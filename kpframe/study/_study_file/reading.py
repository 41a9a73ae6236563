"""Study files: TOML in, checked settings out, and back to a table.

Every error at once, each with the path of its key, counted from 0 as in the file's tables:
``network[1].hidden_sise``, ``measure.steps[3]``, ``sweep."network.gain"[2]``.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from attrs import asdict

from kpframe.errors import ArgumentError, SettingsError, mismatch, printable
from kpframe.plugin import get_manager
from kpframe.study._disk.folder import RECORD
from kpframe.study._settings import QuantitySettings, StudySettings
from kpframe.study._study_file.blocks import Offered
from kpframe.study._study_file.quick import of_quick, own_problems, quick_table
from kpframe.study._study_file.sweep import TASK, tasks_of
from kpframe.study._study_file.tables import StudyTable

_REMEDY = "kpframe run --template writes one to start from"


def load_study(path: str | Path, *, quick: bool = False) -> StudySettings:
    """Read a study from a TOML file, and look up what it names among the plugins.

    Args:
        path: of the file.
        quick: return the quick form, with what the table ``[quick]`` says laid over the rest. What stands
            there is checked in any case.

    Raises:
        ArgumentError: for a file that is missing or no TOML; it says the line and the column. With ``quick``
            for one that has no table ``[quick]``.
        SettingsError: for everything else that is wrong, a line each: unknown, missing and unusable settings
            of the study and of the models, rules, tasks and quantities that it names, and names that no
            plugin offers.
    """
    path = Path(path)
    table = _parsed(path)
    plugins = table.get("plugins", [])
    needed = [one for one in plugins if isinstance(one, str)] if isinstance(plugins, list) else []
    return _study(table, Offered(get_manager(), needed), str(path), quick=quick)


def bundled_study(name: str, *, quick: bool = False) -> StudySettings:
    """Return a study that ships with kpframe, ``"demo"``, or its quick form."""
    text = files("kpframe.study._study_file").joinpath(f"{name}.toml").read_text(encoding="utf-8")
    return parse_study(tomllib.loads(text), name, quick=quick)


def parse_study(table: Mapping[str, Any], owner: str, *, quick: bool = False) -> StudySettings:
    """Return a study from a parsed TOML table, or from what ``to_table`` made.

    Names and settings of models, rules, tasks and quantities are taken as they are, so that a study can be
    read where the plugins that it needs are not installed; see ``load_study``, ``check_plugins`` and
    ``kpframe.study._study_file.check.check_study``.

    Args:
        table: the study.
        owner: what the lines of the message begin with: the file.
        quick: return the quick form of a study with a table ``[quick]``.

    Raises:
        ArgumentError: with ``quick``, where there is no table ``[quick]``.
        SettingsError: a line for everything that is wrong.
    """
    return _study(table, None, owner, quick=quick)


def _study(table: Mapping[str, Any], offered: Offered | None, owner: str, *, quick: bool) -> StudySettings:
    read = StudyTable(table, offered)
    study, problems = read.study(), read.problems
    made = offered is None and table.get("quick") is True  # by to_table, of a quick form
    if "quick" in table and not made:
        own = own_problems(table)
        problems += own
        if not own:
            form = StudyTable(quick_table(table), offered)
            other = form.study()
            study = other if quick else study
            problems += of_quick(form.problems, table["quick"], problems)
    elif quick:
        got = f"{owner!r} without one: run it without --quick"
        raise ArgumentError(mismatch("--quick", "a study with a table [quick]", got))
    if problems or study is None:
        raise SettingsError("\n".join(printable(f"{owner}: {line}") for line in problems))
    return study


def _parsed(path: Path) -> dict[str, Any]:
    name, text = str(path), ""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        return tomllib.loads(text)
    except FileNotFoundError as error:
        got = f"{name!r}, which does not exist; {_REMEDY}"
        raise ArgumentError(mismatch("study", "a TOML file", got)) from error
    except IsADirectoryError as error:
        remedy = "; 'kpframe resume' goes on with the run in it" if (path / RECORD).exists() else ""
        raise ArgumentError(mismatch("study", "a TOML file", f"the folder {name!r}{remedy}")) from error
    except OSError as error:
        raise ArgumentError(mismatch("study", "a TOML file", f"{name!r}: {error.strerror}")) from error
    except tomllib.TOMLDecodeError as error:
        end = f"at line {text.count(chr(10)) + 1}, column {len(text) - text.rfind(chr(10))}"
        reason = str(error).replace("at end of document", f"{end}, the end")
        raise ArgumentError(f"{name}: no TOML: {reason}") from error
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise ArgumentError(f"{name}: no TOML: expected UTF-8, got another byte (at line {line})") from error


def to_table(study: StudySettings) -> dict[str, Any]:
    """Return a study as JSON and TOML can hold it; ``parse_study`` of it is the study again."""
    training = asdict(study.training)
    if study.trained_by:
        training = {**training, "rules": list(study.trained_by)}
    swept = any(axis.path == TASK for axis in study.sweep)
    table: dict[str, Any] = {
        "title": study.title,
        "plugins": list(study.plugins),
        "seeds": list(study.seeds),
        "dtype": study.dtype,
        "threads": study.threads,
        **({} if swept else {"task": {"name": study.task, **study.task_settings}}),
        "network": [
            {"name": one.name, "label": one.label, **({} if one.reads is None else {"reads": one.reads})}
            | one.settings
            for one in study.networks
        ],
        "rule": [{"name": one.name, "label": one.label, **one.settings} for one in study.rules],
        "training": training,
        "measure": {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in asdict(study.measure).items()
            if (name, value) != ("keep", "all")  # runs that were begun before it was a setting go on
        },
        "quantity": [_quantity(one) for one in study.quantities],
        # a list, as the order of the axes matters, and JSON may sort what is in a table
        "sweep": [{"name": one.name, "path": one.path, "values": list(one.values)} for one in study.sweep],
    }
    about = {"question": study.question, "published": study.published}
    if any(about.values()):
        table["about"] = {key: text for key, text in about.items() if text}
    return {**table, "quick": True} if study.quick else table


def _quantity(one: QuantitySettings) -> dict[str, Any]:
    label, colon, _ = one.label.partition(":")
    return {"name": one.name, **({"label": label} if colon else {}), **one.settings}


def check_plugins(study: StudySettings) -> None:
    """Raise unless plugins offer what a study names; computes nothing.

    Raises:
        UnknownNameError: naming the distributions to install, where the study says which it needs.
    """
    offered = Offered(get_manager(), study.plugins)
    for kind, name in (
        *(("task", name) for name in tasks_of(study)),
        *(("model", network.name) for network in study.networks),
        *(("rule", rule.name) for rule in study.rules),
        *(("quantity", quantity.name) for quantity in study.quantities),
    ):
        offered.find(kind, name)


def template_text() -> str:
    """Return a commented study file to start from; it runs as it is with the bundled plugins."""
    return files("kpframe.study._study_file").joinpath("template.toml").read_text(encoding="utf-8")
