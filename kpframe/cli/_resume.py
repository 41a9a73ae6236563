"""``kpframe resume`` and ``kpframe status``: go on with a run that was ended, and how far one is."""

from __future__ import annotations

from pathlib import Path

import click

from kpframe.cli._options import cluster_option, executor_of, executor_option, jobs_option


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@jobs_option
@executor_option
@cluster_option
@click.pass_context
def resume(ctx: click.Context, run: Path, jobs: int, executor: str, cluster: Path | None) -> None:
    """Go on with the run in the folder RUN that was ended, of any command that makes one.

    The figures are those of a run that was not. Files that are damaged or missing are made anew, of a
    finished run, too. After a training that failed the exit code is 1.
    """
    from kpframe.cli import _analyze, _compare, _train
    from kpframe.cli._carry_out import carry_out
    from kpframe.study._reading.merge import record_of
    from kpframe.study._running.run_study import resumed_folder

    record = record_of(run)
    command, settings = record["command"], record["settings"]
    made_by = executor_of(ctx, executor, cluster, jobs)
    if made_by is not None and command in ("train", "compare", "analyze"):
        raise click.UsageError(
            f"--executor: expected a run of kpframe run, got one of kpframe {command}", ctx
        )
    if command == "train":
        _train.go_on(ctx, run, settings, jobs)
    elif command == "compare":
        _compare.go_on(ctx, run, settings)
    elif command == "analyze":
        _analyze.go_on(ctx, run, settings)
    else:
        study, folder = resumed_folder(run)
        carry_out(ctx, study, folder, jobs=jobs, executor=made_by)


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Write JSON.")
def status(run: Path, as_json: bool) -> None:
    """Say how far the run in the folder RUN is, and which of its files are damaged; change nothing."""
    import json

    from attrs import asdict

    from kpframe.cli._progress import duration
    from kpframe.cli._tables import new_console, new_table
    from kpframe.study._running.status import run_status

    found = run_status(run)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
        return
    process = f", process {found.process}" if found.state == "running" else ""
    click.echo(f"run {found.id} (kpframe {found.command}, {found.created}): {found.title}")
    click.echo(f"{found.state}{process}, {duration(found.seconds)} of work")
    table = new_table("training", "state", "updates", "steps recorded", "reason", prose=("reason",))
    for cell in found.cells:
        updates = "" if cell.updates is None else str(cell.updates)
        steps = f"{len(cell.recorded)} of {len(cell.steps)}"
        job = "" if cell.job is None else f", job {cell.job.number}, heard {duration(cell.job.heard)} ago"
        table.add_row(cell.label, f"{cell.state}{job}", updates, steps, cell.reason)
    new_console().print(table)
    for name, reason in found.damaged.items():
        click.echo(f"damaged: {name} ({reason})")
    if found.go_on:
        click.echo(f"go on with: {found.go_on}")
