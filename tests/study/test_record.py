"""What a cell is made of, and what is written of a step."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import evolve

from kpframe.errors import UnknownNameError
from kpframe.study._disk.folder import RunWriter
from kpframe.study._disk.results import read_dataset
from kpframe.study._moment import Moment, Probe
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._quantity import Quantity
from kpframe.study._record import record, write_step
from kpframe.study._running.build import network_of, probe_trials, quantities_of, surroundings_of, task_of
from kpframe.study._settings import QuantitySettings, RuleSettings
from kpframe.tasks._task import Trials

from .conftest import toy_cell

pytestmark = pytest.mark.usefixtures("offered")


def moment_of(step: int = 0, **changes: object) -> Moment:
    cell = toy_cell(**changes)
    task = task_of(cell)
    return Moment(*network_of(cell, task), surroundings_of(cell, task), step=step)


# -- cells ---------------------------------------------------------------------------------------------------


def test_a_network_is_a_function_of_its_seed() -> None:
    task = task_of(toy_cell())
    before = torch.random.get_rng_state()
    made = [network_of(toy_cell(seed=seed), task) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), before)
    one, same, other = (torch.cat([p.flatten() for part in pair for p in part.parameters()]) for pair in made)
    assert one.dtype == torch.float64
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_what_a_network_is_measured_along() -> None:
    cell = toy_cell(seed=3, inputs=("train", "test"), probes="same")
    cell = evolve(cell, rules=(RuleSettings(name="own_twice", label="two", settings={}),))
    task = task_of(cell)
    around = surroundings_of(cell, task)
    assert list(around.probes) == ["train", "test"]  # the first asked for is the main one
    for split, probe in around.probes.items():
        expected = task.sample(3, generator=3, split=split, dtype=torch.float64)
        torch.testing.assert_close(probe.inputs, expected.inputs, rtol=0, atol=0)
        assert probe.trials is not None
    assert not torch.equal(around.probes["train"].inputs, around.probes["test"].inputs)
    trained = task.sample(3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    assert not torch.equal(around.probes["train"].inputs, trained.inputs)  # a stream of its own
    scored = task.sample(500, generator=4, split="test", dtype=torch.float64)
    assert torch.equal(around.test.inputs, scored.inputs)
    assert (list(around.rules), around.seed, around.budget, around.same_probes) == (["two"], 3, 16, True)
    other = surroundings_of(toy_cell(seed=4), task)
    assert list(other.probes) == ["test", "train"]
    assert not other.same_probes
    assert not torch.equal(other.probes["test"].inputs, around.probes["test"].inputs)


def test_trials_are_in_the_order_of_their_first_coordinate() -> None:
    cell = toy_cell()

    class Labelled(type(task_of(cell))):
        def draw(self, batch_size: int, generator: torch.Generator, split: str) -> Trials:
            found = super().draw(batch_size, generator, split)
            return evolve(found, trial={"label": np.array([2, 0, 1])})

    found = probe_trials(Labelled(), cell, "test").trials
    plain = probe_trials(task_of(cell), cell, "test").trials
    assert found.trial["label"].tolist() == [0, 1, 2]
    assert torch.equal(found.inputs, plain.inputs[[1, 2, 0]])


def test_quantities_by_label() -> None:
    quantities = (
        QuantitySettings(name="own_noise", label="own_noise", settings={}),
        QuantitySettings(name="own_noise", label="late:own_noise", settings={}),
    )
    made = quantities_of(toy_cell(quantities=quantities))
    assert [type(one).__name__ for one in made.values()] == ["Noise", "Noise"]
    data = record(moment_of(), made)
    assert set(data.data_vars) == {
        *("weights", "noise", "late_weights", "late_noise", "quantity_failure"),
    }
    assert data.late_noise.dims == ("late_k",)
    with pytest.raises(UnknownNameError, match="own_noize"):
        quantities_of(
            toy_cell(quantities=(QuantitySettings(name="own_noize", label="own_noize", settings={}),))
        )


# -- steps ---------------------------------------------------------------------------------------------------


def test_a_step_is_a_checkpoint_and_a_record(tmp_path: Path) -> None:
    writer = RunWriter(tmp_path, "0123", {"run_id": "0123", "title": "t"})
    moment = moment_of(step=20, seed=3)
    quantities = quantities_of(toy_cell())
    written = write_step(writer, "a=1", moment, quantities, name="small", settings={}, extra={"seed": 3})
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*")) == [
        "checkpoints/a=1-000020.safetensors",
        "steps/a=1-000020.nc",
    ]
    data = read_dataset(tmp_path / "steps" / "a=1-000020.nc")
    xr.testing.assert_identical(data.drop_attrs(deep=False), written.drop_attrs(deep=False))
    said = {"probe_trials": "3 test trials; 3 train trials"}
    assert data.attrs == {"run_id": "0123", "title": "t", "cell": "a=1", "step": 20} | said
    expected = torch.rand(3, generator=torch.Generator().manual_seed(23_007), dtype=torch.float64)
    np.testing.assert_array_equal(data.noise, expected)
    assert data.from_first.isnull().all()
    checkpoint = load_checkpoint(tmp_path / "checkpoints" / "a=1-000020.safetensors")
    assert (checkpoint.model, checkpoint.step) == ("small", 20)
    assert checkpoint.extra == {"seed": 3, "run": "0123", "cell": "a=1"}
    for name, value in moment.model.state_dict().items():
        assert torch.equal(checkpoint.tensors[f"model.{name}"], value)
    assert set(checkpoint.tensors) > {"readout.weight"}


class Failing(Quantity):
    def measure(self, moment: Moment) -> xr.Dataset:
        raise ZeroDivisionError("no\nnumber")


class Clashing(Quantity):
    """Gives another figure the name of one that is there."""

    of_network = True

    def measure(self, moment: Moment) -> xr.Dataset:
        return xr.Dataset({"weights": ((), -1.0)})


def test_what_cannot_be_measured_costs_its_own_figures() -> None:
    moment, good = moment_of(), quantities_of(toy_cell())
    alone = record(moment, good)
    data = record(moment, {"broken": Failing(), **good, "clashing": Clashing()})
    said = dict(zip(data["quantity"].values.tolist(), data.quantity_failure.values.tolist(), strict=True))
    assert list(said) == ["broken", "own_noise", "own_moved", "clashing"]
    assert said["broken"] == "ZeroDivisionError: no number"
    assert said["clashing"].startswith("MergeError: ")
    assert said["own_noise"] == said["own_moved"] == ""
    drop = ["quantity", "quantity_failure"]
    xr.testing.assert_identical(data.drop_vars(drop), alone.drop_vars(drop))


class Labels(Quantity):
    """The labels of the trials, which are others along other inputs."""

    def measure(self, moment: Moment) -> xr.Dataset:
        sizes = moment.probe.inputs.double().square().sum(dim=(1, 2)).numpy()
        coordinates = moment.trial_coordinates()
        return xr.Dataset({"size": ("trial", sizes)}, coords={"way": f"by {moment.inputs}", **coordinates})


def test_trials_of_each_set_of_inputs_keep_their_coordinates() -> None:
    moment = moment_of()
    labels = {"test": ["a", "b", "c"], "train": ["b", "c", "c"]}
    probes = {
        name: Probe.of(evolve(probe.trials, trial={"label": np.array(labels[name])}))
        for name, probe in moment.around.probes.items()
    }
    moment = Moment(moment.model, moment.readout, evolve(moment.around, probes=probes))
    data = record(moment, {"labels": Labels()})
    assert data["size"].dims == ("inputs", "trial")
    for name, probe in probes.items():
        one = data.sel(inputs=name)
        assert one.trial_label.values.tolist() == labels[name]
        assert one.way.item() == f"by {name}"
        np.testing.assert_array_equal(one["size"], probe.inputs.double().square().sum(dim=(1, 2)))
    only = Moment(moment.model, moment.readout, evolve(moment.around, probes={"test": probes["test"]}))
    data = record(only, {"labels": Labels()})
    assert "inputs" not in data.dims
    assert data.trial_label.values.tolist() == labels["test"]
