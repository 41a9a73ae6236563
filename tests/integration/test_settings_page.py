"""The page on settings is what the core and the bundled plugins declare."""

from __future__ import annotations

import runpy
from pathlib import Path

from attrs import evolve

from kpframe.plugin import get_manager
from kpframe.plugin._settings import describe

MADE = runpy.run_path(str(Path(__file__).parents[2] / "docs" / "tables" / "settings.py"))


def test_the_page_says_what_is_declared() -> None:
    assert MADE["PAGE"].read_text(encoding="utf-8") == MADE["page"](), "run: python docs/tables/settings.py"


def test_every_setting_of_a_model_has_its_line() -> None:
    page = MADE["page"]()
    infos = describe(get_manager().find("model", "lstm").settings)
    assert [info.name for info in infos][:2] == ["input_size", "hidden_size"]
    lines = page.split("### `lstm`\n")[1].split("\n### ")[0].splitlines()
    assert [line for line in lines if line.startswith("| `")] == [MADE["row"](info) for info in infos]
    assert MADE["row"](infos[0]) == "| `input_size` | `int` | required | `>= 1` | inputs per step |"
    assert MADE["row"](evolve(infos[0], default=3)) not in page


def test_choices_and_unions_stand_in_a_table() -> None:
    page = MADE["page"]()
    assert "<code>float &#124; None</code>" in page
    assert "\\|" not in page  # code shows the backslash
    assert "`'tanh'`, `'relu'`" in page
