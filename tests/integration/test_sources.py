"""Models, rules and tasks name the paper that they are from, or say that they are ours."""

from __future__ import annotations

import inspect

import pytest

from kpframe.plugin import get_manager

from ..public_docstrings import SOURCE  # noqa: TID252


@pytest.mark.parametrize("kind", ["model", "rule", "task"])
def test_offers_name_their_source(kind: str) -> None:
    manager = get_manager()
    specs = manager.specs(kind)
    assert len(specs) > 8
    texts = {spec.name: inspect.getdoc(manager.factory(spec)) or "" for spec in specs}
    assert [name for name, text in texts.items() if not SOURCE.search(text)] == []
