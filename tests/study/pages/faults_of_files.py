"""Faults in files and folders: what would be half, mixed or lost, or told wrongly of a disk."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr

import kpframe.study._disk.files
import kpframe.study._networks.checkpoint
from kpframe.errors import (
    CheckpointError,
    KpframeError,
    NonFiniteError,
    NonFiniteProductError,
    OutputError,
    SettingsError,
)
from kpframe.study._disk import folder as folders
from kpframe.study._disk import labels as labelling
from kpframe.study._disk import results as results
from kpframe.study._rules import compare_source as sources
from kpframe.study._rules import training_data as training_data
from kpframe.testing._toys import Elman

from .planting import Fault

FILES, FOLDER, LABELS, ENDS = (
    "study/_disk/files.py",
    "study/_disk/folder.py",
    "study/_disk/labels.py",
    "study/_rules/training_data.py",
)
HEADER, SOURCES = "study/_networks/checkpoint.py", "study/_rules/compare_source.py"
DATA = xr.Dataset({"a": ("x", [1.0, 2.0])})


def refused(call: Callable[[], object], error: type[KpframeError] = OutputError) -> str:
    """Return what a call that must fail says; "" where it does not."""
    try:
        call()
    except error as caught:
        return str(caught)
    return ""


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def check_full_disk() -> None:
    """The older file stays, nothing is left beside it, and the figures of the line are right."""

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with TemporaryDirectory() as place, pytest.MonkeyPatch.context() as patch:
        path = Path(place) / "a.nc"
        path.write_bytes(b"before")
        patch.setattr(os, "fsync", full)
        patch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=3_210))
        said = refused(lambda: kpframe.study._disk.files.write_bytes(path, bytes(45_678)))
        assert f"cannot write '{path}': it needs 45.7 kB, and 3.2 kB are free on the disk; " in said
        assert path.read_bytes() == b"before"
        assert names(Path(place)) == ["a.nc"]
        assert refused(lambda: kpframe.study._disk.files.check_folder(path.parent, 3_210)) == ""
        assert "it needs 3.2 kB" in refused(
            lambda: kpframe.study._disk.files.check_folder(path.parent, 3_211)
        )


def check_leftovers() -> None:
    with TemporaryDirectory() as place:
        for name in (".kpframe-0123456789abcdef.part", ".kpframe-notes-of-mine-and-more.part", "a.part"):
            (Path(place) / name).write_text("x")
        found = [path.name for path in kpframe.study._disk.files.leftovers(Path(place))]
        assert found == [".kpframe-0123456789abcdef.part"]


def run(
    path: Path, *, seed: int = 0, overwrite: bool = False, fail: type[BaseException] | None = None
) -> str:
    """Make a run; return its id."""
    made = folders.RunFolder(path, "train", {"seed": seed}, title="t", seed=seed, overwrite=overwrite)
    with made as folder:
        name = "training.nc" if seed == 0 else "results.nc"
        folder.write_dataset(name, DATA)
        if fail is not None:
            raise fail
    return made.id


def check_folder_of_another() -> None:
    with TemporaryDirectory() as place:
        path = Path(place)
        first = run(path)
        assert results.read_dataset(path / "training.nc").attrs["run_id"] == first
        assert "holds this run, finished" in refused(lambda: run(path))
        assert "with another seed; --overwrite replaces it" in refused(lambda: run(path, seed=1))
        assert names(path) == ["run.json", "training.nc"]
        (path / ".kpframe-0123456789abcdef.part").write_text("half")
        second = run(path, seed=1, overwrite=True)
        assert names(path) == ["results.nc", "run.json"]
        record = folders.read_record(path)
        assert record is not None
        assert (record["id"], record["state"]) == (second, "finished")
        assert first != second


def check_living_process() -> None:
    with TemporaryDirectory() as place:
        made = folders.RunFolder(Path(place), "train", {}, title="t", seed=0)
        with made:
            other = folders.RunFolder(Path(place), "train", {}, title="t", seed=0, overwrite=True)
            said = refused(other.__enter__)
        assert f"is in use by kpframe train, process {os.getpid()}; " in said


def check_ends() -> None:
    """A run that failed says so, one that left nothing is gone, and the same command begins anew."""
    with TemporaryDirectory() as place:
        path = Path(place) / "run"
        for error, state in ((ValueError, "failed"), (KeyboardInterrupt, "interrupted")):
            with pytest.raises(error):
                run(path, fail=error)
            record = folders.read_record(path)
            assert record is not None
            assert record["state"] == state
        assert "with another seed; --overwrite replaces it" in refused(lambda: run(path, seed=1))
        with (
            pytest.raises(ValueError, match="nothing"),
            folders.RunFolder(Path(place) / "other", "train", {}, title="t", seed=0),
        ):
            raise ValueError("nothing was written")
        assert names(Path(place)) == ["run/run.json", "run/training.nc"]


def check_labels() -> None:
    made = labelling.file_names(["a/b", "a b", "GRU", "gru", "x" * 500])
    assert len({name.casefold() for name in made.values()}) == 5
    assert all(len(name) <= 69 and "/" not in name and " " not in name for name in made.values())
    for labels in (["a", "a"], ["a\n"], [" "]):
        said = refused(lambda labels=labels: labelling.check_labels(labels, "rules"), SettingsError)
        assert said.startswith("rules: label: expected ")


def saved(path: Path, identity: str) -> Path:
    path.parent.mkdir(exist_ok=True)
    return kpframe.study._networks.checkpoint.save_checkpoint(
        path, Elman(2, 3), step=3, extra={"run": identity}
    )


def check_checkpoints() -> None:
    """A flipped bit is seen, of the weights and of what stands beside them, and so is another run's file."""
    with TemporaryDirectory() as place:
        path = saved(Path(place) / "checkpoints" / "a.safetensors", "one")
        content = path.read_bytes()
        for at in (len(content) - 2, content.index(b'\\"step\\": 3') + 10):
            flipped = bytearray(content)
            flipped[at] ^= 1
            path.write_bytes(flipped)
            said = refused(lambda: kpframe.study._networks.checkpoint.load_checkpoint(path), CheckpointError)
            assert "damaged" in said
        path.write_bytes(content)
        assert sources.checkpoint_paths(Path(place)) == [path]
        saved(path.with_name("b.safetensors"), "other")
        said = refused(lambda: sources.checkpoint_paths(Path(place)), CheckpointError)
        assert "expected checkpoints of run one" in said


