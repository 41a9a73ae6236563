"""Formulas in the documentation stand in code, where no renderer takes ``_t`` or ``*`` for emphasis."""

from __future__ import annotations

import re
from collections.abc import Callable
from html import unescape
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted(ROOT.glob("docs/commands/*.md"))]
READMES = [*sorted(ROOT.glob("plugins/*/README.md")), *sorted(ROOT.glob("docs/examples/*/README.md"))]
#: Pages of identifiers and messages rather than of formulas.
LISTS = ("reference.md", "trust.md")


def by_mkdocs(text: str) -> str:
    """Return HTML as the documentation's site has it."""
    markdown = pytest.importorskip("markdown")
    names = ["admonition", "attr_list", "tables", "toc", "pymdownx.highlight", "pymdownx.superfences"]
    html: str = markdown.markdown(text, extensions=names)
    return html


def by_commonmark(text: str) -> str:
    """Return HTML as repositories and package indexes show it."""
    html: str = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table").render(text)
    return html


def garbled(html: str) -> list[str]:
    """Return each emphasis that lies in a word or has a part of a formula in it, with what is around it."""
    html = re.sub(r"<pre\b.*?</pre>", "", html, flags=re.DOTALL)
    found = []
    for match in re.finditer(r"(.?)<(em|strong)>(.*?)</\2>(.?)", html, flags=re.DOTALL):
        before, _, inside, after = match.groups()
        words = unescape(re.sub(r"<code>.*?</code>|<[^>]+>", "", inside, flags=re.DOTALL))
        within = bool(re.match(r"[\w)}\]]", before) or re.match(r"[\w({\[]", after))
        if within or re.search(r"[_^={}\[\]<>|*\\+/∂Σηθ]", words):
            found.append(unescape(match[0]))
    return found


@pytest.mark.parametrize("render", [by_mkdocs, by_commonmark])
@pytest.mark.parametrize("path", [*PAGES, *READMES], ids=lambda path: str(path.relative_to(ROOT)))
def test_no_emphasis_in_a_formula(path: Path, render: Callable[[str], str]) -> None:
    assert garbled(render(path.read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "path", [path for path in PAGES if path.name not in LISTS], ids=lambda path: path.name
)
def test_formulas_stand_in_code(path: Path) -> None:
    html = re.sub(
        r"<(pre|code)\b.*?</\1>", "", by_commonmark(path.read_text(encoding="utf-8")), flags=re.DOTALL
    )
    prose = unescape(re.sub(r"<[^>]*>", "", html))
    assert [line for line in prose.splitlines() if re.search(r"\w[_^]|[_^]\w|[_^]\{", line)] == []


@pytest.mark.parametrize(
    ("text", "seen"),
    [
        ("(P q)_t = q_t + A_t (P q)_{t-1}", [by_commonmark]),
        ("`(P q)_t = q_t + A_t (P q)_{t-1}`", []),
        ("P K P* and J* Err", []),
        ("P*K*P and *J* as *words*", [by_mkdocs, by_commonmark]),
        ("**`Φ = P K P*`**, *past-facing* (*new*)", []),
    ],
)
def test_what_counts_as_garbled(text: str, seen: list[Callable[[str], str]]) -> None:
    assert [render for render in (by_mkdocs, by_commonmark) if garbled(render(text))] == seen


@pytest.mark.parametrize(
    "path", [*PAGES[:1], ROOT / "docs" / "mathematics.md"], ids=["README", "mathematics"]
)
def test_the_definitions_are_read_as_written(path: Path) -> None:
    html = unescape(by_commonmark(path.read_text(encoding="utf-8")))
    assert "<code>(P q)_t = q_t + A_t (P q)_{t-1}</code>" in html
    if path.name == "mathematics.md":
        assert "<code>(Z q)_t = q_{t-1}</code>, <code>q_0 := 0</code>" in html


#: What looks like a figure that was measured: a share, a time, a size, an error, so many times as much.
FIGURE = re.compile(
    r"(?<![\w.,])\d[\d.,]* ?%|(?<![\w.,])0\.\d\d|\d\.\de-\d+|\d (?:ms|s|[kKMGT]i?B|Gflop/s)\b"
    r"|\d times (?:as|what)"
)
#: What such a figure may come from: a script or test, a paper, or the page with all of what was measured.
SOURCE = re.compile(r"\.py\b|arXiv|performance\.md")
#: Pages that other tests write or hold: see there.
HELD = {"performance.md", "settings.md", "trust.md", "findings.md"}


def sections_without_a_source(text: str) -> dict[str, list[str]]:
    """Return by its heading each section with figures outside of code and of made tables, and no source."""
    text = re.sub(r"```.*?```|^    .*?$", "", text, flags=re.DOTALL | re.MULTILINE)
    found = {}
    for section in re.split(r"^(?=##? )", text, flags=re.MULTILINE):
        loose = re.sub(r"<!-- .*?made by .*?<!-- end of .*?-->", "", section, flags=re.DOTALL)
        figures = FIGURE.findall(re.sub(r"`[^`]*`|95 ?%", "", loose))
        if figures and not SOURCE.search(section):
            found[section.splitlines()[0]] = figures
    return found


@pytest.mark.parametrize(
    "path", [path for path in PAGES if path.name not in HELD], ids=lambda path: str(path.relative_to(ROOT))
)
def test_figures_say_what_they_come_from(path: Path) -> None:
    assert sections_without_a_source(path.read_text(encoding="utf-8")) == {}


def test_a_figure_from_nowhere_is_found() -> None:
    assert sections_without_a_source("# A\n\nIt takes 3.5 ms.\n") == {"# A": ["5 ms"]}
    assert sections_without_a_source("# A\n\nIt takes 3.5 ms (`tests/test_a.py`).\n") == {}
    text = "# A\n\n`tests/test_a.py`\n\n## B\n\nCovers in 0.93 of runs, 7 % less.\n"
    assert sections_without_a_source(text) == {"## B": ["0.93", "7 %"]}
    assert sections_without_a_source("# A\n\n<!-- made by a.py -->\n| 0.93 |\n<!-- end of table -->\n") == {}


def test_the_index_leads_to_every_page() -> None:
    docs = ROOT / "docs"
    nav = re.findall(r"- ([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(nav) > 40
    seen, todo = set(), [docs / "index.md"]
    while todo:
        page = todo.pop()
        if page in seen:
            continue
        seen.add(page)
        source = (
            page if page.exists() else page.with_suffix(".py")
        )  # a notebook, of which the site makes the page
        for target in re.findall(r"\]\(([^()#\s]+\.md)", source.read_text(encoding="utf-8")):
            if not target.startswith("http"):
                todo.append((page.parent / target).resolve())
    assert {docs / name for name in nav} <= seen
    first = (docs / "index.md").read_text(encoding="utf-8")
    sections = {name for name in nav if "/" not in name or name.startswith("tutorials/")} - {"index.md"}
    assert {name for name in sections if f"({name})" not in first} == set()
