"""``Experiment``: what is trained by several learning rules, as cells of a study, and the folder for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Self

from attrs import asdict, field, fields_dict, frozen

from kpframe.errors import SettingsError, mismatch, told, whole
from kpframe.rules._rule import LearningRule
from kpframe.study._cells import Cell, described_cells, expand
from kpframe.study._disk.folder import RunFolder
from kpframe.study._running.build import network_of
from kpframe.study._running.training import TrainingSettings
from kpframe.study._settings import MeasureSettings, NetworkSettings, QuantitySettings, StudySettings
from kpframe.tasks._task import create_task

#: Bytes that the numbers and the page take at least, and each step of a training, beside the checkpoints.
LEAST, EACH = 90_000, 20_000


@frozen
class Experiment:
    """What is trained, on what, and how.

    Attributes:
        model, model_settings: a registered model; ``input_size`` is the task's unless given.
        task, task_settings: a registered task.
        training: its ``gradient`` is always ``"operators"`` here.
        reads: component of the state that is read out; all of it by default.
        dtype: ``"float32"`` or ``"float64"``.
        trials: size of the probe batch on which operators are built.
        budget: operator products for each estimate.
        seed: of initial weights, training trials, probes and the draws of stochastic rules.
        seeds: how many seeds, ``seed`` and those after it, each a training of its own.

    Raises:
        SettingsError: for no seed, and for weights with a seed of their own where there are several.
    """

    model: str
    task: str
    training: TrainingSettings
    model_settings: Mapping[str, Any] = field(factory=dict)
    task_settings: Mapping[str, Any] = field(factory=dict)
    reads: str | None = None
    dtype: str = "float32"
    trials: int = 24
    budget: int = 60
    seed: int = 0
    seeds: int = 1

    def __attrs_post_init__(self) -> None:
        whole(self.seeds, "seeds", error=SettingsError)
        if self.seeds > 1 and self.model_settings.get("seed") is not None:
            expected = "no 'seed' with several seeds, each of which draws initial weights of its own"
            raise SettingsError(mismatch("model_settings", expected, self.model_settings["seed"]))

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> tuple[Self, list[str]]:
        """Return the experiment that ``run.json`` describes, and the labels of its rules.

        Raises:
            SettingsError: for settings of something else.
        """
        try:
            own = {name: settings[name] for name in fields_dict(cls)}
            own["training"] = TrainingSettings(**own["training"])
            return cls(**own), [str(label) for label, _ in settings["rules"]]
        except (KeyError, TypeError, ValueError) as error:
            got = f"none that can be read ({told(error)})"
            raise SettingsError(mismatch("settings", "those of a training by rules", got)) from error

    def study(self, labels: Iterable[str]) -> StudySettings:
        """Return the study whose trainings these are, by the rules of these labels."""
        rules = list(labels)
        count = f"{len(rules)} learning rule{'s' if len(rules) > 1 else ''}"
        if self.seeds > 1:
            count += f", from {self.seeds} seeds"
        return StudySettings(
            title=f"{self.model} trained on {self.task} by {count}",
            task=self.task,
            task_settings=dict(self.task_settings),
            seeds=tuple(range(self.seed, self.seed + self.seeds)),
            dtype=self.dtype,
            threads=1,
            networks=(
                NetworkSettings(
                    name=self.model,
                    label=self.model,
                    settings=dict(self.model_settings),
                    reads=self.reads,
                ),
            ),
            rules=(),
            training=TrainingSettings(**{**asdict(self.training), "gradient": "operators"}),
            measure=MeasureSettings(
                steps=tuple(sorted({0, self.training.steps})),
                trials=self.trials,
                operators=("Phi", "P P*"),
                budget=self.budget,
                probes="same",
            ),
            quantities=(QuantitySettings(name="scores", label="scores", settings={}),),
            trained_by=tuple(rules),
        )

    def cells(self, labels: Iterable[str]) -> list[dict[str, Cell]]:
        """Return the trainings by the rules of these labels: for each seed, label -> cell."""
        found: dict[int, dict[str, Cell]] = {}
        for cell in expand(self.study(labels)):
            found.setdefault(cell.seed, {})[str(cell.coordinates["trained_by"])] = cell
        return list(found.values())


def training_folder(
    output: Path,
    rules: Mapping[str, LearningRule],
    experiment: Experiment,
    *,
    overwrite: bool = False,
    mend: bool = False,
) -> RunFolder:
    """Return the folder of a training, to be entered with ``with``; raises as ``RunFolder``.

    Args:
        output: the folder.
        rules, experiment: what is trained.
        overwrite: replace the run that the folder holds.
        mend: keep this run though it is finished, to make files anew that are missing or damaged.
    """
    cells = [cell for each in experiment.cells(rules) for cell in each.values()]
    network = network_of(cells[0], create_task(experiment.task, **experiment.task_settings))
    size = sum(t.nbytes for part in network for t in part.state_dict().values())
    return RunFolder(
        output,
        "train",
        asdict(experiment) | {"rules": [[label, repr(rule)] for label, rule in rules.items()]},
        title=experiment.study(rules).title,
        seed=experiment.seed,
        overwrite=overwrite,
        mend=mend,
        needed=LEAST + (size + EACH) * sum(len(cell.steps) for cell in cells),
        cells=described_cells(cells),
    )
