"""Tables and lines of plain text: whole names and numbers at any width, and a row a line in a pipe."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator, Sequence

from rich.cells import cell_len

from kpframe.cli._terminal import fitting
from kpframe.errors import one_line, printable

#: Spaces between two columns, and fewest characters of a column whose text may go on in the next line.
GAP, NARROW = 2, 24


class PlainTable:
    """A table whose cells take one line of text, as it is: ``[mV]`` is no markup.

    Args:
        columns: their heads.
        prose: those whose text may go on in the next line, between words; any other cell stays whole.
    """

    def __init__(self, columns: Sequence[str], prose: Sequence[str] = ()) -> None:
        self.columns = [fitting(one_line(column)) for column in columns]
        self.prose = [column in prose for column in columns]
        self.rows: list[list[str]] = []

    def add_row(self, *cells: object) -> None:
        """Add a row of cells; those that are left out at its end are empty."""
        texts = [fitting(one_line(cell)) for cell in cells]
        self.rows.append(texts + [""] * (len(self.columns) - len(texts)))

    def lines(self, width: int | None) -> Iterator[str]:
        """Yield its lines: cells with tabs between them for a pipe (None), else at most so wide if possible.

        Where the columns do not fit side by side each row becomes a block with a line for each cell.
        """
        if width is None:
            for row in (self.columns, *self.rows):
                yield "\t".join(row)
            return
        yield ""
        widths = self._widths(width)
        if widths is None:
            yield from self._blocks(width)
        else:
            yield from _beside(self.columns, widths)
            yield "─" * (sum(widths) + GAP * (len(widths) - 1)) if fitting("─") == "─" else "-" * sum(widths)
            for row in self.rows:
                yield from _beside(row, widths)
        yield ""

    def _widths(self, width: int) -> list[int] | None:
        """Return the widths of the columns side by side; None where they do not fit."""
        every = [
            [cell_len(row[place]) for row in (self.columns, *self.rows)] for place in range(len(self.columns))
        ]
        widths = [max(lengths) for lengths in every]
        while sum(widths) + GAP * (len(widths) - 1) > width:
            wide = [place for place, prose in enumerate(self.prose) if prose and widths[place] > NARROW]
            if not wide:
                return None
            widths[max(wide, key=lambda place: widths[place])] -= 1
        longest = [
            max(
                (cell_len(word) for row in (self.columns, *self.rows) for word in row[place].split()),
                default=0,
            )
            for place in range(len(self.columns))
        ]
        return widths if all(map(int.__ge__, widths, longest)) else None

    def _blocks(self, width: int) -> Iterator[str]:
        names = max(map(cell_len, self.columns), default=0)
        for at, row in enumerate(self.rows):
            if at:
                yield ""
            for column, cell, prose in zip(self.columns, row, self.prose, strict=True):
                if not cell:
                    continue
                head = column + " " * (names - cell_len(column) + GAP)
                if prose:
                    first, *more = _wrapped(cell, max(NARROW, width - names - GAP))
                    yield head + first
                    yield from (" " * (names + GAP) + line for line in more)
                else:
                    yield head + cell


class PlainConsole:
    """Standard output: lines of text as it is, escape sequences written out."""

    def __init__(self) -> None:
        terminal = sys.stdout is not None and sys.stdout.isatty()
        self.width = shutil.get_terminal_size().columns if terminal else None

    def print(self, *objects: str | PlainTable) -> None:
        """Print texts and tables, each from a new line on."""
        for one in objects or ("",):
            if isinstance(one, PlainTable):
                for line in one.lines(self.width):
                    print(line.rstrip(" "))
                continue
            for line in fitting(printable(one)).split("\n"):
                for part in [line] if self.width is None else _wrapped(line, self.width):
                    print(part)


def new_console() -> PlainConsole:
    """Return a console for standard output."""
    return PlainConsole()


def new_table(*columns: str, prose: Sequence[str] = ()) -> PlainTable:
    """Return an empty table; see ``PlainTable``."""
    return PlainTable(columns, prose)


def _beside(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    """Yield the lines of a row whose cells stand side by side."""
    cells = [_wrapped(cell, width) for cell, width in zip(row, widths, strict=True)]
    for at in range(max(map(len, cells))):
        parts = [cell[at] if at < len(cell) else "" for cell in cells]
        spaced = (part + " " * (width - cell_len(part)) for part, width in zip(parts, widths, strict=True))
        yield (" " * GAP).join(spaced).rstrip()


def _wrapped(text: str, width: int) -> list[str]:
    """Return text as lines that end between words; a word that is longer stays whole."""
    if cell_len(text) <= width:
        return [text]
    inner = text.lstrip(" ")
    indent = " " * (len(text) - len(inner))
    found = textwrap.wrap(
        inner,
        width,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    return found or [""]
