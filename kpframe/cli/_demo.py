"""``kpframe demo``: train two networks on real data, measure their operators, write a report."""

from __future__ import annotations

from pathlib import Path

import click

from kpframe.cli._options import output_option, overwrite_option, seed_option


@click.command()
@click.option("--quick", is_flag=True, help="A smaller study, in seconds rather than minutes.")
@output_option("the report and the results", "kpframe-demo")
@seed_option("the study")
@overwrite_option
@click.pass_context
def demo(ctx: click.Context, quick: bool, output: Path, seed: int, overwrite: bool) -> None:
    """Train a GRU and an RNN to read handwritten digits and report what learning can do to them.

    Writes OUTPUT/report.html (open it in a browser), OUTPUT/results.nc (every number, with named
    dimensions), and the checkpoints. The same command goes on with a run that was ended.
    """
    from attrs import evolve

    from kpframe.cli._carry_out import carry_out
    from kpframe.study._running.run_study import study_folder
    from kpframe.study._study_file.reading import bundled_study, check_plugins

    study = evolve(bundled_study("demo", quick=quick), seeds=(seed,))
    check_plugins(study)
    carry_out(ctx, study, study_folder(study, output, command="demo", overwrite=overwrite))
