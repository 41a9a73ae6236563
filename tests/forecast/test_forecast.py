"""Forecasts of gradient descent, against the linearised network and the network itself, by autograd."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import pytest
import torch
from attrs import evolve
from torch import Tensor

from kpframe import Model, Readout, linearize
from kpframe.errors import ArgumentError, NonFiniteError, ShapeError
from kpframe.forecast import _forecast, forecast, output_kernel, stable_rate
from kpframe.readout import task_loss
from kpframe.tasks import Trials

from ..toy_moments import F64, B, Cell, H, I, O, T, dense_jacobian, trials_of  # noqa: TID252

ETA, COUNTS = 0.2, (0, 1, 10, 60)


def readout_of(*, weight: bool = True, bias: bool = True) -> Readout:
    readout = Readout(H, O, generator=5, dtype=F64)
    readout.weight.requires_grad_(weight)
    readout.bias.requires_grad_(bias)
    return readout


def linear_model(model: Model, readout: Readout, trials: Trials) -> tuple[Tensor, Tensor]:
    """Return the outputs ``[B, T, O]`` and their derivative ``[B, T, O, M]`` by all that learns."""
    h = model.rollout(trials.inputs, mask=trials.mask).states.detach()
    W, b = readout.weight.detach(), readout.bias.detach()
    parts = [torch.einsum("oh,bthm->btom", W, dense_jacobian(model, trials))]
    eye = torch.eye(O, dtype=F64)
    if readout.weight.requires_grad:
        parts.append(torch.einsum("bth,op->btoph", h, eye).flatten(3))
    if readout.bias.requires_grad:
        parts.append(eye.expand(*h.shape[:2], O, O))
    return h @ W.T + b, torch.cat(parts, dim=3)


def descended(y: Tensor, J: Tensor, trials: Trials, loss: str, eta: float, counts: Sequence[int]) -> Tensor:
    """Return the outputs of the linearised network after updates of its parameters w, by autograd."""
    w, found = torch.zeros(J.shape[3], dtype=F64, requires_grad=True), {}
    for made in range(max(counts) + 1):
        outputs = y + J @ w
        found[made] = outputs.detach()
        (g,) = torch.autograd.grad(task_loss(outputs, trials, loss), w)
        w = (w - eta * g).detach().requires_grad_(True)
    return torch.stack([found[count] for count in counts])


@pytest.fixture(params=["mse", "cross_entropy"])
def case(request):
    trials = trials_of(request.param)
    model = Cell()
    return request.param, trials, model, linearize(model, trials.inputs, mask=trials.mask)


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize(("weight", "bias"), [(True, True), (False, True), (False, False)])
@pytest.mark.rows(6)
def test_a_forecast_is_the_linearised_network_trained(case, monkeypatch, dense, weight, bias) -> None:
    loss, trials, model, flow = case
    if not dense:
        monkeypatch.setattr(_forecast, "DENSE", 1)
        monkeypatch.setattr(_forecast, "DENSE_ITERATED", 1)
    readout = readout_of(weight=weight, bias=bias)
    found = forecast(flow, readout, trials, loss, learning_rate=ETA, updates=COUNTS)
    y, J = linear_model(model, readout, trials)
    right = descended(y, J, trials, loss, ETA, COUNTS)
    assert found.outputs.shape == (len(COUNTS), B, T, O)
    assert found.method.startswith("dense") == dense
    apart = (found.outputs - right)[:, trials.scored].flatten(1).norm(dim=1)
    assert float((found.outputs - right).norm()) < 1e-8 * float((right - y).norm())
    assert bool((apart <= found.error_norms + 1e-13).all())  # the bound holds
    assert bool(found.converged.all())
    losses = [float(task_loss(one, trials, loss)) for one in right]
    torch.testing.assert_close(found.losses, torch.tensor(losses, dtype=F64), rtol=1e-9, atol=0)
    assert losses[-1] < 0.9 * losses[0]
    other = readout_of(weight=True, bias=not bias)  # another part of the readout learns
    apart = forecast(flow, other, trials, loss, learning_rate=ETA, updates=COUNTS).outputs - right
    assert float(apart.norm()) > 1e-3 * float((right - y).norm())


@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.rows(2)
def test_the_flow_is_the_limit_of_small_updates(case, monkeypatch, dense) -> None:
    loss, trials, model, flow = case
    if not dense:
        monkeypatch.setattr(_forecast, "DENSE", 1)
        monkeypatch.setattr(_forecast, "DENSE_ITERATED", 1)
    readout = readout_of()
    found = forecast(flow, readout, trials, loss, learning_rate=ETA, updates=[2, 8], law="flow")
    y, J = linear_model(model, readout, trials)
    # Richardson: the error of small updates is linear in their size
    few, many = (descended(y, J, trials, loss, ETA / parts, [2 * parts, 8 * parts]) for parts in (32, 64))
    size = float((many - y).norm())
    assert float((found.outputs - (2 * many - few)).norm()) < 2e-5 * size
    assert float((found.outputs - many).norm()) > 1e-4 * size
    assert bool(found.converged.all())
    if loss == "mse":  # and exactly, by the matrix exponential
        rows = J[trials.scored].flatten(0, 1)
        theta = rows @ rows.T
        error = (y - trials.targets)[trials.scored].flatten()
        for count, outputs in zip((2, 8), found.outputs, strict=True):
            left = torch.linalg.matrix_exp(-2 / len(error) * ETA * count * theta) @ error
            got = (outputs - trials.targets)[trials.scored].flatten()
            assert float((got - left).norm()) < 1e-8 * float((left - error).norm())


@pytest.mark.rows(2)
def test_the_kernel_of_the_outputs_is_that_of_dense_matrices(case) -> None:
    _, trials, model, flow = case
    for weight, bias in ((True, True), (True, False), (False, False)):
        readout = readout_of(weight=weight, bias=bias)
        _, J = linear_model(model, readout, trials)
        rows = J.flatten(0, 2)
        theta = output_kernel(flow, readout)
        torch.testing.assert_close(theta.to_dense(), rows @ rows.T, rtol=1e-10, atol=1e-12)
        assert theta.positive


def test_a_budget_that_ends_a_krylov_space_early_is_said_to_do_so(monkeypatch) -> None:
    trials, model, readout = trials_of(), Cell(), readout_of()
    flow = linearize(model, trials.inputs, mask=trials.mask)
    monkeypatch.setattr(_forecast, "DENSE", 1)
    y, J = linear_model(model, readout, trials)
    right = descended(y, J, trials, "mse", ETA, (2, 60))
    found = forecast(flow, readout, trials, "mse", learning_rate=ETA, updates=(2, 60), budget=4)
    apart = (found.outputs - right)[:, trials.scored].flatten(1).norm(dim=1)
    assert found.converged.tolist() == [True, False]  # four products are enough for two updates
    assert bool((apart <= found.error_norms + 1e-13).all())
    assert float(apart[1]) > 1e-6
    classes = trials_of("cross_entropy")
    monkeypatch.setattr(_forecast, "DENSE_ITERATED", 1)
    with pytest.raises(ArgumentError, match="budget: expected as many products as"):
        forecast(flow, readout, classes, "cross_entropy", learning_rate=ETA, updates=60, budget=4)


@pytest.mark.parametrize("dense", [True, False])
def test_above_the_stable_rate_the_forecast_diverges_and_says_so(monkeypatch, dense) -> None:
    trials, model, readout = trials_of(), Cell(), readout_of()
    flow = linearize(model, trials.inputs, mask=trials.mask)
    if not dense:
        monkeypatch.setattr(_forecast, "DENSE", 1)
    y, J = linear_model(model, readout, trials)
    calm = forecast(flow, readout, trials, "mse", learning_rate=ETA, updates=40)
    eta = 1.2 * calm.stable_rate
    right = descended(y, J, trials, "mse", eta, (10, 40))
    found = forecast(flow, readout, trials, "mse", learning_rate=eta, updates=(10, 40))
    assert (calm.stable, found.stable) == (True, False)
    assert float(found.losses[1]) > 1e3 * float(found.losses[0]) > 0
    assert float((found.outputs - right).norm()) < 1e-8 * float(right.norm())
    with pytest.raises(NonFiniteError, match="learning_rate: expected at most the largest stable one"):
        forecast(flow, readout, trials, "mse", learning_rate=eta, updates=5000)


def trained(model: Model, readout: Readout, trials: Trials, eta: float, updates: int) -> float:
    """Return the loss after updates of the network itself."""
    model, readout = copy.deepcopy(model), copy.deepcopy(readout)
    learned = [*model.parameters(), *readout.parameters()]
    for made in range(updates + 1):
        outputs = readout(model.rollout(trials.inputs, mask=trials.mask).states)
        value = task_loss(outputs, trials, "mse")
        if made < updates:
            with torch.no_grad():
                for parameter, g in zip(learned, torch.autograd.grad(value, learned), strict=True):
                    parameter -= eta * g
    return float(value.detach())


@pytest.mark.parametrize(("width", "size", "lazy"), [(96, 1.0, True), (4, 0.1, False)])
def test_a_wide_network_is_forecast_and_a_small_one_is_not(width: int, size: float, lazy: bool) -> None:
    """A hundred updates at a tenth of the stable rate: many weights each move a little, few move a lot."""
    trials, source = trials_of(seed=3), torch.Generator().manual_seed(0)
    mix = 0.2 * torch.randn(I, O, generator=source, dtype=F64)
    trials = evolve(trials, targets=torch.tanh(2 * trials.inputs.cumsum(1)) @ mix)
    model, readout = Cell(width=width), Readout(width, O, generator=5, dtype=F64)
    with torch.no_grad():
        model.W /= width**0.5
        for parameter in model.parameters():
            parameter *= size
    flow = linearize(model, trials.inputs, mask=trials.mask)
    eta = 0.1 * stable_rate(flow, readout, trials, "mse", tol=1e-2).rate
    found = forecast(flow, readout, trials, "mse", learning_rate=eta, updates=(0, 100))
    start, predicted = found.losses.tolist()
    reached = trained(model, readout, trials, eta, 100)
    assert reached < 0.25 * start
    gap = abs(predicted - reached) / (start - reached)
    assert gap < 0.01 if lazy else gap > 0.1


def test_bad_input_is_refused_by_name(case) -> None:
    loss, trials, model, flow = case
    readout = readout_of()

    def refused(match: str, **other: object) -> None:
        given = {"learning_rate": ETA, "updates": 3} | other
        with pytest.raises(ArgumentError, match=match):
            forecast(
                given.pop("flow", flow), given.pop("readout", readout), given.pop("trials", trials),
                given.pop("loss", loss), **given,
            )  # fmt: skip

    refused("updates: expected a whole number >= 0, or several, got -1", updates=-1)
    refused("updates: expected a whole number >= 0, or several, got none", updates=[])
    refused("updates: expected a whole number >= 0, or several, got 2.5", updates=2.5)
    refused("learning_rate: expected a finite number > 0, got 0", learning_rate=0)
    refused("learning_rate: expected a finite number > 0, got nan", learning_rate=float("nan"))
    refused("law: expected one of descent, flow, got 'adam'", law="adam")
    refused("kind: expected one of cross_entropy, mse, got 'l1'", loss="l1")
    refused("readout: expected a kpframe.Readout", readout=torch.nn.Linear(H, O))
    refused("flow: expected a Flow", flow=model)
    refused("trials: expected the trials that the flow was made along, got other inputs",
            trials=evolve(trials, inputs=trials.inputs + 1))  # fmt: skip
    refused("trials: .* got inputs of shape", trials=trials.select(slice(0, 3)))
    refused("trials: .* got another mask; linearize", flow=linearize(model, trials.inputs))
    refused("scored: expected at least one scored step",
            trials=evolve(trials, scored=torch.zeros_like(trials.scored)))  # fmt: skip
    with pytest.raises(ShapeError, match="readout: expected one of the flow's 4 units, got one of 5"):
        forecast(flow, Readout(H + 1, O, dtype=F64), trials, loss, learning_rate=ETA, updates=1)


def test_what_is_not_scored_does_not_drive_and_is_forecast_nevertheless(case) -> None:
    loss, trials, model, flow = case
    readout = readout_of()
    late = evolve(trials, scored=trials.scored & (torch.arange(T) > 2))
    found, other = (
        forecast(flow, readout, one, loss, learning_rate=ETA, updates=20).outputs for one in (trials, late)
    )
    y, J = linear_model(model, readout, trials)
    right = descended(y, J, late, loss, ETA, (20,))
    assert float((other - right)[:, :, :3].norm()) < 1e-8 * float((right - y)[:, :, :3].norm())
    assert float((found - other)[:, :, :3].norm()) > 1e-2 * float((right - y)[:, :, :3].norm())
    assert trials.inputs.shape[2] == I
