"""Processes that are started before there is anything to do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from functools import partial
from multiprocessing.connection import Connection

import pytest

from kpframe.study import _helper
from kpframe.study._helper import Helper, Helpers, helpers


def number_and_process(number: int) -> tuple[int, int]:
    return number, os.getpid()


def not_there(here: int) -> int:
    """Give the number of the process; fail in every other one."""
    if os.getpid() != here:
        raise ValueError("elsewhere")
    return here


def killed_elsewhere(here: int) -> int:
    if os.getpid() != here:
        os.kill(os.getpid(), signal.SIGKILL)
    return here


def fails() -> None:
    raise LookupError("what is asked for")


def modules(connection: Connection) -> None:
    connection.send({name for name in ("statistics", "wave") if name in sys.modules})


@pytest.fixture(scope="module")
def helper() -> Iterator[Helper]:
    helper = Helper("wave")
    yield helper
    helper.end()


def test_tasks_are_done_there_and_here_and_stay_in_order(helper: Helper) -> None:
    done = Helpers([helper]).share([partial(number_and_process, number) for number in range(5)])
    assert [number for number, _ in done] == list(range(5))
    assert {process for _, process in done} == {os.getpid(), helper.process.pid}
    alone = Helpers().share([partial(number_and_process, number) for number in range(3)])
    assert alone == [(number, os.getpid()) for number in range(3)]


def test_what_fails_there_is_done_here(helper: Helper) -> None:
    assert Helpers([helper]).share([partial(not_there, os.getpid())] * 3) == [os.getpid()] * 3
    with pytest.raises(LookupError, match="what is asked for"):
        Helpers([helper]).share([fails])
    assert Helpers([helper]).share([partial(number_and_process, 1)])[0][1] == helper.process.pid  # it goes on


def test_an_answer_that_comes_after_an_error_is_no_other_task_s() -> None:
    helper = Helper()
    try:
        with pytest.raises(LookupError, match="what is asked for"):
            Helpers([helper]).share([fails, partial(time.sleep, 1)])
        assert Helpers([helper]).share([partial(number_and_process, 1)]) == [(1, os.getpid())]
        assert helper.ended
    finally:
        helper.end()


def test_it_imports_what_it_is_told_to(helper: Helper) -> None:
    until = time.monotonic() + 30
    found: set[str] = set()
    while not found and time.monotonic() < until:  # it does so while there is nothing else to do
        time.sleep(0.05)
        helper.ask(modules)
        found = helper.connection.recv()
    assert found == {"wave"}  # and not the others


def test_what_dies_costs_nothing_but_time() -> None:
    helper = Helper()
    try:
        here = os.getpid()
        assert Helpers([helper]).share([partial(killed_elsewhere, here)] * 3) == [here] * 3
        helper.ask(modules)  # nobody is there
    finally:
        helper.end()
        helper.end()
    assert helper.ended


@pytest.mark.parametrize(
    ("variables", "processors", "count"),
    [({}, 2, 1), ({}, 1, 0), ({"OMP_NUM_THREADS": "1"}, 2, 0), ({"WORLD_SIZE": "2"}, 2, 0)],
)
def test_there_is_one_where_a_second_processor_is(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], processors: int, count: int
) -> None:
    made: list[str] = []

    class Counted:
        def __init__(self, *modules: str) -> None:
            made.extend(modules)

        def end(self) -> None:
            made.append("ended")

    for name in ("OMP_NUM_THREADS", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("joblib.externals.loky.backend.context.cpu_count", lambda: processors)
    monkeypatch.setattr(_helper, "Helper", Counted)
    with helpers("wave") as found:
        assert len(found) == count
    assert made == ["wave", "ended"] * count


def test_it_ends_with_the_process_that_started_it() -> None:
    code = """
    import os, signal, sys
    from kpframe.study._helper import Helper
    helper = Helper()
    helper.ask(print)
    print(helper.process.pid, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
    """
    found = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    process = int(found.stdout.split()[0])
    latest = time.monotonic() + 60
    while _lives(process) and time.monotonic() < latest:
        time.sleep(0.01)
    assert not _lives(process)


def test_starting_it_imports_no_torch() -> None:
    code = "import sys, kpframe.study._helper; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert "kpframe.study._helper" in loaded
    assert not {"torch", "xarray", "matplotlib"} & {*loaded}


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True
