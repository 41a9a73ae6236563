"""The folder of a run: what is refused before anything is computed, and what is left behind."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import xarray as xr
from filelock import FileLock

from kpframe.errors import OutputError, ResumeWarning, SettingsError
from kpframe.study._disk.folder import FORMAT, LOCK, RunFolder, read_record
from kpframe.study._disk.labels import check_labels, file_names
from kpframe.study._disk.results import read_dataset

DATA = xr.Dataset({"a": ("x", [1.0, 2.0])})


CELLS = [
    {"name": "a", "coordinates": {"network": "a", "seed": 0}, "steps": [0, 2], "initial_of": None},
    {"name": "b", "coordinates": {"network": "a", "seed": 1}, "steps": [2], "initial_of": "a"},
]


def folder(path: Path, *, command: str = "train", **options: object):
    own = {name: options.pop(name) for name in ("overwrite", "needed", "cells", "mend") if name in options}
    settings = {"seed": 0, "sizes": (1, 2)} | options
    return RunFolder(path, command, settings, title="t", seed=0, **own)


def finished(path: Path, **options: object) -> str:
    with folder(path, **options) as run:
        run.write_dataset("training.nc", DATA)
        (path / "checkpoints").mkdir(exist_ok=True)
        (path / "checkpoints" / "a.safetensors").write_bytes(b"a")
        (path / "training.html").write_text("page")
        return run.id


def names(path: Path) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in path.rglob("*") if found.is_file())


ALL = ["checkpoints/a.safetensors", "run.json", "training.html", "training.nc"]


def test_the_id_of_a_run_is_in_its_files(tmp_path: Path) -> None:
    one, other = finished(tmp_path / "deep" / "one"), finished(tmp_path / "other")
    assert one != other
    data = read_dataset(tmp_path / "deep" / "one" / "training.nc")
    assert data.attrs["run_id"] == one
    assert data.attrs["title"] == "t"
    assert json.loads(data.attrs["settings"]) == {"seed": 0, "sizes": [1, 2]}
    record = read_record(tmp_path / "deep" / "one")
    assert (record["id"], record["state"], record["command"]) == (one, "finished", "train")
    assert names(tmp_path / "other") == ALL


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, r"holds this run, finished: run \w{16} \(kpframe train, "),
        ({"seed": 1}, r"holds run \w{16} \(kpframe train, .*\) with another seed; "),
        ({"more": 1, "sizes": [1]}, r"with another more, sizes; "),
        ({"command": "compare"}, r"holds run \w{16} \(kpframe train, "),
    ],
)
def test_the_folder_of_another_run(tmp_path: Path, options: dict[str, object], said: str) -> None:
    before = finished(tmp_path)
    with pytest.raises(OutputError, match=f"folder .* {said}.*--overwrite replaces it, or give"):
        finished(tmp_path, **options)
    assert names(tmp_path) == ALL
    assert read_dataset(tmp_path / "training.nc").attrs["run_id"] == before
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "checkpoints" / "old.safetensors").write_bytes(b"old")
    after = finished(tmp_path, overwrite=True, **options)
    assert names(tmp_path) == sorted([*ALL, "notes.txt"])  # the old run's files are gone, others are not
    assert read_dataset(tmp_path / "training.nc").attrs["run_id"] == after == read_record(tmp_path)["id"]


def test_a_folder_of_no_run(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(OutputError, match=r"holds files of no run \(thesis\.tex\); give another"):
            finished(tmp_path, overwrite=overwrite)
    assert names(tmp_path) == ["thesis.tex"]
    (tmp_path / "thesis.tex").rename(tmp_path / ".hidden")
    finished(tmp_path)
    assert names(tmp_path) == [".hidden", *ALL]


def test_a_record_that_cannot_be_read(tmp_path: Path) -> None:
    finished(tmp_path)
    good = read_record(tmp_path)
    assert good["format"] == FORMAT == 2
    for text in ("", "[]", '{"id": 3}', json.dumps(good | {"cells": [{"name": 3}]})):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(OutputError, match=r"holds a run whose run\.json is damaged; --overwrite"):
            finished(tmp_path)
        assert names(tmp_path) == ALL
    (tmp_path / "run.json").write_text(json.dumps(good | {"format": 3, "cells": 7}))
    assert read_record(tmp_path) is None
    with pytest.raises(
        OutputError,
        match=r"holds a run written by a newer kpframe \(its format is 3, and this one knows 2\); --over",
    ):
        finished(tmp_path)
    assert names(tmp_path) == ALL
    (tmp_path / "run.json").write_text(json.dumps(good | {"format": 1}))  # as written before
    assert read_record(tmp_path)["id"] == good["id"]
    finished(tmp_path, overwrite=True)


# -- runs that can be gone on with ---------------------------------------------------------------------------


def begun(path: Path, error: type[BaseException] = KeyboardInterrupt, **options: object) -> RunFolder:
    """A run that wrote a step, a checkpoint and a state, and was ended by an error."""
    run = folder(path, command="run", cells=CELLS, **options)
    with pytest.raises(error), run:  # noqa: PT012 - it raises after it has written
        run.write_dataset("steps/a-000000.nc", DATA)
        for name in ("checkpoints/a-000000.safetensors", "state/a.safetensors"):
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_bytes(b"a")
        raise error
    return run


BEGUN = ["checkpoints/a-000000.safetensors", "run.json", "state/a.safetensors", "steps/a-000000.nc"]


def test_an_unfinished_run_is_kept(tmp_path: Path) -> None:
    first = begun(tmp_path)
    assert not first.resumed
    assert read_record(tmp_path)["cells"] == CELLS
    (tmp_path / "steps" / ".kpframe-0123456789abcdef.part").write_text("half")
    again = folder(tmp_path, command="run", cells=CELLS)
    assert again.id != first.id
    with again:
        assert again.resumed
        assert again.id == again.attributes["run_id"] == first.id
        assert again.attributes["created"] == first.attributes["created"]
        assert names(tmp_path) == sorted([LOCK, *BEGUN])
        again.writer().write_dataset("training/a.nc", DATA)
    assert read_dataset(tmp_path / "training" / "a.nc").attrs == again.attributes
    assert read_record(tmp_path)["state"] == "finished"
    with (
        pytest.raises(OutputError, match="holds this run, finished"),
        folder(tmp_path, command="run", cells=CELLS),
    ):
        pass
    mended = folder(tmp_path, command="run", cells=CELLS, mend=True)
    with mended:
        assert mended.resumed
        assert mended.id == first.id
    anew = folder(tmp_path, command="run", cells=CELLS, overwrite=True)
    with anew:
        assert not anew.resumed
        assert anew.id != first.id
        assert names(tmp_path) == [LOCK, "run.json"]


def test_processor_time_adds_up_unless_a_process_was_killed(tmp_path: Path) -> None:
    def work() -> float:
        start = time.process_time()
        while time.process_time() < start + 0.05:
            pass
        return time.process_time() - start

    def spent(*, again: float | None = None) -> tuple[float, float | None]:
        """Work, and in another process that says how long it has worked; then what the record says."""
        run = folder(tmp_path, command="run", cells=CELLS, mend=True)
        with pytest.raises(KeyboardInterrupt), run:  # noqa: PT012 - it ends in the midst of work
            (tmp_path / "steps").mkdir(exist_ok=True)
            run.write_dataset("steps/a-000000.nc", DATA)
            worked = work()
            if again is not None:
                run.writer().spent += again
            raise KeyboardInterrupt
        return worked, read_record(tmp_path)["cpu_seconds"]

    first, said = spent()
    assert first <= said < first + 1
    second, both = spent(again=100.0)
    assert said + second + 100 <= both < said + second + 101
    record = read_record(tmp_path)
    (tmp_path / "run.json").write_text(json.dumps({**record, "state": "running"}))  # as a kill leaves it
    assert spent()[1] is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"seed": 1}, "with another seed"),
        ({"command": "train"}, r"\(kpframe run, .*\)"),
        ({"cells": CELLS[:1]}, "begun by a kpframe that divides it otherwise"),
    ],
)
def test_another_run_than_the_unfinished_one(tmp_path: Path, options: dict[str, object], said: str) -> None:
    path = tmp_path / "a b"
    begun(path)
    other = folder(path, **({"command": "run", "cells": CELLS} | options))
    with pytest.raises(OutputError, match=said) as told, other:
        pass
    assert f"unfinished (kpframe resume '{path}' goes on with it); --overwrite" in str(told.value)
    assert names(path) == BEGUN


def test_a_kill_while_an_older_run_is_removed(tmp_path: Path) -> None:
    """What is left of the older one is never taken for the newer one's."""
    begun(tmp_path)
    record = read_record(tmp_path)
    for state, kept in (("beginning", False), ("running", True), ("failed", True)):
        (tmp_path / "run.json").write_text(json.dumps(record | {"state": state, "id": "0" * 16}))
        with folder(tmp_path, command="run", cells=CELLS) as run:
            assert run.resumed is kept
            assert (run.id == "0" * 16) is kept
            assert names(tmp_path) == (sorted([LOCK, *BEGUN]) if kept else [LOCK, "run.json"])
        begun(tmp_path, overwrite=True)


