"""The largest stable rate and the sharpness, against dense matrices and gradient descent of the network."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from attrs import evolve

from kpframe import Readout, linearize
from kpframe.forecast import sharpness, stable_rate
from kpframe.readout import task_loss
from kpframe.tasks import Trials

from ..toy_moments import F64, Cell, H, O, trials_of  # noqa: TID252
from .test_forecast import linear_model, readout_of


def hessian(model: Cell, readout: Readout, trials: Trials, loss: str) -> torch.Tensor:
    """Return the Hessian of the loss in all that learns, dense."""
    modules = torch.nn.ModuleList([copy.deepcopy(model), copy.deepcopy(readout)])
    names = [name for name, p in modules.named_parameters() if p.requires_grad]
    values = [p.detach() for p in modules.parameters() if p.requires_grad]
    flat = torch.cat([value.reshape(-1) for value in values])

    class Whole(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.parts = modules

        def forward(self) -> torch.Tensor:
            states = self.parts[0].rollout(trials.inputs, mask=trials.mask).states
            return task_loss(self.parts[1](states), trials, loss)

    def value(at: torch.Tensor) -> torch.Tensor:
        split = at.split([v.numel() for v in values])
        given = {f"parts.{n}": p.reshape(v.shape) for n, p, v in zip(names, split, values, strict=True)}
        return torch.func.functional_call(Whole(), given, ())

    return torch.autograd.functional.hessian(value, flat)


@pytest.mark.parametrize("loss", ["mse", "cross_entropy"])
@pytest.mark.parametrize("learned", [True, False])
@pytest.mark.rows(2)
def test_curvatures_are_those_of_dense_matrices(loss: str, learned: bool) -> None:
    trials, model, readout = trials_of(loss), Cell(), readout_of(weight=learned, bias=learned)
    flow = linearize(model, trials.inputs, mask=trials.mask)
    y, J = linear_model(model, readout, trials)
    y, rows = y[trials.scored], J[trials.scored]  # [n, O], [n, O, M]
    n = len(y)
    if loss == "mse":
        inner = torch.eye(O, dtype=F64).expand(n, O, O) * 2 / (n * O)
    else:
        p = y.softmax(1)
        inner = (torch.diag_embed(p) - p[:, :, None] * p[:, None]) / n
    newton = torch.einsum("nom,nop,npk->mk", rows, inner, rows)
    largest = float(torch.linalg.eigvalsh(newton)[-1])
    found = stable_rate(flow, readout, trials, loss)
    assert found.converged
    assert found.curvature == pytest.approx(largest, rel=1e-9)
    assert found.rate == pytest.approx(2 / largest, rel=1e-9)
    few = stable_rate(flow, readout, trials, loss, budget=30)
    assert few.method.startswith("block Lanczos")
    assert few.curvature == pytest.approx(largest, rel=1e-6)
    top = float(torch.linalg.eigvalsh(hessian(model, readout, trials, loss))[-1])
    sharp = sharpness(flow, readout, trials, loss)
    assert sharp.converged
    assert sharp.value == pytest.approx(top, rel=1e-9)
    assert abs(top - largest) > 0.05 * largest  # the network's own curvature counts away from a minimum


@pytest.mark.parametrize(("share", "converges"), [(0.95, True), (1.05, False)])
def test_gradient_descent_is_stable_just_below_the_rate(share: float, converges: bool) -> None:
    """Near a minimum, where a network learns what another network does."""
    trials, teacher, readout = trials_of(), Cell(), Readout(H, O, generator=5, dtype=F64)
    with torch.no_grad():
        targets = readout(teacher.rollout(trials.inputs, mask=trials.mask).states)
    trials = evolve(trials, targets=targets)
    flow = linearize(teacher, trials.inputs, mask=trials.mask)
    found = stable_rate(flow, readout, trials, "mse")
    assert sharpness(flow, readout, trials, "mse").value == pytest.approx(found.curvature, rel=1e-9)
    learned = [*(model := copy.deepcopy(teacher)).parameters(), *readout.parameters()]
    source = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in learned:
            parameter += 1e-5 * torch.randn(parameter.shape, generator=source, dtype=F64)
    losses = []
    for _ in range(150):
        outputs = readout(model.rollout(trials.inputs, mask=trials.mask).states)
        loss = task_loss(outputs, trials, "mse")
        losses.append(float(loss.detach()))
        with torch.no_grad():
            for parameter, g in zip(learned, torch.autograd.grad(loss, learned), strict=True):
                parameter -= share * found.rate * g
    if converges:
        assert losses[-1] < 0.05 * losses[0]
        assert losses[-1] < losses[-2]
    else:
        assert losses[-1] > 1e5 * losses[0]  # it has left the minimum


def test_where_nothing_moves_the_outputs_any_rate_is_stable() -> None:
    trials, model, readout = trials_of(), Cell(), readout_of(weight=False, bias=False)
    with torch.no_grad():
        readout.weight.zero_()
    flow = linearize(model, trials.inputs, mask=trials.mask)
    found = stable_rate(flow, readout, trials, "mse")
    assert (found.rate, found.curvature) == (math.inf, 0.0)
