"""The studies that ship: each file is one with a question and a quick form, each page what its numbers give.

None is run here; ``.ci/studies`` runs the quick form of each.
"""

from __future__ import annotations

import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from kpframe.study._cells import expand

ROOT = Path(__file__).parents[1]
STUDIES = ROOT / "docs" / "studies"
NAMES = sorted(path.stem for path in STUDIES.glob("*.toml"))


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_page", STUDIES / "make_page.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["make_page"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", NAMES)
def test_a_study_says_what_it_asks_and_has_a_quick_form(maker: ModuleType, name: str) -> None:
    study, quick = maker.study_of(name), maker.study_of(name, quick=True)
    assert study.question
    assert study.published
    assert len(study.seeds) >= 3
    assert len(quick.seeds) >= 2  # intervals over seeds are part of every finding
    cost = [sum(cell.training.steps + 20 * len(cell.steps) for cell in expand(one)) for one in (study, quick)]
    assert cost[1] < cost[0]
    assert maker.digest(quick) != maker.digest(study)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.rows(4)
def test_a_page_is_what_its_numbers_give(maker: ModuleType, name: str) -> None:
    kept = maker.read(name)
    assert kept["settings"] == maker.digest(maker.study_of(name))  # else its numbers are of another study
    text = maker.page(name, kept)
    assert (STUDIES / f"{name}.md").read_text(encoding="utf-8") == text
    assert (STUDIES / f"{name}.svg").stat().st_size > 5_000
    assert maker.kept_numbers(kept).sizes["seed"] == len(maker.study_of(name).seeds)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_finding_follows_from_the_numbers(maker: ModuleType, name: str) -> None:
    kept = maker.read(name)
    numbers = maker.kept_numbers(kept)
    numbers = numbers.map(lambda values: values * 1.5 if values.dtype.kind == "f" else values)
    assert maker.module_of(name).finding(numbers).strip() != maker.finding(name, kept)


def test_the_table_of_findings_has_each_study(maker: ModuleType) -> None:
    text = (ROOT / "docs" / "findings.md").read_text(encoding="utf-8")
    assert maker.ROWS.search(text)[0] == maker.rows()
    assert re.findall(r"\(studies/(\w+)\.md\)", text) == NAMES
    theory = (ROOT / "docs" / "theory.md").read_text(encoding="utf-8")
    assert maker.CLAIMS.search(theory)[0] == maker.claims()
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert sorted(re.findall(r"- studies/(\w+)\.md", nav)) == NAMES
