"""Run a study: train each network, measure it along the way, gather one dataset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs
import numpy as np
import torch
import xarray as xr

from kpframe.models._model import Model, create_model
from kpframe.rules._rule import LearningRule, create_rule
from kpframe.study._build import by_first_coordinate, test_trials
from kpframe.study._checkpoint import save_checkpoint
from kpframe.study._config import NetworkSettings, StudySettings
from kpframe.study._files import make_folder
from kpframe.study._folder import RunFolder
from kpframe.study._labels import file_names
from kpframe.study._measure import measure
from kpframe.study._scores import SCORES
from kpframe.study._training import ProgressCallback, Trainer
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Task, Trials, create_task

#: Bytes that the numbers of a network at a step take at least.
LEAST = 30_000


def run_study(
    settings: StudySettings, output: Path | RunFolder, report: ProgressCallback | None = None
) -> xr.Dataset:
    """Run a study and write its files below ``output``.

    ``steps/<network>-<step>.nc`` holds what was measured at a step, ``checkpoints/`` the networks at
    those steps, ``results.nc`` everything, with dims ``network, step, operator, rule, k, mode, time,
    trial, update``. A rule that raises an error at a step costs its own figures there, which are NaN;
    ``failure`` says why.

    Args:
        settings: the study.
        output: folder to write into, made when it does not exist; or one that is held (see ``study_folder``).
        report: called after each update.

    Returns:
        The dataset of ``results.nc``.

    Raises:
        OutputError: for a folder that cannot be written or holds another run, before any training.
    """
    if isinstance(output, Path):
        with study_folder(settings, output) as folder:
            return run_study(settings, folder, report)
    before = torch.get_num_threads()
    torch.set_num_threads(settings.threads)
    try:
        return _run(settings, output, report)
    finally:
        torch.set_num_threads(before)


def study_folder(settings: StudySettings, output: Path, *, overwrite: bool = False) -> RunFolder:
    """Return the folder of a study, to be entered with ``with``.

    Every network is made once, so that settings that cannot be used are known before any is trained.

    Raises:
        SettingsError, UnknownNameError: for a network, a task or a rule that cannot be made.
        OutputError: on entering, as ``RunFolder``.
    """
    task = create_task(settings.task, **settings.task_settings)
    for rule in settings.rules:
        create_rule(rule.name, **rule.settings)
    size = 0
    for network in settings.networks:
        parts = _network(network, settings, task)
        size += sum(t.nbytes for part in parts for t in part.state_dict().values())
    return RunFolder(
        output,
        "study",
        attrs.asdict(settings),
        title=settings.title,
        seed=settings.seed,
        overwrite=overwrite,
        needed=(size + len(settings.networks) * LEAST) * len(settings.measure.steps),
    )


def _run(settings: StudySettings, folder: RunFolder, report: ProgressCallback | None) -> xr.Dataset:
    task = create_task(settings.task, **settings.task_settings)
    rules = {rule.label: create_rule(rule.name, **rule.settings) for rule in settings.rules}
    dtype = getattr(torch, settings.dtype)
    probe = task.sample(settings.measure.trials, generator=settings.seed, split="test", dtype=dtype)
    probe = by_first_coordinate(probe)
    test = test_trials(task, settings.seed, dtype)
    names = file_names([network.label for network in settings.networks])
    networks = [
        _run_network(network, names[network.label], settings, task, rules, probe, test, folder, report)
        for network in settings.networks
    ]
    data = xr.concat(networks, dim=xr.Variable("network", [n.label for n in settings.networks]))
    data.attrs = dict(folder.attributes)
    folder.write_dataset("results.nc", data)
    return data


def _settings(network: NetworkSettings, task: Task) -> dict[str, Any]:
    return {"input_size": task.input_size, **network.settings}


def _network(network: NetworkSettings, settings: StudySettings, task: Task) -> tuple[Model, Readout]:
    """Return an untrained network, a function of the study's seed."""
    dtype = getattr(torch, settings.dtype)
    with torch.random.fork_rng():  # initial weights follow the study's seed, torch's own stream does not
        torch.manual_seed(settings.seed)
        model = create_model(network.name, **_settings(network, task)).to(dtype)
    hidden = None if network.reads is None else model.component_slice(network.reads)
    return model, Readout(model.width, task.output_size, hidden=hidden, generator=settings.seed, dtype=dtype)


def _run_network(
    network: NetworkSettings,
    name: str,
    settings: StudySettings,
    task: Task,
    rules: dict[str, LearningRule],
    probe: Trials,
    test: Trials,
    folder: RunFolder,
    report: ProgressCallback | None,
) -> xr.Dataset:
    model, readout = _network(network, settings, task)
    trainer = Trainer(model, readout, task, settings.training, seed=settings.seed)
    losses = np.full(settings.training.steps, np.nan)
    measured = []

    def record(step: int) -> None:
        data = measure(
            model, readout, probe, test, task.loss, rules, settings.measure, seed=settings.seed + step
        )
        stem = f"{name}-{step:06d}"
        folder.write_dataset(f"steps/{stem}.nc", data, network=network.label, step=step)
        save_checkpoint(
            make_folder(folder.path / "checkpoints") / f"{stem}.safetensors",
            model,
            readout,
            name=network.name,
            settings=_settings(network, task),
            step=step,
            extra={
                "task": {"name": settings.task, "settings": settings.task_settings},
                "reads": [readout.hidden.start, readout.hidden.stop],
                "run": folder.id,
            },
        )
        measured.append(data)

    wanted = set(settings.measure.steps)
    if 0 in wanted:
        record(0)
    for progress in trainer.run():
        losses[progress.step - 1] = progress.loss
        if report is not None:
            report(network.label, progress.step, settings.training.steps, progress.loss)
        if progress.step in wanted:
            record(progress.step)
    data = xr.concat(measured, dim=xr.Variable("step", sorted(wanted), {"long_name": "updates made"}))
    data["training_loss"] = (
        "update",
        losses,
        {"long_name": "training loss, before each update", "units": SCORES[task.loss].loss_unit},
    )
    return data.assign_coords(update=np.arange(1, len(losses) + 1))
