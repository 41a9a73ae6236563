"""From where to where in time states and errors travel: the routing map of P, and credit by lag."""

from __future__ import annotations

import torch
import xarray as xr

from kpframe.operators._base import Operator
from kpframe.operators._memory import chunk_size
from kpframe.plugin._core_learning import RoutingSettings
from kpframe.plugin._takes import takes_settings
from kpframe.rules._update import Update
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, numbers, require, time_coordinate
from kpframe.study._quantities.draws import drawn_signs, root_mean
from kpframe.study._quantities.existing import existing_steps
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES

#: The place of the random signs among a moment's sources of random numbers.
PLACE = 220


class Routing(Quantity):
    """How much of a perturbation of the state at step s arrives at step t, ``[time, time_other]``.

    ``E(t, s) = sqrt(mean over trials of |P[t, s] - I delta_ts|_F^2 / H)``, over the trials in which both
    steps exist, NaN where there is none; 0 for t <= s. From ``draws`` random signs for each s, exact where
    these are at least the width H.
    """

    on_ranks = "all"

    @takes_settings(RoutingSettings)
    def __init__(self, settings: RoutingSettings) -> None:
        self.draws = settings.draws

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the map and its standard error; costs ``draws`` products with P for each step."""
        P, exists = moment.flow.P, existing_steps(moment)
        batch, time, width = P.domain.shape
        exact = self.draws >= width
        count = width if exact else self.draws
        if exact:
            z = torch.eye(width, dtype=P.dtype, device=P.device)[:, None, None].expand(-1, batch, time, -1)
        else:
            z = drawn_signs(P, count, moment.generator(PLACE))
        rows = []
        for s in range(time):
            parts = torch.split(z[:, :, s], chunk_size(P, count, held=2))
            squares = torch.cat([_arriving(P, part, s) for part in parts])
            squares[..., s] = 0  # P[s, s] - I
            both = (exists & exists[:, s, None]).double()
            rows.append(torch.cat([(squares * both).sum(dim=1), both.sum(dim=0, keepdim=True)]))
        sums = moment.summed(torch.stack(rows, dim=2))  # [n + 1, t, s], the last of them numbers of trials
        each = sums[:-1] / sums[-1] / width  # NaN where no trial is
        value, stderr = root_mean(each)
        if exact:
            value, stderr = each.sum(dim=0).sqrt(), torch.where(each[0].isnan(), torch.nan, 0.0)
        text = (
            "part of a change at step time_other that arrives at step time: "
            "sqrt(mean over trials of |P[time, time_other] - I delta|^2 / H)"
        )
        dims = ("time", "time_other")
        return xr.Dataset(
            {
                "routing": (dims, numbers(value), attributes(text)),
                "routing_stderr": (
                    dims,
                    numbers(stderr),
                    attributes("standard error of the routing map"),
                ),
            },
            coords={"time": time_coordinate(moment), "time_other": time_coordinate(moment, "time_other")},
        )


def _arriving(P: Operator, z: torch.Tensor, s: int) -> torch.Tensor:  # [n, B, H] -> [n, B, T]
    """Return the squared size of what arrives at each step of signs that start at step s."""
    q = torch.zeros(len(z), *P.domain.shape, dtype=z.dtype, device=z.device)
    q[:, :, s] = z
    return P(q).double().square().sum(dim=-1)


class Credit(Quantity):
    """The descent of the loss by the step at which an error arises and that at which the parameters act.

    Also by the lag between the two, as a share of the whole: which errors, from how far ahead, teach the
    network. A negative share is that of errors that others outweigh. Exact.
    """

    needs = ("readout", "targets")
    on_ranks = "all"

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return rates ``[time, time_other]`` and shares ``[lag]``; costs a product with P* for each step."""
        require(moment, self.needs)
        flow = moment.flow
        err = Update.exact(flow, moment.readout).incoming(output_err=moment.output_err)
        g = flow.J.T(flow.P.T(err))
        moved, total = flow.J(g).double(), float(g.double().square().sum())
        steps = err.shape[1]
        rows = []
        chunk = chunk_size(flow.P, steps, held=2)
        for start in range(0, steps, chunk):
            chosen = list(range(start, min(start + chunk, steps)))
            alone = err.new_zeros(len(chosen), *err.shape)
            for row, t in enumerate(chosen):
                alone[row, :, t] = err[:, t]
            rows.append((flow.P.T(alone).double() * moved).sum(dim=(1, 3)))
        pairs = moment.summed(torch.cat(rows))
        lags = torch.stack([pairs.diagonal(-lag).sum() for lag in range(steps)])
        assert moment.around.loss is not None
        unit = SCORES[moment.around.loss].loss_unit
        text = (
            "descent of the loss per unit learning rate, by the step at which the error arises (time) and "
            "that at which the parameters act (time_other)"
        )
        share = "share of the descent of the loss, by steps that errors travel back"
        return xr.Dataset(
            {
                "credit": (("time", "time_other"), numbers(pairs), attributes(text, unit)),
                "credit_by_lag": (
                    "lag",
                    numbers(lags / (total if total > 0 else float("nan"))),
                    attributes(share),
                ),
            },
            coords={
                "time": time_coordinate(moment),
                "time_other": time_coordinate(moment, "time_other"),
                "lag": ("lag", range(steps), attributes("steps that an error travels back")),
            },
        )
