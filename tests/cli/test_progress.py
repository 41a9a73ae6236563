"""Progress is bars on a terminal and a few plain lines elsewhere, with the time that is left."""

from __future__ import annotations

import io
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from kpframe.cli import _progress as progress
from kpframe.cli._progress import BARS, duration, step_progress, training_progress

NAN = float("nan")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still until it is set."""
    held = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: held.now))
    return held


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[io.StringIO]:
    """A terminal."""
    drawn, console = io.StringIO(), progress.Console
    monkeypatch.setattr(
        progress,
        "Console",
        lambda **_: console(file=drawn, force_terminal=True, width=140, color_system=None),
    )
    return drawn


def test_a_line_at_the_end_where_there_is_no_terminal(capsys: pytest.CaptureFixture[str], clock) -> None:
    with training_progress(["net", "other"]) as report:
        for label in ("net", "other"):
            for step in range(103):
                report(label, step, 102, 1 / step if step else NAN, "recording step 0" if not step else "")
    assert capsys.readouterr().err.splitlines() == [
        "net: update 102 of 102, loss 0.0098",
        "other: update 102 of 102, loss 0.0098",
    ]


def test_a_line_a_minute_with_the_time_left(capsys: pytest.CaptureFixture[str], clock) -> None:
    """Of two trainings of 100 updates, at one update a second; the first had made 20 before."""
    with training_progress(["a", "b"]) as report:
        for step in range(20, 101):
            report("a", step, 100, 0.5)
            clock.now += 1
        for step in range(41):
            report("b", step, 100, 0.25, "recording step 40" if step == 40 else "")
            clock.now += 1
        report("b", 41, 100, NAN, "diverged at update 42")
    assert capsys.readouterr().err.splitlines() == [
        "a: update 80 of 100, loss 0.5000; about 2 min left",  # 120 s
        "a: update 100 of 100, loss 0.5000; about 2 min left",  # 100 s
        "b: update 41 of 100, diverged at update 42; about 59 s left",
    ]


def test_recording_for_a_minute_is_said(capsys: pytest.CaptureFixture[str], clock) -> None:
    with training_progress(["a"]) as report:
        report("a", 10, 100, 0.5, "recording step 10")
        clock.now += 61
        report("a", 20, 100, 0.5, "recording step 20")
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "a: update 20 of 100, loss 0.5000, recording step 20; about 8 min left"  # 8 x 61 s


def test_no_time_left_is_told_too_early_or_at_the_end(clock) -> None:
    with training_progress(["a"]) as report:
        assert report.left() == ""
        report("a", 1, 4, 0.5)
        clock.now += 1
        report("a", 2, 4, 0.5)
        assert report.left() == ""
        clock.now += 1
        assert report.left() == "about 4 s left"
        report("a", 4, 4, 0.5)
        assert report.left() == ""


def test_a_line_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    with training_progress([]) as report:
        report.tell("a\x1b[31m is damaged")
    assert capsys.readouterr().err == "a\\x1b[31m is damaged\n"


def test_bars_on_a_terminal(screen: io.StringIO, capsys: pytest.CaptureFixture[str], clock) -> None:
    with training_progress(["net", "other[x] [/]"]) as report:
        report("net", 3, 10, 0.25)
        clock.now += 7
        report("net", 5, 10, NAN, "recording step 5")
        report("other[x] [/]", 10, 10, 0.125)
        report.tell("[b] is damaged")
    drawn = screen.getvalue()
    assert "other[x] [/]" in drawn
    assert "5/10" in drawn
    assert "recording step 5" in drawn
    assert "loss 0.1250" in drawn
    assert "10/10" in drawn
    assert "[b] is damaged" in drawn
    assert "about 18 s left" in drawn  # 0.2 in 7 s, and 0.5 are left
    assert capsys.readouterr().err == ""


def test_only_some_of_many_bars_stay(screen: io.StringIO) -> None:
    labels = [f"net {place}" for place in range(3 * BARS)]
    with training_progress(labels) as report:
        for label in labels:
            for made in (1, 2):
                report(label, made, 2, 0.5)
        shown = [task.description for task in report._progress.tasks if task.visible]
    assert shown == []
    with training_progress(labels[:BARS]) as report:
        for label in labels[:BARS]:
            report(label, 2, 2, 0.5)
        assert len([task for task in report._progress.tasks if task.visible]) == BARS


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.2, "1 s"), (89, "89 s"), (90, "2 min"), (5000, "83 min"), (9000, "2.5 h")]
)
def test_times_as_text(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_steps_say_how_far_they_are_each_minute(capsys: pytest.CaptureFixture[str], clock) -> None:
    """Ten steps of 25 s each, the first two of which an earlier process had done."""
    with step_progress() as report:
        for done in range(2, 10):
            report(f"check {done}", done, 10)
            clock.now += 25
    assert capsys.readouterr().err.splitlines() == [
        "check 2 (3 of 10)",
        "check 5 (6 of 10); about 2 min left",  # 125 s
        "check 8 (9 of 10); about 50 s left",
    ]


def test_steps_have_a_bar_on_a_terminal(
    screen: io.StringIO, capsys: pytest.CaptureFixture[str], clock
) -> None:
    with step_progress() as report:
        report("check [a]", 0, 2)
        clock.now += 30
        report("check [b]", 1, 2)
    drawn = screen.getvalue()
    assert "check [b]" in drawn
    assert "2/2" in drawn
    assert "about 30 s left" in drawn
    assert capsys.readouterr().err == ""


def test_work_that_is_soon_done_says_nothing(capsys: pytest.CaptureFixture[str], clock) -> None:
    with step_progress(late=True) as report:
        report("writing rows", 0, 3)
        clock.now += 1
        report("writing rows", 1, 3)
        assert capsys.readouterr().err == ""
        clock.now += 1
        report("writing rows", 2, 3)
    assert capsys.readouterr().err == "writing rows (3 of 3); about 1 s left\n"
