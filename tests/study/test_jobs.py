"""Trainings as jobs of their own: the same figures, and what becomes of jobs that end otherwise."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import xarray as xr

from kpframe.errors import KpframeError, MissingDependencyError, SettingsError
from kpframe.study._cells import expand
from kpframe.study._disk.folder import read_record
from kpframe.study._disk.results import read_dataset
from kpframe.study._running import jobs as _jobs
from kpframe.study._running.executor import ClusterSettings, Executor, read_cluster
from kpframe.study._running.jobs import jobs_folder
from kpframe.study._running.run_study import resume_run, run_study
from kpframe.study._running.status import run_status
from kpframe.study._study_file.reading import parse_study

TABLE = {
    "title": "t",
    "seeds": 3,
    "dtype": "float64",
    "task": {"name": "sum"},
    "network": [{"name": "small"}],
    "training": {"steps": 3, "batch_size": 3},
    "measure": {"steps": [0, 3], "trials": 3, "budget": 8},
    "quantity": [{"name": "own_noise"}],
}


class Submitted:
    """Stands for submitit: a job is done at once, here, but for what ``ends`` has for its number."""

    def __init__(self, place: Path, ends: dict[int, Callable[[], None]]) -> None:
        self.place, self.ends, self.count = place, ends, 0

    @contextmanager
    def batch(self) -> Iterator[None]:
        yield

    def submit(self, work: Callable[..., None], *arguments: object) -> SimpleNamespace:
        number = self.count
        self.count += 1
        files = {name: self.place / f"{number}_{name}" for name in ("stdout", "stderr")}
        pickles = {
            name: self.place / f"{number}_{name}.pkl"
            for name in ("submitted_pickle", "result_pickle", "submission_file")
        }
        for file in (*files.values(), *pickles.values()):
            file.write_text("")
        if number in self.ends:
            self.ends[number]()
        else:
            work(*arguments)
        return SimpleNamespace(
            done=lambda: True,
            paths=SimpleNamespace(**files, **pickles),
            job_id=str(number),
            state="OUT_OF_MEMORY",
            cancel=lambda check: None,
            _process=SimpleNamespace(terminate=lambda: None),
        )


@pytest.fixture
def submitted(offered, monkeypatch) -> dict[int, Callable[[], None]]:
    """What the jobs of these numbers do instead of training."""
    ends: dict[int, Callable[[], None]] = {}
    monkeypatch.setattr(_jobs, "_submitit", lambda executor, place: Submitted(place, ends))
    monkeypatch.setattr(_jobs, "LOOK", 0.01)
    monkeypatch.setattr(_jobs, "ARRIVAL", 0.02)
    return ends


def same(one: Path, other: Path) -> None:
    """Check that two runs have the same results bit for bit, but for their ids and times."""
    first, second = (read_dataset(path / "results.nc") for path in (one, other))
    for data in (first, second):
        for name in ("run_id", "created"):
            del data.attrs[name]
    xr.testing.assert_identical(first, second)


@pytest.mark.parametrize("kind", [pytest.param("local", marks=pytest.mark.slow), "slurm"])
def test_jobs_give_the_figures_of_one_process(tmp_path: Path, submitted, kind: str) -> None:
    study, heard = parse_study(TABLE, "here"), []
    run_study(study, tmp_path / "one")
    run_study(study, tmp_path / "jobs", executor=Executor(kind), report=lambda *what: heard.append(what))
    same(tmp_path / "one", tmp_path / "jobs")
    assert {label for label, *_ in heard} == {"small, seed 0", "small, seed 1", "small, seed 2"}
    assert not jobs_folder(tmp_path / "jobs").exists()  # nothing that was pickled is left, and no log
    assert len({loss for _, made, _, loss, *_ in heard if made == 3}) == 3  # no two are one training


@pytest.mark.slow
def test_a_job_without_a_result_leaves_the_others_and_can_be_gone_on_with(tmp_path: Path, submitted) -> None:
    study, path = parse_study(TABLE, "here"), tmp_path / "run"
    submitted[1] = lambda: None  # killed: it says nothing
    with pytest.raises(KpframeError) as caught:
        run_study(study, path, executor=Executor("slurm"))
    message = str(caught.value)
    assert "1 of 3 trainings came to no end (small, seed 1: its job 1 ended without a result" in message
    assert f"OUT_OF_MEMORY); its log is {jobs_folder(path) / '1_stderr'}" in message
    assert f"kpframe resume {path} goes on with them" in message
    assert [file.name for file in sorted(jobs_folder(path).iterdir())] == ["1_stderr", "1_stdout"]
    assert read_dataset(path / "results.nc").outcome.values.flatten().tolist() == ["trained"] * 2
    submitted.clear()
    resume_run(path, executor=Executor("slurm"))
    run_study(study, tmp_path / "one")
    same(tmp_path / "one", path)


def test_a_run_says_which_of_its_jobs_are_queued_and_which_run(tmp_path: Path, submitted) -> None:
    study, path, seen = parse_study(TABLE, "here"), tmp_path / "run", []
    running = jobs_folder(path) / f"{expand(study)[2].name}.json"
    submitted[1] = lambda: None
    submitted[2] = lambda: running.write_text('{"state": "running", "progress": [2, 3, 0.5, "recording"]}')
    with pytest.raises(KpframeError, match="2 of 3 trainings came to no end"):
        run_study(study, path, executor=Executor("slurm"), report=lambda *what: seen.append(run_status(path)))
    first, queued, begun = seen[0].cells
    assert (first.state, first.job) == ("trained", None)
    assert (queued.state, queued.updates) == ("queued", None)
    assert (queued.job.number, queued.job.running) == ("1", False)
    assert (begun.state, begun.updates) == ("under way", 2)
    assert (begun.job.number, begun.job.running, begun.job.doing) == ("2", True, "recording")
    assert 0 <= begun.job.heard < 60
    after = run_status(path).cells
    assert [(cell.state, cell.job) for cell in after] == [("trained", None), *[("waiting", None)] * 2]


def test_an_error_outside_of_the_training_is_told_with_the_log(
    tmp_path: Path, submitted, monkeypatch
) -> None:
    train, study = _jobs.train_cell, parse_study(TABLE, "here")

    def broken(cell, *arguments) -> None:
        if "1" in cell.label:
            raise ValueError("no such luck")
        train(cell, *arguments)

    monkeypatch.setattr(_jobs, "train_cell", broken)
    submit = Submitted.submit

    def in_a_job(self, work, *arguments):
        def guarded(*arguments):
            try:
                work(*arguments)
            except ValueError:  # the job's log has it
                return

        return submit(self, guarded, *arguments)

    monkeypatch.setattr(Submitted, "submit", in_a_job)
    with pytest.raises(KpframeError, match=r"small, seed 1: ValueError: no such luck; its log is .*1_stderr"):
        run_study(study, tmp_path / "run", executor=Executor("slurm"))


@pytest.mark.slow
def test_ctrl_c_leaves_what_can_be_gone_on_with(tmp_path: Path, submitted) -> None:
    study, path = parse_study(TABLE, "here"), tmp_path / "run"

    def interrupt(label: str, *progress: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run_study(study, path, executor=Executor("local"), report=interrupt)
    assert read_record(path)["state"] == "interrupted"
    assert not (jobs_folder(path) / _jobs.SESSION).exists()  # so that jobs that still run end themselves
    resume_run(path, executor=Executor("local"))
    run_study(study, tmp_path / "one")
    same(tmp_path / "one", path)


def test_a_job_of_an_earlier_session_does_nothing(tmp_path: Path, submitted, monkeypatch) -> None:
    begun = []
    monkeypatch.setattr(_jobs, "train_cell", lambda *arguments: begun.append(arguments))
    (tmp_path / _jobs.SESSION).write_text("another")
    _jobs.work(None, None, tmp_path / "cell.json", "mine", 1)
    assert not begun
    (tmp_path / _jobs.SESSION).write_text("mine")
    _jobs.work(None, None, tmp_path / "cell.json", "mine", 1)
    assert len(begun) == 1


def test_settings_of_a_cluster(tmp_path: Path) -> None:
    file = tmp_path / "cluster.toml"
    file.write_text(
        'partition = "long"\nminutes = 90\nmemory_gb = 1.5\ngpus = 1\nsetup = ["module load x"]\n'
    )
    assert read_cluster(file).slurm(4) == {
        "time": 90,
        "cpus_per_task": 1,
        "setup": ["module load x"],
        "partition": "long",
        "mem": "1500MB",
        "gpus_per_node": 1,
        "array_parallelism": 4,
    }
    assert "array_parallelism" not in ClusterSettings().slurm(None)
    file.write_text('partion = "long"\nminutes = 0\n')
    with pytest.raises(SettingsError) as caught:
        read_cluster(file)
    assert "did you mean 'partition'" in str(caught.value)
    assert "minutes: expected int >= 1, got 0" in str(caught.value)
    with pytest.raises(SettingsError, match=r"--cluster: expected a TOML file, got .*nowhere"):
        read_cluster(tmp_path / "nowhere.toml")


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'kpframe\[cluster\]'"):
        _jobs._submitit(Executor("local"), tmp_path)
    fake = SimpleNamespace(SlurmExecutor=SimpleNamespace(affinity=lambda: -1))
    monkeypatch.setitem(sys.modules, "submitit", fake)
    with pytest.raises(MissingDependencyError, match="Slurm takes jobs"):
        _jobs._submitit(Executor("slurm"), tmp_path)
