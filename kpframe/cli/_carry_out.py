"""Carry out a study in the folder of its run, as all commands that do so: progress, page, last lines."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpframe.cli._terminal import loading

if TYPE_CHECKING:
    import xarray as xr

    from kpframe.study._disk.folder import RunFolder
    from kpframe.study._helper import Helpers
    from kpframe.study._running.executor import Executor
    from kpframe.study._settings import StudySettings


def carry_out(
    ctx: click.Context,
    study: StudySettings,
    folder: RunFolder,
    *,
    jobs: int = 1,
    executor: Executor | None = None,
    text: str | None = None,
    helpers: Helpers | None = None,
) -> None:
    """Run a study, or go on with it; write its page, and what came of it to the terminal.

    After a training, a quantity or a rule that failed the exit code is 1.

    Args:
        ctx: of the command.
        study: what is trained and recorded.
        folder: of its run, not entered yet.
        jobs: trainings at the same time.
        executor: makes a job of each training.
        text: the file of the study, as it was given, which is kept.
        helpers: processes that train and draw beside this one.
    """
    with loading():
        from kpframe.cli._progress import duration, training_progress
        from kpframe.cli._trainings import show_trainings
        from kpframe.study._cells import expand, training_file
        from kpframe.study._running.run_study import keep_study, run_study

    started, cells = time.monotonic(), expand(study)
    with folder:
        if text is not None:
            keep_study(folder, text)
        if folder.resumed:
            click.echo(f"going on with the run in {folder.path}", err=True)
        own = [cell for cell in cells if cell.same_as is None]
        left = [cell for cell in own if not (folder.path / training_file(cell.name)).exists()]
        with training_progress([cell.label for cell in left]) as report:
            data = run_study(study, folder, jobs=jobs, executor=executor, report=report, helpers=helpers)
        page = write_page(folder, data, helpers)
    good = show_demo(data) if folder.command == "demo" else show_trainings(data, cells)
    show_probe(data)
    click.echo(f"results: {folder.path / 'results.nc'}  ({duration(time.monotonic() - started)})")
    click.echo(f"open:    {page.resolve()}")
    if not good:
        ctx.exit(1)


def write_page(folder: RunFolder, data: xr.Dataset, helpers: Helpers | None = None) -> Path:
    """Write the page of a run, with what helps to draw it; return its path."""
    from kpframe.study._report.run import page_of_run

    return page_of_run(data, folder.command, folder.cells, folder.path, helpers=helpers)


def show_probe(data: xr.Dataset) -> None:
    """Say along which trials operators were built."""
    if said := data.attrs.get("probe_trials"):
        click.echo(f"along:   {said}")


def show_demo(data: xr.Dataset) -> bool:
    """Write a line for each network, and what failed to stderr; return whether nothing did."""
    from kpframe.study._plot.training import score_name, score_of
    from kpframe.study._report.captions_of_operators import score_text
    from kpframe.study._report.captions_of_rules import failed_rules
    from kpframe.study._report.words import plus_minus

    final = data.isel(step=-1)
    for label in data.network.values:
        one = final.sel(network=label)
        rank, stderr = one.effective_rank.sel(operator="Phi"), one.effective_rank_stderr.sel(operator="Phi")
        click.echo(
            f"{label}: test {score_name(data)} {score_text(one, float(one[score_of(one)]))}, "
            f"effective rank of Phi {plus_minus(rank, stderr)}"
        )
    failures = failed_rules(data)
    for failure in failures:
        click.echo(f"Failed: {failure}", err=True)
    return not failures
