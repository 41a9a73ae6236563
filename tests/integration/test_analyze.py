"""Analyses with bundled plugins: torch's own modules, runs of studies, and what goes on by ``resume``."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe.cli import _app as app
from kpframe.study import analyze, read_dataset
from kpframe.study._running.run_study import run_study
from kpframe.study._study_file.reading import parse_study

TASK = {"name": "memory_pro", "fixation": 1, "stimulus": 1, "memory": 1, "response": 2, "grace": 0}


def weights(seed: int) -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    net = torch.nn.ModuleDict({"rnn": torch.nn.GRU(2, 3, batch_first=True), "head": torch.nn.Linear(3, 1)})
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


def core(hidden: int = 3) -> torch.nn.Module:
    return torch.nn.GRU(2, hidden, batch_first=True)


def dense_Phi(tensors: dict[str, torch.Tensor], x: torch.Tensor) -> torch.Tensor:
    """Return Phi by torch's own GRU: the Jacobian of all states to the parameters, times its transpose."""
    gru = torch.nn.GRU(2, 3, batch_first=True).double()
    own = {n.removeprefix("rnn."): t.double() for n, t in tensors.items() if n.startswith("rnn.")}
    names = list(own)

    def states(*values: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(gru, dict(zip(names, values, strict=True)), (x,))[0]

    blocks = torch.autograd.functional.jacobian(states, tuple(own.values()))
    G = torch.cat([block.reshape(x.shape[0] * x.shape[1] * 3, -1) for block in blocks], dim=1)
    return G @ G.T


@pytest.mark.parametrize("model", ["function", "registered"])
@pytest.mark.rows(2)
def test_a_gru_of_torch_in_files_of_lightning(tmp_path: Path, model: str) -> None:
    """The same figures through ``wrap`` of the module and through the registered model of its equations."""
    folder = tmp_path / "lightning logs"
    folder.mkdir()
    for epoch, step in ((0, 20), (1, 120)):
        content = {"state_dict": weights(step), "epoch": epoch, "global_step": step}
        torch.save(content, folder / f"epoch={epoch}-step={step}.ckpt")
    x = torch.randn(2, 4, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.save(tmp_path / "x.npy", x.numpy())
    given = {"model": core} if model == "function" else {"model": "gru", "settings": {"hidden_size": 3}}
    data = analyze(
        folder,
        tmp_path / "o",
        **given,
        renames={"rnn.": ""},
        readout="head",
        dtype="float64",
        inputs=tmp_path / "x.npy",
        operators=["Phi"],
        quantities=["effective_rank", "trace"],
        budget=60,
    )
    assert data.step.values.tolist() == [20, 120]
    for step in (20, 120):
        Phi = dense_Phi(weights(step), x)
        one = data.sel(step=step, operator="Phi").squeeze()
        assert float(one.trace) == pytest.approx(float(Phi.trace()), rel=1e-9)
        rank = float(Phi.trace() ** 2 / Phi.square().sum())
        assert float(one.effective_rank) == pytest.approx(rank, rel=1e-9)
    assert float(data.trace[0, 0].squeeze()) != pytest.approx(float(data.trace[0, 1].squeeze()), rel=1e-3)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, xr.Dataset]:
    """The folder of a small study, and its figures."""
    table = {
        "task": TASK,
        "seeds": [3, 4],
        "network": [{"name": "gru", "label": "GRU <a>", "hidden_size": 3}],
        "training": {"steps": 3, "batch_size": 3},
        "measure": {"steps": [0, 3], "trials": 3, "budget": 16, "inputs": ["train", "test"]},
        "quantity": [{"name": "scores"}, {"name": "effective_rank"}, {"name": "trace"}],
    }
    folder = tmp_path_factory.mktemp("runs") / "a run"
    return folder, run_study(parse_study(table, "here"), folder)


@pytest.mark.slow
def test_the_checkpoints_of_a_run_have_its_figures(run, tmp_path: Path) -> None:
    """Each training with its own seed, task and steps: to the last bit what was recorded while it trained."""
    folder, figures = run
    options = {"sets": ["train", "test"], "trials": 3, "budget": 16}
    quantities = ["scores", "effective_rank", "trace"]
    data = analyze(folder, tmp_path / "o", quantities=quantities, **options)
    for name in ("test_loss", "test_r2", "effective_rank", "effective_rank_stderr", "trace"):
        xr.testing.assert_equal(
            data[name].drop_vars("method", errors="ignore"),
            figures[name].drop_vars("method", errors="ignore"),
        )
        assert bool(data[name].notnull().all()), name
    assert data.effective_rank.sizes["seed"] == 2
    other = analyze(folder, tmp_path / "p", quantities=["trace"], seed=9, **options)
    assert not bool((other.trace == figures.trace).any())


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in ("train", "analyze", "compare"))]
)
def test_resume_goes_on_with_any_command(
    run, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """With an analysis, a comparison and a training by rules, whatever was lost of them."""
    monkeypatch.chdir(tmp_path)
    task = [f"--task-set={key}={value}" for key, value in TASK.items() if key != "name"]
    small = ["--trials", "2", "--budget", "16"]
    network = ["--model", "rnn", "--set", "hidden_size=3", "--task", "memory_pro", *task]
    network += ["--steps", "2", "--batch-size", "2"]
    for page in ("write_comparison", "write_training"):
        room = {"write_comparison": "_rules.run_comparison", "write_training": "_report.training"}[page]
        monkeypatch.setattr(f"kpframe.study.{room}.{page}", lambda data, path: path)
    monkeypatch.setattr("kpframe.study._report.run.write_run_report", lambda path: path)
    commands = {
        "analyze": (["analyze", str(run[0]), "--quantity", "trace", *small], "results.nc"),
        "compare": (["compare", str(run[0]), "--rules", "bptt", *small], "comparison.nc"),
        "train": (
            ["train", "--rule", "bptt", "--rule", "truncated_bptt(window=1)", *network, *small],
            "training.nc",
        ),
    }
    arguments, file = commands[name]
    assert app.run([*arguments, "--output", name]) == 0, name
    whole = read_dataset(tmp_path / name / file)
    record = json.loads((tmp_path / name / "run.json").read_text())
    (tmp_path / name / "run.json").write_text(json.dumps(record | {"state": "interrupted"}))
    (tmp_path / name / file).unlink()
    lost = max((tmp_path / name / "steps").iterdir())
    lost.unlink()
    capsys.readouterr()
    assert app.run(["status", name]) == 0
    assert f"go on with: kpframe resume {name}" in capsys.readouterr().out
    assert app.run(["resume", name]) == 0, name
    assert lost.exists()
    xr.testing.assert_equal(read_dataset(tmp_path / name / file), whole)
