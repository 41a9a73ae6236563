"""``kpframe report``: the page of a run, written again from its figures, or of several side by side."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--figures", is_flag=True, help="Write each figure as PDF and SVG, too, into RUN/figures.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="The page of several runs.  [default: runs.html]",
)
def report(runs: tuple[Path, ...], figures: bool, output: Path | None) -> None:
    """Write the page of RUN, the folder of a run, again from its figures.

    A run that is under way, or was stopped, gets a page of what it has recorded so far. Nothing is computed
    and nothing of the run is changed but its page.

    Of several runs the page has what they say side by side: the settings that differ, their figures on
    common axes, and what is found in each.
    """
    if len(runs) == 1 and output is not None:
        raise click.UsageError("--output is for the page of several runs; that of one run is in its folder")
    if len(runs) > 1 and figures:
        raise click.UsageError("--figures is for one run: give one at a time")
    from kpframe.study._reading.merge import record_of

    for run in runs:
        record_of(run)
    from kpframe.cli._progress import step_progress
    from kpframe.study._report.page import told_of_drawing
    from kpframe.study._report.run import write_run_report
    from kpframe.study._report.runs import write_runs

    click.echo("drawing the figures ...", err=True)
    with step_progress(late=True) as progress, told_of_drawing(progress):
        if len(runs) > 1:
            page = write_runs(runs, output or Path("runs.html"))
        else:
            page = write_run_report(runs[0], files=figures)
    click.echo(f"open:    {page.resolve()}")
