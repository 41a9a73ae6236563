"""``kpframe demo``: train two networks on real data, measure their operators, write a report."""

from __future__ import annotations

from pathlib import Path

import click

from kpframe.cli._options import output_option, overwrite_option, seed_option
from kpframe.cli._terminal import loading

#: What a helper imports while it waits, in the order in which it is needed.
MODULES = ("torch", "xarray", "kpframe.study._running.processes", "kpframe.study._report.run")


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
    from kpframe.study._helper import helpers

    with helpers(*MODULES) as found:  # which import what they need while this process does
        with loading():
            from attrs import evolve

            from kpframe.cli._carry_out import carry_out
            from kpframe.study._running.run_study import study_folder
            from kpframe.study._study_file.reading import bundled_study, check_plugins
            from kpframe.study._workers import torch_threads

        with torch_threads(1):  # two processes with threads of their own would wait for each other
            study = evolve(bundled_study("demo", quick=quick), seeds=(seed,))
            check_plugins(study)
            folder = study_folder(study, output, command="demo", overwrite=overwrite)
            carry_out(ctx, study, folder, helpers=found)
