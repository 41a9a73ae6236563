"""What a tracker has recorded, as a table: on a terminal, in a notebook, and live while it grows."""

from __future__ import annotations

import io
import math
import sys
from collections import deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any

import xarray as xr
from attrs import frozen
from markupsafe import Markup, escape

from kpframe.errors import one_line
from kpframe.study._moment import Surroundings

#: Rows that are shown: the first, and the last ones.
LAST = 10
#: Widest line of a table in plain text.
WIDTH = 110
_STYLE = "text-align:right;padding:2px 10px"


@frozen
class Row:
    """A recorded step, as text by column; what failed, and why."""

    step: int
    cells: tuple[str, ...]
    failures: tuple[str, ...] = ()


class Table:
    """The recorded steps: the first and the last ones; of others it is known how many there were.

    Args:
        title: above the table.
        around: what is measured along.
    """

    def __init__(self, title: str, around: Surroundings) -> None:
        self.title = title
        self._operators, self._inputs = list(around.operators), next(iter(around.probes))
        self._first: Row | None = None
        self._last: deque[Row] = deque(maxlen=LAST)
        self._count = 0

    @property
    def columns(self) -> list[str]:
        """The heads of the columns."""
        return ["step", "loss", *(f"rank of {name}" for name in self._operators), "recorded in"]

    def add(self, step: int, loss: float, data: xr.Dataset, seconds: float) -> None:
        """Add what was recorded at a step."""
        if "inputs" in data.dims:
            data = data.sel(inputs=self._inputs)
        ranks = [_rank(data, name) for name in self._operators]
        told = "" if math.isnan(loss) else f"{loss:.4g}"
        why = zip(data["quantity"].values, data["quantity_failure"].values, strict=True)
        failures = tuple(f"{label}: {one_line(reason, 160)}" for label, reason in why if reason)
        row = Row(step, (str(step), told, *ranks, f"{seconds:.2g} s"), failures)
        if self._first is None:
            self._first = row
        else:
            self._last.append(row)
        self._count += 1

    def rows(self) -> list[Row | None]:
        """Return the first row and the last ones; None stands for those between that are left out."""
        if self._first is None:
            return []
        left_out = self._count - 1 > len(self._last)
        return [self._first, *([None] if left_out else []), *self._last]

    def _lines(self) -> list[Sequence[str]]:
        dots = ("...",) + ("",) * (len(self.columns) - 1)
        return [dots if row is None else row.cells for row in self.rows()]

    def _failures(self) -> list[str]:
        return [f"step {row.step}: {reason}" for row in self.rows() if row for reason in row.failures]

    def text(self, notes: Iterable[str]) -> str:
        """Return the table as plain text."""
        from rich import box
        from rich.console import Console
        from rich.table import Table as Grid
        from rich.text import Text

        grid = Grid(title=Text(one_line(self.title)), box=box.SIMPLE, title_justify="left")
        for name in self.columns:
            grid.add_column(Text(name), justify="right")
        for line in self._lines():
            grid.add_row(*map(Text, line))
        stream = io.StringIO()
        console = Console(file=stream, width=WIDTH, color_system=None, legacy_windows=False)
        console.print(grid)
        for note in (*notes, *self._failures()):
            console.print(Text(note), soft_wrap=True)
        return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())

    def html(self, notes: Iterable[str]) -> str:
        """Return the table as HTML; every text in it is escaped."""
        head = Markup("").join(Markup('<th style="{}">{}</th>').format(_STYLE, name) for name in self.columns)
        body = Markup("").join(
            Markup("<tr>{}</tr>").format(
                Markup("").join(Markup('<td style="{}">{}</td>').format(_STYLE, cell) for cell in line)
            )
            for line in self._lines()
        )
        rest = Markup("").join(Markup("<div>{}</div>").format(note) for note in (*notes, *self._failures()))
        title = escape(one_line(self.title))
        return str(
            Markup("<div><b>{}</b><table><thead><tr>{}</tr></thead><tbody>{}</tbody></table>{}</div>").format(
                title, head, body, rest
            )
        )


def _rank(data: xr.Dataset, operator: str) -> str:
    """Return an effective rank with its standard error."""
    if "effective_rank" not in data or operator not in data.get("operator", ()):
        return ""
    value = float(data["effective_rank"].sel(operator=operator))
    if math.isnan(value):
        return "failed"
    error = float(data["effective_rank_stderr"].sel(operator=operator))
    return f"{value:.4g}" if error == 0 else f"{value:.4g} ± {error:.2g}"


class LiveDisplay:
    """Shows an object in a notebook and again whenever it has changed, in the same place.

    Nothing is shown outside a notebook. A display that fails is left alone from then on.

    Args:
        shown: has ``_repr_html_``, or a plain ``repr``.
    """

    def __init__(self, shown: object) -> None:
        self._shown = shown
        self._handle: Any = None

    def open(self) -> None:
        """Show it for the first time."""
        if in_notebook():
            with suppress(Exception):  # whatever a display does, the training goes on
                from IPython.display import display

                self._handle = display(self._shown, display_id=True)  # type: ignore[no-untyped-call]

    def update(self) -> None:
        """Show it as it is now."""
        if self._handle is None:
            return
        try:
            self._handle.update(self._shown)
        except Exception:
            self._handle = None


def in_notebook() -> bool:
    """Whether the code runs in IPython where a display can be updated in place, which a terminal cannot."""
    shell: Any = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    terminal = getattr(sys.modules.get("IPython.terminal.interactiveshell"), "TerminalInteractiveShell", None)
    return shell is not None and (terminal is None or not isinstance(shell, terminal))
