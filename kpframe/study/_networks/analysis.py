"""What an analysis of checkpoints is: its settings, as a function and ``run.json`` have them, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Self

from attrs import field, frozen

from kpframe.errors import ArgumentError, SettingsError, closest, mismatch, told, whole
from kpframe.plugin._call_text import parse_call, parse_expression
from kpframe.study._disk.labels import check_labels
from kpframe.study._moment import OPERATORS, operator_problem
from kpframe.study._networks.given_model import GivenModel
from kpframe.study._networks.sources import SourceCell, shown_path
from kpframe.study._quantity import Quantity, create_quantity
from kpframe.study._settings import QuantitySettings
from kpframe.study._study_file.tables import DEFAULTS

_FORM = "a quantity such as spectrum(k=10), or label:spectrum(k=10)"
_SETS = ("test", "train")


@frozen(eq=False)
class Analysis:
    """What is recorded of which networks.

    Attributes:
        source: a checkpoint, a folder of them, or the folder of a run.
        given: how files of other programs are read.
        task, task_settings: a registered task; that of kpframe's own files when left out.
        inputs: a file of inputs instead of a task; see ``read_inputs``.
        sets: which trials of the task, of ``"test"`` and ``"train"``.
        operators: those that are measured.
        quantities: texts, ``"spectrum(k=10)"``; a study's own when left out, as far as they can be measured.
        trials: of each set; of a file of inputs all.
        budget: operator products for each estimate.
        seed: of trials and probes; None for that of kpframe's own files, else 0.

    Raises:
        ArgumentError: for settings that cannot be, one at a time.
    """

    source: Path
    given: GivenModel = field(factory=GivenModel)
    task: str | None = None
    task_settings: Mapping[str, Any] = field(factory=dict)
    inputs: Path | None = None
    sets: Sequence[str] = ("test",)
    operators: Sequence[str] = OPERATORS
    quantities: Sequence[str] | None = None
    trials: int = 24
    budget: int = 60
    seed: int | None = None

    def __attrs_post_init__(self) -> None:
        self.given.check()
        if self.inputs is not None and (self.task is not None or self.task_settings):
            raise ArgumentError(mismatch("task", "none beside inputs", repr(self.task or self.task_settings)))
        if self.task is None and self.task_settings:
            raise ArgumentError(mismatch("task", "a task, whose settings are given", "none"))
        whole(self.trials, "trials", 2)
        whole(self.budget, "budget", 4)
        if self.seed is not None:
            whole(self.seed, "seed", 0)
        for argument, values in (("operators", self.operators), ("sets", self.sets)):
            if not values:
                raise ArgumentError(mismatch(argument, "at least one", "none"))
            if len(set(values)) < len(values):
                raise ArgumentError(mismatch(argument, "each once", ", ".join(map(repr, values))))
        for name in self.sets:
            if name not in _SETS:
                raise ArgumentError(
                    mismatch("sets", f"some of {', '.join(_SETS)}", repr(name)) + closest(name, _SETS)
                )
        for text in self.operators:
            if problem := operator_problem(text):
                raise ArgumentError(f"operators: {problem}")

    def to_settings(self, cells: Sequence[SourceCell]) -> dict[str, Any]:
        """Return what ``run.json`` says of it, the contents of all files in it by their checksums."""
        given = self.given
        files = [
            [cell.name, file.step, shown_path(file.path.name), _digest(file.path)]
            for cell in cells
            for file in cell.files
        ]
        return {
            "source": shown_path(self.source.absolute()),
            "checkpoints": files,
            "model": given.name,
            "model_settings": dict(given.settings),
            "map": [list(pair) for pair in given.renames],
            "ignore": list(given.ignore),
            "readout": given.readout,
            "reads": given.reads,
            "dtype": given.dtype,
            "task": self.task,
            "task_settings": dict(self.task_settings),
            "inputs": None if self.inputs is None else shown_path(self.inputs.absolute()),
            "inputs_checksum": None if self.inputs is None else _digest(self.inputs),
            "sets": list(self.sets),
            "operators": list(self.operators),
            "quantities": None if self.quantities is None else list(self.quantities),
            "trials": self.trials,
            "budget": self.budget,
            "seed": self.seed,
        }

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return the analysis that ``run.json`` describes; raises ``SettingsError``."""
        try:
            given = GivenModel(
                settings["model"],
                settings["model_settings"],
                [(str(old), str(new)) for old, new in settings["map"]],
                *(settings[name] for name in ("ignore", "readout", "reads", "dtype")),
            )
            inputs, rest = settings["inputs"], ("sets", "operators", "quantities", "trials", "budget", "seed")
            return cls(
                Path(settings["source"]),
                given,
                settings["task"],
                settings["task_settings"],
                None if inputs is None else Path(inputs),
                **{name: settings[name] for name in rest},
            )
        except (KeyError, TypeError, ValueError) as error:
            got = f"none that can be read ({told(error)})"
            raise SettingsError(mismatch("settings", "those of an analysis", got)) from error

    def made_quantities(self) -> dict[str, Quantity]:
        """Return the quantities by label; raises ``ArgumentError``, and as ``create_quantity``."""
        texts = DEFAULTS if self.quantities is None else self.quantities
        parsed = [parse_quantity(text) for text in texts]
        if not parsed:
            raise ArgumentError(mismatch("quantities", "at least one", "none"))
        check_labels([one.label for one in parsed], "quantity")
        return {one.label: create_quantity(one.name, **one.settings) for one in parsed}


def parse_quantity(text: str) -> QuantitySettings:
    """Return what ``"spectrum(k=10)"`` or ``"long:spectrum(k=10)"`` names; raises ``ArgumentError``."""
    label, colon, rest = text.partition(":")
    if not colon or not label.strip().isidentifier():
        label, rest = "", text
    name, settings = parse_call(parse_expression(rest, "quantity", _FORM), text, "quantity", _FORM)
    own = label.strip()
    return QuantitySettings(name=name, label=f"{own}:{name}" if own else name, settings=settings)


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        digest = sha256()
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()