def check_stops() -> None:
    """What diverged and what failed, and at which update."""
    losses = np.array([1.0, np.nan, np.nan])
    wrapped = NonFiniteError("training diverged")
    wrapped.__cause__ = NonFiniteProductError("product of P")
    for error, outcome in (
        (NonFiniteError("loss"), "diverged"),
        (wrapped, "failed"),
        (torch.linalg.LinAlgError("no\nconvergence"), "failed"),
    ):
        result = training_data.TrainingResult.stopped(losses, 2, error)
        assert (result.outcome, result.stopped_at, result.network) == (outcome, 2.0, None)
    assert result.reason == "LinAlgError: no convergence"


FAULTS = (
    Fault("a half file left", FILES, "            partial.unlink()", "            pass", check_full_disk),
    Fault("twice what is needed", FILES, "{size_text(needed)}", "{size_text(2 * needed)}", check_full_disk),
    Fault("needed for free", FILES, "{size_text(free)}", "{size_text(needed)}", check_full_disk),
    Fault("1024 bytes in a kB", FILES, "count / 1000, iter", "count / 1024, iter", check_full_disk),
    Fault("room where there is none", FILES, "if needed > shutil", "if needed > 9 + shutil", check_full_disk),
    Fault("files of others swept", FILES, "if len(path.name) ==", "if len(path.name) >=", check_leftovers),
    Fault(
        "another setting taken for the same",
        FOLDER,
        'record["settings"] == self.settings',
        "True",
        check_ends,
    ),
    Fault(
        "a finished run begun anew",
        FOLDER,
        'record["state"] in (*_UNFINISHED, *self._kept())',
        "True",
        check_folder_of_another,
    ),
    Fault(
        "the old run's files beside the new",
        FOLDER,
        "(*self._temporary(), *old)",
        "(*self._temporary(),)",
        check_folder_of_another,
    ),
    Fault(
        "parts left for ever",
        FOLDER,
        "(*self._temporary(), *old)",
        "(*old,)",
        check_folder_of_another,
    ),
    Fault(
        "another id in datasets",
        FOLDER,
        'own["run_id"], {"title"',
        'token_hex(8), {"title"',
        check_folder_of_another,
    ),
    Fault(
        "one id for all runs", FOLDER, '"run_id": token_hex(8)', '"run_id": "run"', check_folder_of_another
    ),
    Fault(
        "no lock",
        FOLDER,
        "lock.acquire(timeout=0)\n        except Timeout as",
        "pass\n        except Timeout as",
        check_living_process,
    ),
    Fault(
        "interrupted for failed",
        FOLDER,
        '"failed" if issubclass(kind, Exception) else "interrupted"',
        '"interrupted"',
        check_ends,
    ),
    Fault(
        "an empty run that holds a folder",
        FOLDER,
        "elif not self.resumed and not self._has_results():",
        "elif False:",
        check_ends,
    ),
    Fault("a name for two labels", LABELS, "used[name.casefold()] == 1", "name == name", check_labels),
    Fault("names without an end", LABELS, "[:LENGTH]", "", check_labels),
    Fault("two networks of one label", LABELS, "if count > 1", "if count > 2", check_labels),
    Fault("labels over two lines", LABELS, " and label.isprintable()", "", check_labels),
    Fault(
        "flipped weights",
        HEADER,
        "digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)",
        "pass",
        check_checkpoints,
    ),
    Fault("another step", HEADER, 'if name != "checksum"}', "if False}", check_checkpoints),
    Fault("checkpoints of two runs", SOURCES, "if run != expected_run:", "if False:", check_checkpoints),
    Fault(
        "diverged where a product overflows",
        ENDS,
        " and not isinstance(cause, NonFiniteProductError)",
        "",
        check_stops,
    ),
    Fault(
        "the update before", ENDS, "float(update), told(cause)", "float(update - 1), told(cause)", check_stops
    ),
)
