"""The page on studies: its study file is one, and its table names what the core records."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from kpframe.plugin._core import core
from kpframe.study._cells import expand
from kpframe.study._study_file.reading import parse_study

PAGE = (Path(__file__).parents[2] / "docs" / "studies.md").read_text(encoding="utf-8")


def test_the_study_of_the_page_is_one() -> None:
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)
    study = parse_study(tomllib.loads(text), "page")
    assert len(expand(study)) == 15
    assert [quantity.name for quantity in study.quantities] == [
        "effective_rank",
        "alignment",
        "contributions",
    ]


def test_the_table_names_what_the_core_records() -> None:
    table = PAGE.split("| quantity | what it records |")[1].split("\n\n")[0]
    cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for cell in cells for name in re.findall(r"`(\w+)`", cell)]
    assert sorted(named) == sorted(spec.name for spec in core().specs if spec.kind == "quantity")
