"""A comparison of learning rules as a run: its settings, its folder, and how it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import xarray as xr
from attrs import asdict, frozen

from kpframe.errors import OutputError, SettingsError, mismatch, told
from kpframe.rules._parse import parse_rule
from kpframe.rules._rule import LearningRule
from kpframe.study._disk.folder import RunFolder, read_record, run_files
from kpframe.study._disk.labels import check_labels
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.sources import shown_path
from kpframe.study._ranks.team import note
from kpframe.study._report.comparison import write_comparison
from kpframe.study._rules.compare_source import compare_source, compared_checkpoints
from kpframe.tasks._task import create_task

#: Bytes that the numbers and the page of a comparison take at least.
LEAST = 150_000


@frozen
class Comparison:
    """What is compared, on what, and how.

    Attributes:
        sources: checkpoints, and folders of runs.
        rules: texts of the learning rules.
        last: whether of each training of a folder the network recorded last is compared alone.
        task: a registered task; that of the checkpoint when left out.
        trials, budget, seed: size of the probe batch, products for each estimate, seed of both.
    """

    sources: tuple[Path, ...]
    rules: tuple[str, ...]
    last: bool = False
    task: str | None = None
    trials: int = 24
    budget: int = 60
    seed: int = 0

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Self:
        """Return the comparison that ``run.json`` describes; raises ``SettingsError``."""
        try:
            rules = tuple(str(label) for label, _ in settings["rules"])
            rest = {name: settings[name] for name in ("last", "task", "trials", "budget", "seed")}
            return cls(tuple(map(Path, settings["sources"])), rules, **rest)
        except (KeyError, TypeError, ValueError) as error:
            got = f"none that can be read ({told(error)})"
            raise SettingsError(mismatch("settings", "those of a comparison", got)) from error


def run_comparison(
    comparison: Comparison,
    output: Path,
    *,
    overwrite: bool = False,
    mend: bool = False,
    report: Callable[[str, int, int], None] | None = None,
) -> xr.Dataset:
    """Compare, and write ``comparison.nc`` and ``comparison.html``; go on where the same was interrupted.

    Args:
        comparison: what is compared.
        output: the folder to write into.
        overwrite: replace the run that the folder holds.
        mend: keep this run though it is finished, to make files anew that are missing or damaged.
        report: as of ``compare_source``.

    Returns:
        The dataset of ``comparison.nc``.

    Raises:
        KpframeError: as ``compare_source`` and ``comparison_folder``.
    """
    check_labels(comparison.rules, "--rules")
    rules = {label: parse_rule(label) for label in comparison.rules}
    task = None if comparison.task is None else create_task(comparison.task)
    options = {name: value for name, value in asdict(comparison).items() if name not in ("sources", "rules")}
    with comparison_folder(
        output, comparison.sources, rules, overwrite=overwrite, mend=mend, **options
    ) as folder:
        note("rules: compared on rank 0 alone")
        compare_source(comparison.sources, rules, **{**options, "task": task}, report=report, output=folder)
        data = read_dataset(output / "comparison.nc")
        write_comparison(data, output / "comparison.html")
    return data


def comparison_folder(
    output: Path,
    sources: Sequence[Path],
    rules: Mapping[str, LearningRule],
    *,
    last: bool = False,
    overwrite: bool = False,
    mend: bool = False,
    **settings: object,
) -> RunFolder:
    """Return the folder of a comparison, to be entered with ``with``.

    Args:
        output: the folder.
        sources, rules, last, settings: as of ``compare_source``, a task by its name.
        overwrite: replace the run that the folder holds.
        mend: keep this run though it is finished.

    Raises:
        CheckpointError: as ``compare_source``.
        OutputError: for the folder of what is compared; on entering as ``RunFolder``.
    """
    every = compared_checkpoints(sources, last=last)
    if {one.path.resolve() for one in every} & {path.resolve() for path in run_files(output)}:
        raise OutputError(
            f"folder {str(output)!r} holds the checkpoints that are compared; give another --output"
        )
    cells = [
        {
            "name": one.name,
            "coordinates": {"checkpoint": one.label},
            "steps": [one.step],
            "initial_of": None,
        }
        for one in every
    ]
    names = [shown_path(source.resolve().name) for source in sources]
    shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return RunFolder(
        output,
        "compare",
        {
            "sources": [shown_path(source.absolute()) for source in sources],
            "runs": [(read_record(source) or {}).get("id") for source in sources],
            "checkpoints": [one.label for one in every],
            "last": last,
            "rules": [[label, repr(rule)] for label, rule in rules.items()],
            **settings,
        },
        title=f"Learning rules compared on {shown}",
        seed=int(str(settings.get("seed", 0))),
        overwrite=overwrite,
        mend=mend,
        needed=LEAST,
        cells=cells,
    )
