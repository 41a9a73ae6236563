"""The steps that exist, and norms and cosines over them: as a whole, by time and by trial."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch

from kpframe.operators._scale import row_cosines, row_units
from kpframe.study._moment import Moment, Probe

#: What is kept apart: nothing, the steps, or the trials.
Kept = Literal["whole", "time", "trial"]
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


def epochs_of(moment: Moment) -> tuple[list[str], torch.Tensor]:
    """Return the epochs of the trials, in the order in which they begin, and where each is.

    Returns:
        The names, and ``[epoch, B, T]`` bool; padded steps are in none.
    """
    every = existing_steps_of(moment.whole_probe).T.cpu().numpy()
    # time first: the order in which they begin, on all ranks
    names = list(dict.fromkeys(moment.whole_trials.epoch.T[every].tolist()))
    exists, epoch = existing_steps(moment), moment.trials.epoch
    where = [torch.from_numpy(epoch == name).to(exists.device) & exists for name in names]
    return names, torch.stack(where)


def row_norms(values: torch.Tensor) -> torch.Tensor:  # [n, m] -> [n], float64
    """Return the Euclidean norm of each row."""
    units = row_units(values)
    return (values / units).double().square().sum(-1).sqrt() * units[..., 0].double()


class Compared:
    """A change beside what was predicted of it, both ``[B, T, n]`` and 0 at steps that do not exist.

    Figures are ``[]``, ``[T]`` or ``[B]``, NaN where nothing exists and where what they are relative to is 0.
    """

    def __init__(self, actual: torch.Tensor, predicted: torch.Tensor, exists: torch.Tensor) -> None:
        self._actual, self._predicted = (values * exists[..., None] for values in (actual, predicted))
        self._exists = exists

    def norm(self, kept: Kept) -> np.ndarray:
        """Return the norm of the change."""
        return self._numbers(row_norms(_rows(self._actual, kept)), kept)

    def cosine(self, kept: Kept) -> np.ndarray:
        """Return the cosine of the prediction with the change."""
        return self._numbers(row_cosines(_rows(self._predicted, kept), _rows(self._actual, kept)), kept)

    def ratio(self, kept: Kept) -> np.ndarray:
        """Return ``|predicted| / |actual|``."""
        return self._numbers(self._relative(self._predicted, kept), kept)

    def error(self, kept: Kept) -> np.ndarray:
        """Return ``|actual - predicted| / |actual|``."""
        return self._numbers(self._relative(self._actual - self._predicted, kept), kept)

    def _relative(self, values: torch.Tensor, kept: Kept) -> torch.Tensor:
        size = row_norms(_rows(self._actual, kept))
        return torch.where(size > 0, row_norms(_rows(values, kept)) / size, torch.nan)

    def _numbers(self, values: torch.Tensor, kept: Kept) -> np.ndarray:
        there = _rows(self._exists[..., None], kept).any(dim=1)
        found: np.ndarray = torch.where(there, values, torch.nan).cpu().numpy()
        return found.reshape(()) if kept == "whole" else found


def _rows(values: torch.Tensor, kept: Kept) -> torch.Tensor:  # [B, T, n] -> [rows, ...]
    if kept == "whole":
        return values.reshape(1, -1)
    return (values.transpose(0, 1) if kept == "time" else values).flatten(start_dim=1)
