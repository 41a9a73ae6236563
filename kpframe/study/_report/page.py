"""A page: one HTML file, with nothing to fetch, that says what was done, how, and what was found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path

import xarray as xr
from attrs import evolve, frozen
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from kpframe.study._disk.files import write_text
from kpframe.study._report.captions import Caption
from kpframe.study._report.drawing import FOLDER, anchors, inline, save
from kpframe.study._report.settings_in_words import flat, in_words

#: Most findings in the first lines of a page.
FINDINGS = 12


@frozen(eq=False)
class Section:
    """A figure with its heading and the sentences under it.

    Attributes:
        title: what it is of, in words.
        figure: that is drawn; as SVG text (see ``on_no_paper``) where another process has drawn it.
        caption: the sentences.
        name: by which what it shows is registered, which stands beside the title; empty for none.
        anchor, drawing, files: where and how it stands on its page.
    """

    title: str
    figure: Figure | str
    caption: Caption
    name: str = ""
    anchor: str = ""
    drawing: str = ""
    files: Sequence[str] = ()

    @property
    def heading(self) -> str:
        """Its title, with the name."""
        return f"{self.title} ({self.name})" if self.name else self.title


@frozen
class Table:
    """A table of a page; long cells are wrapped where ``wrap`` says so."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    wrap: bool = False
    anchor: str = ""


@frozen
class Finding:
    """A sentence of the first lines, and the figure that shows it."""

    text: str
    title: str
    anchor: str


@frozen
class Entry:
    """A line of the table of contents."""

    title: str
    anchor: str
    under: bool = False


@frozen(eq=False)
class Page:
    """What stands on a page, from its first line.

    Attributes:
        title: of it.
        done: paragraphs that say what was done.
        settings: the most telling settings, in words.
        sections: figures with their captions.
        tables, notes: numbers, and what a reader must know of them.
        all_settings, provenance: the rest of what made the figures.
        data: name of the file beside the page that holds the figures; empty for none.
        covers: what ± and intervals in the first lines are.
    """

    title: str
    done: Sequence[str]
    sections: Sequence[Section]
    tables: Sequence[Table]
    notes: Sequence[str]
    settings: Sequence[tuple[str, str]]
    all_settings: Table
    provenance: Table
    data: str = ""
    covers: str = ""

    def findings(self) -> list[Finding]:
        """Return what the captions have found, those of the first figures."""
        found = [
            Finding(one.caption.found, one.title, one.anchor) for one in self.sections if one.caption.found
        ]
        return found[:FINDINGS]

    def contents(self) -> Iterator[Entry]:
        """Yield the lines of the table of contents."""
        yield Entry("What was found", "found")
        for section in self.sections:
            yield Entry(section.title, section.anchor)
        yield Entry("The numbers", "numbers")
        for table in self.tables:
            yield Entry(table.title, table.anchor, under=True)
        yield Entry("Data and settings", "data")
        yield Entry("Provenance", "provenance")


#: Anchors of what every page has.
_OWN = ("main", "found", "numbers", "data", "provenance")


def page_about(
    data: xr.Dataset,
    *,
    title: str,
    done: Sequence[str],
    sections: Sequence[Section],
    tables: Sequence[Table],
    notes: Sequence[str],
    file: str = "",
    covers: str = "",
) -> Page:
    """Return the page of a dataset, whose settings and provenance are among its attributes."""
    settings = settings_of(data.attrs)
    before, after = _about(settings)
    return Page(
        title,
        [*before, *done, *after],
        sections,
        tables,
        notes,
        in_words(data.attrs, settings),
        Table("All settings", ("setting", "value"), flat(settings), wrap=True),
        Table("Where the figures come from", ("what", "value"), provenance_rows(data), wrap=True),
        file,
        covers,
    )


def settings_of(attributes: Mapping[str, object]) -> dict[str, object]:
    """Return the settings among the attributes of a dataset; none where it has none that can be read."""
    try:
        found = json.loads(str(attributes.get("settings", "{}")))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _about(settings: Mapping[str, object]) -> tuple[list[str], list[str]]:
    """Return what stands before and after what was done: the question, and what is published."""
    about, quick = settings.get("about"), settings.get("quick")
    told = about if isinstance(about, Mapping) else {}
    rough = "This is the quick form of the study; its figures are rough." if quick else ""
    before = " ".join(text for text in (str(told.get("question") or ""), rough) if text)
    return [before] if before else [], [f"Published: {told['published']}"] if told.get("published") else []


def provenance_rows(data: xr.Dataset) -> list[tuple[str, str]]:
    """Return a dataset's attributes but the settings as rows of a table."""
    return [(name.replace("_", " "), str(value)) for name, value in data.attrs.items() if name != "settings"]


#: Takes what is drawn now, how many figures were, and how many there are.
Told = Callable[[str, int, int], None]

_told: ContextVar[Told | None] = ContextVar("told", default=None)


@contextmanager
def told_of_drawing(told: Told) -> Iterator[None]:
    """Tell, meanwhile, how far the figures of a page are: drawing them is most of what a page takes."""
    before = _told.set(told)
    try:
        yield
    finally:
        _told.reset(before)


def write_page(path: Path, page: Page, *, files: bool = False) -> Path:
    """Write a page, whole or not at all; return its path.

    Args:
        path: of the page.
        page: what stands on it.
        files: whether its figures are written as files, too, into ``figures/`` beside it.

    Raises:
        OutputError: for a disk that is full or read-only.
    """
    names = anchors([section.name or section.title for section in page.sections], _OWN)
    sections, told = [], _told.get()
    for place, (section, name) in enumerate(zip(page.sections, names, strict=True)):
        if told is not None:
            told(f"drawing {section.heading}", place, len(names))
        written: Sequence[str] = ()
        if files:
            assert isinstance(section.figure, Figure)
            written = save(section.figure, path.parent / FOLDER, name)
        drawing = inline(section.figure, name, f"Figure: {section.title}")
        sections.append(evolve(section, anchor=name, drawing=drawing, files=written))
    under = anchors([table.title for table in page.tables], {*_OWN, *names})
    tables = [evolve(table, anchor=name) for table, name in zip(page.tables, under, strict=True)]
    environment = Environment(
        loader=PackageLoader("kpframe.study._report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_unbroken,
    )
    made = evolve(page, sections=sections, tables=tables)
    return write_text(path, environment.get_template("page.html.j2").render(page=made))


def _unbroken(value: object) -> object:
    """Keep a figure and its standard error on one line."""
    plain = isinstance(value, str) and not isinstance(value, Markup)
    return str(value).replace(" ± ", "\u00a0±\u00a0") if plain else value
