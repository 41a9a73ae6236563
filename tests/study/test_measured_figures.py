"""What a study's dataset says of a network, against dense matrices and a training loop written out."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe import Readout, linearize
from kpframe.flow._flow import Flow
from kpframe.study._moment import Moment, Probe, Surroundings
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._quantity import create_quantity
from kpframe.study._record import record
from kpframe.study._running.run_study import run_study
from kpframe.study._study_file.reading import parse_study
from kpframe.tasks._error import error

F64 = torch.float64
B, T, H = 6, 5, 4
OPERATORS = ("P P*", "K", "Phi")


@pytest.fixture(scope="module")
def network(offered: ModuleType):
    torch.manual_seed(2)
    model, task = offered.Small(2).double(), offered.Sum()
    return model, Readout(H, 1, generator=3, dtype=F64), task, task.sample(B, generator=1, dtype=F64)


@pytest.fixture(scope="module")
def rules(offered: ModuleType):
    return {"exact": offered.Exact(), "twice": offered.Twice(), "window": offered.Window()}


@pytest.fixture(scope="module")
def flow(network) -> Flow:
    return linearize(network[0], network[3].inputs)


def measured(network, rules, budget: int) -> xr.Dataset:
    model, readout, task, probe = network
    test = task.sample(50, generator=4, dtype=F64)
    around = Surroundings(
        {"test": Probe.of(probe)}, loss=task.loss, test=test, rules=rules, budget=budget, seed=5
    )
    names = ("scores", "effective_rank", "trace", "time_kernel", "trial_kernel", "rules")
    quantities = {name: create_quantity(name) for name in names}
    quantities["spectrum"] = create_quantity("spectrum", k=6, tolerance=1e-6)
    data = record(Moment(model, readout, around), quantities)
    assert not any(data.quantity_failure.values)
    return data


@pytest.fixture(scope="module")
def data(network, rules) -> xr.Dataset:
    return measured(network, rules, 20)  # fewer than J has columns


@pytest.fixture(scope="module")
def dense(flow: Flow) -> dict[str, torch.Tensor]:
    """Return the matrices of the operators, made of those of P and J."""
    P, J = flow.P.to_dense(), flow.J.to_dense()
    return {"P P*": P @ P.T, "K": J @ J.T, "Phi": P @ J @ J.T @ P.T}


def test_kernels_are_means_over_one_axis_and_traces_over_units(data, dense) -> None:
    for name in OPERATORS:
        parts = dense[name].reshape(B, T, H, B, T, H)
        over_time = torch.einsum("bthcsh->ts", parts) / B**2
        over_trials = torch.einsum("bthcsh->bc", parts) / T**2
        one = data.sel(operator=name)
        np.testing.assert_allclose(one.time_kernel, over_time, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(one.trial_kernel, over_trials, rtol=1e-10, atol=1e-12)
        assert np.abs(one.trial_kernel).max() > 1e-3
        values = torch.linalg.eigvalsh(over_time).flip(0)
        np.testing.assert_allclose(one.time_explained, values / over_time.trace(), rtol=1e-8, atol=1e-12)
        for mode in range(3):
            f = torch.from_numpy(one.time_eigenfunction[mode].values.copy())
            assert float(f.norm()) == pytest.approx(1, rel=1e-12)
            assert torch.allclose(over_time @ f, values[mode] * f, rtol=1e-7, atol=1e-9 * float(values[0]))


def test_estimates_are_within_standard_errors_that_are_not_zero(network, rules, data, dense) -> None:
    every = measured(network, rules, 2 * B * T * H)
    for name, matrix in dense.items():
        right = {
            "trace": float(matrix.trace()),
            "effective_rank": float(matrix.trace() ** 2 / matrix.square().sum()),
        }
        for figure, value in right.items():
            one, stderr = (
                float(data[figure].sel(operator=name)),
                float(data[f"{figure}_stderr"].sel(operator=name)),
            )
            assert 0 < stderr < 0.2 * value, (name, figure)
            assert one != pytest.approx(value, rel=1e-9)
            assert one == pytest.approx(value, abs=5 * stderr), (name, figure)
            assert float(every[figure].sel(operator=name)) == pytest.approx(value, rel=1e-9)
            assert float(every[f"{figure}_stderr"].sel(operator=name)) == 0
        for found, how in ((data, "nystrom"), (every, "exact")):
            method = found.effective_rank_method.sel(operator=name).item()
            assert method.startswith(f"participation of op, {how}")


def test_leading_values_residuals_and_flags(data, network, rules, dense) -> None:
    for name, matrix in dense.items():
        one, right = data.sel(operator=name), torch.linalg.eigvalsh(matrix).flip(0)[:6]
        assert bool(one.singular_value_converged.all())
        np.testing.assert_allclose(one.singular_value, right, rtol=1e-6)
        assert bool((one.singular_value_residual <= 1e-6 * one.singular_value).all())
    assert int(data.state_dimension) == B * T * H


def test_rates_are_relative_to_the_exact_gradient(data, network, rules, flow, dense) -> None:
    model, readout, task, probe = network
    err = error(readout, flow.trajectory.states, probe, task.loss)
    model.zero_grad()
    loss = (readout(model.rollout(probe.inputs).states) - probe.targets)[:, 1:].square().mean()
    loss.backward()
    g = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    P, J = flow.P.to_dense(), flow.J.to_dense()
    own = {"exact": P, "twice": 2 * P, "window": torch.eye(len(P), dtype=F64)}
    assert set(own) == set(data.rule.values.tolist())
    for label, P_rule in own.items():
        one, update = data.sel(rule=label), J.T @ P_rule.T @ err.reshape(-1)
        assert float(one.gradient_cosine) == pytest.approx(
            float(update @ g / update.norm() / g.norm()), rel=1e-9
        )
        assert float(one.loss_rate_ratio) == pytest.approx(float(update @ g / (g @ g)), rel=1e-9)
        F = P @ J @ J.T @ P_rule.T
        right = float((F * dense["Phi"]).sum() / F.norm() / dense["Phi"].norm())
        stderr = float(one.flow_alignment_stderr)
        assert float(one.flow_alignment) == pytest.approx(right, abs=5 * stderr + 1e-9), label
        assert (stderr > 1e-6) == (label == "window"), label
    assert float(data.loss_rate_ratio.sel(rule="exact")) == pytest.approx(1, rel=1e-12)
    assert float(data.loss_rate_ratio.sel(rule="twice")) == pytest.approx(2, rel=1e-12)
    assert abs(float(data.loss_rate_ratio.sel(rule="window")) - 1) > 1e-3


def test_scores_are_those_of_the_test_trials(data, network) -> None:
    model, readout, task, _ = network
    test = task.sample(50, generator=4, dtype=F64)
    with torch.no_grad():
        apart = (readout(model.rollout(test.inputs).states) - test.targets)[:, 1:]
    spread = test.targets[:, 1:] - test.targets[:, 1:].mean(dim=(0, 1))
    assert float(data.test_loss) == pytest.approx(float(apart.square().mean()), rel=1e-12)
    assert float(data.test_r2) == pytest.approx(
        1 - float(apart.square().sum() / spread.square().sum()), rel=1e-12
    )


def test_losses_and_scores_stand_at_their_own_update(offered: ModuleType, tmp_path: Path) -> None:
    """``training_loss`` at update k is that before it, on its trials; figures at step s, after s updates."""
    steps, seed = 6, 3
    study = parse_study(
        {
            "seed": seed,
            "dtype": "float64",
            "task": {"name": "sum"},
            "network": [{"name": "small"}],
            "rule": [{"name": "own_window"}],
            "training": {"steps": steps, "batch_size": 7, "learning_rate": 0.05},
            "measure": {"steps": [0, 2, steps], "trials": 3, "budget": 16},
            "quantity": [{"name": "scores"}, {"name": "rules"}],
        },
        "here",
    )
    data = run_study(study, tmp_path / "out").sel(network="small")
    assert data["update"].values.tolist() == [1, 2, 3, 4, 5, 6]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model, task = offered.Small(2).double(), offered.Sum()
    readout = Readout(H, 1, generator=seed, dtype=F64)
    stream, test = (
        torch.Generator().manual_seed(seed),
        task.sample(500, generator=seed + 1, split="test", dtype=F64),
    )
    optimizer = torch.optim.Adam([*model.parameters(), *readout.parameters()], lr=0.05)

    def loss_of(trials) -> torch.Tensor:
        return (readout(model.rollout(trials.inputs).states) - trials.targets)[:, 1:].square().mean()

    losses, scores = [], {}
    for made in range(steps + 1):
        scores[made] = float(loss_of(test).detach())
        if made in (0, 2, steps):
            saved = load_checkpoint(tmp_path / "out" / "checkpoints" / f"small-{made:06d}.safetensors")
            assert torch.allclose(saved.tensors["model.W"], model.W.detach(), rtol=1e-9), made
        if made == steps:
            break
        loss = loss_of(task.sample(7, generator=stream, dtype=F64))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    np.testing.assert_allclose(data.training_loss, losses, rtol=1e-9)
    assert (
        min(abs(np.diff(losses))) > 1e-6
    )  # no two updates have one loss, so that none can stand for another
    np.testing.assert_allclose(data.test_loss, [scores[made] for made in (0, 2, steps)], rtol=1e-9)
    assert scores[0] > scores[2] > scores[steps]
