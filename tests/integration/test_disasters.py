"""Kills, full disks, read-only folders, two runs at once: nothing corrupt or half, and one clear line."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import xarray as xr
from click.testing import CliRunner

from kpframe.cli import _app as app
from kpframe.cli._app import cli
from kpframe.study._disk.folder import read_record
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._networks.weight_files import read_safetensors

TASK = [f"--task-set={pair}" for pair in ("fixation=1", "stimulus=1", "memory=1", "response=2", "grace=0")]
TRAIN = ["train", "--rule", "bptt", "--rule", "truncated_bptt(window=1)", "--model", "rnn", *TASK]
TRAIN += ["--set", "hidden_size=4", "--task", "memory_pro", "--batch-size", "3", "--trials", "2"]
TRAIN += ["--budget", "16", "--steps", "8"]
NETWORKS = ("rnn-bptt-000000.safetensors", "rnn-bptt-000008.safetensors")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def start(*arguments: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "kpframe", *arguments],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def parts(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.name.endswith(".part")]


def check(folder: Path, *, killed: bool) -> set[str]:
    """Check that all files of a folder are whole and of one run; return the names of those that stay."""
    if not folder.exists():
        return set()
    record = read_record(folder)
    kept = [path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")]
    if record is None:
        assert kept == []
        return set()
    if record["state"] == "beginning":  # files of an older run are being removed
        return set()
    runs = {record["id"]}
    for path in kept:
        if path.suffix == ".nc":
            runs.add(read_dataset(path).attrs["run_id"])
        elif path.parent.name == "state":
            _, metadata = read_safetensors(path, tensors=False)
            runs.add(json.loads(metadata["kpframe_state"])["run"])
        elif path.suffix == ".safetensors":
            runs.add(load_checkpoint(path).extra["run"])
        elif path.suffix == ".html":
            text = path.read_text(encoding="utf-8")
            assert record["id"] in text
            assert text.rstrip().endswith("</html>")
    assert len(runs) == 1
    assert killed or record["state"] == "finished"
    return {path.name for path in kept if path.parent.name != "state"}  # those go when a training ends


def kill_when(process: subprocess.Popen[str], there: Path, *, after: float = 0.0) -> bool:
    """Kill a process once a file is there, and a little later; return whether that came before its end."""
    while process.poll() is None and not there.exists():
        time.sleep(0.002)
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    return process.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_a_kill_and_two_runs_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "out"
    arguments = [*TRAIN, "--output", str(folder)]
    first = start(*arguments, "--steps", "200")
    while not (folder / "training.nc").exists():  # the first of two rules has come to its end
        assert first.poll() is None
        time.sleep(0.01)
    first.send_signal(signal.SIGSTOP)
    assert app.run([*arguments, "--overwrite"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"Error: folder '{folder}' is in use by kpframe train, process {first.pid}; ")
    first.kill()
    first.communicate(timeout=60)
    assert {"training.nc", "rnn-bptt-000200.safetensors"} < check(folder, killed=True)
    assert read_dataset(folder / "training.nc").outcome.values[0] == "trained"
    (folder / ".kpframe-0123456789abcdef.part").write_text("what a kill within a write leaves")
    assert app.run(arguments) == 2  # fewer steps: another run
    said = capsys.readouterr().err
    assert f"unfinished (kpframe resume {folder} goes on with it); --overwrite replaces it" in said
    assert app.run([*arguments, "--overwrite"]) == 0
    assert parts(folder) == []
    names = check(folder, killed=False)
    assert {"training.nc", "training.html", "run.json", *NETWORKS} < names
    assert read_dataset(folder / "training.nc").outcome.values.tolist() == ["trained", "trained"]


# -- disks ---------------------------------------------------------------------------------------------------


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Path]:
    """Mount a disk of its own, where this machine allows that."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("this machine does not let a disk be mounted")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def failed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[str, list[str]]:
    """Run a command that must fail; return its one line, and what it said before."""
    capsys.readouterr()
    assert app.run(arguments) == 2
    *before, line = capsys.readouterr().err.splitlines()
    assert line.startswith("Error: cannot write ")
    assert "unexpected" not in line
    return line, before


@pytest.mark.rows(6)
@pytest.mark.parametrize("command", ["demo", "train", "compare"])
def test_a_disk_that_is_too_small_is_known_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    arguments = {"demo": ["demo", "--quick"], "train": TRAIN}.get(command)
    if arguments is None:
        assert app.run([*TRAIN, "--output", str(tmp_path / "run")]) == 0
        arguments = ["compare", str(tmp_path / "run"), "--rules", "bptt", "--trials", "2", "--budget", "16"]
    with disk(tmp_path / "disk", "80k") as small:
        for output in (small, small / "new" / "out"):
            line, before = failed([*arguments, "--output", str(output)], capsys)
            assert f"'{output}': it needs " in line
            assert "kB are free on the disk; free some space, or give another place to write to" in line
            assert before == []
            assert list(small.iterdir()) == []


