"""Options that several commands have: spelt, bounded and explained in one place."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

if TYPE_CHECKING:
    from kpframe.study._running.executor import Executor

from kpframe.study._ranks.launcher import Launch

#: What decorates a command.
Option = Callable[[Callable[..., Any]], Callable[..., Any]]

overwrite_option: Option = click.option(
    "--overwrite", is_flag=True, help="Replace the run that the folder holds."
)


def _alone(ctx: click.Context, option: click.Parameter, value: int) -> int:
    """Refuse processes of a rank: ranks measure together, one network after the other."""
    if value > 1 and (launch := Launch.under_way) is not None:
        raise click.BadParameter(
            f"expected 1 on {launch.ranks} ranks, which measure each network together, got {value}; or start "
            "kpframe without torchrun, for as many trainings at the same time"
        )
    return value


jobs_option: Option = click.option(
    "--jobs",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    callback=_alone,
    help="Trainings at the same time.",
)


executor_option: Option = click.option(
    "--executor",
    type=click.Choice(["processes", "local", "slurm"]),
    default="processes",
    show_default=True,
    help="What trains: processes of this one, or jobs of their own by submitit, here or on a cluster; there "
    "all run at the same time without --jobs.",
)
cluster_option: Option = click.option(
    "--cluster",
    type=click.Path(path_type=Path, dir_okay=False),
    help="TOML file of what each job is given: partition, minutes, memory_gb ...",
)


def executor_of(ctx: click.Context, kind: str, cluster: Path | None, jobs: int) -> Executor | None:
    """Return what makes jobs, None for processes; raises ``click.UsageError`` for settings without jobs."""
    from kpframe.study._running.executor import ClusterSettings, Executor, read_cluster

    if kind != "processes" and (launch := Launch.under_way) is not None:
        raise click.UsageError(
            f"--executor: expected processes on {launch.ranks} ranks, which share each network's trials, got "
            f"{kind}; or start kpframe without torchrun: each training is a job of one process",
            ctx,
        )
    if kind == "processes":
        if cluster is not None:
            raise click.UsageError("--cluster: expected --executor slurm or local beside it", ctx)
        return None
    given = ctx.get_parameter_source("jobs") is not ParameterSource.DEFAULT
    settings = ClusterSettings() if cluster is None else read_cluster(cluster)
    return Executor(kind, settings, jobs if given else None)


def output_option(what: str, default: str | None = None, otherwise: str = "") -> Option:
    """Return ``--output``, the folder to write ``what`` into; ``otherwise`` says what it is by default."""
    return click.option(
        "--output",
        type=click.Path(path_type=Path, file_okay=False),
        default=None if default is None else Path(default),
        show_default=default is not None,
        help=f"Folder to write {what} into{otherwise}.",
    )


def trials_option(default: int, least: int = 1) -> Option:
    """Return ``--trials``, the trials along which operators are built."""
    return click.option(
        "--trials",
        type=click.IntRange(min=least),
        default=default,
        show_default=True,
        help="Trials along which operators are built; of a task with classes as many of each, or one more.",
    )


def budget_option(least: int) -> Option:
    """Return ``--budget``, the operator products for each estimate."""
    return click.option(
        "--budget",
        type=click.IntRange(min=least),
        default=60,
        show_default=True,
        help="Operator products for each estimate.",
    )


def seed_option(of: str, default: int | None = 0, otherwise: str = "") -> Option:
    """Return ``--seed``, that of what ``of`` names."""
    return click.option(
        "--seed",
        type=click.IntRange(min=0),
        default=default,
        show_default=default is not None,
        help=f"Seed of {of}{otherwise}.",
    )
