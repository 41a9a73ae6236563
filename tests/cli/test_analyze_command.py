"""``kpframe analyze``: files of one's own, exit codes, messages."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from kpframe.cli import _app as app
from kpframe.study._disk.results import read_dataset

NETS = """
import torch
import kpframe

class Cell(kpframe.Model):
    def __init__(self, width=4):
        super().__init__(2, {"h": width})
        self.core = torch.nn.Linear(2 + width, width)

    def step(self, x, h, t=None):
        return torch.tanh(self.core(torch.cat([x, h], dim=1)))

def failing():
    raise RuntimeError("no data")
"""
SMALL = ["--inputs", "x.npy", "--budget", "16", "--operators", "Phi"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A folder to work in, with a model, checkpoints of it and inputs."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "kpf_mynets.py").write_text(NETS)
    (tmp_path / "my nets").mkdir()
    for step in (5, 10):
        torch.manual_seed(step)
        tensors = {"rnn.core.weight": torch.randn(4, 6) / 3, "rnn.core.bias": torch.randn(4)}
        torch.save(tensors, tmp_path / "my nets" / f"step={step}.pt")
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((2, 4, 2)))
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    sys.modules.pop("kpf_mynets", None)


@pytest.mark.usefixtures("undrawn")
def test_a_folder_of_ones_own(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--model", "kpf_mynets:Cell", "--map", "rnn.=", "--quantity", "effective_rank"]
    given += ["--quantity", "long:spectrum(k=3)"]
    assert app.run(["analyze", "my nets", *given, *SMALL]) == 0
    out, err = capsys.readouterr()
    assert "recording my nets, step 5 (1 of 2)" in err
    assert [line.split()[:3] for line in out.splitlines() if "my nets" in line] == [
        ["my", "nets", "5"],
        ["my", "nets", "10"],
    ]
    assert "effective rank of Phi" in out
    page = here / "kpframe-analyze" / "report.html"
    assert out.splitlines()[-2:] == [
        f"numbers: {Path('kpframe-analyze', 'results.nc')}",
        f"open:    {page.resolve()}",
    ]
    assert "my nets, analyzed" in page.read_text(encoding="utf-8")
    data = read_dataset(here / "kpframe-analyze" / "results.nc")
    assert data.long_singular_value.sizes["long_k"] == 3
    ranks = data.effective_rank.squeeze().values
    assert ranks[0] != pytest.approx(ranks[1], rel=1e-3)
    settings = json.loads((here / "kpframe-analyze" / "run.json").read_text())["settings"]
    assert settings["source"] == str(here / "my nets")
    assert app.run(["analyze", "my nets", *given, *SMALL]) == 2
    assert "this run, finished" in capsys.readouterr().err
    assert app.run(["analyze", "my nets", *given[:6], *SMALL, "--overwrite"]) == 0
    replaced = read_dataset(here / "kpframe-analyze" / "results.nc")
    assert "effective_rank" in replaced
    assert "long_singular_value" not in replaced


@pytest.mark.slow
def test_what_is_left_out_is_said(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["analyze", "my nets/step=5.pt", "--model", "kpf_mynets:Cell", "--map", "rnn.=", *SMALL]
    assert app.run(arguments) == 0
    out = capsys.readouterr().out
    assert "left out: scores (no readout and test)" in out
    assert "test loss" not in out


def test_a_quantity_that_fails_is_told(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = torch.load(here / "my nets" / "step=10.pt")
    gone["rnn.core.weight"][0, 0] = torch.nan
    torch.save(gone, here / "my nets" / "step=10.pt")
    given = ["--model", "kpf_mynets:Cell", "--map", "rnn.=", "--quantity", "trace"]
    assert app.run(["analyze", "my nets", *given, *SMALL]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Failed: ")]
    assert line.startswith("Failed: trace, at step 10 (NonFiniteError: ")
    data = read_dataset(here / "kpframe-analyze" / "results.nc")
    assert np.isnan(data.trace.squeeze().values).tolist() == [False, True]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "model: expected --model, a registered name or module:factory, as 'step=5.pt' is a file of"),
        (["--model", "kpf_mynets:Cell"], "--map 'rnn.=' takes 'rnn.' off the front of names"),
        (["--model", "kpf_mynets:Cel"], "'kpf_mynets' has no 'Cel'; did you mean 'Cell'?"),
        (["--model", "kpf_mynet:Cell"], "there is no module 'kpf_mynet' in"),
        (["--model", "kpf_mynets:failing"], "which raised RuntimeError: no data, in kpf_mynets.py, line 14"),
        (["--model", "kpf_mynets:Cell", "--set", "width=9"], "core.weight: expected [9, 11] torch.float32"),
        (["--model", "kpf_mynets:Cell", "--set", "width"], "expected KEY=VALUE, got 'width'"),
        (["--model", "kpf_mynets:Cell", "--map", "rnn."], "expected OLD=NEW, got 'rnn.'"),
        (["--model", "kpf_mynets:Cell", "--map", "a=", "--map", "a=b"], "'a' is given twice"),
        (["--map", "rnn.="], "expected a registered model or module:factory beside map, got none"),
        (["--operators", "Ph"], "operators: expected a product of P, K, Phi"),
        (["--quantity", "spectrum(3)"], "quantity: expected a quantity such as spectrum(k=10)"),
        (["--task", "sum"], "task: expected none beside inputs, got 'sum'"),
    ],
)
def test_one_line_says_what_is_wrong(
    here: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert app.run(["analyze", "my nets", *SMALL, *arguments]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert message in line
    assert not (here / "kpframe-analyze").exists()


def test_sources_that_are_none(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["analyze", "nowhere"]) == 2
    assert (
        "source: expected a checkpoint (*.safetensors, *.pt, *.pth, *.ckpt), or a" in capsys.readouterr().err
    )


def test_debug_shows_what_a_factory_raised(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["--debug", "analyze", "my nets", "--model", "kpf_mynets:failing", *SMALL]) == 2
    err = capsys.readouterr().err
    assert 'raise RuntimeError("no data")' in err
    assert err.splitlines()[-1].startswith("Error: model: expected a function that makes a model")
