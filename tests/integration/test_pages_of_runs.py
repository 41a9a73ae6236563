"""Short runs of the commands, as people start them: page, file and terminal say the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import xarray as xr

from kpframe.cli import _app as app
from kpframe.study._disk.results import read_dataset
from kpframe.study._study_file.reading import parse_study

from ..study.pages import checks_comparison, checks_report, checks_training  # noqa: TID252
from ..study.pages.page import Page, drawn, read  # noqa: TID252

TASK = [f"--task-set={pair}" for pair in ("fixation=1", "stimulus=1", "memory=1", "response=2", "grace=0")]
NETWORK = ["--model=rnn", "--set=hidden_size=4", "--task=memory_pro", *TASK]
SMALL = ["--steps=3", "--batch-size=3", "--trials=3", "--budget=16"]
RULES = ("bptt", "truncated_bptt(window=2)", 'frozen(parameters=["b*"]) @ bptt')


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[Page, xr.Dataset]]:
    """Page and dataset of each command."""
    folder, threads = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    trained, several, compared = (folder / name for name in ("trained", "several", "compared"))
    rules = [f"--rule={rule}" for rule in RULES]
    found = {
        "train": run(["train", *rules, *NETWORK, *SMALL], trained, "training"),
        "train --seeds": run(["train", *rules, *NETWORK, *SMALL, "--seeds=2"], several, "training"),
        "compare": run(
            [
                "compare",
                str(trained / "checkpoints" / "rnn-bptt-000003.safetensors"),
                "--rules",
                ";".join(RULES),
                "--trials=3",
                "--budget=16",
            ],
            compared,
            "comparison",
        ),
    }
    torch.set_num_threads(threads)
    return found


def run(arguments: list[str], output: Path, name: str, data: str = "") -> tuple[Page, xr.Dataset]:
    """Run a command and read back what it wrote."""
    with drawn() as figures:
        assert app.run([*arguments, f"--output={output}"]) == 0
    page = read((output / f"{name}.html").read_text(encoding="utf-8"), figures)
    return page, read_dataset(output / f"{data or name}.nc")


@pytest.mark.parametrize("check", checks_training.CHECKS)
@pytest.mark.parametrize("command", ["train", "train --seeds"])
@pytest.mark.slow
def test_a_training(made, check: Callable[[Page, xr.Dataset], None], command: str) -> None:
    check(*made[command])


@pytest.mark.parametrize("check", checks_comparison.CHECKS)
@pytest.mark.slow
def test_a_comparison(made, check: Callable[[Page, xr.Dataset], None]) -> None:
    check(*made["compare"])


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Page, xr.Dataset]:
    """Page and dataset of a study like that of ``kpframe demo``, but shorter."""
    import kpframe.study._study_file.reading

    study = {
        "task": {"name": "digits"},
        "network": [{"name": n, "label": n.upper(), "hidden_size": 3} for n in ("gru", "rnn")],
        "rule": [{"name": "truncated_bptt", "label": "two terms", "window": 2}],
        "training": {"steps": 4, "batch_size": 8},
        "measure": {"steps": [0, 4], "trials": 12, "budget": 16, "values": 3},
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # figures are drawn here, not by a second process
        patch.setattr(
            kpframe.study._study_file.reading, "bundled_study", lambda name, quick: parse_study(study, name)
        )
        return run(["demo"], tmp_path_factory.mktemp("demo") / "out", "report", "results")


@pytest.mark.parametrize("check", checks_report.CHECKS)
@pytest.mark.slow
def test_a_demo(demo, check: Callable[[Page, xr.Dataset], None]) -> None:
    check(*demo)
