"""The part of the slow tests that an option asks for, and how many cases conformance checks draw."""

from __future__ import annotations

import os
from itertools import pairwise
from types import SimpleNamespace

import pytest

from kpframe.testing import parametrize_with_checks
from kpframe.testing._toys import Elman, Gated
from kpframe.testing.pytest_plugin import (
    pytest_collection_modifyitems,
    pytest_configure,
    pytest_terminal_summary,
    pytest_testnodedown,
)


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


def config(
    few: str, part: str | None = None, slow: bool = False, marked: str = "", **more: object
) -> SimpleNamespace:
    options = {"--slow-part": part, "--slow": slow, "-m": marked}
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


def test_slow_tests_are_left_out_and_counted_from_any_process() -> None:
    left: list[Item] = []
    here, worker = (
        config(
            "", stash=pytest.Stash(), hook=SimpleNamespace(pytest_deselected=lambda items: left.extend(items))
        )
        for _ in range(2)
    )
    worker.workeroutput = {}
    for one in (here, worker):
        items = [Item(f"test_made_up.py::test[{place}]", place % 3 == 0) for place in range(7)]
        pytest_collection_modifyitems(one, items)
        assert [item.nodeid[-2] for item in items] == list("1245")
    assert [item.nodeid[-2] for item in left] == list("036") * 2
    controller = SimpleNamespace(stash=pytest.Stash())
    for output in (worker.workeroutput, {}):  # the last of a process that has died
        pytest_testnodedown(SimpleNamespace(config=controller, workeroutput=output), None)
    for one in (here, controller):
        said: list[str] = []
        pytest_terminal_summary(SimpleNamespace(line=said.append), one)
        assert said == ["3 slow tests left out; --slow runs all"]
    for asked in (config("", slow=True), config("", marked="slow")):
        items = [Item("test_made_up.py::test", True)]
        pytest_collection_modifyitems(asked, items)
        assert len(items) == 1


def rows_kept(grid: list[dict[str, int]], every: int, test: str = "test_a") -> list[int]:
    """Return the rows of a test that run with every run."""
    items = [Item(f"test_made_up.py::{test}[{place}]", False, rows=every) for place in range(len(grid))]
    for item, row in zip(items, grid, strict=True):
        item.callspec = SimpleNamespace(params={}, indices=row)
    pytest_collection_modifyitems(
        config("", "1/1", hook=SimpleNamespace(pytest_deselected=lambda items: None)), items
    )
    slow = {item.nodeid for item in items}
    return [place for place in range(len(grid)) if f"test_made_up.py::{test}[{place}]" not in slow]


def test_rows_but_every_third_are_slow() -> None:
    grid = [{"case": place} for place in range(12)]
    kept = rows_kept(grid, 3)
    assert len(kept) == 4
    assert {b - a for a, b in pairwise(kept)} == {3}
    others = {tuple(rows_kept(grid, 3, f"test_{name}")) for name in "bcdefgh"}
    assert len(others) == 3  # tests that are alike, of many models, do not all leave the same rows out
    assert rows_kept(grid[:1], 3) == [0]


def test_rows_of_a_grid_are_along_its_diagonals_and_on_each_line() -> None:
    grid = [{"model": i, "label": i, "method": j} for i in range(6) for j in range(2)]
    kept = rows_kept(grid, 2)
    assert len(kept) == 6
    assert {(grid[place]["model"] + grid[place]["method"]) % 2 for place in kept} in ({0}, {1})
    for every in (2, 3, 4, 5):
        kept = rows_kept(grid, every)
        assert {grid[place]["method"] for place in kept} == {0, 1}
        assert len(grid) // every <= len(kept) <= len(grid) // every + 1
    assert {grid[place]["model"] for place in rows_kept(grid, 2)} == set(range(6))


def test_names_in_one_list_are_a_grid_too() -> None:
    names = [(toy, method) for toy in ("a", "b", "c", "d") for method in ("auto", "graph")]
    items = [Item(f"test_made_up.py::test[{a}-{b}]", False, rows=2) for a, b in names]
    for place, (item, (toy, method)) in enumerate(zip(items, names, strict=True)):
        item.callspec = SimpleNamespace(
            params={"toy": toy, "method": method}, indices=dict.fromkeys(("toy", "method"), place)
        )
    pytest_collection_modifyitems(
        config("", "1/1", hook=SimpleNamespace(pytest_deselected=lambda items: None)), items
    )
    slow = [item.callspec.params for item in items]
    assert len(slow) == 4
    assert {row["toy"] for row in slow} == set("abcd")
    assert {row["method"] for row in slow} == {"auto", "graph"}


def test_rows_of_checks_are_a_grid_of_models_and_checks() -> None:
    (_, checks) = parametrize_with_checks([Elman, Gated]).args
    for every in (2, 5):
        items = [
            Item(f"test_made_up.py::test[{check.id}]", False, check.values[0], rows=every) for check in checks
        ]
        pytest_collection_modifyitems(
            config("", "1/1", hook=SimpleNamespace(pytest_deselected=lambda items: None)), items
        )
        slow = {item.nodeid.partition("[")[2] for item in items}
        kept = [check.id for check in checks if f"{check.id}]" not in slow]
        assert {name.partition("-")[0] for name in kept} == {"Elman", "Gated"}
        assert 0.9 <= every * len(kept) / len(checks) <= 1.2
        names = {check.id.partition("-")[2] for check in checks}
        assert ({name.partition("-")[2] for name in kept} == names) == (every == 2)


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
    with pytest.raises(pytest.UsageError, match=f"^--slow-part: expected I/N with 1 <= I <= N, got '{part}'"):
        kept(part)
