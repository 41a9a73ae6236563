"""``kpframe train``: one initial network, trained by several learning rules."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpframe.cli._options import (
    budget_option,
    jobs_option,
    output_option,
    overwrite_option,
    seed_option,
    trials_option,
)
from kpframe.cli._terminal import loading

if TYPE_CHECKING:
    from kpframe.study._rules.experiment import Experiment


@click.command()
@click.option(
    "--rule",
    "texts",
    multiple=True,
    required=True,
    help="As bptt or truncated_bptt(window=5); repeat. The first is the one that others are compared with.",
)
@click.option("--model", required=True, help="Registered model; see 'kpframe plugins'.")
@click.option(
    "--set", "model_pairs", multiple=True, metavar="KEY=VALUE", help="Setting of the model; repeat."
)
@click.option("--reads", help="Component of the state that is read out; all of it by default.")
@click.option("--task", required=True, help="Registered task.")
@click.option(
    "--task-set", "task_pairs", multiple=True, metavar="KEY=VALUE", help="Setting of the task; repeat."
)
@click.option("--steps", type=click.IntRange(min=1), default=500, show_default=True, help="Updates.")
@click.option("--batch-size", type=click.IntRange(min=1), default=32, show_default=True, help="Trials each.")
@click.option("--optimizer", type=click.Choice(["adam", "sgd"]), default="adam", show_default=True)
@click.option("--learning-rate", type=click.FloatRange(min=0, min_open=True), default=1e-3, show_default=True)
@click.option(
    "--momentum",
    type=click.FloatRange(min=0, max=1, max_open=True),
    default=0.0,
    show_default=True,
    help="Of sgd.",
)
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@trials_option(24)
@budget_option(16)
@seed_option("weights, trials, probes and stochastic rules")
@click.option(
    "--seeds",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many: --seed and those after it. From 2 on, figures are means with intervals over the seeds.",
)
@output_option("the page, the numbers and the checkpoints", "kpframe-train")
@jobs_option
@overwrite_option
@click.pass_context
def train(
    ctx: click.Context,
    texts: tuple[str, ...],
    model: str,
    model_pairs: tuple[str, ...],
    reads: str | None,
    task: str,
    task_pairs: tuple[str, ...],
    steps: int,
    batch_size: int,
    optimizer: str,
    learning_rate: float,
    momentum: float,
    dtype: str,
    trials: int,
    budget: int,
    seed: int,
    seeds: int,
    output: Path,
    jobs: int,
    overwrite: bool,
) -> None:
    """Train the same initial network by each --rule, on the same trials.

    Writes OUTPUT/training.html and OUTPUT/training.nc: loss curves, test loss and accuracy (or R^2),
    effective ranks, alignment of the final Phi with that of the first rule, and how far the parameters
    went; and OUTPUT/checkpoints/, which 'kpframe compare OUTPUT' reads. A rule that diverges or fails
    is recorded as such, and the others go on; after a failure the exit code is 1. The same command goes on
    where it was stopped.

    With one seed the standard errors and bars are those of the estimates alone. What other initial
    weights and other trials would give, only --seeds shows.
    """
    with loading():
        from kpframe.cli._pairs import read_pairs
        from kpframe.study._rules.experiment import Experiment
        from kpframe.study._running.training import TrainingSettings

    labels = [text.strip() for text in texts]
    experiment = Experiment(
        model=model,
        task=task,
        training=TrainingSettings(
            steps=steps,
            batch_size=batch_size,
            optimizer=optimizer,
            learning_rate=learning_rate,
            momentum=momentum,
            gradient="operators",
        ),
        model_settings=read_pairs(model_pairs, "--set"),
        task_settings=read_pairs(task_pairs, "--task-set"),
        reads=reads,
        dtype=dtype,
        trials=trials,
        budget=budget,
        seed=seed,
        seeds=seeds,
    )
    carry_out(ctx, experiment, labels, output, jobs=jobs, overwrite=overwrite)


def go_on(ctx: click.Context, path: Path, settings: Mapping[str, Any], jobs: int) -> None:
    """Go on with the training in a folder, as the settings in its record say."""
    from kpframe.study._rules.experiment import Experiment

    experiment, labels = Experiment.from_settings(settings)
    carry_out(ctx, experiment, labels, path, jobs=jobs, mend=True)


def carry_out(
    ctx: click.Context,
    experiment: Experiment,
    labels: list[str],
    output: Path,
    *,
    jobs: int,
    overwrite: bool = False,
    mend: bool = False,
) -> None:
    """Train, write the page, and what came of it to the terminal; after a failure the exit code is 1."""
    with loading():
        import torch

        from kpframe.cli._carry_out import show_probe
        from kpframe.cli._progress import duration, training_progress
        from kpframe.rules._parse import parse_rule
        from kpframe.study._disk.labels import check_labels
        from kpframe.study._disk.results import read_dataset
        from kpframe.study._report.training import failed_rules, write_training
        from kpframe.study._rules.experiment import training_folder
        from kpframe.study._rules.train_rules import train_rules

    started = time.monotonic()
    check_labels(labels, "--rule")
    rules = {label: parse_rule(label) for label in labels}
    torch.set_num_threads(1)  # small networks lose more to waiting threads than they gain
    with training_folder(output, rules, experiment, overwrite=overwrite, mend=mend) as folder:
        if folder.resumed:
            click.echo(f"going on with the run in {output}", err=True)
        with training_progress(list(rules)) as report:
            train_rules(rules, experiment, folder, report, jobs=jobs, tell=report.tell)
        data = read_dataset(output / "training.nc")
        page = write_training(data, output / "training.html")
    show(data)
    show_probe(data)
    click.echo(f"numbers: {output / 'training.nc'}  ({duration(time.monotonic() - started)})")
    click.echo(f"open:    {page.resolve()}")
    if failures := failed_rules(data):
        for failure in failures:
            click.echo(f"Failed: {failure}", err=True)
        ctx.exit(1)


def show(data: object) -> None:
    """Write the table of results to the terminal."""
    import xarray as xr

    from kpframe.cli._tables import new_console, new_table
    from kpframe.study._report.training import training_rows

    assert isinstance(data, xr.Dataset)
    head, rows = training_rows(data)
    table = new_table(*head[:6])
    for row in rows:
        table.add_row(*row[:6])
    new_console().print(table)
