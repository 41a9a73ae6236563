"""A study is run, ended, gone on with and mended; what comes of it is that of an undisturbed one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from shutil import copytree

import pytest
import xarray as xr
from attrs import evolve

from kpframe.errors import ArgumentError, KpframeError, OutputError, SettingsError
from kpframe.study import analyze
from kpframe.study._cells import Cell, expand
from kpframe.study._disk.folder import RunFolder, read_record
from kpframe.study._disk.results import read_dataset
from kpframe.study._ranks.launcher import Launch
from kpframe.study._running import processes as _processes
from kpframe.study._running import run_study as _run_study
from kpframe.study._running.run_study import keep_study, resume_run, run_study, study_folder
from kpframe.study._running.status import run_status
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.reading import parse_study

TABLE = {
    "title": "t",
    "seeds": 2,
    "dtype": "float64",
    "task": {"name": "sum"},
    "network": [{"name": "small", "label": "a b"}],
    "training": {"steps": 4, "batch_size": 3, "rules": ["own_exact", "own_drawn"]},
    "measure": {"steps": [0, 2, 4], "trials": 3, "budget": 8},
    "quantity": [{"name": "own_noise"}, {"name": "own_moved"}],
}


@pytest.fixture(scope="module", autouse=True)
def _offered(offered: object) -> None:
    pass


def study(**more: object) -> StudySettings:
    return parse_study(TABLE | more, "here")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, offered: object) -> Path:
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    run_study(study(), path)
    return path


def check_equal(one: Path, other: Path) -> None:
    """Check that two runs have the same results, bit for bit, but for their ids and times."""
    first, second = (read_dataset(path / "results.nc") for path in (one, other))
    for data in (first, second):
        for name in ("run_id", "created"):
            del data.attrs[name]
    xr.testing.assert_identical(first, second)
    for path in one.rglob("*.*"):
        assert (other / path.relative_to(one)).exists()


def test_an_undisturbed_run(undisturbed: Path) -> None:
    data, record = read_dataset(undisturbed / "results.nc"), read_record(undisturbed)
    assert {name: data.sizes[name] for name in ("network", "trained_by", "seed", "step")} == {
        "network": 1,
        "trained_by": 2,
        "seed": 2,
        "step": 3,
    }
    assert bool(data.weights.notnull().all())
    assert not bool(data.weights.isel(seed=0).equals(data.weights.isel(seed=1)))
    assert (record["state"], record["command"], data.attrs["run_id"]) == ("finished", "run", record["id"])
    assert [cell["steps"] for cell in record["cells"]] == [[0, 2, 4], [0, 2, 4], [2, 4], [2, 4]]
    assert len(list((undisturbed / "steps").iterdir())) == 10
    assert len(list((undisturbed / "training").iterdir())) == 4
    assert not (undisturbed / "state").exists()
    settings = json.loads(data.attrs["settings"])
    assert parse_study(settings, "there") == study()
    with pytest.raises(OutputError, match="holds this run, finished"):
        run_study(study(), undisturbed)
    with pytest.raises(OutputError, match="with another title"):
        run_study(study(title="other"), undisturbed)


@pytest.mark.slow
def test_one_that_is_ended_again_and_again(tmp_path: Path, undisturbed: Path) -> None:
    """By Ctrl-C, by a request to end, and by the same command and by resuming in turn."""
    path, made, ids = tmp_path / "a run", [], set()

    def report(label: str, step: int, total: int, loss: float, doing: str = "") -> None:
        if not doing:
            made.append((label, step))
            if len(made) % 5 == 4:
                os.kill(os.getpid(), signal.SIGTERM if len(made) % 2 else signal.SIGINT)

    for count in range(9):
        try:
            if count % 2:
                resume_run(path, report=report)
            else:
                run_study(study(), path, report=report)
        except KeyboardInterrupt:
            record = read_record(path)
            assert record["state"] == "interrupted"
            ids.add((record["id"], record["created"]))
            continue
        break
    assert count == 3
    assert len(ids) == 1
    assert len(made) == len(set(made)) == 16  # no update is made twice
    check_equal(undisturbed, path)


def test_what_a_sweep_varies_nothing_of_is_trained_once_with_the_figures_of_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = study(
        seeds=1,
        network=[{"name": "small", "label": "a b"}, {"name": "small", "label": "c"}],
        training={"steps": 2, "batch_size": 3},
        measure={"steps": [0, 2], "trials": 3, "budget": 8},
        sweep={"network.c.gain": [0.5, 0.7]},
    )
    train, trained = _processes.train_cell, []

    def counted(cell: Cell, *arguments: object) -> None:
        trained.append(cell.name)
        train(cell, *arguments)

    monkeypatch.setattr(_processes, "train_cell", counted)
    once = run_study(swept, tmp_path / "once")
    assert len(set(trained)) == len(trained) == 3
    with monkeypatch.context() as patch:
        patch.setattr(_run_study, "expand", lambda study: [evolve(c, same_as=None) for c in expand(study)])
        each = run_study(swept, tmp_path / "each")
    assert len(trained) == 3 + 4
    for data in (once, each):
        del data.attrs["run_id"], data.attrs["created"]
    xr.testing.assert_identical(once, each)
    weights = once.weights.sel(step=2)
    assert weights.sel(network="a b", gain=0.5) == weights.sel(network="a b", gain=0.7)
    assert weights.sel(network="c", gain=0.5) != weights.sel(network="c", gain=0.7)
    assert [cell.label for cell in run_status(tmp_path / "once").cells] == [
        "a b, gain 0.5",
        "c, gain 0.5",
        "c, gain 0.7",
    ]
    resume_run(tmp_path / "once")
    assert len(trained) == 7 + 3  # each is looked at again, and found whole
    assert len(list((tmp_path / "once" / "steps").iterdir())) == 6
    found = analyze(tmp_path / "once", tmp_path / "again", quantities=["own_noise"])
    assert found.weights.sel(gain=[0.5, 0.7], network=["a b", "c"], step=[0, 2]).equals(
        once.weights.transpose(*found.weights.dims)
    )
    assert len(list((tmp_path / "again" / "steps").iterdir())) == 6


def test_what_was_damaged_is_made_anew(tmp_path: Path, undisturbed: Path) -> None:
    path, said = Path(copytree(undisturbed, tmp_path / "run")), []
    identity = read_record(path)["id"]
    resume_run(path, tell=said.append)
    assert said == []
    first, second = sorted((path / "steps").iterdir())[:2]
    first.write_bytes(first.read_bytes()[:-50])
    second.unlink()
    (path / "results.nc").write_bytes(b"")
    resume_run(path, tell=said.append)
    assert len(said) == 1
    assert first.name in said[0]
    assert said[0].endswith("; it is made anew")
    assert read_record(path)["id"] == identity
    check_equal(undisturbed, path)
    first.write_bytes(b"")
    with pytest.warns(UserWarning, match=first.name):
        resume_run(path)


def test_results_say_of_each_number_of_ranks_that_made_them(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = Path(copytree(undisturbed, tmp_path / "run"))
    lost = sorted((path / "steps").iterdir())[1]
    lost.unlink()
    monkeypatch.setattr(Launch, "under_way", Launch(0, 3, 3, "", 0))
    data = resume_run(path)
    assert read_dataset(lost).attrs["ranks"] == "3"
    for attributes in (data.attrs, read_dataset(path / "results.nc").attrs):
        assert "ranks" not in attributes
        assert json.loads(attributes["also_made_with"]) == [{"ranks": "3", "group_backend": "gloo"}]
    assert "also_made_with" not in read_dataset(undisturbed / "results.nc").attrs


@pytest.mark.slow
def test_a_training_that_comes_to_no_end(
    tmp_path: Path, undisturbed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train, path = _processes.train_cell, tmp_path / "a run"

    def failing(cell: object, *arguments: object) -> None:
        if cell.coordinates["seed"] == 1 and cell.coordinates["trained_by"] == "own_drawn":
            raise RuntimeError("no\nluck")
        train(cell, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(_processes, "train_cell", failing)
        with pytest.raises(KpframeError) as told:
            run_study(study(), path)
    expected = "1 of 4 trainings came to no end (a b, own_drawn, seed 1: RuntimeError: no luck); "
    assert str(told.value) == expected + f"kpframe resume '{path}' goes on with them"
    assert read_record(path)["state"] == "failed"
    data = read_dataset(path / "results.nc")
    assert data.weights.isnull().sum() == 2  # of steps 2 and 4
    resume_run(path)
    check_equal(undisturbed, path)


def test_what_cannot_be_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="does not exist"):
        resume_run(tmp_path / "none")
    for command in ("train", "compare", "other"):
        path = tmp_path / command
        with RunFolder(path, command, {}, title="t", seed=0, cells=[]) as run:
            run.write_dataset("results.nc", xr.Dataset({"a": 1.0}))
        again = "the same kpframe other ... --output" if command == "other" else "kpframe resume"
        with pytest.raises(ArgumentError) as told:
            resume_run(path)
        expected = f"of kpframe {command}, which {again} {path} goes on with"
        assert str(told.value) == f"run: expected one of kpframe run or demo, got '{path}', {expected}"


@pytest.mark.parametrize(
    ("jobs", "changes", "said"),
    [
        (0, {}, "jobs"),
        (1, {"quantity": [{"name": "own_noise"}], "network": [{"name": "small", "reads": "g"}]}, "reads"),
    ],
)
def test_what_is_impossible_is_known_before_anything_is_made(
    tmp_path: Path, jobs: int, changes: dict[str, object], said: str
) -> None:
    with pytest.raises((ArgumentError, SettingsError), match=said):
        run_study(study(**changes), tmp_path / "run", jobs=jobs)
    assert not (tmp_path / "run").exists()


def test_the_file_of_the_study_is_kept(tmp_path: Path) -> None:
    small = study(seeds=1, training={"steps": 2, "batch_size": 2}, measure={"steps": [0], "trials": 2})

    def interrupt(label: str, made: int, *told: object) -> None:
        if made:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), study_folder(small, tmp_path) as folder:  # noqa: PT012
        keep_study(folder, "# as given")
        run_study(small, folder, report=interrupt)
    with study_folder(small, tmp_path) as folder:
        keep_study(folder, "# given again, with another comment")
        run_study(small, folder)
    assert (tmp_path / "study.toml").read_text() == "# as given"
