"""``kpframe report``: the page of a run, again."""

from __future__ import annotations

import re
from pathlib import Path

from kpframe.cli import _app as app
from kpframe.cli import _progress

from ..study.pages.page import drawn, read  # noqa: TID252
from ..study.recorded import cell, write_run  # noqa: TID252
from ..study.test_open import losses, measured  # noqa: TID252


def test_a_run_under_way_gets_a_page_and_says_where(tmp_path: Path, capsys) -> None:
    run = write_run(tmp_path / "my run", [cell("a", (0, 10))], measured, losses)
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with drawn():
        assert app.run(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"open:    {(run / 'report.html').resolve()}\n"
    assert "what it has recorded so far" in (run / "report.html").read_text()
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file() and path in before} == before


def test_how_far_the_figures_are_is_said_where_they_take_long(tmp_path: Path, capsys, monkeypatch) -> None:
    run = write_run(tmp_path / "run", [cell("a", (0, 10))], measured, losses)
    with drawn():
        assert app.run(["report", str(run)]) == 0
    quick = capsys.readouterr().err
    with drawn() as figures:
        monkeypatch.setattr(_progress, "SOON", 0.0)
        monkeypatch.setattr(_progress, "EVERY", 0.0)
        assert app.run(["report", str(run)]) == 0
    slow = capsys.readouterr().err.splitlines()
    page = read((run / "report.html").read_text(), figures)
    titles = [title for title, section in page.sections.items() if section.figures]
    assert len(titles) > 1
    told = [line.partition(";")[0] for line in slow[1:]]
    assert told == [f"drawing {title} ({at} of {len(titles)})" for at, title in enumerate(titles, start=1)]
    assert all(re.search(r"; about \d+ s left$", line) for line in slow[2:])
    assert quick.splitlines() == slow[:1] == ["drawing the figures ..."]


def test_what_is_no_run_is_one_line(tmp_path: Path, capsys) -> None:
    for arguments, said in (
        ([str(tmp_path / "none")], "which does not exist"),
        ([str(tmp_path)], "which has no run.json"),
        ([], "Missing argument 'RUN...'"),
    ):
        assert app.run(["report", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
