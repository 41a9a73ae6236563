"""``kpframe compare``: learning rules beside backpropagation through time, on trained networks."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kpframe.cli._options import budget_option, output_option, overwrite_option, seed_option, trials_option
from kpframe.cli._terminal import loading

if TYPE_CHECKING:
    from kpframe.study._rules.run_comparison import Comparison

#: What the terminal shows of the page's tables.
COLUMNS = (
    "rule",
    "cosine of updates",
    "descent",
    "alignment with Phi",
    "effective rank of F F*",
    "symmetric part",
)


@click.command()
@click.argument(
    "sources", metavar="SOURCE...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True)
)
@click.option(
    "--rules",
    "texts",
    multiple=True,
    required=True,
    help='As truncated_bptt(window=5) or frozen(parameters=["bias*"]) @ bptt; repeat, or join by ";".',
)
@click.option("--task", "task_name", help="Registered task; that of the checkpoint by default.")
@click.option("--last", is_flag=True, help="Of each training of a folder, the last recorded network alone.")
@trials_option(24)
@budget_option(16)
@seed_option("trials and probes")
@output_option("the page and the numbers", "kpframe-compare")
@overwrite_option
@click.pass_context
def compare(
    ctx: click.Context,
    sources: tuple[Path, ...],
    texts: tuple[str, ...],
    task_name: str | None,
    last: bool,
    trials: int,
    budget: int,
    seed: int,
    output: Path,
    overwrite: bool,
) -> None:
    """Compare learning rules on each SOURCE, a checkpoint or the folder of a run.

    Writes OUTPUT/comparison.html and OUTPUT/comparison.nc: cosines of the updates, whole and step by
    step, loss rates by parameter and by how far errors travel, spectra and ranks of the flows
    F = P K P_rule* E, alignment with Phi, and whether a rule is descent. A rule that does not apply to
    a model is skipped there, and it is said which, where and why. One that fails on a checkpoint is
    recorded as such, and the others go on; the exit code is then 1, and so it is for a rule that
    applies to none of the models. The same command goes on where it was stopped.
    """
    with loading():
        from kpframe.study._rules.run_comparison import Comparison

    labels = tuple(part.strip() for text in texts for part in text.split(";") if part.strip())
    comparison = Comparison(sources, labels, last, task_name, trials, budget, seed)
    carry_out(ctx, comparison, output, overwrite=overwrite)


def go_on(ctx: click.Context, path: Path, settings: Mapping[str, Any]) -> None:
    """Go on with the comparison in a folder, as the settings in its record say."""
    from kpframe.study._rules.run_comparison import Comparison

    carry_out(ctx, Comparison.from_settings(settings), path, mend=True)


def carry_out(
    ctx: click.Context,
    comparison: Comparison,
    output: Path,
    *,
    overwrite: bool = False,
    mend: bool = False,
) -> None:
    """Compare, and write what came of it to the terminal; after a failure the exit code is 1."""
    with loading():
        import torch

        from kpframe.cli._carry_out import show_probe
        from kpframe.cli._progress import duration, step_progress
        from kpframe.study._report.comparison import failed_comparisons, skipped_comparisons
        from kpframe.study._rules.run_comparison import run_comparison

    started = time.monotonic()
    torch.set_num_threads(1)  # small networks lose more to waiting threads than they gain
    with step_progress() as report:
        data = run_comparison(comparison, output, overwrite=overwrite, mend=mend, report=report)
    show(data)
    show_probe(data)
    click.echo(f"numbers: {output / 'comparison.nc'}  ({duration(time.monotonic() - started)})")
    click.echo(f"open:    {(output / 'comparison.html').resolve()}")
    for skipped in skipped_comparisons(data):
        click.echo(f"Skipped: {skipped}", err=True)
    failures = failed_comparisons(data)
    for failure in failures:
        click.echo(f"Failed: {failure}", err=True)
    if failures or bool((data.failure != "").all("checkpoint").any()):
        ctx.exit(1)


def show(data: object) -> None:
    """Write the table of results to the terminal."""
    import xarray as xr

    from kpframe.cli._tables import new_console, new_table
    from kpframe.study._report.comparison import comparison_rows

    assert isinstance(data, xr.Dataset)
    table = new_table("checkpoint", *COLUMNS)
    for name in data.checkpoint.values:
        head, rows = comparison_rows(data.sel(checkpoint=name))
        for row in rows:
            table.add_row(str(name), *(row[head.index(column)] for column in COLUMNS))
    new_console().print(table)
