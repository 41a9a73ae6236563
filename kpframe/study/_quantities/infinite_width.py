"""A wide random recurrent network beside the limit of infinite width."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.flow import neural_tangent
from kpframe.flow._named_parameters import join_parameters
from kpframe.operators._base import Operator
from kpframe.operators._elementary import DiagonalOperator
from kpframe.plugin._core_quantities import InfiniteWidthSettings
from kpframe.plugin._takes import takes_settings
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import (
    attributes,
    numbers,
    operator_coordinate,
    time_coordinate,
    trial_coordinate,
)
from kpframe.study._quantities.existing import existing_steps, existing_steps_of
from kpframe.study._quantities.kernels import matrix_of
from kpframe.study._quantities.mean_field import NONLINEARITIES, limits
from kpframe.study._quantity import Quantity

NAMES = ("P P*", "K", "Phi")


class InfiniteWidth(Quantity):
    """``tr_hidden / n`` of ``P P*``, K and Phi beside its limit for infinitely many units, ``[operator]``.

    The limit is that of a random network ``h' = phi(W h + U x + b)`` that starts at 0, with normal weights of
    variances ``v_w / n``, ``v_u / m`` and ``v_b`` (of each bias vector), where learning moves each weight in
    proportion to its variance: K and Phi are here those of that metric. ``limit_error`` is the norm of the
    difference over trials and steps, relative to the limit's; beside it stand diagonals, ``[operator, trial,
    time]``. Exact: a product with each operator for each trial, step and unit.

    There is no limit (NaN, and ``limit_reason`` says why) for a network that is none of these: other
    dynamics, or weights of another variance than is set (further off than six standard deviations).
    Parameters that no variance is set for do not count in K and Phi.
    """

    on_ranks = "all"

    @takes_settings(InfiniteWidthSettings)
    def __init__(self, settings: InfiniteWidthSettings) -> None:
        self.settings = settings

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` where it would take more products than it may."""
        for name in moment.around.probes:
            size = moment.along(name).flow.P.domain.dimension
            if size > self.settings.most:
                expected = f"at least {size}, the products with each operator that it takes"
                raise ArgumentError(mismatch("most", expected, self.settings.most))

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures; raises as ``check``."""
        self.check(moment)
        exists = existing_steps_of(moment.whole_probe).cpu().numpy()
        shape = (len(NAMES), *exists.shape)
        found, wanted, errors = np.full(shape, np.nan), np.full(shape, np.nan), np.full(len(NAMES), np.nan)
        reason = self._reason(moment)
        limit = {} if reason else self._limits(moment)
        both = exists[:, :, None, None] & exists
        for place, (name, operator) in enumerate(self._operators(moment).items()):
            width = operator.domain["hidden"].size
            dense = numbers(matrix_of(operator.partial_trace("hidden"))).reshape(both.shape) / width
            found[place] = np.where(exists, np.einsum("btbt->bt", dense), np.nan)
            if reason:
                continue
            wanted[place] = np.where(exists, np.einsum("btbt->bt", limit[name]), np.nan)
            gap, size = ((np.where(both, one, 0) ** 2).sum() for one in (dense - limit[name], limit[name]))
            errors[place] = np.sqrt(gap / size) if size > 0 else np.nan
        own = ("operator", "trial", "time")
        text = "tr_hidden / n of the operator at a trial and step"
        about = "relative distance of tr_hidden / n from its limit of infinite width"
        return xr.Dataset(
            {
                "limit_error": ("operator", errors, attributes(about)),
                "unit_trace": (own, found, attributes(text)),
                "unit_trace_limit": (own, wanted, attributes(f"limit of infinite width of {text}")),
                "limit_reason": (
                    (),
                    np.array(reason, dtype=object),
                    attributes("why a network has no limit of infinite width"),
                ),
            },
            coords={
                "operator": operator_coordinate(NAMES),
                "trial": trial_coordinate(moment),
                "time": time_coordinate(moment),
                **moment.trial_coordinates(),
            },
        )

    def _limits(self, moment: Moment) -> dict[str, np.ndarray]:
        s = self.settings
        exists = existing_steps_of(moment.whole_probe)
        x = numbers(moment.whole_probe.inputs * exists[..., None])
        bias = s.bias_variance * len(s.biases)
        return limits(
            x,
            recurrent=s.recurrent_variance,
            inputs=s.input_variance,
            bias=bias,
            nonlinearity=s.nonlinearity,
        )

    def _operators(self, moment: Moment) -> dict[str, Operator]:
        """Return the operators, with the metric that weighs each parameter by its variance."""
        flow, variances = moment.flow, self._variances(moment)
        space = flow.J.domain
        weights = {
            name: torch.full_like(p, variances.get(name, 0.0)) for name, p in flow.model.trainable().items()
        }
        K = flow.K.with_metric(DiagonalOperator(join_parameters(space, weights), space))
        return {"P P*": flow.P @ flow.P.T, "K": K, "Phi": neural_tangent(flow.P, K)}

    def _variances(self, moment: Moment) -> dict[str, float]:
        s, model = self.settings, moment.model
        found = {
            s.recurrent: s.recurrent_variance / model.width,
            s.inputs: s.input_variance / model.input_size,
        }
        return found | dict.fromkeys(s.biases, s.bias_variance)

    def _reason(self, moment: Moment) -> str:
        """Return why there is no limit; empty where there is one."""
        own, s = moment.model.trainable(), self.settings
        expected = {
            s.recurrent: (moment.model.width, moment.model.width),
            s.inputs: (moment.model.width, moment.model.input_size),
        } | dict.fromkeys(s.biases, (moment.model.width,))
        for name, shape in expected.items():
            if name not in own or tuple(own[name].shape) != shape:
                return f"it has no parameter {name} of shape {list(shape)}"
        trajectory, exists = moment.flow.trajectory, existing_steps(moment)
        states, x = trajectory.states.double(), moment.probe.inputs.double()
        before = torch.cat([torch.zeros_like(states[:, :1]), states[:, :-1]], dim=1)
        with torch.no_grad():
            u = before @ own[s.recurrent].double().mT + x @ own[s.inputs].double().mT
            for name in s.biases:
                u = u + own[name].double()
        gap = moment.largest((NONLINEARITIES[s.nonlinearity](u) - states)[exists])
        if not gap <= 1e-4 * moment.largest(states[exists]):
            return f"its states are not {s.nonlinearity}(W h + U x + b), from 0 on"
        for name, variance in self._variances(moment).items():
            values = own[name].detach().double()
            square, spread = float(values.square().mean()), variance * (2 / values.numel()) ** 0.5
            if abs(square - variance) > 6 * spread:
                return f"{name} has entries of variance {square:.3g}, where {variance:.3g} is set"
        return ""
