"""Pytest options, fixtures and Hypothesis profiles; load with ``-p kpframe.testing.pytest_plugin``.

Options: ``--slow`` runs the tests marked slow, ``--slow-part 3/8`` the third of eight parts of them alone,
``--ranks 2`` checks models, rules and forms under ``parametrize_with_checks`` on two ranks as well,
``--device cuda`` moves the tests that take the fixture ``device``. Profiles: ``default``, ``ci``
(derandomised, chosen when ``CI`` is set) and ``thorough``. With ``check_examples = "3"`` in pytest's settings
conformance checks draw three cases; with ``--slow``, and in the part that ``--slow-part`` names, they draw as
many as without the setting. Of the rows of a parametrised test marked ``rows(3)`` about every third is run,
along the diagonals of the grid of its arguments, so that each value of each argument is, where so few rows
can hold them all; the others are slow tests.
"""

from __future__ import annotations

import gc
import os
import re
from collections.abc import Generator
from types import FunctionType
from typing import TYPE_CHECKING, Any
from zlib import crc32

import pytest

from kpframe.testing._fixtures import close, differ, draw, total_jacobian  # noqa: F401

if TYPE_CHECKING:
    import torch

#: How many slow tests were left out, and what that is called between processes.
_LEFT_OUT = pytest.StashKey[int]()
_NAME = "kpframe_slow_tests_left_out"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add ``--slow``, ``--slow-part``, ``--ranks`` and ``--device``."""
    parser.addoption("--slow", action="store_true", help="run the tests marked slow as well")
    parser.addoption("--slow-part", metavar="I/N", help="run only part I of N of the tests marked slow")
    parser.addoption(
        "--ranks", type=int, metavar="N", help="check models, rules and forms on N ranks as well"
    )
    parser.addoption("--device", default="cpu", help="device of the tests that take one (cpu, cuda)")
    parser.addini("check_examples", "cases of a conformance check, unless slow tests are asked for")


@pytest.hookimpl(tryfirst=True)  # before that of Hypothesis, which loads the profile that somebody chose
def pytest_configure(config: pytest.Config) -> None:
    """Declare the markers; few cases, and one thread: small tensors lose more to waiting than they gain."""
    config.addinivalue_line("markers", "slow: takes more than a few seconds; run with --slow")
    config.addinivalue_line(
        "markers", "rows(n): run about every n-th row of a parametrised test; --slow runs all"
    )
    ranks = config.getoption("--ranks")
    if ranks is not None:
        if ranks < 2:
            raise pytest.UsageError(f"--ranks: expected at least 2, got {ranks}")
        os.environ["KPFRAME_CHECK_RANKS"] = str(ranks)  # for what is decorated when files are collected
    few = config.getini("check_examples")
    if few and not (config.getoption("--slow") or config.getoption("--slow-part")):
        os.environ.setdefault("KPFRAME_CHECK_EXAMPLES", few)
    if config.getoption("dist", "no") == "no":  # not where pytest-xdist gives the tests out to processes
        _prepare()


def _prepare() -> None:
    """Make a process ready to run tests: import what takes seconds, register the profiles."""
    import torch
    from hypothesis import HealthCheck, settings

    from kpframe.testing._constants import look_for_constants_in_own_code

    torch.set_num_threads(1)
    settings.register_profile("default", deadline=None, max_examples=10)
    settings.register_profile("ci", deadline=None, max_examples=10, derandomize=True, print_blob=True)
    settings.register_profile(
        "thorough", deadline=None, max_examples=500, suppress_health_check=[HealthCheck.too_slow]
    )
    look_for_constants_in_own_code()
    settings.load_profile("ci" if os.environ.get("CI") else "default")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Look for no garbage while tests are collected, and never among them: it takes longer than they do."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        if collecting:
            gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out tests marked slow unless they are asked for; keep only a part of them where one is named."""
    _thin(items)
    part = config.getoption("--slow-part")
    if part is not None:
        _keep_part(part, config, items)
        return
    if config.getoption("--slow") or "slow" in config.getoption("-m"):
        return
    slow = [item for item in items if item.get_closest_marker("slow")]
    if slow:  # not skipped: thousands of them would take seconds, and hide what is skipped for a reason
        kept = set(slow)
        items[:] = [item for item in items if item not in kept]
        config.hook.pytest_deselected(items=slow)
        config.stash[_LEFT_OUT] = len(slow)
        if hasattr(config, "workeroutput"):  # a process of pytest-xdist, which knows alone
            config.workeroutput[_NAME] = len(slow)


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Take from a process of pytest-xdist how many slow tests it left out: each of them, the same."""
    if count := getattr(node, "workeroutput", {}).get(_NAME):
        node.config.stash[_LEFT_OUT] = count


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how many slow tests were left out."""
    if count := config.stash.get(_LEFT_OUT, 0):
        terminalreporter.line(f"{count} slow test{'s' if count > 1 else ''} left out; --slow runs all")


