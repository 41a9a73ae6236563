"""Figures inside a page: readable in light and dark colours, with ids of their own."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from markupsafe import Markup
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from kpframe.study._disk.files import make_folder, write_bytes, write_text
from kpframe.study._plot.look import pdf, svg

#: Where figures are as files, beside the page.
FOLDER = "figures"
_GREY = re.compile(r"(fill|stroke): ?#([0-9a-f]{2})\2\2(?![0-9a-f])")
_IDS = re.compile(r'\s+id="([^"]*)"')
_USES = re.compile(r'(?:href="#|url\(#)([^")]+)')


def inline(figure: Figure | str, anchor: str, alt: str) -> Markup:
    """Return a figure, or what ``on_no_paper`` made of it, for a page, which may hold many.

    Greys between black and white become mixtures of the page's own ink and paper; colours of data stay, and
    so do texts on them. Ids begin with the anchor.
    """
    text = figure if isinstance(figure, str) else on_no_paper(figure)
    return Markup(_described(_themed(_unique(text, anchor)), alt))


def on_no_paper(figure: Figure) -> str:
    """Return a figure as SVG text, with no ground of its own."""
    _keep_texts_on(figure)
    figure.patch.set_visible(False)
    text = svg(figure)
    figure.patch.set_visible(True)
    return text


def save(figure: Figure, folder: Path, name: str) -> list[str]:
    """Write a figure as PDF and SVG, the same files for the same data; return their paths beside the page.

    Raises:
        OutputError: for a disk that is full or read-only.
    """
    make_folder(folder)
    write_bytes(folder / f"{name}.pdf", pdf(figure))
    head = '<?xml version="1.0" encoding="utf-8"?>\n'
    write_text(folder / f"{name}.svg", head + svg(figure))
    return [f"{folder.name}/{name}.{ending}" for ending in ("pdf", "svg")]


def _keep_texts_on(figure: Figure) -> None:
    """Make black and white texts on images nearly so, as an image looks the same on any paper."""
    for axes in figure.axes:
        for text in axes.texts if axes.images else ():
            shade = sum(to_rgb(text.get_color()))
            if shade in (0, 3):
                text.set_color("#fefeff" if shade else "#010102")


def _themed(text: str) -> str:
    def mixed(match: re.Match[str]) -> str:
        share = round(100 * (1 - int(match[2], 16) / 255))
        colour = {0: "var(--paper)", 100: "var(--ink)"}.get(
            share, f"color-mix(in srgb, var(--ink) {share}%, var(--paper))"
        )
        return f"{match[0]}; {match[1]}: {colour}"  # what a reader that knows no mixtures takes is before it

    return _GREY.sub(mixed, text)


def _unique(text: str, anchor: str) -> str:
    used = set(_USES.findall(text))
    text = _IDS.sub(
        lambda match: match[0].replace(match[1], f"{anchor}-{match[1]}") if match[1] in used else "", text
    )
    return _USES.sub(lambda match: f"{match[0][: match.start(1) - match.start()]}{anchor}-{match[1]}", text)


def _described(text: str, alt: str) -> str:
    """Give the drawing a name that is read aloud, and leave out what only a file of its own needs."""
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    return text.replace("<svg ", f'<svg role="img" aria-label="{Markup.escape(alt)}" ', 1)


def anchors(titles: Iterable[str], taken: Iterable[str] = ()) -> list[str]:
    """Return an anchor for each title, of letters, digits and dashes, no two alike."""
    found: list[str] = []
    known = set(taken)
    for title in titles:
        plain = re.sub(r"[^a-z0-9]+", "-", title.casefold()).strip("-")[:48] or "section"
        first = name = plain if not plain[0].isdigit() else f"s-{plain}"
        place = 2
        while name in known:
            name, place = f"{first}-{place}", place + 1
        known.add(name)
        found.append(name)
    return found
