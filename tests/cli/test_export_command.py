"""``kpframe export``: files for other programs, and what it says of them."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from kpframe.cli import _app as app

from ..study.recorded import write_run  # noqa: TID252
from ..study.test_open import cell, finish, losses, measured  # noqa: TID252


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run that is under way."""
    return write_run(tmp_path / "my run", [cell("a", (0, 10))], measured, losses)


def test_both_kinds_of_a_run_under_way(run: Path, tmp_path: Path, capsys) -> None:
    one, other = tmp_path / "a.csv", tmp_path / "a.npz"
    assert app.run(["export", str(run), "--csv", str(one), "--npz", str(other)]) == 0
    said = capsys.readouterr()
    assert f"rows:     {one}  (" in said.out
    assert f"arrays:   {other}  (" in said.out
    assert "the run is running: this is what it has so far" in said.err
    with one.open(newline="") as file:
        found = {(r["variable"], r["step"], r["operator"]): r["value"] for r in csv.DictReader(file)}
    assert found["effective_rank", "10", "K"] == "11.0"
    with np.load(other) as arrays:
        np.testing.assert_array_equal(arrays["effective_rank"], [[[1, 3], [11, 3]]])
        np.testing.assert_array_equal(arrays["training_loss"], [[3, 2, 1.5]])


def test_some_of_a_finished_run(run: Path, tmp_path: Path, capsys) -> None:
    finish(run)
    file = tmp_path / "a.csv"
    assert app.run(["export", str(run), "--csv", str(file), "--variables", "effective_rank,kernel"]) == 0
    assert capsys.readouterr().err == ""
    assert {line.split(",")[0] for line in file.read_text().splitlines()[1:]} == {"effective_rank", "kernel"}
    options = ["--csv", str(file), "--max-values", "4", "--overwrite"]
    assert app.run(["export", str(run), *options]) == 0
    assert "left out: kernel (18 values)" in capsys.readouterr().out
    assert "kernel" not in file.read_text()


def test_what_cannot_be_done_is_one_line(run: Path, tmp_path: Path, capsys) -> None:
    file = tmp_path / "a.csv"
    file.write_text("mine")
    for arguments, said in (
        ([str(run)], "expected --csv FILE or --npz FILE, got neither"),
        ([str(run), "--csv", str(file)], "a.csv' exists; --overwrite replaces it, or give another file"),
        ([str(run), "--npz", str(tmp_path / "none" / "a.npz")], "its folder does not exist"),
        ([str(tmp_path), "--npz", str(tmp_path / "a.npz")], "which has no run.json"),
        ([str(run), "--npz", str(tmp_path / "a.npz"), "--variables", "kernl"], "did you mean 'kernel'?"),
        ([str(run), "--npz", str(tmp_path / "a.npz"), "--max-values", "0"], "0 is not in the range"),
    ):
        assert app.run(["export", *arguments]) == 2
        error = capsys.readouterr().err
        assert said in error
        assert error.count("\n") == 1
    assert file.read_text() == "mine"
    assert not (tmp_path / "a.npz").exists()