def test_only_the_study_file_is_nothing(tmp_path: Path) -> None:
    run = folder(tmp_path / "run", command="run", cells=CELLS)
    with pytest.raises(ZeroDivisionError), run:  # noqa: PT012
        (tmp_path / "run" / "study.toml").write_text("title = 't'")
        raise ZeroDivisionError
    assert not (tmp_path / "run").exists()


PROCESS = """
import os, sys
from pathlib import Path
import xarray as xr
from kpframe.study._disk.folder import RunFolder

path, killed = Path(sys.argv[1]), sys.argv[2] == "killed"
with RunFolder(path, "train", {"seed": 0, "sizes": [1, 2]}, title="t", seed=0) as run:
    run.write_dataset("training.nc", xr.Dataset({"a": ("x", [1.0, 2.0])}))
    if killed:
        (path / "checkpoints").mkdir()
        for place in (path, path / "checkpoints"):
            (place / ".kpframe-0123456789abcdef.part").write_text("half")
        os._exit(9)
    print("entered", flush=True)
    sys.stdin.read()
"""


def process(path: Path, what: str) -> subprocess.Popen[str]:
    arguments = [sys.executable, "-c", PROCESS, str(path), what]
    return subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def test_a_living_process_holds_its_folder(tmp_path: Path) -> None:
    with process(tmp_path / "run", "held") as other:
        assert other.stdout.readline() == "entered\n"
        for overwrite in (False, True):
            with pytest.raises(OutputError, match=f"in use by kpframe train, process {other.pid}; wait"):
                finished(tmp_path / "run", overwrite=overwrite)
        assert names(tmp_path / "run") == [LOCK, "run.json", "training.nc"]
        other.communicate(timeout=60)
    assert other.returncode == 0
    assert names(tmp_path / "run") == ["run.json", "training.nc"]
    finished(tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("record", [None, "not JSON"])
def test_a_process_without_a_record_holds_its_folder_too(tmp_path: Path, record: str | None) -> None:
    if record is not None:
        (tmp_path / "run.json").write_text(record)
    with FileLock(tmp_path / LOCK), pytest.raises(OutputError, match="in use by another process; wait"):
        finished(tmp_path)


def test_after_a_kill(tmp_path: Path) -> None:
    """What was written can be read; the same run begins anew, another is refused; nothing half is left."""
    with process(tmp_path, "killed") as other:
        other.communicate(timeout=60)
    assert other.returncode == 9
    assert len([name for name in names(tmp_path) if name.endswith(".part")]) == 2
    assert read_record(tmp_path)["state"] == "running"
    xr.testing.assert_equal(read_dataset(tmp_path / "training.nc"), DATA)
    with pytest.raises(OutputError, match="with another seed"):
        finished(tmp_path, seed=1)
    with folder(tmp_path):
        assert names(tmp_path) == [LOCK, "run.json"]  # nothing old is left beside what comes


def test_a_failure_before_anything_is_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), folder(tmp_path / "a" / "b"):
        raise ZeroDivisionError
    assert names(tmp_path) == []
    assert not (tmp_path / "a").exists()
    (tmp_path / "there").mkdir()
    with pytest.raises(KeyboardInterrupt), folder(tmp_path / "there"):
        raise KeyboardInterrupt
    assert list((tmp_path / "there").iterdir()) == []


