"""Pages as a browser has them: Debian's chromium without a window, driven by playwright."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

#: Where this is set, as in continuous integration, a browser that is missing is a failure.
REQUIRED = "KPFRAME_REQUIRE_BROWSER"
NARROW, WIDE = 390, 1400

_LAYOUT = """() => {
  const box = (element) => {
    const r = element.getBoundingClientRect();
    return {left: r.left, right: r.right, width: r.width, height: r.height};
  };
  return {
    page: [document.documentElement.scrollWidth, document.documentElement.clientWidth],
    figures: [...document.querySelectorAll("figure svg")].map(box),
    frames: [...document.querySelectorAll("figure .scroll")].map(box),
    texts: [...document.querySelectorAll("figure svg text")].map(one => {
      const svg = one.closest("svg");
      return parseFloat(getComputedStyle(one).fontSize) * svg.getBoundingClientRect().width
        / svg.viewBox.baseVal.width;
    }),
    count: document.querySelectorAll("figure").length,
    marks: [...document.querySelectorAll("figure svg")].map(
      one => one.querySelectorAll("path,image,use").length),
    ids: [...document.querySelectorAll("[id]")].map(one => one.id),
    used: [...document.querySelectorAll("use")].map(
      one => one.getAttribute("xlink:href") || one.getAttribute("href")),
    colours: [getComputedStyle(document.body).backgroundColor, getComputedStyle(document.body).color],
  };
}"""
_FOCUS = """() => {
  const one = document.activeElement;
  if (!one || one === document.body || one === document.documentElement) return null;
  const all = [...document.querySelectorAll("*")];
  const style = getComputedStyle(one), r = one.getBoundingClientRect();
  return {
    place: all.indexOf(one),
    text: one.textContent.trim().slice(0, 60),
    outlined: style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 2,
    visible: r.width > 0 && r.height > 0 && r.right > 0 && r.bottom > 0 && r.top < innerHeight,
  };
}"""
_STOPS = """() => {
  const all = [...document.querySelectorAll("*")];
  const shown = (one) => one.checkVisibility();
  return [...document.querySelectorAll('a[href], summary, input, select, button, [tabindex="0"]')]
    .filter(shown).filter(one => one.type !== "radio" || one.checked).map(one => all.indexOf(one));
}"""
_LINKS = """async () => {
  for (const one of document.querySelectorAll("details")) if (one.checkVisibility()) one.open = true;
  const found = [], links = [...document.querySelectorAll("a[href]")].filter(one => one.checkVisibility());
  for (const link of links) {
    const target = link.getAttribute("href");
    if (!target.startsWith("#")) { found.push({target}); continue; }
    window.scrollTo(0, document.documentElement.scrollHeight / 2);
    link.click();
    await new Promise(requestAnimationFrame);
    const one = document.getElementById(target.slice(1));
    const r = one ? one.getBoundingClientRect() : null;
    found.push({target, seen: one && r.height > 0 && r.top < innerHeight && r.bottom > 0,
                gone: decodeURIComponent(location.hash) === target,
                top: r ? r.top : null,
                last: innerHeight + scrollY >= document.documentElement.scrollHeight - 2});
  }
  return found;
}"""


@contextmanager
def browser() -> Iterator[Any]:
    """A headless browser; skips, or fails where ``REQUIRED`` is set, where there is none."""
    found = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    try:
        from playwright.sync_api import sync_playwright
    except ModuleNotFoundError:
        found = None
    if found is None:
        reason = "no chromium on the path, or no playwright, to open pages in"
        if os.environ.get(REQUIRED):
            pytest.fail(reason)
        pytest.skip(reason)
    with sync_playwright() as play:
        opened = play.chromium.launch(executable_path=found, args=["--no-sandbox"])
        try:
            yield opened
        finally:
            opened.close()


@contextmanager
def opened(
    running: Any, path: Path, width: int = WIDE, scheme: str = "light", **options: Any
) -> Iterator[Any]:
    """A page from the file system, which must ask for nothing else and report no error."""
    context = running.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True, **options
    )
    page = context.new_page()
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "request",
        lambda asked: (
            None
            if asked.url.startswith("data:") or asked.url.split("#")[0] == path.as_uri()
            else wrong.append(asked.url)
        ),
    )
    page.goto(path.as_uri())
    try:
        yield page
        assert not wrong
    finally:
        context.close()


def check_layout(page: Any) -> None:
    """Every figure is drawn, has a size, can be read and is inside the page, which nobody scrolls sideways.

    Where the page is too narrow for its texts, a figure scrolls in a frame of its own.
    """
    found = page.evaluate(_LAYOUT)
    scrolled, seen = found["page"]
    assert scrolled <= seen
    assert len(found["figures"]) == found["count"] > 0
    for box, marks in zip(found["figures"], found["marks"], strict=True):
        assert box["width"] > 200
        assert box["height"] > 40
        assert marks > 5
    for box in found["frames"]:
        assert box["left"] >= 0
        assert box["right"] <= seen
    assert len(found["frames"]) == found["count"]
    assert min(found["texts"]) >= 8, sorted(found["texts"])[:9]  # px
    assert len(found["ids"]) == len(set(found["ids"]))
    assert {f"#{name}" for name in found["ids"]} >= set(found["used"])


def light(page: Any) -> tuple[float, float]:
    """Return how light the paper and the ink are, between 0 and 1."""
    colours = page.evaluate(_LAYOUT)["colours"]
    paper, ink = ([int(part) for part in text[4:-1].split(",")] for text in colours)
    return sum(paper) / 765, sum(ink) / 765


def check_colours(page: Any, scheme: str) -> None:
    """The colours are those of the system until a reader chooses others, also those of figures."""
    system = {"light": 1.0, "dark": 0.0}[scheme]

    def looks(bright: float) -> None:
        paper, ink = light(page)
        assert abs(paper - bright) < 0.15
        assert abs(ink - bright) > 0.7
        text = page.evaluate(
            """() => { const one = document.querySelector("figure svg use, figure svg path");
            return getComputedStyle(one.closest("svg")).fill; }"""
        )
        shade = sum(int(part) for part in text[4:-1].split(",")) / 765
        assert abs(shade - bright) > 0.7

    looks(system)
    for name, bright in (("dark", 0.0), ("light", 1.0)):
        page.get_by_label(name, exact=True).check()
        looks(bright)
    page.emulate_media(media="print")
    looks(1.0)
    page.get_by_label("dark", exact=True).evaluate("one => one.checked = true")
    looks(1.0)  # paper is white
    page.emulate_media(media="screen")
    page.get_by_label("of the system").check()
    looks(system)


def check_links(page: Any, folder: Path) -> int:
    """Every link leads to a place of the page, which it brings into view, or to a file; return how many."""
    found = page.evaluate(_LINKS)
    for link in found:
        target = link["target"]
        if target.startswith("#"):
            assert link["seen"], target
            assert link["gone"], target
            assert abs(link["top"]) < 60 or link["last"], target  # at the top, if the page is long enough
        else:
            assert not urlsplit(target).scheme, target
            assert (folder / unquote(target)).is_file(), target
    return len(found)


def check_keyboard(page: Any) -> None:
    """Tab goes to all that can be used, the skip link first, and shows where it is; of a page just opened."""
    stops, seen = page.evaluate(_STOPS), []
    for _ in range(len(stops) + 2):
        page.keyboard.press("Tab")
        at = page.evaluate(_FOCUS)
        if at is None or at["place"] in seen:
            break
        assert at["outlined"], at
        assert at["visible"], at
        seen.append(at["place"])
        if len(seen) == 1:
            assert at["text"] == "Skip to the content"
    assert sorted(seen) == sorted(stops)
    page.locator(".skip").focus()
    page.keyboard.press("Enter")
    assert page.evaluate("() => document.activeElement.id") == "main"


def check_accessible(page: Any) -> None:
    """axe-core finds nothing serious or critical."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    grave = [
        (one["id"], one["nodes"][0]["html"][:200])
        for one in found
        if one["impact"] in ("serious", "critical")
    ]
    assert not grave
