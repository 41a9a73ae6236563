"""Every picture of the documentation is made by a script of the repository, from numbers that are there.

Scripts draw with a fixed salt and no date, so that the same numbers give the same bytes.
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
ENDINGS = (".svg", ".png", ".jpg", ".jpeg", ".gif", ".webp", ".pdf")
PICTURES = sorted(path.relative_to(DOCS) for path in DOCS.rglob("*") if path.suffix in ENDINGS)
STUDIES = sorted(path.stem for path in DOCS.glob("studies/*.toml"))
#: Picture -> the script that makes it, and what it calls.
IDEA = ("trajectory", "steps", "propagator", "parameters", "learning")


def script(name: str, monkeypatch: pytest.MonkeyPatch) -> dict:
    from matplotlib import rcParams

    for key in ("svg.hashsalt", "font.size"):  # which a script sets for itself
        monkeypatch.setitem(rcParams, key, rcParams[key])
    monkeypatch.setattr(sys, "path", [*sys.path])
    return runpy.run_path(str(DOCS / name))


def test_there_is_no_picture_that_no_script_makes() -> None:
    made = {Path("images/architecture.svg"), Path("images/operators.svg")}  # the first: test_architecture
    made |= {Path(f"images/idea_{name}.svg") for name in IDEA}
    made |= {Path(f"studies/{name}.svg") for name in STUDIES}
    assert set(PICTURES) == made
    assert len(STUDIES) > 10


def test_pages_show_these_pictures_alone() -> None:
    shown: set[Path] = set()
    for page in [ROOT / "README.md", *DOCS.rglob("*.md"), *DOCS.glob("tutorials/*.py")]:
        for target in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
            shown.add((page.parent / target).resolve().relative_to(DOCS))
    assert shown == set(PICTURES)


def same(made: Path, kept: Path) -> bool:
    return made.read_bytes() == kept.read_bytes()


@pytest.mark.slow
def test_the_pictures_of_operators_are_drawn_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script("images/draw_operators.py", monkeypatch)["draw"](tmp_path)
    off = script("images/draw_idea.py", monkeypatch)
    numbers = off["draw"](tmp_path)
    drawn = sorted(tmp_path.iterdir())
    assert len(drawn) == 1 + len(IDEA)
    for made in drawn:
        assert same(made, DOCS / "images" / made.name), f"{made.name}: run its script in docs/images"
    text = off["PAGE"].read_text(encoding="utf-8")
    assert off["NUMBERS"].search(text)[0] == off["sentence"](numbers)
    assert off["sentence"]({**numbers, "K": numbers["K"] * 1.1}) != off["sentence"](numbers)


@pytest.mark.slow
@pytest.mark.parametrize("name", STUDIES)
def test_the_picture_of_a_study_is_drawn_again(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maker = script("studies/make_page.py", monkeypatch)
    draw: Callable[..., None] = maker["draw"]
    numbers = maker["kept_numbers"](maker["read"](name))
    draw(name, numbers, tmp_path / "same.svg")
    assert same(tmp_path / "same.svg", DOCS / "studies" / f"{name}.svg"), (
        f"run: docs/studies/make_page.py {name}"
    )
    more = numbers.map(lambda values: values * 1.5 if values.dtype.kind == "f" else values)
    draw(name, more, tmp_path / "other.svg")
    assert not same(tmp_path / "other.svg", DOCS / "studies" / f"{name}.svg")
