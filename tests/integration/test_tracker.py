"""Whole runs of a tracker on bundled models: their figures, the programs that read them, and a kill."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import kpframe
from kpframe.cli import _app as app
from kpframe.errors import ArgumentError
from kpframe.study import Tracker, open_run, read_dataset
from kpframe.study._running.run_study import resumed_folder

SCRIPT = """
import os, signal, sys
import torch, kpframe
torch.manual_seed(0)
model, head = torch.nn.GRU(2, 4, batch_first=True), torch.nn.Linear(4, 1)
optimizer = torch.optim.SGD([*model.parameters(), *head.parameters()], lr=0.1)
x = torch.randn(4, 5, 2)
y = x.sum(dim=2, keepdim=True)
folder, killed_at = sys.argv[1], int(sys.argv[2])
first, state = 0, folder + ".pt"
if os.path.exists(state):
    kept = torch.load(state)
    first = kept.pop("step")
    model.load_state_dict(kept["model"]), head.load_state_dict(kept["head"])
options = {"schedule": 2, "resume": True, "quiet": True}
options["quantities"] = ["trace", "parameters", "predicted_change"]
with kpframe.study.Tracker(model, x, targets=y, readout=head, output=folder, **options) as track:
    for step in range(first, 8):
        track(step) if step == first else None
        loss = (head(model(x)[0]) - y).square().mean()
        optimizer.zero_grad(), loss.backward(), optimizer.step()
        if step + 1 == killed_at:
            os.kill(os.getpid(), signal.SIGKILL)
        track(step + 1, loss)
        torch.save({"step": step + 1, "model": model.state_dict(), "head": head.state_dict()}, state)
"""


class Loop:
    """The sum of two inputs, learned by a GRU layer of torch."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.model, self.head = torch.nn.GRU(2, 4, batch_first=True), torch.nn.Linear(4, 1)
        self.x = torch.randn(4, 5, 2)
        self.trials = kpframe.Trials.from_tensors(self.x, self.x.sum(dim=2, keepdim=True))
        parameters = [*self.model.parameters(), *self.head.parameters()]
        self.optimizer = torch.optim.SGD(parameters, lr=0.1)

    def update(self) -> torch.Tensor:
        loss = (self.head(self.model(self.x)[0]) - self.trials.targets).square().mean()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> tuple[Path, dict[int, Loop]]:
    """A run's folder, and the networks at its steps."""
    path, loop, networks = tmp_path_factory.mktemp("tracked") / "a run", Loop(), {}
    rules = {"two": "truncated_bptt(window=2)"}
    quantities = ["scores", "effective_rank", "trace", "spectrum(k=3)", "time_kernel", "rules"]
    options = {"test": loop.trials, "rules": rules, "quantities": quantities, "schedule": [0, 2, 5]}
    options["budget"] = 40
    with Tracker(loop.model, loop.trials, readout=loop.head, output=path, quiet=True, **options) as track:
        for step in range(6):
            track(step, loop.update() if step else None)
            networks[step] = copy.deepcopy(loop)
    assert track.missing == {}
    return path, networks


@pytest.mark.slow
def test_the_figures_are_those_of_the_networks(run) -> None:
    path, networks = run
    data = read_dataset(path / "results.nc").isel(network=0, seed=0)
    assert data.step.values.tolist() == [0, 2, 5]
    for step in (0, 2, 5):
        here, loop = data.sel(step=step), networks[step]
        flow = kpframe.linearize(kpframe.wrap(loop.model), loop.x)
        for name, operator in (("K", flow.K), ("Phi", flow.Phi)):
            values = np.linalg.eigvalsh(operator.to_dense().double().numpy().reshape(80, 80))[::-1]
            found = here.sel(operator=name)
            assert found.singular_value.values == pytest.approx(values[:3], rel=1e-2)
            assert abs(found.trace - values.sum()) <= 5 * found.trace_stderr + 1e-5 * values.sum()
        loss = (loop.head(flow.trajectory.states) - loop.trials.targets).square().mean()
        assert float(here.test_loss) == pytest.approx(loss.item(), rel=1e-5)
    first, last = (data.singular_value.sel(step=step, operator="Phi").values for step in (0, 5))
    assert last != pytest.approx(first, rel=1e-2)
    assert float(data.training_loss.sel(update=3)) == pytest.approx(loss_of(networks[2]), rel=1e-6)


