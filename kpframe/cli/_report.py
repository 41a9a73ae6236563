"""``kpframe report``: the page of a run, written again from its figures."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("run", type=click.Path(path_type=Path))
def report(run: Path) -> None:
    """Write the page of RUN, the folder of a run, again from its figures.

    A run that is under way, or was stopped, gets a page of what it has recorded so far. Nothing is computed
    and nothing of the run is changed but its page.
    """
    from kpframe.study._reading.merge import record_of
    from kpframe.study._report.run import write_run_report

    record_of(run)
    click.echo("drawing the figures ...", err=True)
    click.echo(f"open:    {write_run_report(run).resolve()}")
