"""The command line on several ranks: rank 0 runs the command, the others take part in what it measures."""

from __future__ import annotations

import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence

import click

from kpframe.cli._terminal import fitting
from kpframe.errors import KpframeError, printable, say
from kpframe.study._ranks.launcher import Launch, RanksLost

#: Commands that ranks carry out together; of the others rank 0 does all.
TOGETHER = ("analyze", "compare", "demo", "resume", "run", "train")


def run_on_ranks(launch: Launch, arguments: Sequence[str], command: Callable[[Sequence[str]], int]) -> int:
    """Run a command line on the ranks of a job; return the exit code of this one.

    Args:
        launch: this process's place.
        arguments: of the command line.
        command: runs it in this process.
    """
    named = next((word for word in arguments if not word.startswith("-")), "")
    if named not in TOGETHER or "--help" in arguments:
        return command(arguments) if launch.rank == 0 else 0
    try:
        return _lead(launch, arguments, command) if launch.rank == 0 else _follow(launch, arguments)
    except RanksLost as error:  # what has ended the job; another rank has said it where it is not this one's
        if launch.rank and not str(error).startswith(f"rank {launch.rank}"):
            return 2
        return _fail(launch, str(error).removeprefix(f"rank {launch.rank}: "))
    except KpframeError as error:
        return _fail(launch, str(error))


def _lead(launch: Launch, arguments: Sequence[str], command: Callable[[Sequence[str]], int]) -> int:
    from kpframe.study._ranks.team import joined
    from kpframe.study._running.interrupts import ended_by_signals

    with joined(launch, arguments) as team:
        team.tell = _echo
        with ended_by_signals():
            code = command(arguments)
        if team.problem:
            raise RanksLost(team.problem)
    return code


def _follow(launch: Launch, arguments: Sequence[str]) -> int:
    from kpframe.study._ranks.team import joined

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # rank 0 ends the job
    warnings.simplefilter("ignore")  # rank 0 says it
    try:
        with joined(launch, arguments) as team:
            team.serve()
    except (KpframeError, RanksLost):
        raise
    except Exception as error:
        if "--debug" in arguments:
            traceback.print_exc()
        return _fail(launch, f"{say(error)}; unexpected, see the traceback with 'kpframe --debug ...'")
    return 0


def _fail(launch: Launch, text: str) -> int:
    _echo(f"rank {launch.rank}: Error: {text}")
    return 2


def _echo(text: str) -> None:
    click.echo(fitting(printable(text), sys.stderr), err=True)
    if sys.stderr is not None:
        sys.stderr.flush()