def loss_of(loop: Loop) -> float:
    return (loop.head(loop.model(loop.x)[0]) - loop.trials.targets).square().mean().item()


@pytest.mark.slow
def test_what_reads_runs_reads_it(run, tmp_path: Path) -> None:
    path, _ = run
    with open_run(path) as tree:
        assert tree.attrs["command"] == "track"
        assert tree.gradient_cosine.sel(rule="two").shape == (1, 1, 3)
        assert "left_out" not in tree.attrs
        assert tree["training"].recording_seconds.attrs["units"] == "s"
    assert app.run(["export", str(path), "--csv", str(tmp_path / "figures.csv")]) == 0
    assert "effective_rank" in (tmp_path / "figures.csv").read_text()
    with pytest.raises(
        ArgumentError, match=r"which Tracker\(\.\.\., output='.*', resume=True\) goes on with"
    ):
        resumed_folder(path)


def test_a_checkpoint_is_that_of_the_network_and_its_readout(run) -> None:
    path, networks = run
    checkpoint = kpframe.checkpoint.load_checkpoint(path / "checkpoints" / "GRU-000002.safetensors")
    model = kpframe.create_model(checkpoint.model, **checkpoint.settings)
    assert type(model) is type(kpframe.wrap(networks[2].model))
    checkpoint.load_into(model)
    expected = kpframe.wrap(networks[2].model).rollout(networks[2].x).states
    assert torch.equal(model.rollout(networks[2].x).states, expected)
    assert not torch.equal(kpframe.wrap(networks[5].model).rollout(networks[5].x).states, expected)
    assert torch.equal(checkpoint.tensors["readout.weight"], networks[2].head.weight)


@pytest.mark.slow
def test_a_compiled_module_is_looked_through(tmp_path: Path) -> None:
    loop = Loop()
    compiled = torch.compile(loop.model, backend="eager")
    for name, module in (("plain", loop.model), ("compiled", compiled)):
        options = {"output": tmp_path / name, "quantities": ["trace"], "quiet": True}
        with Tracker(module, loop.x, readout=loop.head, **options) as track:
            track(0)
        assert track.missing == {}
    one, other = (read_dataset(tmp_path / name / "steps" / "GRU-000000.nc") for name in ("plain", "compiled"))
    assert (one.trace.values == other.trace.values).all()


@pytest.mark.slow
def test_a_training_that_was_killed_goes_on_to_the_same_figures(tmp_path: Path) -> None:
    def train(folder: str, killed_at: int) -> int:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path / folder), str(killed_at)]
        done = subprocess.run(
            command, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True
        )
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        return done.returncode

    assert train("whole", 0) == 0
    assert [train("parts", killed_at) for killed_at in (3, 4, 7, 0)] == [-signal.SIGKILL] * 3 + [0]
    one, other = (read_dataset(tmp_path / name / "results.nc") for name in ("whole", "parts"))
    differ = {name for name in one.variables if not one[name].equals(other[name])}
    assert differ == {"recording_seconds", "loop_seconds", "training_loss", "update"}
    # what was told after the last record before a kill is lost
    assert {*one["update"].values.tolist()} - {*other["update"].values.tolist()} == {3}
    assert other.training_loss.equals(one.training_loss.sel(update=other["update"].values))
    assert one.step.values.tolist() == [0, 2, 4, 6, 8]
    assert not one.trace.isel(step=0).equals(one.trace.isel(step=4))


def test_its_state_is_told_by_status(tmp_path: Path, capsys) -> None:
    loop, path = Loop(), tmp_path / "a run"
    options = {"output": path, "quantities": ["parameters"], "schedule": [0, 3, 50], "quiet": True}

    def train(track: Tracker, last: int) -> None:
        for step in range(last + 1):
            track(step, 1.0)
        raise RuntimeError("<out of memory>")

    with pytest.raises(RuntimeError, match="out of memory"), Tracker(loop.model, loop.x, **options) as track:
        train(track, 4)
    assert app.run(["status", str(path)]) == 0
    told = " ".join(capsys.readouterr().out.split())
    assert "GRU, seed 0 interrupted 4 2 of 2 RuntimeError: <out of memory>" in told
    assert f"go on with: Tracker(..., output='{path}', resume=True)" in told
    assert app.run(["report", str(path)]) == 0
    page = (path / "report.html").read_text(encoding="utf-8")
    assert "RuntimeError: &lt;out of memory&gt;" in page
