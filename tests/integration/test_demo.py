"""The main command, end to end: training on real data, results, report."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from click.testing import CliRunner, Result

from kpframe import effective_rank, linearize
from kpframe.cli._app import cli
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.tasks._task import create_task


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    output = tmp_path_factory.mktemp("demo") / "out"
    result = CliRunner().invoke(cli, ["demo", "--quick", "--output", str(output)], catch_exceptions=False)
    return result, output


@pytest.fixture(scope="module")
def data(demo: tuple[Result, Path]) -> xr.Dataset:
    with xr.open_dataset(demo[1] / "results.nc", engine="h5netcdf") as data:
        return data.load()


#: The whole command is run (and its files looked at) with every change; its figures are with the slow tests.
slow = pytest.mark.slow


@slow
def test_it_ends_by_printing_the_path_to_open(demo: tuple[Result, Path]) -> None:
    result, output = demo
    assert result.exit_code == 0
    assert result.stdout.rstrip().endswith(str((output / "report.html").resolve()))


@slow
def test_the_gru_learns_the_digits(data: xr.Dataset) -> None:
    accuracy = data.test_accuracy.sel(network="GRU")
    assert float(accuracy[-1]) >= 0.85
    assert float(accuracy[0]) < 0.3  # the partner: before training it knows nothing


@slow
def test_dimensions_are_named(data: xr.Dataset) -> None:
    assert data.effective_rank.dims == ("network", "step", "operator")
    assert data.singular_value.dims == ("network", "step", "operator", "k")
    assert data.time_eigenfunction.dims == ("network", "step", "operator", "mode", "time")
    assert data.gradient_cosine.dims == ("network", "step", "rule")
    assert data.operator.values.tolist() == ["P P*", "K", "Phi"]
    assert data.sizes["time"] == 8


@slow
def test_figures_are_consistent_with_each_other(data: xr.Dataset) -> None:
    """A trace is at least the sum of its leading eigenvalues; eigenfunctions are orthonormal."""
    assert bool((data.singular_value.sum("k") <= data["trace"] + 4 * data.trace_stderr + 1e-6).all())
    assert bool((data.time_explained.sum("mode") - 1 < 1e-6).all())
    gram = np.einsum("nsomt,nsokt->nsomk", data.time_eigenfunction, data.time_eigenfunction)
    np.testing.assert_allclose(gram, np.broadcast_to(np.eye(8), gram.shape), atol=1e-9)
    assert bool((data.effective_rank_stderr > 0).all())
    assert bool((data.gradient_cosine.sel(rule="truncated, 2 terms") < 0.9999).all())
    longer, shorter = (data.flow_alignment.sel(rule=f"truncated, {k} terms").mean() for k in (4, 2))
    assert float(longer) > float(shorter)


@slow
def test_a_checkpoint_gives_the_recorded_effective_rank(demo: tuple[Result, Path], data: xr.Dataset) -> None:
    """The number in the file is that of the network in the checkpoint: exact and estimated agree."""
    step = int(data.step[-1])
    checkpoint = load_checkpoint(demo[1] / "checkpoints" / f"RNN-{step:06d}.safetensors")
    task = create_task("digits")
    trials = task.sample(task.num_trials("test"), generator=0, split="test", dtype=torch.float32)
    labels = trials.trial["label"]
    trials = trials.select(np.concatenate([np.flatnonzero(labels == digit)[:2] for digit in range(10)]))
    assert data.trial_label.values.tolist() == trials.trial["label"].tolist()  # each digit twice
    assert data.attrs["probe_trials"] == "20 test trials, 2 of each of 10 classes"
    phi = linearize(checkpoint.build_model(), trials.inputs).Phi
    dense = phi.to_dense().double()
    exact = float(dense.trace() ** 2 / (dense**2).sum())
    one = data.sel(network="RNN", operator="Phi", step=step)
    assert abs(float(one.effective_rank) - exact) < 5 * float(one.effective_rank_stderr)
    untrained = load_checkpoint(demo[1] / "checkpoints" / "RNN-000000.safetensors").build_model()
    other = effective_rank(linearize(untrained, trials.inputs).Phi, budget=60)
    assert abs(other.value - exact) > 5 * other.stderr  # the partner: another network has another rank


@slow
def test_the_report_stands_alone(demo: tuple[Result, Path]) -> None:
    html = (demo[1] / "report.html").read_text(encoding="utf-8")
    assert html.count("<svg") == 6
    assert re.findall("<h2>([^<]*)", html) == [
        *("What was found", "Learning", "Effective ranks along the training", "Spectra before and after"),
        *("Eigenfunctions over time", "Which trials learn together"),
        *("Learning rules against the exact gradient", "The numbers", "Data and settings", "Provenance"),
    ]
    links = re.findall(r"""(?:src|href)=["'](?!#)([^"']+)""", html)
    assert [link for link in links if not link.startswith("data:")] == [
        "results.nc"
    ]  # its figures, beside it
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", html, flags=re.DOTALL).lower().split()


@slow
def test_provenance_repeats_the_study(data: xr.Dataset) -> None:
    assert json.loads(data.attrs["settings"])["network"][0]["name"] == "gru"
    assert set(json.loads(data.attrs["plugin_versions"])) >= {"kpframe-gru", "kpframe-rnn", "kpframe-rules"}
    assert json.loads(data.attrs["library_versions"])["torch"] == torch.__version__


def test_an_unwritable_output_is_one_line(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("in the way")
    result = CliRunner().invoke(cli, ["demo", "--quick", "--output", str(blocked)])
    assert result.exit_code == 2
    assert "is a file" in result.stderr
