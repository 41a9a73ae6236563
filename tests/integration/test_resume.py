"""Runs of studies that are killed, run out of room, or meet in one folder: nothing is lost or mixed."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest
import xarray as xr

from kpframe.study._disk.folder import read_record
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._running.run_study import resume_run, run_study
from kpframe.study._running.state_file import read_state
from kpframe.study._study_file.reading import load_study

from .test_disasters import disk, failed, parts

STUDY = """
title = "Killed"
seeds = 2
quantity = [{ name = "scores" }, { name = "effective_rank" }]
[task]
name = "memory_pro"
fixation = 1
stimulus = 1
memory = 1
response = 2
grace = 0
[[network]]
name = "rnn"
label = "a net"
hidden_size = 4
[training]
steps = 12
batch_size = 3
rules = ["bptt", "weight_perturbation"]
[measure]
steps = { every = 4 }
trials = 2
budget = 8
"""
#: The command line, with a line in a file for each record that is begun.
LOGGED = """
import sys
from kpframe.study import _record
from kpframe.cli import main
log, record = sys.argv[1], _record.record
def logged(moment, quantities):
    with open(log, "a") as file:
        file.write(f"{moment.step} {moment.around.seed}\\n")
    return record(moment, quantities)
_record.record = logged
sys.argv = ["kpframe", *sys.argv[2:]]
main()
"""


#: The same, ready to be started at once: a process for each line of arguments, which has all modules loaded.
READY = """
import json, os, sys
from kpframe.cli import _app as app, _carry_out
from kpframe.study import _record
from kpframe.study._running import run_study as _run_study
from kpframe.study._report import run
log, record = sys.argv[1], _record.record
def logged(moment, quantities):
    with open(log, "a") as file:
        file.write(f"{moment.step} {moment.around.seed}\\n")
    return record(moment, quantities)
_record.record = logged
print("ready", flush=True)
for line in sys.stdin:
    process = os.fork()
    if not process:
        os.dup2(2, 1)
        os._exit(app.run(json.loads(line)))
    print(process, flush=True)
    _, status = os.waitpid(process, 0)
    print(os.waitstatus_to_exitcode(status), flush=True)
