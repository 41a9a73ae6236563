"""Study files on the bundled plugins: the template, and what is planned beside what is done."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import xarray as xr

from kpframe.cli import _app as app
from kpframe.errors import SettingsError
from kpframe.operators._count import counted_products
from kpframe.study._running.run_study import run_study
from kpframe.study._study_file.check import check_study
from kpframe.study._study_file.plan import plan
from kpframe.study._study_file.reading import load_study, template_text

SMALL = """
quantity = [{ name = "effective_rank" }, { name = "spectrum", k = 4 }, { name = "scores" }]
[task]
name = "flip_flop"
steps = 10
[[network]]
name = "gru"
hidden_size = 6
[training]
steps = 6
[measure]
steps = { count = 4 }
trials = 4
budget = 20
[sweep]
task.bits = [2, 3]
"""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "study.toml"
    path.write_text(text)
    return path


def test_the_template_can_be_run_as_it_is(tmp_path: Path) -> None:
    check_study(load_study(written(tmp_path, template_text())))


def test_all_that_the_template_shows_is_there(tmp_path: Path) -> None:
    everything = re.sub(r'^# (?=\[|\w+ = |")', "", template_text(), flags=re.MULTILINE)
    study = load_study(written(tmp_path, everything))
    assert len(study.sweep) == 4
    with pytest.raises(SettingsError, match=r"network\[1\].hiden_size: .*did you mean 'hidden_size'"):
        load_study(written(tmp_path, everything.replace('RNN"\nhidden', 'RNN"\nhiden')))


@pytest.mark.slow
def test_what_is_planned_is_what_is_done(tmp_path: Path) -> None:
    study = load_study(written(tmp_path, SMALL))
    planned = plan(study)
    with counted_products() as count:
        run_study(study, tmp_path / "run")
    files = [path for path in (tmp_path / "run").rglob("*") if path.is_file()]
    assert planned.products == pytest.approx(count.products, rel=0.2)
    assert planned.disk_bytes == pytest.approx(sum(path.stat().st_size for path in files), rel=0.25)
    assert (planned.cells, planned.updates, planned.records) == (2, 12, 8)
    assert sum(path.parent.name == "steps" for path in files) == 8


@pytest.mark.slow
def test_a_run_tells_the_last_figures_that_there_are_and_of_which_step(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = SMALL.replace('"gru"\n', '"rnn"\nlabel = "A"\nnonlinearity = "relu"\n').replace(
        "steps = 6", 'steps = 6\noptimizer = "sgd"'
    )
    study = written(tmp_path, text.replace("task.bits = [2, 3]", "training.learning_rate = [1e-3, 1e30]"))
    code = app.run(["run", str(study), "--output", str(tmp_path / "out")])
    captured = capsys.readouterr()
    assert code == 1
    with xr.open_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf") as data:
        last, first = data.sel(learning_rate=1e-3, step=6), data.sel(learning_rate=1e30, step=0)
        figures = [
            f"test loss {float(one.test_loss.item()):.3g}, test R^2 {float(one.test_r2.item()):.3f}, "
            f"effective rank of Phi {float(one.effective_rank.sel(operator='Phi').item()):.3g} +- "
            for one in (last, first)
        ]
    lines = captured.out.splitlines()
    assert lines[0].startswith(f"A, learning_rate 0.001: {figures[0]}")
    assert lines[1].startswith(f"A, learning_rate 1e+30: diverged at update 2; at step 0: {figures[1]}")
    assert [line.partition(": ")[2] for line in captured.err.splitlines() if line.startswith("Failed: ")] == [
        "A, learning_rate 1e+30 diverged at update 2: NonFiniteError: outputs: expected finite values at "
        "scored steps, got NaN or infinity from trial 0, step 0"
    ]
