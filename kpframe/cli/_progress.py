"""Progress of a training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    from kpframe.study._training import ProgressCallback

#: How many lines a training writes where there is no terminal.
LINES = 5


@contextmanager
def training_progress(labels: Sequence[str]) -> Iterator[ProgressCallback]:
    """Yield a function to report progress with; one bar or a few lines for each label."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _line
        return
    columns = (
        TextColumn("{task.description}", markup=False),  # "[x]" is part of a label
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("loss {task.fields[loss]:.4f}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        bars = {label: progress.add_task(label, total=None, loss=float("nan")) for label in labels}

        def report(label: str, step: int, total: int, loss: float, doing: str = "", /) -> None:
            progress.update(bars[label], completed=step, total=total, loss=loss)

        yield report


def _line(label: str, step: int, total: int, loss: float, doing: str = "", /) -> None:
    if step == total or step % max(1, total // LINES) == 0:
        click.echo(f"{label}: update {step} of {total}, loss {loss:.4f}", err=True)
