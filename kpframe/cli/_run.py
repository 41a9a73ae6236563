"""``kpframe run``: train the networks of a study file and record what it asks for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpframe.cli._options import (
    cluster_option,
    executor_of,
    executor_option,
    jobs_option,
    output_option,
    overwrite_option,
)
from kpframe.cli._terminal import loading

if TYPE_CHECKING:
    from kpframe.study._settings import StudySettings
    from kpframe.study._study_file.plan import Cost, Plan

#: Rows of a table that is shown on a terminal.
ROWS = 20


@click.command()
@click.argument("study", required=False, type=click.Path(path_type=Path))
@output_option(
    "the run",
    otherwise="; by default the name of the study file without its ending, here, with -quick after it for "
    "the quick form",
)
@click.option("--quick", is_flag=True, help="Run the quick form, with what [quick] says laid over the rest.")
@click.option(
    "--dry-run", is_flag=True, help="Check the study, and measure what it would take; write nothing."
)
@click.option("--template", is_flag=True, help="Write a commented study file to start from, to the terminal.")
@jobs_option
@executor_option
@cluster_option
@overwrite_option
@click.pass_context
def run(
    ctx: click.Context,
    study: Path | None,
    output: Path | None,
    quick: bool,
    dry_run: bool,
    template: bool,
    jobs: int,
    executor: str,
    cluster: Path | None,
    overwrite: bool,
) -> None:
    """Run the study that the TOML file STUDY describes, or go on with its run that was ended.

    Writes OUTPUT/report.html, OUTPUT/results.nc (every number, with named dimensions), a record and a
    checkpoint of each network at each recorded step, and the losses. All that is wrong with the file, and all
    that is impossible, is said before anything is trained. After a training, or a figure, that failed the
    exit code is 1.

    kpframe run --template > STUDY.toml writes a file to start from.
    """
    with loading():
        from kpframe.study._study_file.reading import load_study, template_text

    if template:
        click.echo(template_text(), nl=False)
        return
    if study is None:
        raise click.UsageError("expected a study file, or --template for one to start from", ctx)
    made_by = executor_of(ctx, executor, cluster, jobs)
    settings = load_study(study, quick=quick)
    output = Path(f"{study.stem}-quick" if quick else study.stem) if output is None else output
    if dry_run:
        from kpframe.study._study_file.check import check_study
        from kpframe.study._study_file.plan import plan

        check_study(settings, str(study))
        show_plan(settings, plan(settings, jobs=jobs), jobs, output)
        return
    with loading():
        from kpframe.cli._carry_out import carry_out
        from kpframe.study._running.run_study import study_folder

    folder = study_folder(settings, output, overwrite=overwrite)
    carry_out(ctx, settings, folder, jobs=jobs, executor=made_by, text=study.read_text(encoding="utf-8-sig"))


def show_plan(study: StudySettings, found: Plan, jobs: int, output: Path) -> None:
    """Write what a study would do to the terminal."""
    from kpframe.cli._tables import new_console, new_table
    from kpframe.study._disk.files import size_text

    table = new_table(
        "network", "at", "trainings", "updates", "an update", "steps", "recording one", "in all"
    )
    for cost in found.costs[:ROWS]:
        table.add_row(*_row(cost))
    console = new_console()
    console.print(f"{study.title} (quick form)" if study.quick else study.title)
    console.print(table)
    if (more := len(found.costs) - ROWS) > 0:
        console.print(f"and {more} more like these\n")
    if any(cost.scaled for cost in found.costs):
        console.print("~ follows from smaller budgets")
    if not all(cost.measured for cost in found.costs):
        console.print("= taken to be like those that were measured")
    memory = "not known here" if found.memory_bytes is None else size_text(found.memory_bytes)
    each = "" if jobs == 1 else f" for each of {jobs} processes"
    if study.measure.keep != "all":
        each += f', with measure.keep = "{study.measure.keep}"'
    alone = "" if jobs == 1 else f" with --jobs {jobs}, {time_of(found.seconds())} with one"
    same = f"; {found.same} more have the figures of these, as the sweep varies nothing of theirs"
    for name, text in (
        ("trainings", f"{found.cells}, with {found.updates} updates{same if found.same else ''}"),
        ("records", f"{found.records}, with {found.products} operator products"),
        ("time", f"about {time_of(found.seconds(jobs))}{alone}"),
        ("memory", f"{memory}{each}"),
        ("disk", f"{size_text(found.disk_bytes)} and a page, in {output}"),
    ):
        console.print(f"{name + ':':<11}{text}")
    for problem in found.problems:
        click.echo(f"Warning: {problem}", err=True)


def _row(cost: Cost) -> tuple[str, ...]:
    mark = "" if cost.measured else "= "
    about = "~ " if cost.scaled else ""
    return (
        cost.network,
        cost.point,
        str(cost.cells),
        str(cost.updates),
        mark + time_of(cost.update_seconds),
        "+".join(map(str, sorted({*cost.records}, reverse=True))),
        mark + about + time_of(cost.record_seconds),
        time_of(sum(cost.seconds())),
    )


def time_of(seconds: float) -> str:
    """Return a time as text, a short one more closely: 3.2 ms, 640 ms, 3.2 s, 12 s, 4 min."""
    from kpframe.cli._progress import duration

    if seconds < 0.995:
        return f"{1000 * seconds:.2g} ms" if seconds < 0.01 else f"{1000 * seconds:.0f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else duration(seconds)
