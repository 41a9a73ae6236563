"""The part of the slow tests that an option asks for."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from kpframe.testing.pytest_plugin import pytest_collection_modifyitems


class Item:
    def __init__(self, nodeid: str, slow: bool) -> None:
        self.nodeid, self.slow = nodeid, slow

    def get_closest_marker(self, name: str) -> object | None:
        return name if self.slow and name == "slow" else None


def kept(part: str) -> tuple[set[str], set[str]]:
    """Return the names of the tests that are kept and of those that are not."""
    items = [Item(f"test_made_up.py::test_slow[{case}]", True) for case in range(20)]
    items.append(Item("test_made_up.py::test_fast", False))
    left: list[Item] = []
    hook = SimpleNamespace(pytest_deselected=lambda items: left.extend(items))
    config = SimpleNamespace(getoption={"--slow-part": part, "--slow": False}.get, hook=hook)
    pytest_collection_modifyitems(config, items)
    return {item.nodeid for item in items}, {item.nodeid for item in left}


def test_parts_of_the_slow_tests_are_all_of_them() -> None:
    (one, _), (other, left) = kept("1/2"), kept("2/2")
    assert min(len(one), len(other)) >= 4
    assert not one & other
    assert one | other == {f"test_made_up.py::test_slow[{case}]" for case in range(20)}
    assert left == one | {"test_made_up.py::test_fast"}


@pytest.mark.parametrize("part", ["3/2", "0/2", "half"])
def test_a_part_that_does_not_exist_is_refused(part: str) -> None:
    with pytest.raises(pytest.UsageError, match=f"--slow-part: expected I/N with 1 <= I <= N, got '{part}'"):
        kept(part)
