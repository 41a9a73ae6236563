"""The page of several runs side by side: settings that differ, common axes, and what each run found."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kpframe.cli import _app as app
from kpframe.errors import ArgumentError
from kpframe.study._report.run import write_run_report
from kpframe.study._report.runs import write_runs

from ..recorded import cell, figure, write_run  # noqa: TID252
from .page import Page, drawn, intervals, lines, read


def made(path: Path, ranks: dict[str, list[float]], rate: float, **record) -> Path:
    """A run whose networks have these ranks, by step 0, 10, ...."""
    cells = [cell(name, range(0, 10 * len(own), 10)) for name, own in ranks.items()]
    return write_run(
        path,
        cells,
        lambda one, step: xr.Dataset(
            {
                "rank": figure(ranks[one["name"]][step // 10] * np.array([1.0, 2.0]), "operator"),
                "rank_stderr": figure([0.1, 0.1], "operator"),
            },
            {"operator": ["K", "Phi"]},
        ),
        settings={"title": "By hand", "training": {"learning_rate": rate, "steps": 20}},
        **record,
    )


def page_of(paths: list[Path], output: Path) -> Page:
    with drawn() as figures:
        return read(write_runs(paths, output).read_text(encoding="utf-8"), figures)


def test_runs_stand_side_by_side(tmp_path: Path) -> None:
    one = made(tmp_path / "a" / "run", {"RNN": [30.0, 20.0], "GRU": [5.0, 9.0]}, 0.1)
    other = made(tmp_path / "b" / "run", {"GRU": [5.0, 5.0, 5.1]}, 0.2, state="stopped")
    before = {file: file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()}
    page = page_of([one, other], tmp_path / "runs.html")
    assert {file: file.read_bytes() for file in before} == before
    assert page.title == "2 runs side by side: a/run and b/run"
    (table,) = page.section("Settings that differ").tables
    assert table == [["setting", "a/run", "b/run"], ["training.learning_rate", "0.1", "0.2"]]
    assert "The run is stopped." in page.sections[""].caption
    section = page.section("rank, Phi")
    assert [panel.get_title() for panel in section.panels] == ["a/run", "b/run"]
    left, right = section.panels
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    np.testing.assert_array_equal(lines(left)["RNN"][1], [60, 40])
    np.testing.assert_array_equal(lines(right)["GRU"], [[0, 10, 20], [10, 10, 10.2]])
    np.testing.assert_allclose(np.diff(intervals(right)["GRU"])[:, 0], 2 * 1.96 * 0.1)
    colours = [
        next(c.lines[0].get_color() for c in panel.containers if c.get_label() == "GRU")
        for panel in (left, right)
    ]
    assert colours[0] == colours[1]
    assert section.text[0] == (
        "Rank (Phi): in a/run, it rose from 10.00 ± 0.10 to 18.00 ± 0.10 in GRU; fell from 60.00 ± 0.10 to "
        "40.00 ± 0.10 in RNN; in b/run, it did not change beyond its 95% interval in GRU (10.00 ± 0.10, then "
        "10.20 ± 0.10)."
    )
    assert section.text[0] in page.section("What was found").items


def test_what_cannot_be_compared_is_refused(tmp_path: Path, capsys, monkeypatch) -> None:
    run = made(tmp_path / "run", {"RNN": [3.0, 2.0]}, 0.1)
    rules = write_run(tmp_path / "rules", [], None, command="compare", state="finished")
    for paths, said in (
        ([run], "expected 2 to 9 runs to compare, got 1"),
        ([run, tmp_path / "rules" / ".." / "run"], "is given twice"),
        ([run, rules], "was made by kpframe compare, whose figures have no steps"),
        ([run, tmp_path / "none"], "which does not exist"),
    ):
        with pytest.raises(ArgumentError, match=re.escape(said)):
            write_runs(paths, tmp_path / "page.html")
    monkeypatch.chdir(tmp_path)
    other = made(tmp_path / "other", {"RNN": [3.0, 2.0]}, 0.1)
    assert app.run(["report", str(run), "--output", "x.html"]) == 2
    assert app.run(["report", str(run), str(other), "--figures"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    with drawn():
        assert app.run(["report", str(run), str(other)]) == 0
    assert capsys.readouterr().out == f"open:    {tmp_path / 'runs.html'}\n"
    assert [path.name for path in tmp_path.glob("*.html")] == ["runs.html"]


@pytest.mark.slow
def test_figures_are_files_beside_the_page_the_same_each_time(tmp_path: Path) -> None:
    run = made(tmp_path / "run", {"RNN": [3.0, 2.0]}, 0.1)
    html = write_run_report(run, files=True).read_text(encoding="utf-8")
    files = {file.name: file.read_bytes() for file in (run / "figures").iterdir()}
    assert set(files) == {"ranks.pdf", "ranks.svg"}
    assert all(f'href="figures/{name}"' in html for name in files)
    assert files["ranks.pdf"].startswith(b"%PDF")
    assert files["ranks.svg"].startswith(b"<?xml")
    assert b"var(--ink)" not in files["ranks.svg"]  # which only a page has
    write_run_report(run, files=True)
    assert {file.name: file.read_bytes() for file in (run / "figures").iterdir()} == files
    assert "figures/" not in write_run_report(run).read_text(encoding="utf-8")
