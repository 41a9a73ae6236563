"""``Quantity``: something that a study records of a network at a step of its training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Literal

import xarray as xr

from kpframe.plugin._manager import create
from kpframe.study._moment import Moment


class Quantity(ABC):
    """Something that is recorded of a network: ranks, spectra, contributions, ...

    An author writes ``measure``, a function of a moment alone: it draws random numbers only from
    ``moment.generator``, so that a run that is resumed ends in the same figures as an undisturbed one.

    Attributes:
        needs: what a moment must have for it, of ``"readout"``, ``"targets"`` (and the loss), ``"test"`` and
            ``"rules"``; a study that lacks it is refused before it computes anything.
        of_network: whether it is a figure of the network alone. Others are measured along the trajectories of
            each set of inputs of a moment; with several sets the results get a dimension ``inputs``.
        on_ranks: how it is measured on several ranks (``torchrun``). ``"first"``, unless it says otherwise:
            on rank 0 alone, along all trials, as by one process. ``"all"``: on every rank, along its own
            trials; what it returns along ``trial`` is of these or, like all else, of the trials of all ranks
            (``moment.every_trial``, ``moment.shards``), and then the same on each. ``"none"``: not at all;
            a study with it is refused.
    """

    needs: ClassVar[tuple[str, ...]] = ()
    of_network: ClassVar[bool] = False
    on_ranks: ClassVar[Literal["first", "all", "none"]] = "first"

    @abstractmethod
    def measure(self, moment: Moment) -> xr.Dataset:
        """Return what is recorded of ``moment``: dims named and with coordinates.

        Each variable has its attributes ``long_name`` and ``units``; the standard error of ``x`` is called
        ``x_stderr``.

        Raises:
            KpframeError: when it cannot be measured; it costs this quantity's figures at this step, which
                are then NaN, and the reason is recorded.
        """

    def check(self, moment: Moment) -> None:  # noqa: B027 - most have nothing to check
        """Raise ``KpframeError`` for a ``moment`` before training on which it could never be measured."""

    def across(self, recorded: xr.Dataset) -> xr.Dataset | None:
        """Return what follows from the records of all steps of one training together, None for nothing.

        Args:
            recorded: what ``measure`` returned, with a dimension ``step``; NaN where it failed.
        """
        return None


def create_quantity(name: str, /, **settings: Any) -> Quantity:
    """Return the quantity called ``name``; raises like ``create_model``."""
    made: Quantity = create("quantity", name, settings, Quantity)
    return made
