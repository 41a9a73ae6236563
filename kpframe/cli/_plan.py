"""``kpframe plan``: what a study takes on several ranks, and where more of them no longer help."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from kpframe.study._scaling.machine import Machine
    from kpframe.study._scaling.plan_ranks import NetworkOnRanks, RanksPlan

#: Networks that are shown on a terminal.
NETWORKS = 8


@click.command()
@click.argument("study", required=False, type=click.Path(path_type=Path))
@click.option(
    "--ranks",
    type=click.IntRange(min=1),
    default=8,
    show_default=True,
    help="Ranks, at most.",
)
@click.option("--quick", is_flag=True, help="Plan the quick form of the study.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--calibrate",
    is_flag=True,
    help="Measure this machine first, and two ranks of it; keep the figures.",
)
@click.option(
    "--calibration",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of a machine's figures; by default machine.json in kpframe's folder of the user's caches.",
)
@click.pass_context
def plan(
    ctx: click.Context,
    study: Path | None,
    ranks: int,
    quick: bool,
    as_json: bool,
    calibrate: bool,
    calibration: Path | None,
) -> None:
    """Say what the study of the TOML file STUDY takes on 1, 2, 4 ... ranks that share its trials.

    A few updates and records are made for that, as one rank makes them, and none is kept. Products and bytes
    are counted. Times of computing are measured here, those of all-reduces follow from the figures of a
    machine: --calibrate measures this one's.
    """
    from kpframe.study._scaling.machine import calibration_file

    if study is None and not calibrate:
        raise click.UsageError("expected a study file, or --calibrate to measure this machine", ctx)
    machine = _machine(calibration, calibration_file(), calibrate)
    if study is None:
        return
    from kpframe.study._scaling.plan_ranks import check_ranks, plan_ranks
    from kpframe.study._study_file.check import check_study
    from kpframe.study._study_file.reading import load_study

    settings = load_study(study, quick=quick)
    check_study(settings, str(study))
    check_ranks(settings, ranks)
    found = plan_ranks(settings, ranks, machine)
    if as_json:
        click.echo(json.dumps(_document(found), indent=2))
    else:
        kept = "" if settings.measure.keep == "all" else f', measure.keep = "{settings.measure.keep}"'
        _show(f"{settings.title}{' (quick form)' if settings.quick else ''}{kept}", found)
    for problem in found.problems:
        click.echo(f"Warning: {problem}", err=True)


def _machine(given: Path | None, usual: Path, measure: bool) -> Machine:
    """Return the figures to use, and say on stderr whose they are."""
    from kpframe.study._scaling.machine import DEFAULT, load_machine, save_machine

    path = usual if given is None else given
    if measure:
        from kpframe.study._scaling.calibrate import calibrate

        machine = calibrate()
        save_machine(machine, path)
        click.echo(f"This machine, {machine.host}: {machine.text()}; kept in {path}", err=True)
        return machine
    if given is None and not usual.exists():
        click.echo(
            f"Not measured on this machine, but assumed: {DEFAULT.text()}; --calibrate measures it",
            err=True,
        )
        return DEFAULT
    machine = load_machine(path)
    if not machine.of_this_host:
        click.echo(
            f"{path}: of another machine, {machine.host}: {machine.text()}; times of computing, measured "
            "here, are scaled by the rates of matrix products; --calibrate measures this machine",
            err=True,
        )
    return machine


def _show(title: str, found: RanksPlan) -> None:
    from kpframe.cli._run import time_of
    from kpframe.cli._tables import new_console, new_table

    console = new_console()
    console.print(title)
    for network in found.networks[:NETWORKS]:
        _show_network(network, found.ranks)
    if (more := len(found.networks) - NETWORKS) > 0:
        console.print(f"and {more} more like these\n")
    table = new_table("ranks", "the study", "efficiency")
    for ranks in found.ranks:
        table.add_row(str(ranks), time_of(found.seconds(ranks)), f"{found.efficiency(ranks):.0%}")
    console.print(table)


def _show_network(network: NetworkOnRanks, ranks: tuple[int, ...]) -> None:
    from kpframe.cli._run import time_of
    from kpframe.cli._tables import new_console, new_table
    from kpframe.study._disk.files import size_text

    console, cost, record = new_console(), network.cost, network.record
    where = f" at {cost.point}" if cost.point else ""
    alike = "" if cost.measured else ", taken to be like those that were measured"
    console.print(
        f"{cost.network}{where}: {record.work.trials} trials, {record.parameters} parameters{alike}; "
        f"{cost.cells} trainings of {cost.updates} updates on rank 0, {sum(cost.records)} records"
    )
    table = new_table("a record", "measured by", "products", "all-reduces", "bytes", "computing")
    parts = {**record.quantities, "in all": record.spent}
    about = "~ " if record.scaled else ""
    for label, spent in parts.items():
        table.add_row(
            label,
            "" if label == "in all" else "all ranks" if label in record.together else "rank 0",
            about + str(spent.products),
            about + str(spent.collectives),
            about + size_text(spent.sent_bytes),
            about + time_of(spent.seconds / network.speed),
        )
    console.print(table)
    table = new_table("a product", "all-reduces", "bytes", *(f"on {number}" for number in ranks))
    for name in record.operators:
        work = network.operator(name)
        times = [time_of(work.on(number, network.machine).seconds) for number in ranks]
        table.add_row(name, str(work.collectives), size_text(work.sent_bytes), *times)
    console.print(table)
    table = new_table("ranks", "trials", "memory", "computing", "communicating", "a record", "efficiency")
    for number in ranks:
        on = network.records(number)
        memory = "not known here" if on.memory_bytes is None else size_text(round(on.memory_bytes))
        table.add_row(
            str(number),
            str(on.trials),
            memory,
            time_of(on.computing),
            time_of(on.communicating),
            time_of(on.seconds),
            f"{on.efficiency:.0%}",
        )
    console.print(table)
    if sent := record.work.broadcast_bytes:
        console.print(f"each record begins with {size_text(sent)} of weights, from rank 0 to all others")
    stops = network.stops_at()
    console.print(
        f"communicating takes as long as computing from {stops} ranks on"
        if stops
        else f"communicating takes less than computing up to {record.work.trials} ranks, one for each trial"
    )
    if record.scaled:
        console.print("~ follows from smaller budgets")
    console.print()


def _document(found: RanksPlan) -> dict[str, Any]:
    from attrs import asdict

    return {
        "machine": {**asdict(found.machine), "of_this_host": found.machine.of_this_host},
        "networks": [
            {
                "network": network.cost.network,
                "point": network.cost.point,
                "trials": network.record.work.trials,
                "parameters": network.record.parameters,
                "trainings": network.cost.cells,
                "updates": network.cost.updates,
                "records": sum(network.cost.records),
                "measured": network.cost.measured,
                "scaled": network.record.scaled,
                "record": asdict(network.record.spent),
                "weight_bytes": network.record.work.broadcast_bytes,
                "quantities": {
                    label: {**asdict(one), "on_all_ranks": label in network.record.together}
                    for label, one in network.record.quantities.items()
                },
                "operators": {
                    name: {
                        "collectives": work.collectives,
                        "sent_bytes": work.sent_bytes,
                        "seconds": {
                            str(ranks): work.on(ranks, found.machine).seconds for ranks in found.ranks
                        },
                    }
                    for name in network.record.operators
                    for work in [network.operator(name)]
                },
                "ranks": [
                    {
                        **asdict(network.records(ranks)),
                        "seconds": network.records(ranks).seconds,
                        "all_seconds": network.seconds(ranks),
                    }
                    for ranks in found.ranks
                ],
                "stops_at": network.stops_at(),
            }
            for network in found.networks
        ],
        "study": [
            {"ranks": ranks, "seconds": found.seconds(ranks), "efficiency": found.efficiency(ranks)}
            for ranks in found.ranks
        ],
        "problems": list(found.problems),
    }
