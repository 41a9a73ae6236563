"""Progress is a bar on a terminal and a few plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from kpframe.cli import _progress as progress
from kpframe.cli._progress import LINES, training_progress


def test_plain_lines_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress(["net"]) as report:
        for step in range(1, 103):
            report("net", step, 102, 1 / step)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == LINES + 1
    assert lines[0] == "net: update 20 of 102, loss 0.0500"
    assert lines[-1] == "net: update 102 of 102, loss 0.0098"


def test_a_bar_on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    screen = io.StringIO()
    console = progress.Console
    monkeypatch.setattr(
        progress,
        "Console",
        lambda **_: console(file=screen, force_terminal=True, width=100, color_system=None),
    )
    with training_progress(["net", "other[x] [/]"]) as report:
        report("net", 3, 10, 0.25)
        report("other[x] [/]", 10, 10, 0.125)
    drawn = screen.getvalue()
    assert "other[x] [/]" in drawn
    assert "3/10" in drawn
    assert "loss 0.2500" in drawn
    assert "10/10" in drawn
    assert capsys.readouterr().err == ""