@pytest.mark.slow
def test_a_disk_that_gets_full(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What was written before is whole; the line says which file, how much it needs and how much there is."""
    with disk(tmp_path / "disk", "240k") as small:
        output = small / "out"
        line, before = failed([*TRAIN, "--output", str(output)], capsys)
        assert before[-1].startswith("truncated_bptt(window=1): update 8 of 8")
        assert f"'{output / 'training.html'}': it needs " in line
        assert parts(small) == []
        names = check(output, killed=True)
        assert "training.html" not in names
        assert {"training.nc", *NETWORKS} < names
        (small / "blocks").write_bytes(bytes(shutil.disk_usage(small).free - 20_000))
        line, before = failed([*TRAIN, "--output", str(output)], capsys)  # the same run once more
        assert before == [f"going on with the run in {output}"]  # nothing is trained once more
    with disk(tmp_path / "disk", "400k") as enough:
        assert app.run([*TRAIN, "--output", str(enough / "out")]) == 0
        check(enough / "out", killed=False)


@pytest.mark.parametrize("place", ["itself", "below"])
def test_a_read_only_disk_is_known_before_the_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    with disk(tmp_path / "disk", "1m") as folder:
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        output = folder if place == "itself" else folder / "a" / "b"
        for arguments in (TRAIN, ["demo", "--quick"]):
            line, before = failed([*arguments, "--output", str(output)], capsys)
            assert f"'{output}': its folder is read-only (Read-only file system); give another place" in line
            assert before == []


def test_places_that_are_no_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("in the way")
    for output, said in (
        (tmp_path / "file" / "out", f"'{tmp_path / 'file'}' is a file, where a folder is needed"),
        (tmp_path / ("x" * 300), "its name is too long for the file system"),
        (tmp_path / "a" / ("x" * 300) / "b", "its name is too long for the file system"),
    ):
        for arguments in (TRAIN, ["demo", "--quick"]):
            line, before = failed([*arguments, "--output", str(output)], capsys)
            assert said in line
            assert before == []
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_output_that_is_not_utf_8(tmp_path: Path) -> None:
    result = CliRunner(charset="ascii").invoke(cli, [*TRAIN, "--output", str(tmp_path / "φ")])
    assert result.exit_code == 0, result.output
    assert "open:" in result.stdout
    assert r"\xb1" in result.stdout  # a standard error in the table
    check(tmp_path / "φ", killed=False)


# -- fifty kills ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("command", "kills"), [("train", 20), ("compare", 20), ("demo", 10)])
def test_kills_at_any_time(tmp_path: Path, command: str, kills: int) -> None:
    draw, folder = random.Random(command), tmp_path / "out"
    arguments = {"demo": ["demo", "--quick"], "train": [*TRAIN, "--steps", "60"]}.get(command)
    if arguments is None:
        assert app.run([*TRAIN, "--output", str(tmp_path / "run")]) == 0
        rules = ["--rules", "bptt;truncated_bptt(window=1);truncated_bptt(window=2)"]
        arguments = ["compare", str(tmp_path / "run"), *rules, "--trials", "2", "--budget", "16"]
    arguments += ["--output", str(folder)]
    process = start(*arguments)
    while not (folder / "run.json").exists():
        time.sleep(0.005)
    began = time.monotonic()
    process.communicate(timeout=600)
    seconds = time.monotonic() - began  # from the first file to the end
    counted, seen = 0, set()
    while counted < kills:
        record = read_record(folder) or {"state": ""}
        again = ["--overwrite"] if record["state"] == "finished" else []
        process = start(*arguments, *again)
        while process.poll() is None and (read_record(folder) or {}).get("process") != process.pid:
            time.sleep(0.005)  # an unfinished run keeps its id
        counted += kill_when(process, folder, after=draw.uniform(0, seconds))
        seen |= check(folder, killed=True)
        assert len(parts(folder)) <= (2 if command == "demo" else 1)  # which two processes write
    last = start(*arguments, "--overwrite")
    _, said = last.communicate(timeout=600)
    assert last.returncode == 0, said
    assert parts(folder) == []
    assert check(folder, killed=False) >= seen
    print(f"{command}: {kills} kills within {seconds:.0f} s of work, files seen: {sorted(seen)}")


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "compare", "demo"])
def test_what_was_killed_goes_on_to_the_same_figures(tmp_path: Path, command: str) -> None:
    """SIGKILL once something is recorded, then ``kpframe resume``: the numbers are those of no kill."""
    arguments = {"demo": ["demo", "--quick"], "train": [*TRAIN, "--steps", "60"]}.get(command)
    if arguments is None:
        sources = [tmp_path / "one", tmp_path / "other"]
        for seed, source in enumerate(sources):
            assert app.run([*TRAIN, "--seed", str(seed), "--output", str(source)]) == 0
        arguments = ["compare", *map(str, sources), "--last", "--rules", "bptt;truncated_bptt(window=1)"]
        arguments += ["--trials", "2", "--budget", "16"]
    whole, folder = tmp_path / "whole", tmp_path / "killed"
    _, said = (process := start(*arguments, "--output", str(whole))).communicate(timeout=600)
    assert process.returncode == 0, said
    process = start(*arguments, "--output", str(folder))
    while process.poll() is None and not any((folder / "steps").glob("*.nc")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert read_record(folder)["state"] == "running"
    _, said = (process := start("resume", str(folder))).communicate(timeout=600)
    assert process.returncode == 0, said
    (file,) = (path.name for path in whole.glob("*.nc"))
    xr.testing.assert_equal(read_dataset(folder / file), read_dataset(whole / file))
