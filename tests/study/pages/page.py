"""A page as a reader has it: headings, captions, tables, and the figures with what is drawn in them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import ROUND_HALF_EVEN, Decimal
from html.parser import HTMLParser
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.container import BarContainer, ErrorbarContainer
from matplotlib.figure import Figure

from kpframe.study._plot import look

#: Standard errors in half of a 95% interval.
HALF_95 = 1.96


@dataclass
class Section:
    """What stands under one heading."""

    text: list[str] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    tables: list[list[list[str]]] = field(default_factory=list)
    items: list[str] = field(default_factory=list)
    terms: list[str] = field(default_factory=list)

    @property
    def caption(self) -> str:
        return " ".join(self.text)

    @property
    def panels(self) -> list[Axes]:
        """The panels of the one figure, without colour bars and empty places."""
        (figure,) = self.figures
        return [panel for panel in figure.axes if panel.get_label() != "<colorbar>" and panel.axison]

    @property
    def bar(self) -> Axes:
        """The one colour bar."""
        (figure,) = self.figures
        (found,) = [panel for panel in figure.axes if panel.get_label() == "<colorbar>"]
        return found


@dataclass
class Page:
    """A page, by its headings in their order."""

    title: str
    sections: dict[str, Section]

    def section(self, heading: str) -> Section:
        """Return the one section whose heading ends so."""
        (name,) = [name for name in self.sections if name == heading or name.endswith(f": {heading}")]
        return self.sections[name]


class _Reader(HTMLParser):
    def __init__(self, figures: list[Figure]) -> None:
        super().__init__()
        self.figures, self.sections, self.title = figures, {"": Section()}, ""
        self.inside: list[str] = []
        self.here = self.sections[""]
        self.aside = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "nav":
            self.aside = True
        elif tag == "svg":
            self.here.figures.append(self.figures[int(dict(attrs)["data-figure"] or "")])
        elif tag == "table":
            self.here.tables.append([])
        elif tag == "tr":
            self.here.tables[-1].append([])
        elif tag in ("h1", "h2", "h3", "p", "li", "dt", "dd", "th", "td", "title") and not self.aside:
            self.inside = [tag, ""]

    def handle_data(self, data: str) -> None:
        if self.inside:
            self.inside[1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "nav":
            self.aside = False
        if not self.inside or tag != self.inside[0]:
            return
        text = " ".join(self.inside[1].split())
        if tag in ("th", "td"):
            self.here.tables[-1][-1].append(text)
        elif tag == "p":
            self.here.text.append(text)
        elif tag == "li":
            self.here.items.append(text.removesuffix(" figure"))
        elif tag in ("dt", "dd"):
            self.here.terms.append(text)
        elif tag in ("h2", "h3"):
            assert text not in self.sections, f"two headings {text!r}"
            self.here = self.sections[text] = Section()
        else:
            assert tag == "title" or text == self.title
            self.title = text
        self.inside = []


@contextmanager
def drawn() -> Iterator[list[Figure]]:
    """Keep the figures that are written inside, whose place in the text is marked instead of drawn.

    Nor are their panels given places, which takes most of the time and moves no line, bar or text of them.
    """
    figures: list[Figure] = []

    def keep(self: Figure, file: Any, **_: Any) -> None:
        file.write(f'<svg data-figure="{len(figures)}"></svg>')
        figures.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Figure, "savefig", keep)
        patch.setattr(look, "laid_out", lambda figure: None)
        yield figures


def page_of(write: Callable[[xr.Dataset, Path], Path], data: xr.Dataset) -> Page:
    """Return the page that is written of a dataset."""
    with TemporaryDirectory() as folder, drawn() as figures:
        path = write(data, Path(folder) / "page.html")
        return read(path.read_text(encoding="utf-8"), figures)


def read(html: str, figures: list[Figure]) -> Page:
    """Return a page from its text and the figures that were drawn for it."""
    reader = _Reader(figures)
    reader.feed(html)
    assert sum(len(section.figures) for section in reader.sections.values()) == len(figures)
    return Page(reader.title, reader.sections)


def lines(panel: Axes) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return label -> x and y of the lines that a legend names, those with bars among them."""
    found = {str(line.get_label()): line for line in panel.get_lines()}
    for container in panel.containers:
        if isinstance(container, ErrorbarContainer):
            found[str(container.get_label())] = container.lines[0]
    return {
        label: (np.asarray(line.get_xdata(), float), np.asarray(line.get_ydata(), float))
        for label, line in found.items()
        if not label.startswith("_")
    }


def intervals(panel: Axes) -> dict[str, np.ndarray]:
    """Return label -> lower and upper ends ``[point, 2]`` of the bars drawn about each line."""
    return {
        str(container.get_label()): _ends(container, 1)
        for container in panel.containers
        if isinstance(container, ErrorbarContainer)
    }


def lengths(panel: Axes) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of horizontal bars and the ends ``[bar, 2]`` of the intervals at their ends."""
    (bars,) = [container for container in panel.containers if isinstance(container, BarContainer)]
    assert all(patch.get_x() == 0 for patch in bars.patches)
    return np.array([patch.get_width() for patch in bars.patches]), _ends(bars.errorbar, 0)


def _ends(container: ErrorbarContainer, axis: int) -> np.ndarray:
    """Return the two ends of each bar; NaN where there is none."""
    parts = container.lines[2][0].get_segments()
    return np.array([part[:, axis] if part.ndim == 2 and len(part) else [np.nan] * 2 for part in parts])


def marked(panel: Axes) -> list[tuple[float, float]]:
    """Return where crosses stand."""
    crosses = [line for line in panel.get_lines() if line.get_marker() == "x"]
    return [(float(line.get_xdata()[0]), float(line.get_ydata()[0])) for line in crosses]


def ticks(axis: Any) -> dict[float, str]:
    """Return place -> text of the ticks that are set by hand."""
    return dict(zip(axis.get_ticklocs().tolist(), [t.get_text() for t in axis.get_ticklabels()], strict=True))


def plain(text: str) -> str:
    """Return a label without line breaks and marks of formulas."""
    tex = {"$PP^*$": "P P*", "$K$": "K", r"$\Phi$": "Phi", "$R^2$": "R^2"}
    for mark, name in tex.items():
        text = text.replace(mark, name)
    return " ".join(text.split())


def pair(value: Any, stderr: Any) -> str:
    """Return how a figure with a standard error is written: both to two digits of the error."""
    number, error = float(value), float(stderr)
    if np.isnan(number):
        return "none"
    if error == 0:
        return f"{number:.5g} (exact)"
    # of an error that rounds up to another power of ten, the digits before it rounds
    digit = Decimal(1).scaleb(Decimal(error).adjusted() - 1)

    def rounded(x: float) -> str:
        return f"{Decimal(x).quantize(digit, ROUND_HALF_EVEN):f}"

    return f"{rounded(number)} ± {rounded(error)}"


def spoken(parts: list[str]) -> str:
    """Return parts as a sentence lists them."""
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def rows_on_terminal(text: str) -> list[list[str]]:
    """Return the cells of a table as a pipe gets it, the head first."""
    return [line.split("\t") for line in text.splitlines() if "\t" in line]
