"""Each variable and coordinate of all data says what it is and in what units, each file where it is from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import kpframe
from kpframe.cli import _app as app
from kpframe.interchange import to_xarray
from kpframe.spectra._lyapunov import lyapunov_exponents
from kpframe.study import Tracker, compare_rules, read_dataset

TASK = {"fixation": 1, "stimulus": 1, "memory": 1, "response": 2, "grace": 0}
TIMES = ", ".join(f"{name} = {value}" for name, value in TASK.items())
STUDY = f"""
title = "Attributes"
seeds = 2
task = {{ name = "memory_pro", variant = ["pro", "anti"], {TIMES} }}
network = [{{ name = "rnn", hidden_size = 3 }}]
rule = [{{ name = "truncated_bptt", label = "short", window = 1 }}]
training = {{ steps = 2, batch_size = 2 }}
measure = {{ steps = [0, 2], trials = 2, budget = 16, inputs = ["test", "train"] }}
quantity = [{{ name = "scores" }}, {{ name = "spectrum", k = 2 }}, {{ name = "rules" }}]
"""
BEGUN = {"title", "created", "kpframe_version", "library_versions", "run_id", "command", "seed", "settings"}


def lacking(data: xr.Dataset, where: object) -> list[str]:
    """Return which variables and coordinates do not say what they are."""
    return [
        f"{where}: {name}: {attribute}"
        for name, variable in data.variables.items()
        for attribute in ("long_name", "units")
        if not (isinstance(text := variable.attrs.get(attribute), str) and text.strip())
    ]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folders of a study, a training by rules, a comparison, an analysis and a tracker."""
    place, before = tmp_path_factory.mktemp("runs"), torch.get_num_threads()
    torch.set_num_threads(1)
    (place / "study.toml").write_text(STUDY)
    small = ["--trials", "2", "--budget", "16"]
    task = [f"--task-set={name}={value}" for name, value in TASK.items()]
    train = ["train", "--rule", "bptt", "--rule", "rflo", "--model", "rnn", "--set", "hidden_size=3"]
    train += ["--set", "form=rate", "--set", "alpha=0.5", "--task", "memory_pro", *task, "--steps", "2"]
    run = place / "study"
    compare = ["compare", str(run), str(place / "train"), "--last", "--rules", "bptt; rflo"]
    for command in (
        ["run", str(place / "study.toml"), "--output", str(run)],
        [*train, *small, "--seeds", "2", "--output", str(place / "train")],
        [*compare, *small, "--output", str(place / "compare")],
        ["analyze", str(run), "--quantity", "scores", *small, "--output", str(place / "analyze")],
    ):
        assert app.run(command) == 0, command
    cell = torch.nn.RNN(2, 3, batch_first=True)
    with Tracker(cell, torch.randn(2, 4, 2), output=place / "track", quiet=True) as track:
        track(0)
        track(1, 0.5)
    yield place
    torch.set_num_threads(before)


@pytest.mark.slow
def test_files_say_what_is_in_them_and_where_it_is_from(folders: Path) -> None:
    files = sorted(folders.rglob("*.nc"))
    kinds = {path.name for path in files} & {"results.nc", "training.nc", "comparison.nc"}
    assert kinds == {"results.nc", "training.nc", "comparison.nc"}
    assert {path.parent.name for path in files} >= {"steps", "training"}
    found: list[str] = []
    for path in files:
        data = read_dataset(path)
        found += lacking(data, path.relative_to(folders))
        assert set(data.attrs) >= BEGUN, path
        settings = json.loads(data.attrs["settings"])
        if data.attrs["command"] in ("train", "compare", "analyze"):
            assert (settings["trials"], settings["budget"]) == (2, 16), path
        if path.name in kinds and data.attrs["command"] != "track":
            assert "2 test trials" in data.attrs["probe_trials"], path
    assert found == []
    assert lacking(xr.Dataset({"x": ((), 1.0)}), "bare") == ["bare: x: long_name", "bare: x: units"]


@pytest.mark.slow
def test_opened_and_exported_runs_say_it_too(folders: Path, tmp_path: Path) -> None:
    for name in ("study", "train", "compare", "analyze", "track"):
        with kpframe.open_run(folders / name) as run:
            for node in run.subtree:
                assert lacking(node.to_dataset(), f"{name}{node.path}") == []
    assert app.run(["export", str(folders / "study"), "--npz", str(tmp_path / "a.npz")]) == 0
    with np.load(tmp_path / "a.npz") as arrays:
        plain = [name for name in arrays.files if "__" not in name]
        assert "singular_value" in plain
        assert all(str(arrays[f"{name}__units"]) for name in plain)


def test_results_in_memory_say_it_too() -> None:
    model = kpframe.create_model("rnn", input_size=2, hidden_size=3, seed=0).double()
    task = kpframe.create_task("memory_pro", **TASK, rule=False)
    flow = kpframe.linearize(model, torch.randn(2, 4, 2, dtype=torch.float64))
    trials = task.sample(2, generator=0, dtype=torch.float64)
    other = kpframe.create_model("rnn", input_size=task.input_size, hidden_size=3, seed=0).double()
    readout = kpframe.Readout(3, task.output_size, generator=0, dtype=torch.float64)
    rules = {"bptt": kpframe.create_rule("bptt")}
    every = [
        compare_rules(other, readout, trials, task.loss, rules, budget=16),
        to_xarray(flow.trajectory),
        to_xarray(kpframe.eigsh(flow.Phi, k=2), flow.Phi),
        to_xarray(kpframe.svd(flow.P @ flow.J, k=2), flow.P @ flow.J),
        to_xarray(kpframe.spectral_density(flow.Phi, budget=6, num_lanczos=3)),
        to_xarray(lyapunov_exponents(flow.A)),
        to_xarray(lyapunov_exponents(flow.A, dt=0.1)),
    ]
    assert [lacking(data, place) for place, data in enumerate(every)] == [[]] * len(every)
    assert [data.exponent.attrs["units"] for data in every[-2:]] == ["1/step", "1/time"]
