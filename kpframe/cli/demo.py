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
def demo(quick: bool, output: Path, seed: int) -> None:
    """Train a GRU and an RNN to read handwritten digits and report what learning can do to them.

    Writes OUTPUT/report.html (open it in a browser), OUTPUT/results.nc (every number, with named
    dimensions), and the checkpoints.
    """
    from attrs import evolve

    from kpframe.cli.progress import training_progress
    from kpframe.report.figures import score_name
    from kpframe.report.html import plus_minus, score_text, write_report
    from kpframe.study.config import bundled_study
    from kpframe.study.needs import check_plugins
    from kpframe.study.run import run_study

    started = time.monotonic()
    study = evolve(bundled_study("demo_quick" if quick else "demo"), seed=seed)
    check_plugins(study)
    output.mkdir(parents=True, exist_ok=True)
    with training_progress([network.label for network in study.networks]) as report:
        data = run_study(study, output, report)
    path = write_report(data, output / "report.html")
    final = data.isel(step=-1)
    for label in data.network.values:
        one = final.sel(network=label)
        rank, stderr = one.effective_rank.sel(operator="Phi"), one.effective_rank_stderr.sel(operator="Phi")
        click.echo(
            f"{label}: test {score_name(data)} {score_text(one)}, "
            f"effective rank of Phi {plus_minus(rank, stderr)}"
        )
    click.echo(f"results: {output / 'results.nc'}  ({time.monotonic() - started:.0f} s)")
    click.echo(f"open:    {path.resolve()}")