def test_a_failure_later_is_recorded(tmp_path: Path) -> None:
    for error, state in ((ZeroDivisionError, "failed"), (KeyboardInterrupt, "interrupted")):
        run = folder(tmp_path)
        with pytest.raises(error), run:  # noqa: PT012 - it raises after it has written
            run.write_dataset("training.nc", DATA)
            raise error
        assert read_record(tmp_path)["state"] == state
        assert names(tmp_path) == ["run.json", "training.nc"]


def test_room_is_asked_for_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"it needs 1000\.0 TB, and .* are free on the disk"):
        finished(tmp_path / "run", needed=10**15)
    assert not (tmp_path / "run").exists()


def test_settings_that_json_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"settings: expected values that JSON can hold, got .*set"):
        folder(tmp_path, value={1, 2})


# -- labels --------------------------------------------------------------------------------------------------


LABELS = [
    "GRU",
    "../../etc/passwd",
    "..",
    "a/b",
    "a b",
    "a(b)",
    "$x_$",
    "$x_$" * 2000,
    'frozen(parameters=["b/*"]) @ bptt',
    "φ ± 3",
    "-",
    "initial",
    "Bptt",
    "bptt",
]


def test_names_of_files() -> None:
    found = file_names(LABELS, taken=["initial"])
    assert found["GRU"] == "GRU"
    assert all(name != label for label, name in found.items() if label != "GRU")
    assert len({name.casefold() for name in found.values()}) == len(LABELS)
    for name in found.values():
        assert len(name) <= 69
        assert set(name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.=-")
        assert name[0] not in ".-"
    for label in LABELS:  # of the label alone, where no other is like it
        if label.casefold() not in ("initial", "bptt"):
            assert file_names([label])[label] == found[label]


@pytest.mark.parametrize("label", ["", " ", "a\nb", "a\tb", "\x1b[31m", "a\0", "\udc80"])
def test_labels_that_cannot_be_shown(label: str) -> None:
    with pytest.raises(SettingsError, match="rules: label: expected printable text on one line"):
        check_labels(["fine", label], "rules")


def test_labels_are_different() -> None:
    check_labels(LABELS, "rules")
    with pytest.raises(SettingsError, match="rules: label: expected another one for each, got 'a b' more"):
        check_labels(["a b", "c", "a b"], "rules")


# -- versions ------------------------------------------------------------------------------------------------


def test_going_on_with_other_versions_is_told(tmp_path: Path) -> None:
    begun(tmp_path)
    record = read_record(tmp_path)
    now = record["made_with"]
    assert now["torch"] == torch.__version__
    begun(tmp_path)  # with the same ones, which is nothing to tell
    older = now | {"torch": "2.0.1", "numpy": "1.0"}
    (tmp_path / "run.json").write_text(json.dumps(record | {"made_with": older}))
    said = (
        rf"begun with torch 2\.0\.1, numpy 1\.0 and goes on with torch {re.escape(now['torch'])}, numpy "
        rf"{re.escape(now['numpy'])}: figures may differ in their last bits"
    )
    with pytest.warns(ResumeWarning, match=said):
        begun(tmp_path)
    assert read_record(tmp_path)["made_with"] == older
    for unknown in (7, None):
        (tmp_path / "run.json").write_text(json.dumps(record | {"made_with": unknown}))
        begun(tmp_path)
        assert read_record(tmp_path)["made_with"] == now
