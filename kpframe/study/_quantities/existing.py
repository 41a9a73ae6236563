"""The steps that exist, and norms and cosines over them: as a whole, by time and by trial."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from kpframe.operators._scale import row_cosines, row_units
from kpframe.study._moment import Moment, Probe

#: What is kept apart: nothing, the steps, or the trials.
Kept = Literal["whole", "time", "trial"]
#: Size of a change below which it is none.
TINY = 1e-300
#: Dimensions that are left.
DIMS: dict[Kept, tuple[str, ...]] = {"whole": (), "time": ("time",), "trial": ("trial",)}


def existing_steps(moment: Moment) -> torch.Tensor:  # [B, T], bool
    """Return which steps of the trials exist: padded ones hold the state and count nowhere."""
    return existing_steps_of(moment.probe)


def existing_steps_of(probe: Probe) -> torch.Tensor:  # [B, T], bool
    """Return which steps of the trials of a probe exist."""
    if probe.mask is not None:
        return probe.mask
    return torch.ones(probe.inputs.shape[:2], dtype=torch.bool, device=probe.inputs.device)


def epochs_of(moment: Moment, probe: Probe | None = None) -> tuple[list[str], torch.Tensor]:
    """Return the epochs of all trials, in the order in which they begin, and where each is.

    Args:
        moment: whose trials.
        probe: those among which they are looked for; this rank's own when left out.

    Returns:
        The names, and ``[epoch, B, T]`` bool; padded steps are in none.
    """
    every = existing_steps_of(moment.whole_probe).T.cpu().numpy()
    # time first: the order in which they begin, on all ranks
    names = list(dict.fromkeys(moment.whole_trials.epoch.T[every].tolist()))
    chosen = moment.probe if probe is None else probe
    assert chosen.trials is not None
    exists, epoch = existing_steps_of(chosen), chosen.trials.epoch
    where = [torch.from_numpy(epoch == name).to(exists.device) & exists for name in names]
    return names, torch.stack(where)


def row_norms(values: torch.Tensor) -> torch.Tensor:  # [n, m] -> [n], float64
    """Return the Euclidean norm of each row."""
    units = row_units(values)
    return (values / units).double().square().sum(-1).sqrt() * units[..., 0].double()


class Compared:
    """A change beside what was predicted of it, both ``[B, T, n]``, at the steps that exist.

    Figures are ``[]``, ``[T]`` or ``[B]``, of the trials of all ranks, NaN where nothing exists and where
    what they are relative to is 0.
    """

    def __init__(self, actual: torch.Tensor, predicted: torch.Tensor, moment: Moment) -> None:
        exists = existing_steps(moment)
        self._moment = moment
        self._actual, self._predicted = (values * exists[..., None] for values in (actual, predicted))
        self._exists = existing_steps_of(moment.whole_probe)

    def norm(self, kept: Kept) -> np.ndarray:
        """Return the norm of the change."""
        return self._numbers(self._norms(self._actual, kept), kept)

    def cosine(self, kept: Kept) -> np.ndarray:
        """Return the cosine of the prediction with the change."""
        if self._moment.shards is None:
            found = row_cosines(_rows(self._predicted, kept), _rows(self._actual, kept))
            return self._numbers(found, kept)
        units = [self._norms(values, "whole").clamp(min=TINY) for values in (self._predicted, self._actual)]
        one, other = (v.double() / u for v, u in zip((self._predicted, self._actual), units, strict=True))
        inner = self._sums(one * other, kept)
        sizes = self._sums(one.square(), kept).sqrt() * self._sums(other.square(), kept).sqrt()
        return self._numbers(inner / sizes, kept)

    def ratio(self, kept: Kept) -> np.ndarray:
        """Return ``|predicted| / |actual|``."""
        return self._numbers(self._relative(self._predicted, kept), kept)

    def error(self, kept: Kept) -> np.ndarray:
        """Return ``|actual - predicted| / |actual|``."""
        return self._numbers(self._relative(self._actual - self._predicted, kept), kept)

    def _relative(self, values: torch.Tensor, kept: Kept) -> torch.Tensor:
        size = self._norms(self._actual, kept)
        return torch.where(size > 0, self._norms(values, kept) / size, torch.nan)

    def _norms(self, values: torch.Tensor, kept: Kept) -> torch.Tensor:
        shards = self._moment.shards
        if shards is None:
            return row_norms(_rows(values, kept))
        unit = shards.max(values.abs().max()).double().clamp(min=TINY)
        return self._sums((values.double() / unit).square(), kept).sqrt() * unit

    def _sums(self, values: torch.Tensor, kept: Kept) -> torch.Tensor:  # [B, T, n] -> [rows]
        """Return sums over the trials of all ranks, of what each has summed over units."""
        return _rows(self._moment.every_trial(values.sum(dim=-1, keepdim=True)), kept).sum(dim=1)

    def _numbers(self, values: torch.Tensor, kept: Kept) -> np.ndarray:
        there = _rows(self._exists[..., None], kept).any(dim=1)
        found: np.ndarray = torch.where(there, values, torch.nan).cpu().numpy()
        return found.reshape(()) if kept == "whole" else found


def _rows(values: torch.Tensor, kept: Kept) -> torch.Tensor:  # [B, T, n] -> [rows, ...]
    if kept == "whole":
        return values.reshape(1, -1)
    return (values.transpose(0, 1) if kept == "time" else values).flatten(start_dim=1)
