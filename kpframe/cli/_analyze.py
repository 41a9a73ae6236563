"""``kpframe analyze``: the operators of networks that were trained elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpframe.cli._options import budget_option, output_option, overwrite_option, seed_option, trials_option

if TYPE_CHECKING:
    import xarray as xr

    from kpframe.study._networks.analysis import Analysis


@click.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option(
    "--model", help="For files of other programs: a registered model, or module:factory with a function."
)
@click.option(
    "--set", "model_pairs", multiple=True, metavar="KEY=VALUE", help="Setting of the model; repeat."
)
@click.option(
    "--map",
    "renames",
    multiple=True,
    metavar="OLD=NEW",
    help="Names of weights that begin with OLD begin with NEW in the model: 'encoder.rnn.='; repeat.",
)
@click.option(
    "--ignore",
    multiple=True,
    metavar="FRONT",
    help="Names of weights that begin so are no part of the network; repeat.",
)
@click.option(
    "--readout", metavar="NAME", help="Where the file has a linear readout: NAME.weight, NAME.bias."
)
@click.option("--reads", help="Component of the state that is read out, where several would fit.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), help="That of the weights by default.")
@click.option("--task", help="Registered task, whose trials are run; that of kpframe's own files by default.")
@click.option(
    "--task-set", "task_pairs", multiple=True, metavar="KEY=VALUE", help="Setting of the task; repeat."
)
@click.option(
    "--inputs",
    type=click.Path(path_type=Path),
    help="Instead of a task: a file .npy, .npz or .safetensors with inputs [trials, steps, channels], and "
    "targets and mask if there are any.",
)
@click.option(
    "--sets",
    multiple=True,
    type=click.Choice(["test", "train"]),
    help="Which trials of the task; repeat for both. Unseen ones (test) by default.",
)
@click.option(
    "--operators", multiple=True, help='As "P P*"; repeat, or join by ";". P P*, K and Phi by default.'
)
@click.option(
    "--quantity",
    "quantities",
    multiple=True,
    help="As spectrum(k=10) or label:spectrum(k=10); repeat. What a study records by default.",
)
@trials_option(24, least=2)
@budget_option(4)
@seed_option("trials and probes", None, "; that of the file, or 0, by default")
@output_option("the page and the numbers", "kpframe-analyze")
@overwrite_option
@click.pass_context
def analyze(
    ctx: click.Context,
    source: Path,
    model: str | None,
    model_pairs: tuple[str, ...],
    renames: tuple[str, ...],
    ignore: tuple[str, ...],
    readout: str | None,
    reads: str | None,
    dtype: str | None,
    task: str | None,
    task_pairs: tuple[str, ...],
    inputs: Path | None,
    sets: tuple[str, ...],
    operators: tuple[str, ...],
    quantities: tuple[str, ...],
    trials: int,
    budget: int,
    seed: int | None,
    output: Path,
    overwrite: bool,
) -> None:
    """Record the networks of SOURCE: a checkpoint, a folder of them, or the folder of a run.

    Checkpoints are kpframe's own, or files of other programs (.safetensors, .pt, .pth, .ckpt; weights
    alone) with the --model that they are of. In a folder the steps are in the names: step=300.pt,
    ckpt-000300.pt, epoch=3-step=120.ckpt, 300.pt. Writes OUTPUT/report.html, OUTPUT/results.nc and a
    file for each step; the same command goes on where it was stopped.
    """
    from kpframe.cli._pairs import read_pairs
    from kpframe.study._moment import OPERATORS
    from kpframe.study._networks.analysis import Analysis
    from kpframe.study._networks.given_model import GivenModel

    formulas = tuple(part.strip() for text in operators for part in text.split(";") if part.strip())
    given = GivenModel(
        model, read_pairs(model_pairs, "--set"), _renames(renames), ignore, readout, reads, dtype
    )
    analysis = Analysis(
        source,
        given,
        task,
        read_pairs(task_pairs, "--task-set"),
        inputs,
        sets or ("test",),
        formulas or OPERATORS,
        quantities or None,
        trials,
        budget,
        seed,
    )
    carry_out(ctx, analysis, output, overwrite=overwrite)


def go_on(ctx: click.Context, path: Path, settings: Mapping[str, Any]) -> None:
    """Go on with the analysis in a folder, as the settings in its record say."""
    from kpframe.study._networks.analysis import Analysis

    carry_out(ctx, Analysis.from_settings(settings), path, mend=True)


def carry_out(
    ctx: click.Context, analysis: Analysis, output: Path, *, overwrite: bool = False, mend: bool = False
) -> None:
    """Record, write the page, and what came of it to the terminal; after a failure the exit code is 1."""
    from kpframe.cli._carry_out import show_probe
    from kpframe.cli._progress import step_progress
    from kpframe.study._networks.analyze import run_analysis
    from kpframe.study._networks.given_model import importable
    from kpframe.study._report.run import write_run_report

    with importable(Path.cwd()), step_progress() as report:  # modules as for python -m
        data = run_analysis(analysis, output, overwrite=overwrite, mend=mend, report=report)
    page = write_run_report(output)
    show(data)
    if left_out := data.attrs.get("quantities_left_out"):
        click.echo(f"left out: {left_out}")
    show_probe(data)
    click.echo(f"numbers: {output / 'results.nc'}")
    click.echo(f"open:    {page.resolve()}")
    if failures := failed(data):
        for failure in failures:
            click.echo(f"Failed: {failure}", err=True)
        ctx.exit(1)


def _renames(texts: tuple[str, ...]) -> list[tuple[str, str]]:
    found: dict[str, str] = {}
    for text in texts:
        old, equals, new = text.partition("=")
        if not equals or not old:
            raise click.BadParameter(f"expected OLD=NEW, got {text!r}", param_hint="'--map'")
        if old in found:
            raise click.BadParameter(f"{old!r} is given twice", param_hint="'--map'")
        found[old] = new
    return list(found.items())


def show(data: xr.Dataset) -> None:
    """Write a row for each recorded step to the terminal: scores, and ranks of the operators."""
    from kpframe.cli._tables import new_console, new_table
    from kpframe.study._report.words import plus_minus, two_digits

    along = [str(dim) for dim in data.quantity_failure.dims if dim not in ("quantity", "step")]
    named = [dim for dim in along if dim == "network" or data.sizes[dim] > 1]
    if "inputs" in data.dims:
        data = data.isel(inputs=0)
    scores = [name for name in ("test_loss", "test_accuracy", "test_r2") if name in data]
    ranks = data.operator.values.tolist() if "effective_rank" in data else []
    table = new_table(
        *named,
        "step",
        *(name.replace("_", " ") for name in scores),
        *(f"effective rank of {name}" for name in ranks),
    )
    rows = data.stack({"row": [*along, "step"]})
    for place in range(rows.sizes["row"]):
        row = rows.isel(row=place)
        if bool(row.quantity_failure.isin([""]).any()):  # else it was not recorded, or nothing of it was
            of = [row.effective_rank.sel(operator=name) for name in ranks]
            by = [row.effective_rank_stderr.sel(operator=name) for name in ranks]
            table.add_row(
                *(str(row[dim].item()) for dim in (*named, "step")),
                *(two_digits(float(row[name])) for name in scores),
                *(plus_minus(value, stderr) for value, stderr in zip(of, by, strict=True)),
            )
    new_console().print(table)


def failed(data: xr.Dataset) -> list[str]:
    """Return a line for each quantity that could not be measured, and for each reason the first step."""
    steps: dict[tuple[str, str], list[int]] = {}
    along = [dim for dim in data.quantity_failure.dims if dim != "quantity"]
    every = data.quantity_failure.stack({"row": along})
    for label in every.quantity.values.tolist():
        own = every.sel(quantity=label)
        for reason, step in zip(own.values.tolist(), own.step.values.tolist(), strict=True):
            if reason:
                steps.setdefault((label, reason), []).append(step)
    return [
        f"{label}, at step {found[0]}{f' and {len(found) - 1} more' if len(found) > 1 else ''} ({reason})"
        for (label, reason), found in steps.items()
    ]
