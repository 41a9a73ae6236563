"""``kpframe resume`` and ``kpframe status``: what they say of runs that ended, live, or were damaged."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import xarray as xr

from kpframe.cli import _app as app
from kpframe.study._disk.folder import LOCK, RunFolder, read_record
from kpframe.study._disk.results import read_dataset
from kpframe.study._ranks.launcher import Launch
from kpframe.study._running import train_cell as _train_cell
from kpframe.study._running.interrupts import ended_by_signals
from kpframe.study._running.job_files import JOBS, jobs_folder
from kpframe.study._running.training import Trainer

from ..study.conftest import offered as offered  # noqa: TID252

STUDY = """
title = "Nets"
seeds = 2
dtype = "float64"
quantity = [{ name = "own_noise" }]
[task]
name = "sum"
[[network]]
name = "small"
label = "<b>net</b>"
[training]
steps = 4
batch_size = 3
[measure]
steps = { every = 2 }
trials = 3
"""

Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(autouse=True)
def _offered(offered: object, undrawn: None) -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: object) -> tuple[int, str, str]:
        code = app.run([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "study.toml").write_text(STUDY)
    return tmp_path / "my 'run'"


def interrupted(call: Command, folder: Path, number: signal.Signals, at: int) -> tuple[int, str, str]:
    """Run the study and send a signal in the midst of the n-th update of all."""
    update, count = Trainer._update, 0

    def disturbed(self: Trainer, step: int) -> torch.Tensor:
        nonlocal count
        count += 1
        if count == at:
            os.kill(os.getpid(), number)
        return update(self, step)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "_update", disturbed)
        return call("run", folder.parent / "study.toml", "--output", folder)


@pytest.mark.rows(4)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_a_run_to_go_on_with(call: Command, folder: Path, number: signal.Signals) -> None:
    code, out, err = interrupted(call, folder, number, 6)
    assert (code, out) == (130, "")
    *before, line = err.splitlines()
    assert before == ["<b>net</b>, seed 0: update 4 of 4, loss " + before[0].rpartition(" ")[2]]
    assert line == f"interrupted; go on with: kpframe resume {shlex.quote(str(folder))}"
    code, out, err = call("status", folder)
    assert (code, err) == (0, "")
    assert "interrupted, " in out
    rows = [line.split() for line in out.splitlines() if "net</b>" in line]
    assert [row[3:] for row in rows] == [
        ["trained", "4", "3", "of", "3"],
        *[["under", "way", "2", "1", "of", "3"]],
    ]
    assert out.splitlines()[-1] == f"go on with: kpframe resume {shlex.quote(str(folder))}"
    arguments = shlex.split(line.partition(": kpframe ")[2])  # as a shell reads it
    code, out, err = call(*arguments)
    assert code == 0
    assert err.splitlines()[0] == f"going on with the run in {folder}"
    assert err.splitlines()[1].startswith("<b>net</b>, seed 1: update 4 of 4, loss ")
    assert f"results: {folder / 'results.nc'}" in out
    assert "recorded so far" not in (folder / "report.html").read_text()
    whole = folder.parent / "whole"
    assert call("run", folder.parent / "study.toml", "--output", whole)[0] == 0
    one, other = (read_dataset(path / "results.nc").drop_attrs(deep=False) for path in (folder, whole))
    xr.testing.assert_identical(one, other)
    status = json.loads(call("status", folder, "--json")[1])
    assert (status["state"], status["damaged"], status["go_on"]) == ("finished", {}, "")
    assert [cell["recorded"] for cell in status["cells"]] == [[0, 2, 4], [0, 2, 4]]
    assert status["id"] == read_record(folder)["id"]
    assert (folder / "study.toml").read_text() == STUDY


def test_ctrl_c_before_anything_was_made(
    call: Command, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_train_cell, "network_of", interrupt)
    code, out, err = call("run", folder.parent / "study.toml", "--output", folder)
    assert (code, out, err) == (130, "", "Aborted.\n")
    assert not folder.exists()


@pytest.mark.slow
def test_what_is_damaged_is_told_and_mended(call: Command, folder: Path) -> None:
    assert call("run", folder.parent / "study.toml", "--output", folder)[0] == 0
    before = read_dataset(folder / "results.nc")
    record, checkpoint, *_ = (sorted((folder / name).iterdir())[1] for name in ("steps", "checkpoints"))
    record.write_bytes(record.read_bytes()[:-50])
    code, out, _ = call("status", folder)
    assert code == 0
    assert "2 of 3" in out
    assert f"damaged: steps/{record.name} (" in out
    assert "go on with: kpframe resume " in out
    code, out, err = call("resume", folder)
    assert code == 0
    assert any(record.name in line and line.endswith("it is made anew") for line in err.splitlines())
    xr.testing.assert_identical(read_dataset(folder / "results.nc"), before)
    checkpoint.write_bytes(b"")
    assert list(json.loads(call("status", folder, "--json")[1])["damaged"]) == [
        f"checkpoints/{checkpoint.name}"
    ]


def test_a_record_that_a_finished_run_has_no_more_is_told(call: Command, folder: Path) -> None:
    assert call("run", folder.parent / "study.toml", "--output", folder)[0] == 0
    record = sorted((folder / "steps").iterdir())[1]
    record.unlink()
    assert call("status", folder)[1].splitlines()[-2:] == [
        f"damaged: steps/{record.name} (it is missing)",
        f"go on with: kpframe resume {shlex.quote(str(folder))}",
    ]


def test_a_training_that_stopped(call: Command, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gradient = Trainer._gradient

    def failing(self: Trainer, trials: object) -> torch.Tensor:
        if self.made == 3:
            raise torch.linalg.LinAlgError("no convergence")
        return gradient(self, trials)

    monkeypatch.setattr(Trainer, "_gradient", failing)
    code, _, err = call("run", folder.parent / "study.toml", "--output", folder)
    assert code == 1
    assert "<b>net</b>, seed 0: update 3 of 4, failed at update 4 (LinAlgError: no convergence)" in [
        line.replace(f", loss {line.partition('loss ')[2].partition(',')[0]}", "")
        for line in err.splitlines()
    ]
    cells = json.loads(call("status", folder, "--json")[1])["cells"]
    assert [(cell["state"], cell["updates"], cell["recorded"]) for cell in cells] == [
        ("failed", 3, [0, 2])
    ] * 2
    assert {cell["reason"] for cell in cells} == {"LinAlgError: no convergence"}


def test_jobs_of_a_run_and_how_long_ago_they_were_heard(call: Command, tmp_path: Path) -> None:
    cells = [
        {"name": name, "coordinates": {"network": name}, "steps": [0], "initial_of": None}
        for name in ("a", "b", "c")
    ]
    with RunFolder(tmp_path / "run", "run", {"title": "t"}, title="t", seed=0, cells=cells):
        place = jobs_folder(tmp_path / "run")
        place.mkdir()
        (place / JOBS).write_text('{"a": "71_0", "b": "71_1"}')
        (place / "a.json").write_text('{"state": "running", "progress": [12, 40, 0.5, ""]}')
        (place / "b.json").write_text('{"state": "queued"}')
        os.utime(place / "b.json", (time.time() - 120,) * 2)
        code, out, _ = call("status", tmp_path / "run")
    assert code == 0
    rows = {line.split()[0]: line for line in out.splitlines() if "of 1" in line}
    assert re.search(r"under way, job 71_0, heard \d+ s ago", rows["a"])
    assert " 12 " in rows["a"].replace("\t", " ")
    assert "queued, job 71_1, heard 2 min ago" in rows["b"]
    assert "waiting" in rows["c"]
    assert "job" not in rows["c"]


def test_jobs_are_refused_on_ranks(call: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = tmp_path / "study.toml"
    study.write_text(STUDY)
    monkeypatch.setattr(Launch, "under_way", Launch(0, 4, 4, "", 0))
    code, _, err = call("run", study, "--executor", "slurm")
    assert code == 2
    told = "--executor: expected processes on 4 ranks, which share each network's trials, got slurm; or"
    assert told in " ".join(err.split())
    assert not (tmp_path / "study").exists()


HOLD = """
import sys
from pathlib import Path
from kpframe.study._disk.folder import RunFolder
with RunFolder(Path(sys.argv[1]), "run", {"title": "t"}, title="t", seed=0, cells=[
    {"name": "a", "coordinates": {"network": "a"}, "steps": [0], "initial_of": None}
]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.mark.slow
def test_a_living_process_and_one_that_was_killed(call: Command, folder: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout.readline() == "held\n"
        status = json.loads(call("status", folder, "--json")[1])
        assert (status["state"], status["process"], status["go_on"]) == ("running", other.pid, "")
        assert f"running, process {other.pid}, " in call("status", folder)[1]
        assert [cell["state"] for cell in status["cells"]] == ["waiting"]
        other.kill()
        other.communicate()
    assert (folder / LOCK).exists()
    status = json.loads(call("status", folder, "--json")[1])
    assert status["state"] == "killed"
    assert status["go_on"] == f"kpframe resume {shlex.quote(str(folder))}"


@pytest.mark.parametrize("command", ["resume", "status"])
def test_what_is_no_run_of_a_study(call: Command, tmp_path: Path, command: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "run.json").write_text("{")
    (tmp_path / "newer").mkdir()
    (tmp_path / "newer" / "run.json").write_text('{"format": 99}')
    for name, said in (
        ("none", "does not exist"),
        ("file", "which is a file"),
        (".", "has no run.json"),
        ("damaged", "is damaged"),
        ("newer", "a newer kpframe"),
    ):
        code, out, err = call(command, tmp_path / name)
        assert (code, out) == (2, "")
        assert said in err
        assert err.startswith("Error: ")
        assert len(err.splitlines()) == 1


def test_requests_to_end_are_taken_once() -> None:
    """What is written after the first is not broken off by the next; a second Ctrl-C is."""
    done = []
    with pytest.raises(KeyboardInterrupt), ended_by_signals():  # noqa: PT012
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        finally:
            os.kill(os.getpid(), signal.SIGTERM)
            done.append("written")
    assert done == ["written"]
    with ended_by_signals(alone=False):
        os.kill(os.getpid(), signal.SIGINT)
        done.append("ignored")
    assert done == ["written", "ignored"]
