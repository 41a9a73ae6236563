"""Checkpoints as recorded steps: figures by definition, what is left out, and how an analysis goes on."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import save_file

from kpframe import Readout, create_task
from kpframe.errors import ArgumentError, CheckpointError, KpframeError, OutputError
from kpframe.study import analyze, read_dataset
from kpframe.study._networks.analysis import Analysis
from kpframe.study._networks.analyze import resume_analysis
from kpframe.study._networks.checkpoint import save_checkpoint
from kpframe.study._reading.merge import merged

OPTIONS = {"trials": 3, "budget": 100, "operators": ["Phi"], "quantities": ["effective_rank", "trace"]}


def network(offered, step: int = 0):
    torch.manual_seed(step)
    return offered.Small(2).double(), Readout(4, 1, generator=step, dtype=torch.float64)


def saved(folder: Path, offered, steps=(0, 10, 200), **extra: object) -> Path:
    folder.mkdir(exist_ok=True)
    for step in steps:
        save_checkpoint(
            folder / f"net-{step}.safetensors",
            *network(offered, step),
            name="small",
            settings={"input_size": 2},
            step=step,
            extra={"task": {"name": "sum", "settings": {}}, **extra},
        )
    return folder


def states_of(x: torch.Tensor, lengths: torch.Tensor | None = None):
    """Return the states ``[B, T, H]`` as a function of the parameters; held after the end of a trial."""

    def run(*parameters: torch.Tensor) -> torch.Tensor:
        W, U, b = parameters
        h, found = torch.zeros(x.shape[0], 4, dtype=x.dtype), []
        for t in range(x.shape[1]):
            new = torch.tanh(h @ W.T + x[:, t] @ U.T + b)
            h = new if lengths is None else torch.where((lengths > t)[:, None], new, h)
            found.append(h)
        return torch.stack(found, dim=1)

    return run


def dense_Phi(model, x: torch.Tensor, lengths: torch.Tensor | None = None) -> torch.Tensor:
    parameters = (model.W.detach(), model.U.detach(), model.b.detach())
    blocks = torch.autograd.functional.jacobian(states_of(x, lengths), parameters)
    size = x.shape[0] * x.shape[1] * 4
    G = torch.cat([block.reshape(size, -1) for block in blocks], dim=1)
    return G @ G.T


def test_figures_are_those_of_each_checkpoint(tmp_path: Path, offered) -> None:
    data = analyze(saved(tmp_path / "my nets", offered), tmp_path / "o", seed=3, **OPTIONS)
    x = create_task("sum").sample(3, generator=3, split="test", dtype=torch.float64).inputs
    assert data.step.values.tolist() == [0, 10, 200]
    assert data.network.values.tolist() == ["my nets"]
    for step in (0, 10, 200):
        Phi = dense_Phi(network(offered, step)[0], x)
        one = data.sel(network="my nets", step=step, operator="Phi")
        assert float(one.trace) == pytest.approx(float(Phi.trace()), rel=1e-9)
        assert float(one.effective_rank) == pytest.approx(
            float(Phi.trace() ** 2 / (Phi @ Phi).trace()), rel=1e-9
        )
        assert float(one.effective_rank_stderr) == 0
    assert len(set(data.trace.values.ravel().tolist())) == 3
    xr.testing.assert_identical(read_dataset(tmp_path / "o" / "results.nc").drop_attrs(), data.drop_attrs())
    assert data.attrs["command"] == "analyze"
    assert data.attrs["title"] == "my nets, analyzed"
    assert sorted(path.name for path in (tmp_path / "o").iterdir()) == ["results.nc", "run.json", "steps"]


def test_a_change_is_since_the_checkpoint_before(tmp_path: Path, offered) -> None:
    options = {**OPTIONS, "quantities": ["predicted_change"]}
    data = analyze(saved(tmp_path / "nets", offered), tmp_path / "o", **options).isel(network=0)
    x = create_task("sum").sample(3, generator=0, split="test", dtype=torch.float64).inputs
    states = []
    for step in (0, 10, 200):
        model, _ = network(offered, step)
        states.append(states_of(x)(model.W.detach(), model.U.detach(), model.b.detach()))
    found = data.change_norm.sel(change_of="states").values
    assert np.isnan(found[0])
    assert found[1:] == pytest.approx([float((b - a).norm()) for a, b in pairwise(states)])
    assert found[1] != pytest.approx(found[2], rel=1e-3)


def test_an_analysis_goes_on_where_it_was_ended(tmp_path: Path, offered) -> None:
    source, output = saved(tmp_path / "nets", offered), tmp_path / "o"
    options = {**OPTIONS, "budget": 16, "quantities": ["effective_rank", "predicted_change"]}
    whole = analyze(source, tmp_path / "whole", **options)
    seen: list[str] = []

    def report(what: str, done: int, total: int) -> None:
        seen.append(f"{what} ({done} of {total})")
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        analyze(source, output, report=report, **options)
    assert json.loads((output / "run.json").read_text())["state"] == "interrupted"
    assert merged(output).step.values.tolist() == [0, 10]
    with pytest.raises(OutputError, match="with another budget"):
        analyze(source, output, **{**options, "budget": 99})
    record = next(output.glob("steps/*-000010.nc"))
    record.write_bytes(record.read_bytes()[:1000])
    data = resume_analysis(output, report)
    steps = ["step 200 (2 of 3)", "step 10 (1 of 3)", "step 200 (2 of 3)"]
    assert seen[2:] == [f"recording nets, {step}" for step in steps]
    xr.testing.assert_equal(data, whole)
    xr.testing.assert_equal(merged(output), whole)
    assert bool(whole.change_norm.notnull().any())
    with pytest.raises(OutputError, match="this run, finished"):
        analyze(source, output, **options)
    saved(source, offered, steps=(300,))
    with pytest.raises(OutputError, match="with another checkpoints"):
        analyze(source, output, **options)


def test_the_seed_is_that_of_the_files(tmp_path: Path, offered) -> None:
    source = saved(tmp_path / "nets", offered, steps=(0,), seed=5)
    found = analyze(source, tmp_path / "a", **OPTIONS)
    assert found.attrs["seed"] == "5"
    xr.testing.assert_equal(found, analyze(source, tmp_path / "b", seed=5, **OPTIONS))
    other = analyze(source, tmp_path / "c", seed=6, **OPTIONS)
    assert other.trace.item() != pytest.approx(found.trace.item(), rel=1e-6)


@pytest.mark.slow
def test_inputs_of_ones_own(tmp_path: Path, offered) -> None:
    """With and without targets; what cannot be measured without them is left out, and said."""
    source = saved(tmp_path / "nets", offered, steps=(0,))
    x = np.random.default_rng(0).standard_normal((3, 5, 2))
    np.save(tmp_path / "x.npy", x)
    options = {"budget": 100, "operators": ["Phi"]}
    alone = analyze(source, tmp_path / "a", inputs=tmp_path / "x.npy", **options)
    assert alone.attrs["quantities_left_out"] == "scores (no test)"
    assert "test_loss" not in alone
    Phi = dense_Phi(network(offered)[0], torch.from_numpy(x))
    assert float(alone.trace.squeeze()) == pytest.approx(float(Phi.trace()), rel=1e-9)
    with pytest.raises(ArgumentError, match="quantity 'scores' cannot be measured here: no test"):
        analyze(source, tmp_path / "b", inputs=tmp_path / "x.npy", quantities=["scores"], **options)
    assert not (tmp_path / "b").exists()

    y = np.random.default_rng(1).standard_normal((3, 5, 1))
    np.savez(tmp_path / "xy.npz", x=x, y=y)
    both = analyze(source, tmp_path / "c", inputs=tmp_path / "xy.npz", **options)
    model, readout = network(offered)
    h = states_of(torch.from_numpy(x))(model.W.detach(), model.U.detach(), model.b.detach())
    with torch.no_grad():
        loss = ((readout(h) - torch.from_numpy(y)) ** 2).mean()
    assert float(both.test_loss.squeeze()) == pytest.approx(float(loss), rel=1e-9)
    assert float(both.trace.squeeze()) == pytest.approx(float(alone.trace.squeeze()), rel=1e-12)

    x[2, 3:] = np.nan
    tensors = {"inputs": torch.from_numpy(x), "lengths": torch.tensor([5, 5, 3])}
    save_file(tensors, tmp_path / "m.safetensors")
    masked = analyze(source, tmp_path / "d", inputs=tmp_path / "m.safetensors", **options)
    held = dense_Phi(model, torch.from_numpy(x).nan_to_num(), torch.tensor([5, 5, 3]))
    assert float(masked.trace.squeeze()) == pytest.approx(float(held.trace()), rel=1e-9)
    assert float(masked.trace.squeeze()) != pytest.approx(float(alone.trace.squeeze()), rel=1e-3)


INPUTS = {
    "none.npy": (lambda p: None, "which does not exist"),
    "a.csv": (lambda p: p.write_text("1"), "a file .npz, .npy, .safetensors"),
    "flat.npy": (
        lambda p: np.save(p, np.ones((3, 5))),
        "(trials, steps, channels), got shape [3, 5]",
    ),
    "whole.npy": (lambda p: np.save(p, np.ones((3, 5, 2), int)), "a floating-point dtype, got torch.int64"),
    "nan.npy": (lambda p: np.save(p, np.full((3, 5, 2), np.nan)), "NaN or infinity from trial 0, step 0"),
    "wide.npy": (lambda p: np.save(p, np.ones((3, 5, 4))), "expected 2 channels, as the network in"),
    "objects.npy": (lambda p: np.save(p, np.array([{}])), "a file of arrays of numbers, got"),
    "cut.npz": (lambda p: p.write_bytes(b"PK\x03\x04"), "a file of arrays of numbers, got"),
    "text.npy": (lambda p: np.save(p, np.array(["a"])), "inputs: inputs: expected numbers, got dtype <U1"),
    "names.npz": (lambda p: np.savez(p, inputz=np.ones(3)), "got 'inputz'; did you mean 'inputs'?"),
    "targets.npz": (
        lambda p: np.savez(p, x=np.ones((3, 5, 2)), y=np.ones((3, 5, 2))),
        "targets: expected 1, as the readout has outputs, got 2",
    ),
    "classes.npz": (
        lambda p: np.savez(p, x=np.ones((3, 5, 2)), y=np.array([0, 1, 3])),
        "targets: expected classes below 1, the readout's outputs, got class 3",
    ),
    "mask.npz": (
        lambda p: np.savez(p, x=np.ones((3, 5, 2)), mask=np.array([5, 6, 1])),
        "or numbers of steps [3] from 1 to 5",
    ),
    "gap.npz": (
        lambda p: np.savez(p, x=np.ones((1, 3, 2)), mask=np.array([[True, False, True]])),
        "True from step 0 to a trial's end, then False, got another order in trial 0",
    ),
    "scored.npz": (
        lambda p: np.savez(p, x=np.ones((1, 3, 2)), scored=np.ones((1, 3), bool)),
        "expected 'targets' beside 'scored'",
    ),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_are_none(tmp_path: Path, offered, name: str) -> None:
    write, message = INPUTS[name]
    write(tmp_path / name)
    source = saved(tmp_path / "nets", offered, steps=(0,))
    with pytest.raises(KpframeError) as caught:
        analyze(source, tmp_path / "o", inputs=tmp_path / name)
    assert message in str(caught.value)
    assert not (tmp_path / "o").exists()


REFUSED = {
    "operator": ({"operators": ["Ph"]}, "operators: expected a product of P, K, Phi"),
    "none": ({"operators": []}, "operators: expected at least one, got none"),
    "twice": ({"sets": ["test", "test"]}, "sets: expected each once"),
    "set": ({"sets": ["tests"]}, "did you mean 'test'?"),
    "quantity": ({"quantities": ["spektrum"]}, "did you mean 'spectrum'?"),
    "call": ({"quantities": ["spectrum(k=10"]}, "a quantity such as spectrum(k=10)"),
    "setting": ({"quantities": ["spectrum(kk=10)"]}, "kk: expected one of its settings"),
    "label": ({"quantities": ["spectrum", "spectrum(k=2)"]}, "'spectrum' more than once"),
    "both": ({"task": "sum", "inputs": "x.npy"}, "task: expected none beside inputs, got 'sum'"),
    "settings": ({"task_settings": {"a": 1}}, "task: expected a task, whose settings are given, got none"),
    "map": ({"renames": {"a": "b"}}, "a registered model or module:factory beside map, got none"),
    "rules": ({"quantities": ["rules"]}, "quantity 'rules' cannot be measured here: no rules"),
    "trials": ({"trials": 1}, "trials: expected a whole number >= 2, got 1"),
    "task": ({"task": "summ"}, "did you mean 'sum'?"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_go_together(tmp_path: Path, offered, name: str) -> None:
    options, message = REFUSED[name]
    with pytest.raises(KpframeError) as caught:
        analyze(saved(tmp_path / "nets", offered, steps=(0,)), tmp_path / "o", **options)
    assert message in str(caught.value)
    assert not (tmp_path / "o").exists()


def test_sources_that_cannot_be_analyzed(tmp_path: Path, offered) -> None:
    source = saved(tmp_path / "nets", offered, steps=(0, 10), task=None)
    with pytest.raises(ArgumentError, match=r"names none, got none; --task NAME or --inputs FILE says what"):
        analyze(source, tmp_path / "o")
    save_checkpoint(
        source / "c.safetensors", offered.Small(3), name="small", settings={"input_size": 3}, step=20
    )
    with pytest.raises(
        CheckpointError, match=r"another network than 'net-0.*: U: expected \[4, 2\], got \[4, 3\]"
    ):
        analyze(source, tmp_path / "o", task="sum")
    assert not (tmp_path / "o").exists()


def test_settings_come_back_from_the_record_of_a_run(tmp_path: Path, offered) -> None:
    source = saved(tmp_path / "nets", offered, steps=(0,))
    analyze(source, tmp_path / "o", **OPTIONS, task="sum")
    settings = json.loads((tmp_path / "o" / "run.json").read_text())["settings"]
    again = Analysis.from_settings(settings)
    assert (again.source, again.task, list(again.operators)) == (source, "sum", ["Phi"])
    assert list(again.made_quantities()) == ["effective_rank", "trace"]
    with pytest.raises(ArgumentError, match="those of an analysis, got none that can be read"):
        Analysis.from_settings({})
    with pytest.raises(ArgumentError, match="the folder of an analysis"):
        resume_analysis(tmp_path)
