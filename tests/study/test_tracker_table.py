"""The table of a tracker: as text, as HTML, and live in a notebook."""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kpframe.study import Tracker
from kpframe.study._moment import Probe, Surroundings
from kpframe.study._tracking.table import LAST, LiveDisplay, Table, in_notebook

from .loops import Loop, probe

OPERATORS = ("P P*", "<K>")


def recorded(*ranks: float, stderr: float = 0.25, failure: str = "") -> xr.Dataset:
    return xr.Dataset(
        {
            "effective_rank": ("operator", np.array(ranks)),
            "effective_rank_stderr": ("operator", np.full(len(ranks), stderr)),
            "quantity_failure": ("quantity", np.array([failure], dtype=object)),
        },
        coords={"operator": list(OPERATORS), "quantity": ["spectrum"]},
    )


def table(title: str = "mine") -> Table:
    return Table(
        title, Surroundings({"probe": Probe(probe()), "unseen": Probe(probe())}, operators=OPERATORS)
    )


class Cells(HTMLParser):
    """Gathers the text of the cells of a table, and all other text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.rest: list[str] = []
        self.tags: list[str] = []
        self._inside = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
            self._inside = True

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._inside = False

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.rows[-1][-1] += data
        else:
            self.rest.append(data)


def test_a_row_for_each_step() -> None:
    shown = table()
    shown.add(0, float("nan"), recorded(12.345, 6.0), 0.5)
    shown.add(10, 0.123456, recorded(2.0, 3.0, stderr=0.0), 1.25)
    assert Cells(shown.html([])).rows == [
        ["step", "loss", "rank of P P*", "rank of <K>", "recorded in"],
        ["0", "", "12.35 ± 0.25", "6 ± 0.25", "0.5 s"],
        ["10", "0.1235", "2", "3", "1.2 s"],
    ]
    lines = [re.split(r"  +", line.strip()) for line in shown.text([]).splitlines()]
    assert ["10", "0.1235", "2", "3", "1.2 s"] in lines
    assert ["0", "12.35 ± 0.25", "6 ± 0.25", "0.5 s"] in lines


def test_of_several_sets_of_inputs_the_main_one_is_shown() -> None:
    shown, data = table(), recorded(1.0, 2.0)
    other = data.assign(effective_rank=data.effective_rank + 10)
    beside = [one.drop_vars(["quantity", "quantity_failure"]) for one in (data, other)]
    both = xr.concat(beside, dim=xr.Variable("inputs", ["probe", "unseen"]), data_vars="all")
    both = both.merge(data.quantity_failure)
    assert both.effective_rank.sizes == {"inputs": 2, "operator": 2}
    shown.add(0, 1.0, both, 1.0)
    assert Cells(shown.html([])).rows[1][2:4] == ["1 ± 0.25", "2 ± 0.25"]


def test_the_first_and_the_last_rows_are_shown_of_many() -> None:
    shown = table()
    for step in range(LAST + 1):
        shown.add(step, 0.0, recorded(1.0, 1.0), 1.0)
    assert [row[0] for row in Cells(shown.html([])).rows[1:]] == [str(step) for step in range(LAST + 1)]
    for step in range(LAST + 1, 90):
        shown.add(step, 0.0, recorded(1.0, 1.0), 1.0)
    expected = ["0", "...", *(str(step) for step in range(90 - LAST, 90))]
    assert [row[0] for row in Cells(shown.html([])).rows[1:]] == expected


def test_all_text_is_escaped_and_failures_are_told() -> None:
    evil = "<script>alert('x')</script>"
    shown = table(evil)
    shown.add(3, 0.5, recorded(float("nan"), 1.0, failure=f"ValueError: {evil}"), 1.0)
    found = Cells(shown.html([evil]))
    assert "script" not in found.tags
    assert found.rest.count(evil) == 2
    assert f"step 3: spectrum: ValueError: {evil}" in found.rest
    assert found.rows[1][2] == "failed"
    text = shown.text([evil])
    assert f"step 3: spectrum: ValueError: {evil}" in text
    assert text.splitlines()[0].strip() == evil


def test_the_tracker_shows_its_table(tmp_path: Path) -> None:
    loop = Loop()
    options = {"output": tmp_path, "quantities": ["effective_rank"], "schedule": [0, 2], "quiet": True}
    with Tracker(loop.module, probe(), readout=loop.head, title="<mine>", **options) as track:
        loop.run(track, last=2)
    found = Cells(track._repr_html_())
    assert found.rest[0] == "<mine>"
    assert found.rest[1].startswith(f"2 steps recorded in '{tmp_path}'; recording took ")
    assert [row[0] for row in found.rows] == ["step", "0", "2"]
    assert track.table().splitlines()[0].strip() == "<mine>"
    assert repr(track) == f"Tracker(RNNCell, 2 steps in '{tmp_path}')"


@pytest.fixture
def shell():
    """A real shell of IPython, as a notebook's, that keeps what is displayed."""
    interactive = pytest.importorskip(
        "IPython.core.interactiveshell", reason="IPython is not installed"
    ).InteractiveShell
    from IPython.core.displaypub import CapturingDisplayPublisher

    Config = pytest.importorskip("traitlets.config").Config  # comes with IPython
    before = sys.displayhook, sys.excepthook
    shell = interactive.instance(config=Config({"HistoryManager": {"enabled": False}}))
    shell.display_pub = CapturingDisplayPublisher()
    try:
        yield shell
    finally:
        interactive.clear_instance()
        sys.displayhook, sys.excepthook = before


def test_a_notebook_shows_the_table_and_updates_it_in_place(tmp_path: Path, shell) -> None:
    loop = Loop()
    options = {"output": tmp_path, "quantities": ["effective_rank"], "schedule": [0, 2], "quiet": True}
    with Tracker(loop.module, probe(), readout=loop.head, **options) as track:
        loop.run(track, last=3)
    shown = shell.display_pub.outputs
    assert len(shown) == 4  # on entering, two steps, on leaving
    assert [bool(one.get("update")) for one in shown] == [False, True, True, True]
    assert len({one["transient"]["display_id"] for one in shown}) == 1
    steps = [[row[0] for row in Cells(one["data"]["text/html"]).rows[1:]] for one in shown]
    assert steps == [[], ["0"], ["0", "2"], ["0", "2"]]


def test_a_display_that_fails_is_left_alone(shell) -> None:
    class Shown:
        asked = 0

        def _repr_html_(self) -> str:
            self.asked += 1
            return "<p></p>"

    shown = Shown()
    live = LiveDisplay(shown)
    live.open()
    shell.display_pub.publish = None
    live.update()
    live.update()
    assert shown.asked == 2


def test_without_a_notebook_nothing_is_shown() -> None:
    assert not in_notebook()
    live = LiveDisplay(object())
    live.open()
    live.update()
    assert live._handle is None


def test_a_terminal_has_no_display_to_update(shell, monkeypatch) -> None:
    assert in_notebook()
    terminal = pytest.importorskip("IPython.terminal.interactiveshell").TerminalInteractiveShell
    monkeypatch.setattr("IPython.get_ipython", lambda: object.__new__(terminal))
    assert not in_notebook()
