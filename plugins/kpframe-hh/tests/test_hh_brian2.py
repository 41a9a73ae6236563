"""Trajectories against brian2, from the traces that ``data/record_brian2.py`` recorded."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from kpframe import Model, create_model

DATA = Path(__file__).parent / "data"
RUNS = json.loads((DATA / "brian2.json").read_text())["runs"]
METHODS = {"euler": "forward_euler", "exponential_euler": "exponential_euler"}


@pytest.fixture(scope="module")
def recorded() -> dict[str, torch.Tensor]:
    with np.load(DATA / "brian2.npz") as file:
        return {name: torch.from_numpy(file[name]) for name in file.files}


def rebuilt(run: str, recorded, **changed: object) -> Model:
    """Return the network of a run, weights and reversal potentials included."""
    weight, reversal = recorded[f"{run}/weight"], recorded[f"{run}/reversal"]
    n = len(weight)
    settings = {
        "input_size": n,
        "hidden_size": n,
        "autapses": True,
        "dt": RUNS[run]["dt"],
        "method": METHODS[RUNS[run]["method"]],
        "inhibitory_fraction": float((recorded[f"{run}/a"] > 2).double().mean()),
    }
    if run == "hh_reversals":
        settings["reversals"] = reversal.tolist()
    model = create_model("hh" if run.startswith("hh") else "morris_lecar", **(settings | changed)).double()
    first = n - int((recorded[f"{run}/a"] > 2).sum())
    blocks = {"excitatory": weight[:, :first], "inhibitory": weight[:, first:], "synapses": weight}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(blocks[name.removeprefix("weight_")])
    return model


def states(model: Model, run: str, recorded, steps: int | None = None) -> torch.Tensor:
    """Return the states at the recorded ones of the first steps, ``[T, H]``, from the model's own start."""
    every = RUNS[run]["every"]
    with torch.no_grad():
        return model.rollout(recorded[f"{run}/stimulus"][None, :steps]).states[0, every - 1 :: every]


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.rows(4)
def test_trajectory(run, recorded) -> None:
    model = rebuilt(run, recorded)
    expected, n = recorded[f"{run}/states"], model.units
    start = recorded[f"{run}/initial"]
    torch.testing.assert_close(model.initial_state(1)[0], start, rtol=1e-14, atol=0)
    actual = states(model, run, recorded)
    assert float((actual - expected)[:, :n].abs().max()) <= 1e-9  # [mV]
    assert float((actual - expected)[:, n:].abs().max()) <= 1e-11
    assert float(expected[:, :n].amax()) > 30  # the cells spike


@pytest.mark.parametrize("run", RUNS)
@pytest.mark.rows(6)
def test_another_step_or_method_is_another_trajectory(run, recorded) -> None:
    expected = recorded[f"{run}/states"]
    dt = 1.02 * RUNS[run]["dt"]
    other = {"exponential_euler": "forward_euler", "euler": "exponential_euler"}[RUNS[run]["method"]]
    for changed in ({"dt": dt}, {"method": other}):
        found = states(rebuilt(run, recorded, **changed), run, recorded, steps=500)
        assert float((found - expected[: len(found)]).abs().max()) > 0.5  # [mV]


@pytest.mark.parametrize("run", ["hh_network", "hh_reversals", "ml_network"])
@pytest.mark.rows(2)
def test_synapses_matter(run, recorded) -> None:
    model = rebuilt(run, recorded)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.roll(1, 0))
    found = states(model, run, recorded, steps=500)
    assert float((found - recorded[f"{run}/states"][: len(found)]).abs().max()) > 1  # [mV]


def test_the_recorded_data_is_what_the_script_describes(recorded) -> None:
    for run, settings in RUNS.items():
        steps = len(recorded[f"{run}/stimulus"])
        width = len(settings["variables"]) * len(recorded[f"{run}/weight"])
        assert recorded[f"{run}/states"].shape == (steps // settings["every"], width)
        assert recorded[f"{run}/states"].dtype == torch.float64
