"""How perturbations of the state grow along trials: Lyapunov exponents, and finite-time ones by time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.models._linearize import linearize
from kpframe.operators._isolation import isolated
from kpframe.plugin._core_learning import FiniteTimeSettings, LyapunovSettings
from kpframe.plugin._takes import takes_settings
from kpframe.spectra import lyapunov_exponents
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import (
    attributes,
    number_coordinate,
    numbers,
    time_coordinate,
    trial_coordinate,
)
from kpframe.study._quantities.existing import existing_steps, existing_steps_of
from kpframe.study._quantity import Quantity


class Lyapunov(Quantity):
    """The k largest Lyapunov exponents of each trial, and what follows from them, with means over trials.

    A trial has the exponents that it would have alone; padded steps are no steps. One that has no step after
    those that are discarded has NaN and is left out of the means. The Kaplan-Yorke dimension and the
    expansion rate need all exponents that count in them: NaN where k of them are too few.
    """

    on_ranks = "all"

    @takes_settings(LyapunovSettings)
    def __init__(self, settings: LyapunovSettings) -> None:
        self.settings = settings

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` where no trial has a step after those that are discarded."""
        for name in moment.around.probes:
            self._counted(moment.along(name))

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the exponents ``[trial, exponent]``; raises as ``check``."""
        counted = self._counted(moment)
        there, width = counted > 0, moment.model.width
        k, dt = min(self.settings.k, width), self.settings.dt
        A, every = _step_jacobian_of(moment, there)
        spectrum = lyapunov_exponents(A, k=k, dt=dt, discard=self.settings.discard)
        exponents = every(spectrum.exponents.double())
        # beyond the last of k there may be more that are positive, or that the dimension takes
        few = k < width
        short = few & (exponents.sum(dim=1) >= 0)
        more = few & (exponents[:, -1] > 0)
        unit = _per_time(dt)
        data = xr.Dataset(coords=_coordinates(moment, k))
        data["lyapunov_steps"] = ("trial", numbers(counted), attributes("steps that count in a trial"))
        for name, dims, values, text, units in (
            ("lyapunov_exponent", ("trial", "exponent"), exponents, "Lyapunov exponents", unit),
            (
                "lyapunov_dimension",
                ("trial",),
                every(spectrum.dimension.double()).masked_fill(short, torch.nan),
                "Kaplan-Yorke dimension, NaN where k exponents are too few for it",
                "1",
            ),
            (
                "lyapunov_expansion",
                ("trial",),
                every(spectrum.expansion_rate.double()).masked_fill(more, torch.nan),
                "sum of the positive exponents, NaN where there may be more than k",
                unit,
            ),
        ):
            whole = np.full((len(there), *values.shape[1:]), np.nan)
            whole[there.cpu().numpy()] = numbers(values)
            data[name] = (dims, whole, attributes(text, units))
            mean, stderr = _mean(numbers(values))
            data[f"{name}_mean"] = (dims[1:], mean, attributes(f"mean over trials of the {text}", units))
            about = f"standard error over trials of the mean of the {text}"
            data[f"{name}_mean_stderr"] = (dims[1:], stderr, attributes(about, units))
        return data

    def _counted(self, moment: Moment) -> torch.Tensor:  # [B], int64, of the trials of all ranks
        lengths = existing_steps_of(moment.whole_probe).sum(dim=1)
        counted = (lengths - self.settings.discard).clamp(min=0)
        if not bool(counted.any()):
            longest = int(lengths.max())
            expected = f"less than the {longest} steps of the longest trial"
            raise ArgumentError(mismatch("discard", expected, self.settings.discard))
        return counted


class FiniteTimeExponents(Quantity):
    """The largest finite-time Lyapunov exponent, ``[trial, time]``: how a perturbation grew until a step.

    ``log |A_t ... A_s| / ((t - s + 1) dt)`` in the spectral norm, over all steps of a trial until t, or the
    last ``window`` of them. NaN at padded steps, and before the window is full.
    """

    on_ranks = "all"

    @takes_settings(FiniteTimeSettings)
    def __init__(self, settings: FiniteTimeSettings) -> None:
        self.window, self.dt = settings.window, settings.dt

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the exponents, with their mean over trials at each step."""
        exists = existing_steps(moment)
        with isolated(moment.flow.P.device, "ftle"), torch.no_grad():
            logs, steps = _growth(moment.flow.A, exists, self.window)
        found = numbers(moment.every_trial(torch.where(steps > 0, logs / (steps * self.dt), torch.nan)))
        mean, stderr = _mean(found)
        since = "since the start of a trial" if self.window is None else f"over {self.window} steps"
        text, unit = f"largest finite-time Lyapunov exponent {since}", _per_time(self.dt)
        about = f"standard error over trials of the mean of the {text}"
        coordinates: dict[str, Any] = {
            "trial": trial_coordinate(moment),
            "time": time_coordinate(moment),
            **moment.trial_coordinates(),
        }
        return xr.Dataset(
            {
                "ftle": (("trial", "time"), found, attributes(text, unit)),
                "ftle_mean": ("time", mean, attributes(f"mean over trials of the {text}", unit)),
                "ftle_mean_stderr": ("time", stderr, attributes(about, unit)),
            },
            coordinates,
        )


