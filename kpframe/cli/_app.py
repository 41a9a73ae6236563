"""The click group: commands load when they run, errors take one line."""

from __future__ import annotations

import errno
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any, TextIO

import click

from kpframe import __version__
from kpframe.cli._extra import is_missing, needs
from kpframe.cli._terminal import fitting, lenient_output
from kpframe.errors import (
    KpframeError,
    PluginWarning,
    RankError,
    ResumeWarning,
    nearest,
    one_line,
    printable,
    say,
)
from kpframe.study._ranks.launcher import RanksLost, launched

# name: (where the command is, what --help says of it without loading it)
COMMANDS = {
    "analyze": ("kpframe.cli._analyze:analyze", "Record a trained network, or a folder of checkpoints."),
    "bench": ("kpframe.cli._bench:bench", "Time the operators beside a training step."),
    "compare": ("kpframe.cli._compare:compare", "Compare learning rules on trained networks."),
    "demo": ("kpframe.cli._demo:demo", "The main job, on real data."),
    "export": ("kpframe.cli._export:export", "Write the figures of a run as CSV or NumPy arrays."),
    "new-plugin": ("kpframe.cli._new_plugin:new_plugin", "Write a plugin to start from."),
    "plan": ("kpframe.cli._plan:plan", "Say what a study would take on several ranks."),
    "plugins": ("kpframe.cli._plugins:plugins", "List the installed plugins and what they offer."),
    "report": ("kpframe.cli._report:report", "Write the page of a run again from its figures."),
    "resume": ("kpframe.cli._resume:resume", "Go on with a run that was ended."),
    "run": ("kpframe.cli._run:run", "Run a study: train its networks and record what it asks for."),
    "show": ("kpframe.cli._plugins:show", "Show one model, rule, task ... and its settings."),
    "status": ("kpframe.cli._resume:status", "Say how far a run is."),
    "train": ("kpframe.cli._train:train", "Train a network by several learning rules."),
    "verify": ("kpframe.cli._verify:verify", "Check the identities that a model or rule must satisfy."),
}


class LazyGroup(click.Group):
    """A group that imports a command when it is run, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of all commands."""
        return sorted(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import a command; None for an unknown one."""
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the command that is named; of an unknown one the error says the closest."""
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            meant = nearest(args[0], COMMANDS)
            ctx.fail(f"No such command {args[0]!r}" + (f" (did you mean {meant!r}?)" if meant else ""))
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands from the table above."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, COMMANDS[name][1]) for name in self.list_commands(ctx)])

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command; an error becomes one line, after the traceback with ``--debug``."""
        try:
            return super().invoke(ctx)
        except (
            click.ClickException,
            click.exceptions.Exit,
            click.Abort,
            BrokenPipeError,
            RanksLost,
        ):
            raise
        except KeyboardInterrupt as error:  # here, as click would end a line that nobody began
            raise click.Abort from error
        except BaseException as error:  # also SystemExit and the like, from code of a plugin
            if ctx.params["debug"]:
                traceback.print_exc()
            raise click.ClickException(_explain(error)) from error


@click.group(cls=LazyGroup, invoke_without_command=True)
@click.version_option(__version__, prog_name="kpframe")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """The geometry of learning in recurrent models: P, K and Phi = P K P* of any of them."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line on ``arguments`` (default: the process's own) and return the exit code."""
    with lenient_output(), warnings.catch_warnings():
        for category in (PluginWarning, ResumeWarning):
            warnings.simplefilter("always", category)
        warnings.showwarning = _show_warning  # undone by catch_warnings
        try:
            launch = launched()
        except RankError as error:
            return _fail(str(error))
        if launch is None:
            return _command(arguments)
        from kpframe.cli._ranks import run_on_ranks

        return run_on_ranks(launch, sys.argv[1:] if arguments is None else arguments, _command)


def _command(arguments: Sequence[str] | None) -> int:
    """Run a command in this process."""
    try:
        code = cli.main(arguments, prog_name="kpframe", standalone_mode=False)
    except click.Abort as error:
        origin = error.__cause__ or error.__context__  # older click hides the cause
        where = one_line(origin) if isinstance(origin, KeyboardInterrupt) else ""
        _echo(where if where.startswith("interrupted") else f"Aborted: {where}" if where else "Aborted.")
        return 130
    except click.UsageError as error:
        where = error.ctx.command_path if error.ctx else "kpframe"
        return _fail(f"{error.format_message().rstrip('.')}; see '{where} --help'")
    except click.ClickException as error:
        return _fail(error.format_message())
    return code if isinstance(code, int) else 0


def _fail(message: str) -> int:
    _echo(f"Error: {message}")
    return 2


def _echo(message: str) -> None:
    click.echo(fitting(printable(message), sys.stderr), err=True)


def _explain(error: BaseException) -> str:
    if isinstance(error, KpframeError):
        return str(error)
    if isinstance(error, ModuleNotFoundError) and error.name and is_missing(error.name):
        return needs(error.name)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EIO):
        return f"writing failed: {error.strerror}"
    blame = one_line("; ".join(getattr(error, "__notes__", ())), 300) or "unexpected"
    return f"{say(error)}; {blame}, see the traceback with 'kpframe --debug ...'"


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Write a warning about a plugin or a run on one line, and others as Python does."""
    if issubclass(category, PluginWarning | ResumeWarning):
        _echo(f"Warning: {one_line(message)}")
    else:
        text = printable(warnings.formatwarning(message, category, filename, lineno, line))
        (file or sys.stderr).write(text)
