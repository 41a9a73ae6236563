"""What the core offers of how learning moves a network, by name: recorded together, written and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import evolve

from kpframe import Readout
from kpframe.plugin import get_manager
from kpframe.plugin._core_learning import learning_quantities
from kpframe.study._moment import Moment, Probe, Surroundings
from kpframe.study._quantity import create_quantity
from kpframe.study._record import record
from kpframe.tasks._task import Trials

from ...toy_moments import F64, Cell, H, O, moment_of, trials_of  # noqa: TID252

NAMES = [spec.name for spec in learning_quantities()]


def moments(dtype: torch.dtype, budget: int = 12) -> list[Moment]:
    """Return two moments, along two sets of inputs, one of which is padded."""
    probes = {
        "test": Probe.of(trials_of(seed=1).to(dtype=dtype)),
        "train": Probe.of(trials_of(lengths=None, seed=2).to(dtype=dtype)),
    }
    made: list[Moment] = []
    for step in (0, 3):
        model = Cell().to(dtype)
        with torch.no_grad():
            model.W += 0.01 * step
        readout, around = (
            Readout(H, O, generator=5 + step, dtype=dtype),
            Surroundings(probes, "mse", budget=budget, test=probes["test"].trials),
        )
        before = (lambda: made[0]) if step else None
        made.append(
            Moment(
                model, readout, around, step=step, first=lambda: made[0], previous=before, learning_rate=0.1
            )
        )
    return made


@pytest.fixture(scope="module")
def recorded() -> list[xr.Dataset]:
    quantities = {name: create_quantity(name) for name in NAMES}
    quantities["late:interference"] = create_quantity("interference", by="angle")
    return [record(moment, quantities) for moment in moments(F64)]


@pytest.fixture(scope="module")
def plain() -> xr.Dataset:
    return record(moments(torch.float32)[1], {name: create_quantity(name) for name in NAMES})


@pytest.mark.slow
def test_each_is_recorded_along_every_set_of_inputs(recorded) -> None:
    for data in recorded:
        assert set(data.quantity_failure.values.tolist()) == {""}
        assert data.inputs.values.tolist() == ["test", "train"]
    found = recorded[1]
    for name in ("change_norm", "descent_rate", "lyapunov_exponent", "ftle", "loss_by_epoch", "pc_explained"):
        one, other = (found[name].sel(inputs=inputs).values for inputs in ("test", "train"))
        assert not np.array_equal(one, other), name
    assert found.late_group.values.tolist() == [str(i * 0.1) for i in range(6)]
    assert found.group.values.tolist() == ["a", "b", "c"]
    alone = create_quantity("contributions").measure(moments(F64)[1].along("train"))
    np.testing.assert_array_equal(alone.descent_rate, found.descent_rate.sel(inputs="train"))


def test_steps_have_the_same_variables_and_can_be_laid_beside_each_other(recorded, tmp_path: Path) -> None:
    first, second = recorded
    assert {name: v.dims for name, v in first.data_vars.items()} == {
        name: v.dims for name, v in second.data_vars.items()
    }
    both = xr.concat(recorded, dim=xr.Variable("step", [0, 3]), join="outer")
    names = ["change_reason", "change_cosine", "group_overlap", "pc_direction"]
    both[names].to_netcdf(tmp_path / "both.nc", engine="h5netcdf")
    with xr.open_dataset(tmp_path / "both.nc", engine="h5netcdf") as read:
        assert read.change_reason.sel(step=0).values.tolist() == ["no step was recorded before"] * 2
        assert read.change_reason.sel(step=3).values.tolist() == ["", ""]
        np.testing.assert_array_equal(read.change_cosine, both.change_cosine)
        np.testing.assert_array_equal(read.group_overlap, both.group_overlap)


def test_every_variable_is_described_and_every_stderr_has_its_value(recorded) -> None:
    for name, variable in recorded[1].data_vars.items():
        assert set(variable.attrs) >= {"long_name", "units"}, name
        if str(name).endswith("_stderr"):
            assert str(name).removesuffix("_stderr") in recorded[1], name


def test_float32_and_float64_agree(recorded, plain) -> None:
    """Random signs are the same in both; the first frame of Lyapunov exponents is another."""
    assert set(plain.quantity_failure.values.tolist()) == {""}
    for name, variable in plain.data_vars.items():
        iterated = "sharpness" in str(name) or str(name).endswith("_residual")  # not converged in 12 products
        iterated = iterated or str(name).startswith("kernel_change")  # a sketch cuts off at rounding
        if variable.dtype.kind == "f" and not str(name).startswith("lyapunov") and not iterated:
            assert variable.dtype == np.float64, name
            right = recorded[1][name].values
            np.testing.assert_allclose(
                variable, right, rtol=2e-3, atol=2e-4 * np.nanmax(np.abs(right), initial=0), err_msg=str(name)
            )


def test_what_rounding_cuts_off_is_within_errors(recorded, plain) -> None:
    one, other = (data.kernel_change for data in (plain, recorded[1]))
    errors = [data.kernel_change_stderr for data in (plain, recorded[1])]
    assert (abs(one - other) < 4 * np.hypot(*errors)).all()
    assert (one != other).all()


def test_measuring_leaves_the_network_and_the_random_state_alone() -> None:
    moment = moments(F64)[1]
    before = [p.detach().clone() for part in (moment.model, moment.readout) for p in part.parameters()]
    state = torch.random.get_rng_state()
    for name in NAMES:
        create_quantity(name).measure(moment)
    after = [p for part in (moment.model, moment.readout) for p in part.parameters()]
    assert all(torch.equal(one, other) for one, other in zip(before, after, strict=True))
    assert all(p.grad is None for p in after)
    assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_their_variables_have_names_of_their_own() -> None:
    """No two quantities of the core write the same variable, but for coordinates that they share."""
    moment = moment_of(trials_of(), budget=12, test=trials_of(seed=3))
    moment.around = evolve(moment.around, rules={})
    seen: dict[str, str] = {}
    for spec in get_manager().specs("quantity"):
        if get_manager().plugin_of(spec).distribution != "kpframe" or spec.name == "rules":
            continue
        for name in create_quantity(f"kpframe:{spec.name}").measure(moment).data_vars:
            assert str(name) not in seen, (name, spec.name, seen[str(name)])
            seen[str(name)] = spec.name
    assert len(set(seen.values())) > len(NAMES)


@pytest.mark.parametrize(
    "surroundings",
    [
        lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        torch.inference_mode,
        lambda: torch.device("meta"),
    ],
    ids=["autocast", "inference mode", "default device"],
)
@pytest.mark.rows(4)
def test_what_surrounds_a_record_changes_no_figure(plain, surroundings) -> None:
    made = moments(torch.float32)[1]
    with surroundings():
        data = record(made, {name: create_quantity(name) for name in NAMES})
    assert data.quantity_failure.values.tolist() == [""] * len(NAMES)
    xr.testing.assert_identical(data, plain)


def test_inputs_alone_serve_what_needs_no_more() -> None:
    """No readout, no targets, padded steps; the others say what they lack."""
    trials = trials_of()
    around = Surroundings({"mine": Probe(trials.inputs, trials.mask)}, budget=12)
    before = Moment(Cell(), None, around)
    moment = Moment(Cell(seed=1), None, around, step=1, previous=lambda: before, first=lambda: before)
    data = record(moment, {name: create_quantity(name) for name in NAMES})
    failures = dict(zip(data.quantity.values.tolist(), data.quantity_failure.values.tolist(), strict=True))
    needy = {"contributions", "interference", "loss_by_epoch", "credit", "forecast", "stable_rate"}
    needy.add("forecast_ahead")
    lacking = {"cut_change", "propagator_similarity"}
    assert {name for name, failure in failures.items() if failure} == needy | lacking
    assert "expected targets, got none of targets" in failures["propagator_similarity"]
    assert "expected readout and test, got none of readout, test" in failures["cut_change"]
    for name in needy:
        assert (
            failures[name]
            == "ArgumentError: moment: expected readout and targets, got none of readout, targets"
        )
    assert float(data.change_error.squeeze()) > 0
    assert "loss_change" not in data
    assert bool(data.ftle.isnull().any())


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.rows(2)
def test_one_trial_of_two_steps(loss: str) -> None:
    """The smallest that has a scored step: figures, and NaN for errors over trials that there are not."""
    trials = trials_of(loss).select([0])
    small = Trials(
        trials.inputs[:, :2], trials.targets[:, :2], trials.mask[:, :2], trials.scored[:, :2],
        trials.epoch[:, :2],
    )  # fmt: skip
    before = moment_of(small, loss, budget=4)
    model = Cell(seed=1)
    earlier = {"previous": lambda: before, "first": lambda: before}
    moment = moment_of(small, loss, model=model, step=1, budget=4, test=small, **earlier)
    data = record(moment, {name: create_quantity(name) for name in NAMES})
    for name, failure in zip(data.quantity.values, data.quantity_failure.values, strict=True):
        constant = name == "cut_change" and loss == "mse"  # a single target has no R^2
        grouped = name in ("interference", "propagator_similarity")
        assert bool(failure) == (grouped or constant), failure
    assert "the trials have none" in data.quantity_failure.sel(quantity="interference").item()
    assert bool(data.lyapunov_exponent_mean_stderr.isnull().all())
    assert bool(data.lyapunov_exponent_mean.notnull().all())
    assert float(data.descent_rate) > 0
    assert float(data.descent_rate_by_trial.squeeze()) == pytest.approx(float(data.descent_rate), rel=1e-9)
