"""Networks that a helper trains, and figures that it draws, are those that this process would make."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
import xarray as xr

from kpframe.errors import KpframeError
from kpframe.study._disk.results import read_dataset
from kpframe.study._helper import Helper, Helpers
from kpframe.study._report.run import page_of_run
from kpframe.study._running.run_study import resume_run, run_study
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.reading import parse_study

pytestmark = pytest.mark.slow

TABLE = {
    "title": "t",
    "task": {"name": "digits"},
    "network": [{"name": "rnn", "label": label, "hidden_size": size} for label, size in (("A", 4), ("B", 5))],
    "rule": [{"name": "frozen", "label": "frozen", "parameters": ["bias_hh_l0"]}],
    "training": {"steps": 4, "batch_size": 3, "optimizer": "sgd"},
    "measure": {"steps": [0, 4], "trials": 10, "budget": 12, "values": 4},
}


def study() -> StudySettings:
    return parse_study(TABLE, "here")


def drawings(path: Path, data: xr.Dataset, helpers: Helpers | None) -> list[str]:
    page = page_of_run(data, "demo", None, path, helpers=helpers)
    return re.findall(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_a_run_beside_a_helper_is_that_of_one_process(tmp_path: Path) -> None:
    alone, beside = tmp_path / "alone", tmp_path / "beside"
    first = run_study(study(), alone)
    told: list[tuple[str, int]] = []
    helper = Helper()
    try:
        run_study(
            study(),
            beside,
            helpers=Helpers([helper]),
            report=lambda label, made, *_: told.append((label, made)),
        )
        one, other = (read_dataset(path / "results.nc") for path in (alone, beside))
        xr.testing.assert_equal(one, other)
        assert float(one.test_loss.sel(network="A")[0]) != float(one.test_loss.sel(network="B")[0])
        assert {("A", 4), ("B", 4)} <= {*told}
        here, shared = (drawings(alone, first, with_it) for with_it in (None, Helpers([helper])))
        assert here == shared
        assert len({*here}) == 6
    finally:
        helper.end()


def test_a_helper_that_is_killed_costs_its_own_training(tmp_path: Path) -> None:
    helper, folder = Helper(), tmp_path / "run"

    def kill(label: str, made: int, *_: object) -> None:
        if label == "B" and helper.process.exitcode is None:
            os.kill(helper.process.pid, signal.SIGKILL)

    try:
        with pytest.raises(KpframeError, match=r"1 of 2 trainings came to no end \(A: .* SIGKILL"):
            run_study(study(), folder, helpers=Helpers([helper]), report=kill)
    finally:
        helper.end()
    assert (folder / "training" / "B.nc").exists()
    assert not (folder / "training" / "A.nc").exists()
    assert set(resume_run(folder).network.values) == {"A", "B"}
    assert (folder / "training" / "A.nc").exists()
