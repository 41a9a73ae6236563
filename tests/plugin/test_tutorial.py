"""The tutorial quotes the files of its example, letter by letter."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
EXAMPLE = DOCS / "examples" / "kpframe-fitzhugh-nagumo"
BLOCKS = re.findall(
    r'^```\w+ title="(?P<path>[^"]+)"\n(?P<text>.*?)^```$',
    (DOCS / "tutorial.md").read_text(encoding="utf-8"),
    flags=re.MULTILINE | re.DOTALL,
)


def test_every_file_of_the_plugin_is_quoted():
    source = "src/kpframe_fitzhugh_nagumo"
    assert sorted(path for path, _ in BLOCKS) == sorted(
        [
            "pyproject.toml",
            f"{source}/__init__.py",
            f"{source}/model.py",
            f"{source}/structured.py",
            "tests/test_conformance.py",
        ]
    )


@pytest.mark.parametrize(("path", "text"), BLOCKS, ids=[path for path, _ in BLOCKS])
def test_a_quotation_is_the_file(path, text):
    assert text == (EXAMPLE / path).read_text(encoding="utf-8")


def test_the_plain_model_fits_a_screen():
    text = (EXAMPLE / "src/kpframe_fitzhugh_nagumo/model.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 45
    assert "propagator" not in text
    assert "Site" not in text
