"""The loss with the learned change of weights cut to a low rank: in how many directions it was learned."""

from __future__ import annotations

import copy

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, closest, mismatch
from kpframe.models._model import Model
from kpframe.plugin._core_learning import CutSettings
from kpframe.plugin._takes import takes_settings
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, require
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES, scores_of


class CutChange(Quantity):
    """Scores on test trials with ``W_0 + (W - W_0)_r`` in place of a weight W, ``[parameter, cut_rank]``.

    ``(W - W_0)_r`` is the best approximation of rank r of the change since the first network (Eckart, Young
    1936), by exact singular values; an array of more dimensions is a matrix of its first one by the rest. One
    weight is cut at a time, all else stays as trained; ``cut_together_loss [cut_rank]`` cuts them all. Rank 0
    undoes what the weight has learned, and from its full rank on it is the trained one. ``cut_share`` is the
    share of ``|W - W_0|^2`` that is kept, NaN for a change of zero.

    Source: Schuessler, Mastrogiuseppe, Dubreuil, Ostojic & Barak 2020, arXiv 2006.11036.
    """

    needs = ("readout", "test")
    of_network = True

    @takes_settings(CutSettings)
    def __init__(self, settings: CutSettings) -> None:
        self.weights, self.ranks = settings.weights, sorted(set(settings.ranks))

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` for a weight that the network has not, or that is no matrix."""
        require(moment, self.needs)
        self._names(moment.model)

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the scores.

        Raises:
            ArgumentError: as ``check``; where no first network is known; where it had other parameters.
        """
        self.check(moment)
        start = moment if moment.step == 0 else moment.first  # before training it is the network itself
        if start is None:
            raise ArgumentError(mismatch("moment", "a first network that the change is from", "none"))
        now, then = ({n: p.detach() for n, p in one.model.trainable().items()} for one in (moment, start))
        shapes, others = ({n: tuple(p.shape) for n, p in one.items()} for one in (now, then))
        if shapes != others:
            raise ArgumentError(mismatch("moment", f"the parameters of the first network {others}", shapes))
        names = self._names(moment.model)
        parts = {name: _Cut(now[name], then[name]) for name in names}
        scores = np.array(
            [[_scored(moment, {name: parts[name].weight(rank)}) for rank in self.ranks] for name in names]
        ).reshape(len(names), len(self.ranks), 2)
        together = np.array(
            [_scored(moment, {name: parts[name].weight(rank) for name in names}) for rank in self.ranks]
        )
        shares = [[parts[name].share(rank) for rank in self.ranks] for name in names]
        assert moment.around.loss is not None
        score = SCORES[moment.around.loss]
        kept = f"cut_{score.variable.removeprefix('test_')}"
        own, both = ("parameter", "cut_rank"), ("cut_rank",)
        cut, every = (
            "with the change of this weight cut to a rank",
            "with the changes of all weights cut to a rank",
        )
        return xr.Dataset(
            {
                "cut_loss": (own, scores[..., 0], attributes(f"test loss {cut}", score.loss_unit)),
                kept: (own, scores[..., 1], attributes(f"{score.text}, {cut}")),
                "cut_share": (own, np.array(shares), attributes("share of |W - W_0|^2 that a cut keeps")),
                "cut_together_loss": (
                    both,
                    together[:, 0],
                    attributes(f"test loss {every}", score.loss_unit),
                ),
                kept.replace("cut_", "cut_together_"): (
                    both,
                    together[:, 1],
                    attributes(f"{score.text}, {every}"),
                ),
            },
            coords={
                "parameter": ("parameter", names, attributes("parameter")),
                "cut_rank": ("cut_rank", self.ranks, attributes("rank that the change is cut to")),
            },
        )

    def _names(self, model: Model) -> list[str]:
        """Return the weights whose change is cut."""
        every = model.trainable()
        matrices = [name for name, p in every.items() if p.ndim >= 2]
        for name in self.weights:
            if name not in matrices:
                what = "no matrix" if name in every else "no parameter"
                expected = f"some of {', '.join(matrices) or 'none, as there is no matrix'}"
                got = f"{name!r}, which is {what}{closest(name, matrices)}"
                raise ArgumentError(mismatch("weights", expected, got))
        return list(dict.fromkeys(self.weights)) or matrices


class _Cut:
    """The change of a weight, in its singular vectors."""

    def __init__(self, now: torch.Tensor, then: torch.Tensor) -> None:
        self.now, self.then = now, then
        change = (now.double() - then.double()).flatten(start_dim=1)
        self._left, self._values, self._right = torch.linalg.svd(change, full_matrices=False)

    def weight(self, rank: int) -> torch.Tensor:
        """Return the weight with its change cut."""
        if rank >= len(self._values):
            return self.now
        low = (self._left[:, :rank] * self._values[:rank]) @ self._right[:rank]
        cut: torch.Tensor = (self.then.double() + low.reshape(self.then.shape)).to(self.now.dtype)
        return cut

    def share(self, rank: int) -> float:
        """Return the share of the squared norm of the change that is kept."""
        squares = self._values.square()
        total = float(squares.sum())
        return float(squares[:rank].sum()) / total if total > 0 else float("nan")


def _scored(moment: Moment, weights: dict[str, torch.Tensor]) -> tuple[float, float]:
    """Return the scores of the network with other values of some of its weights."""
    model, around = copy.deepcopy(moment.model), moment.around
    assert moment.readout is not None
    assert around.test is not None
    assert around.loss is not None
    with torch.no_grad():
        for name, values in weights.items():
            model.trainable()[name].copy_(values)
    return scores_of(model, moment.readout, around.test, around.loss)
