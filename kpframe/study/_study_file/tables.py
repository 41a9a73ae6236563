"""Read a study from a table, such as a TOML file makes, and gather everything that is wrong with it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from kpframe.errors import KpframeError, SettingsError, as_whole, closest, mismatch, nearest, say, shown
from kpframe.plugin import Spec
from kpframe.plugin._settings import build_settings
from kpframe.rules._parse import parse_rule
from kpframe.study._disk.labels import label_problem
from kpframe.study._moment import operator_problem
from kpframe.study._running.training import TrainingSettings
from kpframe.study._settings import (
    MeasureSettings,
    NetworkSettings,
    QuantitySettings,
    RuleSettings,
    StudySettings,
)
from kpframe.study._study_file.blocks import KINDS, Block, Offered, lines_of
from kpframe.study._study_file.head import (
    MOST_CELLS,
    plain_problems,
    read_about,
    read_head,
    seed_problems,
)
from kpframe.study._study_file.rule_text import text_of
from kpframe.study._study_file.schedule import check_form, steps_of
from kpframe.study._study_file.sweep import TASK, Place, parse_task
from kpframe.study._study_file.sweep_table import Axis, check_sweep, read_sweep

KEYS = (
    *("title", "plugins", "seed", "seeds", "dtype", "threads"),
    *("task", "network", "rule", "training", "measure", "quantity", "sweep", "about", "quick"),
)
#: What is recorded where a study names nothing, and "rules" where there are rules to compare.
DEFAULTS = ("scores", "effective_rank", "trace", "spectrum", "time_kernel", "trial_kernel")
#: What [measure] may say of that spectrum: key -> setting of the quantity.
_OF_SPECTRUM = {"values": "k", "tolerance": "tolerance"}

T = TypeVar("T")


class StudyTable:
    """Reads one table; what is wrong gathers in ``problems``, a line each, beginning with the key's path.

    Args:
        table: the study.
        offered: what plugins offer, by which names and their settings are checked; None to check neither.
    """

    def __init__(self, table: Mapping[str, Any], offered: Offered | None = None) -> None:
        self.problems: list[str] = []
        self._table, self._offered = table, offered
        self._blocks: list[Block] = []
        self._spectrum: dict[str, Any] = {}

    def study(self) -> StudySettings | None:
        """Return the study; None where something is wrong."""
        for key in self._table:
            if key not in KEYS:
                self._tell(f"{key}: unknown table or key{closest(str(key), KEYS)}")
        networks = self._networks()
        rules = self._rules()
        axes = self._axes(networks, rules)
        task = self._task(axes)
        training, trained_by = self._training(rules, axes)
        measure = self._measure(axes)
        quantities = self._quantities(bool(rules))
        check_sweep(axes, self._blocks, self._find, self.problems)
        head = read_head(self._table, self.problems)
        about = read_about(self._table, self.problems)
        plugins = self._texts("plugins", self._table.get("plugins", []))
        self.problems += seed_problems(head.seeds, networks)
        self._check_number(len(networks) * max(1, len(trained_by)) * len(head.seeds), axes)
        for axis in axes:
            if axis.place == Place("network", "seed", axis.place.label) and len(head.seeds) > 1:
                self._tell(mismatch(axis.key, "no seed of weights, where seeds are listed", axis.axis.path))
        told = {line.partition(": ")[0] for line in self.problems}
        self.problems += [line for line in plain_problems(self._table) if line.partition(": ")[0] not in told]
        if self.problems or task is None or training is None or measure is None:
            self.problems.sort(key=self._place)
            return None
        return StudySettings(
            title=head.title or f"{', '.join(one.label for one in networks)} on {task.name}",
            task=task.name,
            task_settings=dict(task.settings),
            seeds=head.seeds,
            dtype=head.dtype,
            threads=head.threads,
            networks=networks,
            rules=rules,
            training=training,
            measure=measure,
            quantities=quantities,
            trained_by=trained_by,
            sweep=tuple(axis.axis for axis in axes),
            plugins=plugins,
            **about,
            quick=self._table.get("quick") is True,
        )

    def _tell(self, line: str) -> None:
        self.problems.append(line)

    def _check_number(self, cells: int, axes: Sequence[Axis]) -> None:
        for axis in axes:
            cells *= len(axis.axis.values)
        if cells > MOST_CELLS:
            self._tell(mismatch("sweep", f"at most {MOST_CELLS} trainings in all", cells))

    def _place(self, line: str) -> tuple[int, int]:
        """Return where a line's key stands in the study; what is missing stands before."""
        keys = list(self._table)
        root = next((n for n, key in enumerate(keys) if re.match(rf"{re.escape(str(key))}\b", line)), -1)
        row = re.match(r"\w+\[(\d+)\]", line)
        return root, int(row[1]) if row else -1

    def _part(self, key: str, expected: str, *, required: bool = True) -> dict[str, Any]:
        """Return the table under a key, an empty one where there is none."""
        part = self._table.get(key)
        if isinstance(part, Mapping):
            return dict(part)
        if key in self._table:
            self._tell(mismatch(key, expected, shown(part)))
        elif required:
            self._tell(mismatch(key, expected, "nothing (it is required)"))
        return {}

    def _task(self, axes: Sequence[Axis]) -> Block | None:
        """Return the task, the first of those that a sweep varies."""
        swept = [axis for axis in axes if axis.axis.path == TASK]
        if not swept:
            return self._named(self._part("task", "a table [task]"), "task", "task")
        if "task" in self._table:
            self._tell(mismatch("task", f"none beside {swept[0].key}, which has it as text", "a table"))
        if not isinstance(first := swept[0].axis.values[0], str):
            return None  # told with the sweep
        try:
            name, settings = parse_task(first)
        except KpframeError:
            return None
        return Block("task", "task", settings, None, name, "task")

    def _rows(self, key: str) -> list[tuple[str, dict[str, Any]]]:
        """Return the tables of a list, and their paths."""
        rows = self._table.get(key, [])
        if not isinstance(rows, list | tuple):
            got = f"a table: write [[{key}]]" if isinstance(rows, Mapping) else shown(rows)
            self._tell(mismatch(key, f"a list of tables [[{key}]]", got))
            return []
        found = []
        for place, row in enumerate(rows):
            if isinstance(row, Mapping):
                found.append((f"{key}[{place}]", dict(row)))
            else:
                self._tell(mismatch(f"{key}[{place}]", "a table", shown(row)))
        return found

    def _named(self, row: dict[str, Any], path: str, part: str, label: str | None = None) -> Block | None:
        """Return the block of a table with a ``name``, which is looked up; None without a name."""
        name = row.pop("name", None)
        if not isinstance(name, str):
            if row or path in self._table or "[" in path:
                near = nearest("name", row)
                got = "nothing (it is required)" + (f"; there is {near!r}" if near else "")
                got = got if name is None else shown(name)
                self._tell(mismatch(f"{path}.name", f"the registered name of a {KINDS[part]}", got))
            return None
        block = Block(path, part, row, self._find(part, name, path), name, name if label is None else label)
        self._blocks.append(block)
        return block

    def _find(self, part: str, name: str, path: str) -> Spec | None:
        if self._offered is None:
            return None
        try:
            return self._offered.find(KINDS[part], name)
        except KpframeError as error:
            name_of = "" if path.startswith("sweep") else ".name"
            self._tell(f"{path}{name_of}: {say(error)}")
            return None

    def _label(self, row: dict[str, Any], path: str, seen: dict[str, str]) -> str | None:
        """Return the label of a row; None for none that can be used."""
        label = row.pop("label", row.get("name"))
        if label is None:
            return None
        if problem := label_problem(label):
            self._tell(mismatch(f"{path}.label", problem, shown(label)))
            return None
        if label in seen:
            again = f"{label!r} again; a label of its own tells them apart"
            self._tell(mismatch(f"{path}.label", f"another one than {seen[label]}", again))
            return None
        seen[label] = path
        return str(label)

    def _networks(self) -> tuple[NetworkSettings, ...]:
        found, seen = [], dict[str, str]()
        rows = self._rows("network")
        if not rows and not self._table.get("network"):
            self._tell(mismatch("network", "at least one table [[network]]", "none"))
        for path, row in rows:
            label, reads = self._label(row, path, seen), row.pop("reads", None)
            if reads is not None and not isinstance(reads, str):
                self._tell(mismatch(f"{path}.reads", "the name of a component of the state", shown(reads)))
            block = self._named(row, path, "network", label)
            if block is not None and label is not None and (reads is None or isinstance(reads, str)):
                found.append(NetworkSettings(name=block.name, label=label, settings=dict(row), reads=reads))
        return tuple(found)

    def _rules(self) -> tuple[RuleSettings, ...]:
        found, seen = [], dict[str, str]()
        for path, row in self._rows("rule"):
            label = self._label(row, path, seen)
            block = self._named(row, path, "rule", label)
            if block is not None and label is not None:
                found.append(RuleSettings(name=block.name, label=label, settings=dict(row)))
        return tuple(found)

    def _quantities(self, compares: bool) -> tuple[QuantitySettings, ...]:
        found, seen, owns = [], dict[str, str](), dict[str, str]()
        rows = self._rows("quantity")
        if "quantity" not in self._table:
            names = (*DEFAULTS, "rules") if compares else DEFAULTS
            short = {"spectrum": self._spectrum}
            rows = [(f"quantity {name!r}", {"name": name, **short.get(name, {})}) for name in names]
        for path, row in rows:
            name, own = row.get("name"), row.pop("label", None)
            bare = name.rpartition(":")[2] if isinstance(name, str) else ""
            if own is not None and (not isinstance(own, str) or not own.isidentifier()):
                self._tell(mismatch(f"{path}.label", "letters, digits and _, from a letter on", shown(own)))
                own = None
            if own is not None and own in owns:  # it stands before the names of the variables of both
                self._tell(mismatch(f"{path}.label", f"another one than {owns[own]}", f"{own!r} again"))
                continue
            if own is not None:
                owns[own] = path
            label = bare if own in (None, bare) else f"{own}:{bare}"
            if label and label in seen:
                remedy = "; a label of its own tells them apart" if own is None else ""
                self._tell(
                    mismatch(f"{path}.label", f"another one than {seen[label]}", f"{label!r} again{remedy}")
                )
            seen[label] = path
            block = self._named(row, path, "quantity", label)
            if block is not None:
                found.append(QuantitySettings(name=block.name, label=label, settings=dict(row)))
        return tuple(found)

    def _axes(self, networks: Sequence[NetworkSettings], rules: Sequence[RuleSettings]) -> tuple[Axis, ...]:
        if "sweep" not in self._table:
            return ()
        labels = [one.label for one in networks], [one.label for one in rules]
        axes = read_sweep(self._table["sweep"], *labels, self.problems)
        for axis in axes:
            if axis.place.setting == "reads" and axis.place.part == "network":
                for index, value in enumerate(axis.axis.values):
                    if not isinstance(value, str):
                        expected = "the name of a component of the state"
                        self._tell(mismatch(axis.at(index), expected, shown(value)))
        return axes

    def _training(
        self, rules: Sequence[RuleSettings], axes: Sequence[Axis]
    ) -> tuple[TrainingSettings | None, tuple[str, ...]]:
        row = self._part("training", "a table [training]", required=False)
        texts = self._texts("training.rules", row.pop("rules", []))
        if texts and row.get("gradient", "operators") != "operators":
            self._tell(
                mismatch("training.gradient", "'operators', with training.rules", repr(row["gradient"]))
            )
        if not texts and row.get("gradient") == "operators":
            self._tell(
                mismatch("training.gradient", "learning rules in training.rules with 'operators'", "none")
            )
        for place, text in enumerate(texts):
            self._check_rule(text, texts[:place], rules, f"training.rules[{place}]")
        if texts:
            row["gradient"] = "operators"
        self._blocks.append(Block("training", "training", row, TrainingSettings))
        return self._built(TrainingSettings, row, axes, "training"), tuple(text.strip() for text in texts)

    def _check_rule(self, text: str, before: Sequence[str], rules: Sequence[RuleSettings], path: str) -> None:
        if text.strip() in [other.strip() for other in before]:
            self._tell(mismatch(path, "another rule than those before", f"{text!r} again"))
        elif problem := label_problem(text):
            self._tell(mismatch(path, problem, repr(text)))
        elif self._offered is not None:
            try:
                parse_rule(text_of(text, rules))
            except KpframeError as error:
                self.problems += lines_of(error, path)
            except Exception as error:  # of the rule's own code
                self._tell(f"{path}: {say(error)}")

    def _measure(self, axes: Sequence[Axis]) -> MeasureSettings | None:
        row = self._part("measure", "a table [measure] with steps")
        steps: tuple[int, ...] | None = None
        form = row.pop("steps", None)
        if form is None:
            if "measure" in self._table:
                self._tell(
                    mismatch("measure.steps", "a list of steps, or {log = 12}", "nothing (it is required)")
                )
        else:
            try:
                steps = self._steps(form, axes)
            except SettingsError as error:
                self.problems += str(error).splitlines()
        for name, setting in _OF_SPECTRUM.items():
            if name in row and "quantity" in self._table:
                remedy = f'[[quantity]] name = "spectrum" has it as {setting}'
                self._tell(
                    mismatch(f"measure.{name}", "none beside [[quantity]]", f"{row[name]!r}; {remedy}")
                )
            if name in row:
                self._spectrum[setting] = row.pop(name)
        for name in ("inputs", "operators"):
            self._check_texts(row.get(name), f"measure.{name}")
        self._blocks.append(Block("measure", "measure", {**row, "steps": steps or (0,)}, MeasureSettings))
        return self._built(MeasureSettings, {**row, "steps": steps or (0,)}, axes, "measure")

    def _steps(self, form: Any, axes: Sequence[Axis]) -> tuple[int, ...] | None:
        """Return the steps of a study; None where nobody knows what the last one is."""
        check_form(form, "measure.steps")
        training = self._table.get("training", {})
        given = training.get("steps", TrainingSettings().steps) if isinstance(training, Mapping) else None
        last, words = as_whole(given), "the training"
        for axis in axes:
            if axis.axis.path == "training.steps":
                last = min((n for n in map(as_whole, axis.given) if n is not None), default=last)
                words = "the shortest training"
        return None if last is None or last < 0 else steps_of(form, last, "measure.steps", words)

    def _check_texts(self, values: Any, path: str) -> None:
        """Check what the settings class does not say of a list of texts."""
        if not isinstance(values, list | tuple):
            return
        if not values:
            self._tell(mismatch(path, "at least one", "none"))
        for place, value in enumerate(values):
            if value in values[:place]:
                self._tell(mismatch(f"{path}[{place}]", "another one than those before", f"{value!r} again"))
            elif path == "measure.operators" and isinstance(value, str) and (p := operator_problem(value)):
                self._tell(f"{path}[{place}]: {p}")

    def _built(self, cls: type[T], row: Mapping[str, Any], axes: Sequence[Axis], part: str) -> T | None:
        """Return the settings, with the first values of a sweep where there are no others; None if wrong."""
        swept = {axis.place.setting: axis.axis.values[0] for axis in axes if axis.place.part == part}
        try:
            return build_settings(cls, {**row, **swept}, owner=part)
        except SettingsError:  # told with all other blocks
            return None

    def _texts(self, key: str, values: Any) -> tuple[str, ...]:
        if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
            meant = f"; did you mean {[values]!r}?" if isinstance(values, str) else ""
            self._tell(mismatch(key, "a list of texts", f"{shown(values)}{meant}"))
            return ()
        return tuple(values)
