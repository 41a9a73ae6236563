"""Operators reduced to one axis: over time and over trials, exactly, as small matrices."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators._base import Operator
from kpframe.plugin._core_quantities import KernelSettings
from kpframe.plugin._takes import takes_settings
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.study._moment import Moment
from kpframe.study._operator_quantity import OperatorQuantity
from kpframe.study._quantities.dims import (
    attributes,
    number_coordinate,
    numbers,
    operator_coordinate,
    time_coordinate,
    trial_coordinate,
)


class Kernel(OperatorQuantity):
    """An operator reduced to one axis, exactly: a product for each place on the axis and each unit."""

    on_ranks = "all"

    axis: ClassVar[str]
    averaged: ClassVar[str]

    @takes_settings(KernelSettings)
    def __init__(self, settings: KernelSettings) -> None:
        self.most = settings.most

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` where it would take more products than it may."""
        space = moment.flow.P.domain
        places, units = space[self.axis].total, space["hidden"].size
        if places * units > self.most:
            expected = f"at least {places * units}, the products with each operator that it takes"
            got = f"{self.most} (it is exact; views has estimates with few products)"
            raise ArgumentError(mismatch("most", expected, got))

    def of(self, moment: Moment, place: int, operator: Operator) -> np.ndarray:
        """Return the kernel of an operator."""
        self.check(moment)
        return numbers(matrix_of(operator.mean(self.averaged).partial_trace("hidden")))


class TimeKernel(Kernel):
    """Each operator averaged over trials and traced over units, ``[operator, time, time_other]``, exactly.

    With its eigenfunctions over time and the share of its trace that each explains, for positive operators;
    NaN for others, whose eigenvalues explain no share of anything.
    """

    axis, averaged = "time", "batch"

    def together(self, moment: Moment, kernels: Sequence[np.ndarray]) -> xr.Dataset:
        """Return the kernels and their eigenfunctions, the leading one first."""
        shares, functions = [], []
        for kernel, operator in zip(kernels, moment.operators.values(), strict=True):
            explained, modes = eigenfunctions(kernel)
            if not operator.positive:
                explained, modes = np.full_like(explained, np.nan), np.full_like(modes, np.nan)
            shares.append(explained)
            functions.append(modes)
        share = "share of the time kernel's trace that an eigenfunction explains"
        return xr.Dataset(
            {
                "time_kernel": (
                    ("operator", "time", "time_other"),
                    np.stack(kernels),
                    attributes("kernel over steps of a trial: mean over trials, trace over units"),
                ),
                "time_eigenfunction": (
                    ("operator", "mode", "time"),
                    np.stack(functions),
                    attributes("eigenfunctions of the time kernel"),
                ),
                "time_explained": (("operator", "mode"), np.stack(shares), attributes(share)),
            },
            coords={
                "operator": operator_coordinate(moment.operators),
                "mode": number_coordinate("mode", len(shares[0]), "place of an eigenfunction"),
                "time": time_coordinate(moment),
                "time_other": time_coordinate(moment, "time_other"),
            },
        )


class TrialKernel(Kernel):
    """Each operator averaged over time and traced over units, ``[operator, trial, trial_other]``, exactly."""

    axis, averaged = "batch", "time"

    def together(self, moment: Moment, kernels: Sequence[np.ndarray]) -> xr.Dataset:
        """Return the kernels."""
        text = attributes("kernel over trials: mean over steps, trace over units")
        return xr.Dataset(
            {"trial_kernel": (("operator", "trial", "trial_other"), np.stack(kernels), text)},
            coords={
                "operator": operator_coordinate(moment.operators),
                "trial": trial_coordinate(moment),
                "trial_other": trial_coordinate(moment, "trial_other"),
                **moment.trial_coordinates(),
            },
        )


def matrix_of(operator: Operator) -> torch.Tensor:
    """Return the matrix of a small operator, of all ranks' trials and on each of them."""
    if operator.domain.shards is None:
        return operator.to_dense()
    return Matvecs(operator, plain=True).dense()


def eigenfunctions(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return explained shares ``[mode]`` and eigenfunctions ``[mode, n]`` of a positive kernel ``[n, n]``."""
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    order = np.argsort(values)[::-1]
    values, functions = np.clip(values[order], 0, None), vectors[:, order].T
    largest = np.take_along_axis(functions, np.abs(functions).argmax(axis=1)[:, None], axis=1)
    total = values.sum()
    return values / total if total > 0 else values, functions * np.sign(largest)
