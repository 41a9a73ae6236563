"""Trainings as jobs of submitit's own executor on this machine, one of which is killed."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
import xarray as xr

from kpframe.errors import KpframeError
from kpframe.study._disk.results import read_dataset
from kpframe.study._running.executor import Executor
from kpframe.study._running.jobs import jobs_folder
from kpframe.study._running.run_study import resume_run, run_study
from kpframe.study._study_file.reading import parse_study

pytest.importorskip("submitit", reason="needs submitit: pip install 'kpframe[cluster]'")

TABLE = {
    "title": "Jobs",
    "seeds": 2,
    "task": {"name": "memory_pro", "fixation": 1, "stimulus": 1, "memory": 1, "response": 2, "grace": 0},
    "network": [{"name": "rnn", "hidden_size": 4}],
    "training": {"steps": 6, "batch_size": 3},
    "measure": {"steps": [0, 6], "trials": 2, "budget": 8},
}


@pytest.mark.slow
def test_a_killed_job_is_named_and_gone_on_with_to_the_same_figures(tmp_path: Path) -> None:
    study, path, killed = parse_study(TABLE, "here"), tmp_path / "run", []

    def kill(label: str, *progress: object) -> None:
        """Kill what trains the second network, when the first report of it comes."""
        if label.endswith("seed 1") and not killed:
            ours = subprocess.run(
                ["pgrep", "-f", f"_submit {jobs_folder(path)}"], capture_output=True, text=True
            )
            killed.extend(map(int, ours.stdout.split()))
            for process in killed:
                os.kill(process, signal.SIGKILL)

    with pytest.raises(KpframeError) as caught:
        run_study(study, path, executor=Executor("local"), report=kill)
    assert killed
    assert "1 of 2 trainings came to no end" in str(caught.value)
    assert "seed 1: its job" in str(caught.value)
    assert "_log.err" in str(caught.value)
    assert not list(jobs_folder(path).glob("*.pkl"))
    resume_run(path, executor=Executor("local", jobs=2))
    run_study(study, tmp_path / "undisturbed")
    first, second = (read_dataset(tmp_path / name / "results.nc") for name in ("run", "undisturbed"))
    for data in (first, second):
        for name in ("run_id", "created"):
            del data.attrs[name]
    xr.testing.assert_identical(first, second)
