"""The tutorial writes the files of its example, letter by letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "kpframe-fitzhugh-nagumo"
WRITTEN = re.findall(
    r"^# %%\n# %%writefile (\S+)\n(.*?)(?=^# %%[ \n])",
    (DOCS / "tutorials" / "own_model.py").read_text(encoding="utf-8"),
    flags=re.MULTILINE | re.DOTALL,
)


def test_every_file_of_the_plugin_is_written():
    source = "src/kpframe_fitzhugh_nagumo"
    names = ("__init__.py", "model.py", "structured.py")
    assert sorted(path for path, _ in WRITTEN) == [
        *(f"{source}/{name}" for name in names),
        "tests/test_conformance.py",
    ]


@pytest.mark.parametrize(("path", "text"), WRITTEN, ids=[path for path, _ in WRITTEN])
def test_a_cell_is_the_file(path, text):
    assert text.rstrip("\n") + "\n" == (EXAMPLE / path).read_text(encoding="utf-8")


def test_the_plain_model_fits_a_screen():
    text = (EXAMPLE / "src/kpframe_fitzhugh_nagumo/model.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 45
    assert "propagator" not in text
    assert "Site" not in text
