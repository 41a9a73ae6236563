"""Files that are whole or not there: full disks, read-only folders, names, and what is said of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kpframe.errors import ArgumentError, KpframeError, OutputError
from kpframe.study._disk.files import (
    check_file,
    check_folder,
    leftovers,
    make_folder,
    write_bytes,
    write_text,
)
from kpframe.study._disk.results import read_dataset, write_dataset


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 80 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=80k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if made.returncode:
        pytest.skip("this machine does not let a disk be mounted")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def dataset(count: int) -> xr.Dataset:
    values = np.random.default_rng(0).standard_normal(count)
    return xr.Dataset({"a": ("x", values, {"units": "1"})}, coords={"x": np.arange(count)})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_what_is_written_is_read(tmp_path: Path) -> None:
    assert write_text(tmp_path / "a.txt", "±\n").read_bytes() == b"\xc2\xb1\n"
    write_bytes(tmp_path / "a.txt", memoryview(b"other"))
    assert (tmp_path / "a.txt").read_bytes() == b"other"
    data = dataset(7)
    again = read_dataset(write_dataset(data, tmp_path / "new" / "a.nc", {"title": "t"}))
    xr.testing.assert_identical(again, data.assign_attrs(title="t"))
    assert names(tmp_path) == ["a.txt", "new"]
    assert names(tmp_path / "new") == ["a.nc"]


def test_text_that_is_longer_than_what_was_read_is_not_cut(tmp_path: Path) -> None:
    one = read_dataset(write_dataset(xr.Dataset({"a": ("x", ["short"])}), tmp_path / "a.nc"))
    both = xr.concat([one, xr.Dataset({"a": ("x", ["much longer"])})], dim="x")
    assert read_dataset(write_dataset(both, tmp_path / "b.nc")).a.values.tolist() == ["short", "much longer"]


def test_a_full_disk(small_disk: Path) -> None:
    before = write_dataset(dataset(10), small_disk / "a.nc").read_bytes()
    for write in (
        lambda: write_dataset(dataset(20_000), small_disk / "a.nc"),
        lambda: write_text(small_disk / "a.nc", "x" * 90_000),
    ):
        with pytest.raises(OutputError, match=r"write .*a\.nc': it needs \d+\.\d kB, and [1-7]\d\.\d kB are"):
            write()
        assert names(small_disk) == ["a.nc"]
        assert (small_disk / "a.nc").read_bytes() == before
    with pytest.raises(OutputError, match=r"it needs 80\.1 kB, and .* are free on the disk; free some space"):
        check_folder(small_disk / "more", needed=80_100)
    check_folder(small_disk / "more", needed=50_000)
    assert names(small_disk) == ["a.nc"]


def test_a_read_only_disk(small_disk: Path) -> None:
    (small_disk / "a.txt").write_text("before")
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    for refused in (
        lambda: write_text(small_disk / "a.txt", "after"),
        lambda: make_folder(small_disk / "a" / "b"),
        lambda: check_folder(small_disk / "a" / "b"),
        lambda: check_folder(small_disk),
        lambda: check_file(small_disk / "a.txt"),
    ):
        with pytest.raises(OutputError, match=r"its folder is read-only \(Read-only file system\)"):
            refused()
    assert (small_disk / "a.txt").read_text() == "before"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "kept").write_text("kept")
    long = "x" * 300
    for refused, message in (
        (lambda: write_text(tmp_path / "file" / "a", ""), "file' is a file, where a folder is needed"),
        (lambda: make_folder(tmp_path / "file"), "file' is a file, where a folder is needed"),
        (lambda: make_folder(tmp_path / "file" / "a"), "file' is a file, where a folder is needed"),
        (lambda: check_folder(tmp_path / "file" / "a"), "file' is a file, where a folder is needed"),
        (lambda: check_folder(tmp_path / "file"), "file' is a file, where a folder is needed"),
        (lambda: write_text(tmp_path / long, ""), "its name is too long for the file system"),
        (lambda: make_folder(tmp_path / "a" / long), "its name is too long for the file system"),
        (lambda: check_folder(tmp_path / "a" / long), "its name is too long for the file system"),
        (lambda: check_file(tmp_path / long), "its name is too long for the file system"),
        (lambda: write_text(tmp_path / "folder", ""), "there is a folder of this name"),
        (lambda: check_file(tmp_path / "folder"), "there is a folder of this name"),
        (lambda: write_text(tmp_path / "no" / "a", ""), "its folder does not exist"),
        (lambda: check_file(tmp_path / "no" / "a"), "its folder does not exist"),
    ):
        with pytest.raises(OutputError, match=message) as caught:
            refused()
        assert isinstance(caught.value, KpframeError)
        assert isinstance(caught.value, OSError)
        assert "\n" not in str(caught.value)
    assert (tmp_path / "file").read_text() == "in the way"
    assert names(tmp_path / "folder") == ["kept"]
    for fine in (tmp_path / "a" / "b", tmp_path / "folder", tmp_path):
        check_folder(fine)
    check_file(tmp_path / "file")
    check_file(tmp_path / "other")
    assert names(tmp_path) == ["file", "folder"]


def test_folders_without_permission(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if os.geteuid() == 0:  # to whom permissions say nothing
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match=r"its folder is read-only \(Permission denied\)"):
        check_folder(tmp_path / "a")


def test_leftovers_are_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A name for each write; what others call a part is no leftover."""
    seen: list[Path] = []
    for _ in range(2):
        with monkeypatch.context() as patched:
            patched.setattr(Path, "replace", lambda self, target: seen.append(self))
            patched.setattr(Path, "unlink", lambda self, missing_ok=False: None)
            write_text(tmp_path / "a.txt", "killed")
    assert len({path.name for path in seen}) == 2
    (tmp_path / ".kpframe-notes.part").write_text("mine")
    (tmp_path / "a.part").write_text("mine")
    assert sorted(leftovers(tmp_path)) == sorted(seen)


@pytest.mark.parametrize("damage", ["missing", "short", "text", "empty"])
def test_datasets_that_cannot_be_read(tmp_path: Path, damage: str) -> None:
    path = write_dataset(dataset(50), tmp_path / "a.nc")
    content = path.read_bytes()
    changed = {"short": content[: len(content) // 2], "text": b"step,loss\n" * 9, "empty": b""}
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(changed[damage])
    with pytest.raises(ArgumentError, match=r"path: expected a netCDF file, got .*a\.nc', which"):
        read_dataset(path)
