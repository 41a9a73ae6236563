"""Studies on the ranks of torchrun: the files of one process, and what is left when a rank is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from itertools import count
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from kpframe.study._disk.folder import read_record
from kpframe.study._disk.results import read_dataset

#: Attributes that say when, where and on how many ranks files were made.
APART = {"created", "run_id", "ranks", "group_backend", "also_made_with"}
STUDY = """
title = "On ranks"
quantity = [{ name = "scores" }, { name = "ftle" }, { name = "effective_rank" }, { name = "contributions" }]
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
[measure]
steps = { every = 4 }
trials = 5
budget = 8
"""
#: Names the job of a process, in its environment.
MARK = "KPF_TEST_JOB"
pytestmark = pytest.mark.slow
_number, _marks = count(), dict[int, str]()


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("study") / "study.toml"
    path.write_text(STUDY)
    return path


@pytest.fixture(scope="module")
def plain(study: Path) -> Path:
    """The run of one process."""
    output = study.parent / "plain"
    code, text = ended(started(0, "run", study, "--output", output))
    assert code == 0, text
    return output


def started(ranks: int, *arguments: object) -> subprocess.Popen[str]:
    """Start kpframe, on ranks of torchrun where there are any; all its processes have ``MARK`` in common."""
    launcher = ("torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks), "-m", "kpframe")
    mark = f"{os.getpid()}-{next(_number)}"
    process = subprocess.Popen(
        [sys.executable, "-m", *(launcher if ranks else ("kpframe",)), *map(str, arguments)],
        env=os.environ | {"OMP_NUM_THREADS": "1", MARK: mark},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _marks[process.pid] = mark
    return process


def ended(process: subprocess.Popen[str], seconds: float = 600) -> tuple[int, str]:
    """Return the exit code of a launcher and what was written, when all its processes have ended."""
    _, text = process.communicate(timeout=seconds)
    assert not alive(process), text
    return process.returncode, text


def alive(launcher: subprocess.Popen[str]) -> dict[int, dict[str, str]]:
    """Return the processes of a job that live, with their environments."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            parts = (path / "environ").read_bytes().decode(errors="replace").split("\0")
            environment = dict(part.split("=", 1) for part in parts if "=" in part)
            if environment.get(MARK) == _marks[launcher.pid]:  # one that has ended has no environment
                found[int(path.name)] = environment
    return found


def rank_process(launcher: subprocess.Popen[str], rank: int) -> int:
    """Return the process of a rank."""
    found = alive(launcher)
    assert len(found) >= 3, "a launcher and two ranks"
    return next(pid for pid, environment in found.items() if environment.get("RANK") == str(rank))


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    while not path.is_dir() or not list(path.glob("steps/*000004.nc")):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)


def assert_same(run: Path, plain: Path, rtol: float = 1e-5) -> None:
    """Assert that two folders hold the same files: networks to the last bit, figures to a tolerance.

    It is relative to the largest figure of a variable, of residuals and errors to that of what they are of.
    """
    files = sorted(p.relative_to(plain) for p in plain.rglob("*") if p.is_file())
    assert sorted(p.relative_to(run) for p in run.rglob("*") if p.is_file()) == files
    for file in files:
        if file.suffix == ".safetensors":
            one, other = load_file(run / file), load_file(plain / file)
            assert all(torch.equal(one[name], other[name]) for name in other)
        if file.suffix != ".nc":
            continue
        one, other = read_dataset(run / file), read_dataset(plain / file)
        assert {k: v for k, v in one.attrs.items() if k not in APART} == {
            k: v for k, v in other.attrs.items() if k not in APART
        }
        assert set(one.variables) == set(other.variables)
        for name, expected in other.variables.items():
            found = one[name]
            assert (found.dims, found.attrs) == (expected.dims, expected.attrs)
            if expected.dtype.kind == "f":
                about = name.removesuffix("_stderr").removesuffix("_residual")
                size = np.abs(np.nan_to_num(other.get(about, expected).values)).max(initial=0.0)
                np.testing.assert_allclose(
                    found.values, expected.values, rtol=rtol, atol=rtol * size, err_msg=f"{file} {name}"
                )
            else:
                np.testing.assert_array_equal(found.values, expected.values)


@pytest.mark.parametrize("ranks", [2, 3])
def test_files_are_those_of_one_process(study: Path, plain: Path, ranks: int) -> None:
    output = study.parent / f"on-{ranks}"
    code, text = ended(started(ranks, "run", study, "--output", output))
    assert code == 0, text
    assert_same(output, plain)
    assert read_dataset(output / "results.nc").attrs["ranks"] == str(ranks)
    assert "ranks" not in read_dataset(plain / "results.nc").attrs
    assert text.count("update 12 of 12") == 1


@pytest.mark.parametrize(("killed", "after"), [(0, 3), (1, 0)])
def test_a_killed_rank_ends_the_job_and_the_run_goes_on(
    study: Path, plain: Path, killed: int, after: int
) -> None:
    output = study.parent / f"killed-{killed}"
    job = started(2, "run", study, "--output", output)
    wait_for(output, job)
    os.kill(rank_process(job, killed), signal.SIGKILL)
    began = time.monotonic()
    code, text = ended(job, 300)
    assert code != 0
    assert time.monotonic() - began < 60
    assert "SIGKILL" in text or "Signal 9" in text
    assert read_record(output)["state"] != "finished"
    code, text = ended(started(after, "resume", output))
    assert code == 0, text
    assert_same(output, plain)
    attributes = read_dataset(output / "results.nc").attrs
    made = [attributes, *json.loads(attributes["also_made_with"])]
    assert {one.get("ranks") for one in made} == {"2", str(after) if after else None}


def test_an_interrupt_leaves_a_run_and_says_how_it_goes_on(study: Path, plain: Path) -> None:
    output = study.parent / "interrupted"
    job = started(2, "run", study, "--output", output)
    wait_for(output, job)
    job.send_signal(signal.SIGINT)
    code, text = ended(job, 300)
    assert code != 0
    assert f"torchrun --nproc-per-node 2 -m kpframe resume {output}" in text
    assert read_record(output)["state"] == "interrupted"
    code, text = ended(started(2, "resume", output))
    assert code == 0, text
    assert_same(output, plain)


def test_an_analysis_and_a_comparison_are_those_of_one_process(study: Path, plain: Path) -> None:
    for command, rest in (
        ("analyze", ["--trials", "5"]),
        ("compare", ["--rules", "truncated_bptt(window=2)"]),
    ):
        found = {}
        for ranks in (0, 2):
            found[ranks] = study.parent / f"{command}-{ranks}"
            code, text = ended(started(ranks, command, plain, *rest, "--output", found[ranks]))
            assert code == 0, text
        assert_same(found[2], found[0])
