"""``kpframe report``: the page of a run, again."""

from __future__ import annotations

from pathlib import Path

from kpframe.cli import _app as app

from ..study.pages.page import drawn  # noqa: TID252
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
