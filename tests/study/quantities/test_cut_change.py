"""Scores with the change of weights cut to a rank, against singular vectors and a roll-out of NumPy."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from kpframe.errors import ArgumentError
from kpframe.study._quantities.cut_change import CutChange

from ...toy_moments import F64, Cell, H, moment_of, trials_of  # noqa: TID252


def trained():
    """Return a moment whose W has changed in two directions and U in all of its own, and the first one."""
    test = trials_of(seed=9)
    first = moment_of(trials_of(), test=test)
    model = copy.deepcopy(first.model)
    source = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for scale in (1.0, 0.3):
            model.W += scale * torch.outer(*torch.randn(2, H, generator=source, dtype=F64))
        model.U += 0.2 * torch.randn(model.U.shape, generator=source, dtype=F64)
        model.b += 0.1
    return moment_of(trials_of(), model=model, step=3, first=lambda: first, test=test), first


def loss(model: Cell, readout, trials, W=None, U=None) -> float:
    """Return the loss on trials with other weights, by a loop in NumPy."""
    W = model.W.detach().numpy() if W is None else W
    U = model.U.detach().numpy() if U is None else U
    h, x = np.zeros((len(trials.inputs), H)), trials.inputs.numpy()
    squares = []
    for t in range(x.shape[1]):
        h = np.tanh(h @ W.T + x[:, t] @ U.T + model.b.detach().numpy())
        y = h @ readout.weight.detach().numpy().T + readout.bias.detach().numpy()
        squares.append((y - trials.targets.numpy()[:, t])[trials.scored.numpy()[:, t]] ** 2)
    return float(np.concatenate(squares).mean())


def cut(now: torch.Tensor, then: torch.Tensor, rank: int) -> np.ndarray:
    now, then = now.detach().numpy(), then.detach().numpy()
    left, values, right = np.linalg.svd(now - then)
    kept = min(rank, len(values))
    return then + (left[:, :kept] * values[:kept]) @ right[:kept]


def test_losses_are_those_of_networks_with_cut_weights() -> None:
    moment, first = trained()
    model, readout, test = moment.model, moment.readout, moment.around.test
    data = CutChange(ranks=(0, 1, 2, 4, 9)).measure(moment)
    assert data.parameter.values.tolist() == ["W", "U"]
    for rank in (0, 1, 2, 4, 9):
        W, U = cut(model.W, first.model.W, rank), cut(model.U, first.model.U, rank)
        one = data.sel(cut_rank=rank)
        assert float(one.cut_loss.sel(parameter="W")) == pytest.approx(
            loss(model, readout, test, W=W), rel=1e-11
        )
        assert float(one.cut_loss.sel(parameter="U")) == pytest.approx(
            loss(model, readout, test, U=U), rel=1e-11
        )
        assert float(one.cut_together_loss) == pytest.approx(loss(model, readout, test, W, U), rel=1e-11)
    whole = loss(model, readout, test)
    W = data.sel(parameter="W")
    assert W.cut_loss.sel(cut_rank=[2, 4, 9]).values == pytest.approx(
        [whole] * 3, rel=1e-10
    )  # two directions
    assert abs(float(W.cut_loss.sel(cut_rank=1)) / whole - 1) > 1e-4
    values = np.linalg.svd((model.W - first.model.W).detach().numpy())[1] ** 2
    assert float(W.cut_share.sel(cut_rank=1)) == pytest.approx(values[0] / values.sum(), rel=1e-12)
    assert float(W.cut_share.sel(cut_rank=0)) == 0


def test_before_training_nothing_is_cut_and_later_the_first_network_must_be_known() -> None:
    _, first = trained()
    data = CutChange(weights=("W",)).measure(first)
    whole = loss(first.model, first.readout, first.around.test)
    assert data.cut_loss.values.ravel() == pytest.approx(np.full(11, whole), rel=1e-11)
    assert bool(data.cut_share.isnull().all())
    later = moment_of(trials_of(), step=3, test=trials_of())
    with pytest.raises(ArgumentError, match="a first network that the change is from"):
        CutChange().measure(later)


def test_weights_that_are_not_there_are_refused_by_name() -> None:
    moment, _ = trained()
    with pytest.raises(ArgumentError, match="weights: expected some of W, U, got 'b', which is no matrix"):
        CutChange(weights=("b",)).check(moment)
    with pytest.raises(ArgumentError, match="got 'V', which is no parameter"):
        CutChange(weights=("V",)).check(moment)