@pytest.fixture
def device(request: pytest.FixtureRequest) -> torch.device:
    """The device that ``--device`` names."""
    import torch

    return torch.device(request.config.getoption("--device"))


def _thin(items: list[pytest.Item]) -> None:
    """Mark the rows of tests marked ``rows(n)`` slow, but for about every n-th."""
    tests: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.get_closest_marker("rows") and not item.get_closest_marker("slow"):
            tests.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for test, rows in tests.items():
        marker = rows[0].get_closest_marker("rows")
        assert marker is not None
        every = marker.args[0]
        kept = _covering(_axes(rows), every, crc32(test.encode()) % every)  # tests alike begin elsewhere
        for place, item in enumerate(rows):
            if place not in kept:
                item.add_marker("slow")


def _axes(rows: list[pytest.Item]) -> list[list[int]]:
    """Return what rows differ by, numbered as it appears: a model and a check, a toy and a method."""
    named = [_differs_by(item) for item in rows]
    axes = {}
    for name in named[0]:
        numbers: dict[object, int] = {}
        axis = [numbers.setdefault(row.get(name), len(numbers)) for row in named]
        axes[tuple(axis)] = axis  # two arguments that change together are one axis
    return list(axes.values()) or [[0] * len(rows)]


#: What tells rows apart by what it is, not by its place in a list: with several arguments it is in many rows.
_NAMED = (str, int, float, type, FunctionType)


def _differs_by(item: pytest.Item) -> dict[str, object]:
    import torch

    call = getattr(item, "callspec", None)
    given = getattr(call, "params", {})
    found: dict[str, object] = {}
    for name, index in getattr(call, "indices", {}).items():
        value = given.get(name)
        found[name] = (type(value), value) if isinstance(value, (*_NAMED, torch.dtype)) else index
    check: Any = given.get("check")
    if hasattr(check, "name"):
        found |= {"check": check.name, "subject": repr(check).removesuffix(check.name)}
    return found


def _covering(axes: list[list[int]], every: int, start: int) -> set[int]:
    """Return the places of every n-th row along diagonals of a grid, and one at least of each line of it.

    Of an argument with more values than there are n-th rows, the diagonals alone decide which are there.
    """
    places = range(len(axes[0]))
    kept = {place for place in places if sum(axis[place] for axis in axes) % every == start} or {0}
    for axis in axes:
        if every * len(set(axis)) <= len(axis):
            seen = {axis[place] for place in kept}
            for place in places:
                if axis[place] not in seen:
                    seen.add(axis[place])
                    kept.add(place)
    return kept


def _keep_part(part: str, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Keep what is done at length whose name falls into a part, which no other test changes."""
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    index, count = map(int, match.groups()) if match else (0, 0)
    if not 1 <= index <= count:
        raise pytest.UsageError(f"--slow-part: expected I/N with 1 <= I <= N, got {part!r}")
    chosen = [
        item
        for item in items
        if _at_length(item, config) and crc32(item.nodeid.encode()) % count == index - 1
    ]
    kept = set(chosen)
    config.hook.pytest_deselected(items=[item for item in items if item not in kept])
    items[:] = chosen


def _at_length(item: pytest.Item, config: pytest.Config) -> bool:
    """Whether a test is marked slow, or a conformance check that draws more cases where slow tests run."""
    if item.get_closest_marker("slow"):
        return True
    from kpframe.testing._parametrize import PytestCheck

    parameters = getattr(getattr(item, "callspec", None), "params", {})
    return bool(config.getini("check_examples")) and isinstance(parameters.get("check"), PytestCheck)
