"""The part of the slow tests that an option asks for, and how many cases conformance checks draw."""

from __future__ import annotations

import os
from types import SimpleNamespace

import pytest

from kpframe.testing import parametrize_with_checks
from kpframe.testing._toys import Elman
from kpframe.testing.pytest_plugin import pytest_collection_modifyitems, pytest_configure


class Item:
    def __init__(self, nodeid: str, slow: bool, check: object = None, rows: int = 0) -> None:
        self.rows = rows
        self.nodeid, self.slow = nodeid, slow
        self.callspec = SimpleNamespace(params={"check": check})

    def add_marker(self, name: str) -> None:
        self.slow = self.slow or name == "slow"

    def get_closest_marker(self, name: str) -> object | None:
        if name == "rows" and self.rows:
            return SimpleNamespace(args=(self.rows,))
        return name if self.slow and name == "slow" else None


def config(few: str, part: str | None = None, slow: bool = False, **more: object) -> SimpleNamespace:
    options = {"--slow-part": part, "--slow": slow}
    settings = {"getini": {"check_examples": few}.get, "addinivalue_line": lambda *line: None}
    return SimpleNamespace(getoption=options.get, **settings, **more)


def kept(part: str, few: str = "") -> tuple[set[str], set[str]]:
    """Return the names of the tests that are kept and of those that are not."""
    items = [Item(f"test_made_up.py::test_slow[{case}]", True) for case in range(20)]
    items.append(Item("test_made_up.py::test_fast", False))
    (_, checks) = parametrize_with_checks([Elman]).args
    items += [Item(f"test_made_up.py::test_fast[{check.id}]", False, check.values[0]) for check in checks[:9]]
    left: list[Item] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left.extend(items))
    pytest_collection_modifyitems(config(few, part, hook=hook), items)
    return {item.nodeid for item in items}, {item.nodeid for item in left}


def test_parts_of_the_slow_tests_are_all_of_them() -> None:
    (one, _), (other, left) = kept("1/2"), kept("2/2")
    assert min(len(one), len(other)) >= 4
    assert not one & other
    assert one | other == {f"test_made_up.py::test_slow[{case}]" for case in range(20)}
    assert left > one | {"test_made_up.py::test_fast"}


def test_checks_that_draw_few_cases_else_are_among_them() -> None:
    (one, _), (other, left) = kept("1/2", "3"), kept("2/2", "3")
    assert not one & other
    assert left == one | {"test_made_up.py::test_fast"}
    assert len(one | other) == 20 + 9


def test_rows_but_every_third_are_slow() -> None:
    names = [f"test_made_up.py::{test}[{row}]" for test in ("test_a", "test_b") for row in range(4)]
    items = [Item(name, False, rows=3) for name in names]
    left: list[Item] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left.extend(items))
    pytest_collection_modifyitems(config("", "1/1", hook=hook), items)
    assert [item.nodeid for item in left] == [names[i] for i in (0, 3, 4, 7)]
    assert [item.nodeid for item in items] == [names[i] for i in (1, 2, 5, 6)]


def test_few_cases_are_drawn_unless_slow_tests_are_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KPFRAME_CHECK_EXAMPLES", "")
    monkeypatch.delenv("KPFRAME_CHECK_EXAMPLES")
    for found in (config(""), config("3", "1/2"), config("3", slow=True)):
        pytest_configure(found)
        assert "KPFRAME_CHECK_EXAMPLES" not in os.environ
    pytest_configure(config("3"))
    assert os.environ["KPFRAME_CHECK_EXAMPLES"] == "3"
    monkeypatch.setenv("KPFRAME_CHECK_EXAMPLES", "7")
    pytest_configure(config("3"))
    assert os.environ["KPFRAME_CHECK_EXAMPLES"] == "7"


@pytest.mark.parametrize("part", ["3/2", "0/2", "half"])
def test_a_part_that_does_not_exist_is_refused(part: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"--slow-part: expected I/N with 1 <= I <= N, got '{part}'"):
        kept(part)
