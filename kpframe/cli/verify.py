"""``kpframe verify``: every identity that a model, rule or reducer must satisfy, as a table."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from kpframe.testing.report import Report, Result


@click.command()
@click.argument("name")
@click.option(
    "--examples",
    type=click.IntRange(min=1),
    help="Cases that each check draws (default: 20, or KPFRAME_CHECK_EXAMPLES).",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(name: str, examples: int | None, as_json: bool) -> int:
    """Check every identity that NAME must satisfy, on drawn cases; the same ones each time.

    NAME is a registered model, package.module:Class, or a checkpoint (*.safetensors);
    rule:NAME and reducer:NAME check those. Exit code 1 when a check fails.
    """
    import torch

    from kpframe.testing.checks import check_model, check_reducer, check_rule
    from kpframe.testing.sources import check_exists, source_of

    source = source_of(name)
    check_exists(source)  # a name that names nothing is an error, not a failed check
    torch.set_num_threads(1)  # small tensors lose more to waiting threads than they gain
    run = {"model": check_model, "rule": check_rule, "reducer": check_reducer}[source.kind]
    report = run(source, examples=examples)
    if as_json:
        click.echo(json.dumps(report.to_dict(), indent=2))
    else:
        _show(report)
    return 0 if report.passed else 1


def _show(report: Report) -> None:
    from kpframe.cli.plugins import _console, _table

    console = _console()
    table = _table("check", "verdict", "worst error", "tolerance", "cases", "must differ", "skipped")
    for result in report.results:
        table.add_row(*_row(result))
    console.print(f"{report.kind} {report.label}")
    console.print(table)
    for result in report.results:
        if result.verdict == "failed":
            console.print(result.message)
            console.print(f"  smallest failing case: {result.case or '(none was drawn)'}\n")
    console.print(_summary(report))


def _row(result: Result) -> list[str]:
    if result.verdict == "not run" or (result.verdict == "not applicable"):
        return [result.name, result.verdict, result.message, "", "", "", ""]
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