def _per_time(dt: float) -> str:
    return "1/step" if dt == 1 else "1/time"


def _coordinates(moment: Moment, k: int) -> dict[str, Any]:
    return {
        "trial": trial_coordinate(moment),
        "exponent": number_coordinate("exponent", k, "place of an exponent, largest first"),
        **moment.trial_coordinates(),
    }


def _step_jacobian_of(moment: Moment, there: torch.Tensor) -> tuple[StepJacobian, Callable[..., Any]]:
    """Return A of the trials that are there, and what makes figures of its trials those of all of them."""
    if bool(there.all()):
        return moment.flow.A, moment.every_trial
    probe = moment.whole_probe
    mask = None if probe.mask is None else probe.mask[there]
    return linearize(moment.model, probe.inputs[there], mask=mask).A, lambda values: values


def _mean(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the mean over trials that have a value, and its standard error; NaN for none, and for one.

    An exponent may be -inf, where a direction is lost: the mean then is, too, and its error is NaN.
    """
    there = ~np.isnan(values)
    count = there.sum(axis=0)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = np.where(there, values, 0).sum(axis=0) / count
        squares = np.where(there, (values - mean) ** 2, 0).sum(axis=0)
        stderr = np.sqrt(squares / (count - 1) / count)
    return mean, np.where(count > 1, stderr, np.nan)


def _growth(
    A: StepJacobian, exists: torch.Tensor, window: int | None
) -> tuple[torch.Tensor, torch.Tensor]:  # [B, T] each
    """Return the logarithm of the growth until each step, and over how many steps; 0 steps for no figure.

    Products are formed in float64, each divided by its size on the way, so that none overflows: the largest
    singular value is then as accurate as the step Jacobians are known.
    """
    batch, time, width = A.domain.shape
    eye = torch.eye(width, dtype=A.dtype, device=A.device)
    columns = eye[:, None, :].expand(width, batch, width)
    blocks: list[torch.Tensor] = []  # of the window: [B, H, H] each
    product = eye.double().expand(batch, width, width)
    scale = torch.zeros(batch, dtype=torch.float64, device=A.device)
    logs, steps = [], []
    for t in range(time):
        block = A.step(t, columns).permute(1, 2, 0).double()
        if window is None:
            product, more = _scaled(torch.where(exists[:, t, None, None], block @ product, product))
            scale = scale + more
            count = exists[:, : t + 1].sum(dim=1)
        else:
            blocks = [*blocks, block][-window:]
            product, scale = _scaled(blocks[0])
            for one in blocks[1:]:
                product, more = _scaled(one @ product)
                scale = scale + more
            count = exists[:, max(0, t + 1 - window) : t + 1].sum(dim=1)
            count = count * (count == window)
        gram = product.mT @ product  # its largest eigenvalue is as accurate as the largest singular value
        logs.append(scale + torch.linalg.eigvalsh(gram)[:, -1].clamp(min=0).log() / 2)
        steps.append(count * exists[:, t])
    return torch.stack(logs, dim=1), torch.stack(steps, dim=1)


def _scaled(product: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return matrices divided by their largest entry, and its logarithm; one that is zero is left."""
    size = product.abs().amax(dim=(-2, -1))
    size = torch.where(size > 0, size, 1.0)
    return product / size[:, None, None], size.log()
