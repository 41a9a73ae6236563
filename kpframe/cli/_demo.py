"""``kpframe demo``: train two networks on real data, measure their operators, write a report."""

from __future__ import annotations

import time
from pathlib import Path

import click


@click.command()
@click.option("--quick", is_flag=True, help="A smaller study, in seconds rather than minutes.")
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("kpframe-demo"),
    show_default=True,
    help="Folder to write the report and the results into.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the study.")
@click.option("--overwrite", is_flag=True, help="Replace the run that the folder holds.")
@click.pass_context
def demo(ctx: click.Context, quick: bool, output: Path, seed: int, overwrite: bool) -> None:
    """Train a GRU and an RNN to read handwritten digits and report what learning can do to them.

    Writes OUTPUT/report.html (open it in a browser), OUTPUT/results.nc (every number, with named
    dimensions), and the checkpoints.
    """
    from attrs import evolve

    from kpframe.cli._progress import training_progress
    from kpframe.study._config import bundled_study, check_plugins
    from kpframe.study._report.html import failed_rules, write_report
    from kpframe.study._results import read_dataset
    from kpframe.study._run import run_study, study_folder

    started = time.monotonic()
    study = evolve(bundled_study("demo_quick" if quick else "demo"), seed=seed)
    check_plugins(study)
    with study_folder(study, output, overwrite=overwrite) as folder:
        with training_progress([network.label for network in study.networks]) as report:
            run_study(study, folder, report)
        data = read_dataset(output / "results.nc")
        path = write_report(data, output / "report.html")
    show(data)
    click.echo(f"results: {output / 'results.nc'}  ({time.monotonic() - started:.0f} s)")
    click.echo(f"open:    {path.resolve()}")
    if failures := failed_rules(data):
        for failure in failures:
            click.echo(f"Failed: {failure}", err=True)
        ctx.exit(1)


def show(data: object) -> None:
    """Write a line for each network to the terminal."""
    import xarray as xr

    from kpframe.study._report.figures import score_name
    from kpframe.study._report.html import plus_minus, score_text

    assert isinstance(data, xr.Dataset)
    final = data.isel(step=-1)
    for label in data.network.values:
        one = final.sel(network=label)
        rank, stderr = one.effective_rank.sel(operator="Phi"), one.effective_rank_stderr.sel(operator="Phi")
        click.echo(
            f"{label}: test {score_name(data)} {score_text(one)}, "
            f"effective rank of Phi {plus_minus(rank, stderr)}"
        )
