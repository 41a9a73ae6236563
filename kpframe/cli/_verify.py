"""``kpframe verify``: every identity that a model, rule, form, quantity ... must satisfy, as a table."""

from __future__ import annotations

import json
from contextlib import nullcontext
from typing import TYPE_CHECKING

import click

from kpframe.cli._terminal import kept_for_json
from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import KINDS

if TYPE_CHECKING:
    from kpframe.testing._report import Report, Result


@click.command()
@click.argument("name", required=False)
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    help="Cases that each check draws (default: 20, or KPFRAME_CHECK_EXAMPLES).",
)
@click.option(
    "--theorem",
    type=click.Choice(["weight-sites"]),
    help="Instead, look a theorem up in numbers, for NAME or all models: weight-sites says for which K is "
    "a Gram matrix of what the weight sites read.",
)
@click.option(
    "--ranks",
    type=click.IntRange(min=2),
    help="Instead, check flows whose trials so many ranks of this machine share, beside one process: of a "
    "model, rule:NAME, propagator:NAME or parameter_operator:NAME.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    name: str | None, examples: int | None, theorem: str | None, ranks: int | None, as_json: bool
) -> int:
    """Check every identity that NAME must satisfy, on drawn cases; the same ones each time.

    NAME is a registered model, package.module:Class, or a checkpoint (*.safetensors);
    rule:NAME, reducer:NAME, propagator:NAME, parameter_operator:NAME and quantity:NAME check those.
    Exit code 1 when a check fails.
    """
    if theorem is not None:
        if ranks is not None:
            raise click.UsageError("--theorem and --ranks are two things to do; take one of them.")
        return _weight_sites(name, as_json)
    if name is None:
        raise click.UsageError("Missing argument 'NAME'.")
    with kept_for_json() if as_json else nullcontext():
        report = _report(name, examples, ranks or 0)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _show(report)
    return 0 if report.passed else 1


def _report(name: str, examples: int | None, ranks: int) -> Report:
    import torch

    from kpframe.cli._progress import step_progress
    from kpframe.testing._checks import check_source
    from kpframe.testing._sources import check_exists, source_of

    source = source_of(name)
    if source.kind not in KINDS:
        kinds = "a model, rule:NAME, reducer:NAME, propagator:NAME, parameter_operator:NAME or quantity:NAME"
        raise ArgumentError(mismatch("NAME", kinds, repr(name)))
    check_exists(source)  # a name that names nothing is an error, not a failed check
    torch.set_num_threads(1)  # small tensors lose more to waiting threads than they gain
    with step_progress(late=True) as progress:
        return check_source(source, examples, report=progress, ranks=ranks)


def _show(report: Report) -> None:
    from kpframe.cli._tables import new_console, new_table

    console = new_console()
    table = new_table(
        *("check", "verdict", "worst error", "tolerance", "cases", "must differ", "skipped", "why"),
        prose=("why",),
    )
    for result in report.results:
        table.add_row(*_row(result))
    console.print(f"{report.kind}:{report.label}")
    console.print(table)
    for result in report.results:
        if result.verdict == "failed":
            console.print(result.message)
            console.print(f"  smallest failing case: {result.case or '(none was drawn)'}\n")
    console.print(_summary(report))


def _row(result: Result) -> list[str]:
    if result.verdict == "not run" or (result.verdict == "not applicable"):
        return [result.name, result.verdict, "", "", "", "", "", result.message]
    cases = str(result.cases)
    return [
        result.name,
        result.verdict,
        f"{result.error:.1e}",
        f"{result.tolerance:.0e}",
        cases,
        str(result.partners or "-"),
        str(result.skipped or "-"),
    ]


def _summary(report: Report) -> str:
    counts = {
        verdict: sum(result.verdict == verdict for result in report.results)
        for verdict in ("passed", "failed", "not applicable", "not run")
    }
    return ", ".join(f"{count} {verdict}" for verdict, count in counts.items() if count)


def _weight_sites(name: str | None, as_json: bool) -> int:
    """Print which models' K is a Gram matrix; a setting has a row of its own where it changes the case."""
    from kpframe.cli._tables import new_console, new_table
    from kpframe.plugin import get_manager
    from kpframe.testing._weight_sites import TOLERANCE, survey

    with kept_for_json() if as_json else nullcontext():
        names = [spec.name for spec in get_manager().specs("model")] if name is None else [name]
        surveys = {name: list(survey(name)) for name in names}
    if as_json:
        rows = [found.to_dict() for found_all in surveys.values() for found in found_all]
        click.echo(json.dumps({"tolerance": TOLERANCE, "models": rows}, indent=2))
        return 0
    table = new_table("model", "K is", "between neurons", "from one Gram matrix", "from declared inputs")
    alike = 0
    for found_all in surveys.values():
        base = found_all[0]
        for found in found_all:
            if found is not base and found.verdict == base.verdict:
                alike += 1
                continue
            settings = " ".join(f"{key}={value}" for key, value in found.settings.items())
            declared = "-" if found.undeclared is None else f"{found.undeclared:.0e}"
            table.add_row(
                f"{found.model} {settings}".strip(),
                found.verdict,
                f"{found.between:.0e}",
                f"{found.unshared:.0e}",
                declared,
            )
    console = new_console()
    console.print(table)
    console.print(
        f"Measured on K by automatic differentiation; below {TOLERANCE:.0e} counts as zero. "
        f"{alike} more settings, each changed alone, leave their model's case as it is."
    )
    return 0
