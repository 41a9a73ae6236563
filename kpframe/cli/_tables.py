"""Tables and lines of plain text, as the terminal can show them."""

from __future__ import annotations

import errno
import os
import sys
from typing import Any, NoReturn

from rich import box
from rich.console import Console
from rich.table import Table

from kpframe.cli._terminal import fitting
from kpframe.errors import one_line, printable


class PlainConsole(Console):
    """A console that takes text as it is: ``[mV]`` is no markup, and escape sequences are written out."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print text, tables ..."""
        shown = [fitting(printable(one)) if isinstance(one, str) else one for one in objects]
        super().print(*shown, **options)

    def on_broken_pipe(self) -> NoReturn:
        """Leave it to the command line that nobody reads on."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


class PlainTable(Table):
    """A table whose cells take one line of text, as it is."""

    def add_row(self, *cells: Any, **options: Any) -> None:
        """Add a row of cells."""
        super().add_row(*(fitting(one_line(cell)) for cell in cells), **options)


def new_console() -> PlainConsole:
    """Return a console for standard output, which cuts nothing in a pipe."""
    width = None if sys.stdout.isatty() else 1000
    return PlainConsole(width=width, markup=False, highlight=False, emoji=False)


def new_table(*columns: str) -> PlainTable:
    """Return an empty table."""
    made = PlainTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(fitting(column), overflow="fold")
    return made