"""


class Ready:
    """Starts processes of the command line, one after the other."""

    def __init__(self, log: Path) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", READY, str(log)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._server.stdout.readline() == "ready\n"

    def start(self, *arguments: object) -> int:
        """Start a process; return its number."""
        self._server.stdin.write(json.dumps(list(map(str, arguments))) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """Return the exit code of the process, when it has ended."""
        return int(self._server.stdout.readline())

    def end(self) -> None:
        """Start no more."""
        self._server.communicate(timeout=60)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "killed.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def undisturbed(study: Path) -> Path:
    path = study.parent / "undisturbed"
    run_study(load_study(study), path)
    return path


def start(log: Path, *arguments: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", LOGGED, str(log), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def wait_for_work(process: subprocess.Popen[str], folder: Path) -> bool:
    """Wait until a process works on a folder; return whether it does, and has not ended before."""
    while process.poll() is None:
        record = read_record(folder)
        if record is not None and record["process"] == process.pid and record["state"] == "running":
            return True
        time.sleep(0.005)
    return False


def check_whole(folder: Path) -> None:
    """Check that every file in a folder can be read, and is of its run."""
    record = read_record(folder)
    run = record["id"]
    if record["state"] == "beginning":  # files of an older run are being removed
        return
    for path in folder.rglob("*.nc"):
        assert read_dataset(path).attrs["run_id"] == run
    for path in (folder / "checkpoints").glob("*.safetensors"):
        assert load_checkpoint(path).extra["run"] == run
    for path in (folder / "state").glob("*.safetensors"):
        read_state(path, run=run, cell=path.stem)
    assert len(parts(folder)) <= 1


def check_equal(folder: Path, undisturbed: Path) -> None:
    """Check that results and records are those of an undisturbed run, bit for bit."""
    names = {str(path.relative_to(undisturbed)) for path in undisturbed.rglob("*.*") if path.is_file()}
    found = {str(path.relative_to(folder)) for path in folder.rglob("*.*") if path.is_file()}
    assert found - {"study.toml", "report.html"} == names - {"report.html"}
    for name in sorted(name for name in names if name.endswith(".nc")):
        one, other = (read_dataset(path / name) for path in (folder, undisturbed))
        for data in (one, other):
            for own in ("run_id", "created"):
                del data.attrs[own]
        xr.testing.assert_identical(one, other)
    for path in (undisturbed / "checkpoints").iterdir():
        one, other = load_checkpoint(path), load_checkpoint(folder / "checkpoints" / path.name)
        assert all(bool((one.tensors[name] == other.tensors[name]).all()) for name in one.tensors)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts processes by fork")
@pytest.mark.parametrize("kills", [2, 50])
def test_killed_and_resumed(tmp_path: Path, study: Path, undisturbed: Path, kills: int) -> None:
    """SIGKILL at random moments of the work; at most the record under way is made again at each."""
    draw, folder, log = random.Random(kills), tmp_path / "a run", tmp_path / "log"
    anew, ready = ("run", study, "--output", folder, "--overwrite"), Ready(log)
    counted, in_this_life = 0, 0
    began = time.monotonic()
    ready.start(*anew)
    assert ready.wait() == 0
    longest, process = (time.monotonic() - began) / 3, ready.start(*anew)
    log.unlink()
    while True:
        if counted < kills:
            time.sleep(draw.uniform(0, longest))
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        code = ready.wait()
        if code == -signal.SIGKILL:
            counted, in_this_life = counted + 1, in_this_life + 1
            check_whole(folder)
            resumed = read_record(folder)["state"] != "finished"
            if not resumed:  # it had just finished, or not begun anew yet
                in_this_life = 0
                log.unlink(missing_ok=True)
            process = ready.start(*(("resume", folder) if resumed else anew))
            continue
        assert code == 0
        assert parts(folder) == []
        check_equal(folder, undisturbed)
        begun = Counter(log.read_text().splitlines())
        records = len(list((folder / "steps").iterdir()))
        assert records <= sum(begun.values()) <= records + in_this_life
        if counted == kills:
            break
        log.unlink()
        in_this_life = 0
        process = ready.start(*anew)
    ready.end()


def descendants(process: int) -> list[int]:
    """Return the processes that another has started."""
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(process)], capture_output=True, text=True)
    return [int(word) for word in found.stdout.split()]


def trainers(process: int) -> list[int]:
    """Return those of them that train: they have loaded torch, which takes memory."""
    found = []
    for child in descendants(process):
        text = Path(f"/proc/{child}/status").read_text() if Path(f"/proc/{child}").exists() else ""
        size = next((int(line.split()[1]) for line in text.splitlines() if line.startswith("VmRSS")), 0)
        found += [child] if size > 100_000 else []
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc")
def test_processes_that_are_ended(tmp_path: Path, study: Path, undisturbed: Path) -> None:
    """Of two jobs: one that is killed leaves the others; Ctrl-C leaves all to go on with; so does a kill."""
    folder, log = tmp_path / "run", tmp_path / "log"
    arguments = ("run", study, "--output", folder, "--jobs", "2")
    process = start(log, *arguments)
    while len(workers := trainers(process.pid)) < 2 or not list(folder.glob("steps/*.nc")):
        assert process.poll() is None
        time.sleep(0.01)
    os.kill(workers[0], signal.SIGKILL)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 2
    last = said.splitlines()[-1]
    assert last.startswith("Error: 1 of 4 trainings came to no end (a net, ")
    assert "its process was ended by SIGKILL; there may be too little memory for so many jobs" in last
    assert last.endswith(f"; kpframe resume {folder} goes on with them")
    assert len(list((folder / "training").iterdir())) == 3
    check_whole(folder)
    for number, code in ((signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)):
        for path in [*folder.glob("steps/*seed=1*.nc"), *folder.glob("training/*seed=1*.nc")]:
            path.unlink()
        (folder / "results.nc").unlink(missing_ok=True)
        for path in folder.glob("checkpoints/*seed=1*"):
            path.unlink()
        process = start(log, "resume", folder, "--jobs", "2")
        while not list(folder.glob("steps/*seed=1*.nc")):
            assert process.poll() is None
            time.sleep(0.01)
        workers = trainers(process.pid)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
        assert process.returncode == code, said
        if code == 130:
            assert said.splitlines()[-1] == f"interrupted; go on with: kpframe resume {folder}"
            assert read_record(folder)["state"] == "interrupted"
        latest = time.monotonic() + 20
        while any(Path(f"/proc/{worker}").exists() for worker in workers):
            assert time.monotonic() < latest  # none is left that could write
            time.sleep(0.05)
        check_whole(folder)
    process = start(log, "resume", folder, "--jobs", "2")
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    check_equal(folder, undisturbed)


# -- folders -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_disk_that_gets_full(
    tmp_path: Path, study: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says so; what was written is whole, and the run goes on when there is room."""
    with disk(tmp_path / "disk", "1m") as small:
        folder = small / "run"
        filled = small / "blocks"
        arguments = ["run", str(study), "--output", str(folder)]
        filled.write_bytes(bytes(700_000))
        line, before = failed(arguments, capsys)
        assert before == []
        assert f"'{folder}': it needs " in line
        filled.unlink()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kpframe.study._running.run_study._needed", lambda cells: 0)
            filled.write_bytes(bytes(850_000))
            line, before = failed(arguments, capsys)
            assert " are free on the disk; free some space" in line
            assert "corrupt" not in line
            assert parts(small) == []
            check_whole(folder)
            assert read_record(folder)["state"] in ("failed", "running")  # there may be no room to say it
        filled.unlink()
        resume_run(folder)
        check_equal(folder, undisturbed)


@pytest.mark.slow
def test_two_processes_on_one_folder(
    tmp_path: Path, study: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kpframe.cli import _app as app

    folder = tmp_path / "run"
    process = start(tmp_path / "log", "run", study, "--output", folder)
    assert wait_for_work(process, folder)
    process.send_signal(signal.SIGSTOP)
    for arguments in (["run", str(study), "--output", str(folder)], ["resume", str(folder)]):
        assert app.run(arguments) == 2
        line = capsys.readouterr().err.strip()
        assert line.startswith(f"Error: folder '{folder}' is in use by kpframe run, process {process.pid}; ")
    process.send_signal(signal.SIGCONT)
    _, said = process.communicate(timeout=300)
    assert process.returncode == 0, said
    check_equal(folder, undisturbed)


@pytest.mark.slow
def test_a_folder_with_other_results(
    study: Path, undisturbed: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from kpframe.cli import _app as app

    before = {path: path.read_bytes() for path in undisturbed.rglob("*.*")}
    other = study.with_name("other.toml")
    other.write_text(STUDY.replace("steps = 12", "steps = 16"))
    for arguments, said in (
        (["run", str(other)], "with another measure, training; --overwrite replaces it"),
        (["run", str(study)], "holds this run, finished: run "),
        (["demo", "--quick"], "holds run "),
    ):
        assert app.run([*arguments, "--output", str(undisturbed)]) == 2
        line = capsys.readouterr().err.strip()
        assert said in line
        assert len(line.splitlines()) == 1
    assert {path: path.read_bytes() for path in undisturbed.rglob("*.*")} == before
