"""Which parameters, trials, times and epochs learning comes from: the loss's descent and tr Phi in parts.

With ``g = J* P* Err`` the loss falls at the rate ``<Err, Phi Err> = |g|^2`` per unit learning rate. It is a
sum over pairs of errors, ``<Err_i, Phi Err_j> = <g_i, g_j>`` for what errors of i and of j alone would teach,
and over the steps s at which the parameters act, ``<(P* Err)_s, (J g)_s>``. With random signs v of one
parameter's entries, ``u = J v`` and ``w = P u``, the trace of Phi is the mean of ``|w|^2``, a sum over trials
and steps, and over the steps at which the parameters act: ``<(P* w)_s, u_s>``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from attrs import frozen

from kpframe.flow._flow import Flow
from kpframe.operators._memory import chunk_size
from kpframe.operators._spaces import PARAMETER, Part
from kpframe.rules._update import Update
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import (
    attributes,
    numbers,
    require,
    time_coordinate,
    trial_coordinate,
)
from kpframe.study._quantities.draws import signs
from kpframe.study._quantities.existing import epochs_of, existing_steps
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES

#: The place of the random signs among a moment's sources of random numbers.
PLACE = 200


class Contributions(Quantity):
    """The rate at which the loss falls, and the trace of Phi, taken apart; parts add up to the whole.

    By parameter; by trial, a matrix of who teaches whom; by the time at which errors arise, and at which the
    parameters act; and by task epoch, both ways. The rate is exact. The trace is over the steps that exist,
    from ``budget`` random vectors shared out among the parameters, exact where a parameter has no more
    entries than it gets vectors.
    """

    needs = ("readout", "targets")
    on_ranks = "all"

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the rates and traces, with dims ``parameter``, ``trial``, ``time``, ``epoch``."""
        require(moment, self.needs)
        names, epochs = epochs_of(moment)
        rates, traces = _rates(moment, epochs), _traces(moment, epochs)
        assert moment.around.loss is not None
        unit = SCORES[moment.around.loss].loss_unit
        data = xr.Dataset()
        for name, (dims, values, text) in rates.items():
            data[name] = (dims, numbers(values), attributes(f"{_RATE}{text}", unit))
        for name, (dims, parts, text) in traces.items():
            data[name] = (dims, numbers(parts.value), attributes(f"{_TRACE}{text}"))
            error = attributes(f"standard error of the {_TRACE}{text}")
            data[f"{name}_stderr"] = (dims, numbers(parts.stderr), error)
        coordinates: dict[str, Any] = {
            "parameter": ("parameter", _parameters(moment.flow), attributes("parameter")),
            "time": time_coordinate(moment),
            "trial": trial_coordinate(moment),
            "trial_other": trial_coordinate(moment, "trial_other"),
            "epoch": ("epoch", names, attributes("task epoch")),
            "epoch_other": ("epoch_other", names, attributes("task epoch")),
            **moment.trial_coordinates(),
        }
        return data.assign_coords(coordinates)


_RATE = "descent of the loss per unit learning rate"
_TRACE = "trace of Phi over the steps that exist"

Rates = dict[str, tuple[tuple[str, ...], torch.Tensor, str]]


def _parts(flow: Flow) -> tuple[Part, ...]:
    return flow.J.domain[PARAMETER].parts


def _parameters(flow: Flow) -> list[str]:
    return [part.name for part in _parts(flow)]


def _rates(moment: Moment, epochs: torch.Tensor) -> Rates:
    """Return the rate and its parts: name -> dims, values, what they are by."""
    flow = moment.flow
    err = Update.exact(flow, moment.readout).incoming(output_err=moment.output_err)
    back = flow.P.T(err)  # what of the errors reaches each step
    g = flow.J.T(back)
    acting = (back.double() * flow.J(g).double()).sum(dim=-1)  # [B, T]
    arising = (err.double() * flow.Phi(err).double()).sum(dim=-1)  # [B, T]
    by_parameter = torch.stack([g[part.slice].double().square().sum() for part in _parts(flow)])
    by_trial = _by_trial(moment, back)
    by_epoch, by_acting = _by_epoch(moment, err, flow.J(g), epochs)
    return {
        "descent_rate": ((), g.double().square().sum(), ""),
        "descent_rate_by_parameter": (("parameter",), by_parameter, ", by parameter"),
        "descent_rate_by_trial": (
            ("trial", "trial_other"),
            by_trial,
            ", by the trial whose loss falls and the trial that teaches",
        ),
        "descent_rate_by_time": (
            ("time",),
            moment.summed(arising.sum(dim=0)),
            ", by the step at which the error arises",
        ),
        "descent_rate_by_acting_time": (
            ("time",),
            moment.summed(acting.sum(dim=0)),
            ", by the step at which the parameters act",
        ),
        "descent_rate_by_epoch": (
            ("epoch", "epoch_other"),
            by_epoch,
            ", by the epoch whose loss falls and the epoch that teaches",
        ),
        "descent_rate_by_acting_epoch": (
            ("epoch", "epoch_other"),
            by_acting,
            ", by the epoch in which the error arises and that in which the parameters act",
        ),
    }


def _by_trial(moment: Moment, back: torch.Tensor) -> torch.Tensor:  # [B, B]
    """Return ``<g_b, g_c>`` of the gradients of single trials, of all ranks."""
    flow, columns = moment.flow, []
    own = range(len(back)) if moment.shards is None else moment.shards.own
    count = len(moment.whole_probe.inputs)
    chunk = chunk_size(flow.K, count, held=2)
    for start in range(0, count, chunk):
        chosen = list(range(start, min(start + chunk, count)))
        alone = back.new_zeros(len(chosen), *back.shape)
        for row, trial in enumerate(chosen):
            if trial in own:
                alone[row, trial - own.start] = back[trial - own.start]
        taught = flow.K(alone).double()
        columns.append(torch.einsum("bth,cbth->bc", back.double(), taught))
    return moment.every_trial(torch.cat(columns, dim=1))


def _by_epoch(
    moment: Moment, err: torch.Tensor, moved: torch.Tensor, epochs: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``[epoch, epoch]`` by what teaches, and by where the parameters act."""
    flow, gradients, acting = moment.flow, [], []
    for epoch in epochs:
        back = flow.P.T(err * epoch[..., None])
        gradients.append(flow.J.T(back).double())
        reached = (back.double() * moved.double()).sum(dim=-1)
        acting.append((reached * epochs).sum(dim=(1, 2)))
    g = torch.stack(gradients)
    return g @ g.mT, moment.summed(torch.stack(acting))


@frozen(eq=False)
class _Estimated:
    value: torch.Tensor
    stderr: torch.Tensor


def _traces(moment: Moment, epochs: torch.Tensor) -> dict[str, tuple[tuple[str, ...], _Estimated, str]]:
    """Return the trace and its parts: name -> dims, values with standard errors, what they are by."""
    flow, exists = moment.flow, existing_steps(moment)
    source = moment.generator(PLACE)
    shares = _shares([part.size for part in _parts(flow)], moment.around.budget)
    found = [
        _group(moment, part, share, exists, epochs, source)
        for part, share in zip(_parts(flow), shares, strict=True)
    ]
    whole = {key: _Estimated(*(_sum(found, key, what) for what in ("value", "stderr"))) for key in _KEYS}
    by_parameter = [
        torch.stack([getattr(one["whole"], what) for one in found]) for what in ("value", "stderr")
    ]
    return {
        "tangent_trace": ((), whole["whole"], ""),
        "tangent_trace_by_parameter": (("parameter",), _Estimated(*by_parameter), ", by parameter"),
        "tangent_trace_by_trial": (("trial",), whole["trial"], ", by trial"),
        "tangent_trace_by_time": (("time",), whole["time"], ", by the step of the state that moves"),
        "tangent_trace_by_acting_time": (
            ("time",),
            whole["acting"],
            ", by the step at which the parameters act",
        ),
        "tangent_trace_by_epoch": (("epoch",), whole["epoch"], ", by the epoch of the state that moves"),
    }


_KEYS = ("whole", "trial", "time", "acting", "epoch")


def _sum(found: Sequence[dict[str, _Estimated]], key: str, what: str) -> torch.Tensor:
    """Return the sum over parameters, whose vectors are independent of each other."""
    parts = torch.stack([getattr(one[key], what) for one in found])
    return parts.sum(dim=0) if what == "value" else parts.square().sum(dim=0).sqrt()


def _shares(sizes: Sequence[int], budget: int) -> list[int]:
    """Share vectors out among parameters: as many as entries where these are few, and at least two."""
    shares, left = [0] * len(sizes), budget
    order = sorted(range(len(sizes)), key=lambda place: sizes[place])
    for done, place in enumerate(order):
        shares[place] = min(sizes[place], max(2, left // (len(sizes) - done)))
        left -= shares[place]
    return shares


def _group(
    moment: Moment,
    part: Part,
    count: int,
    exists: torch.Tensor,
    epochs: torch.Tensor,
    source: torch.Generator,
) -> dict[str, _Estimated]:
    """Return the parts of the trace that one parameter has; exact where it has ``count`` entries."""
    flow = moment.flow
    J, P, exact = flow.J, flow.P, count == part.size
    kept: dict[str, list[torch.Tensor]] = {key: [] for key in _KEYS}
    chunk = chunk_size(P, count, held=3)
    for start in range(0, count, chunk):
        rows = min(chunk, count - start)
        if exact:
            own = torch.eye(part.size, dtype=J.dtype, device=J.device)[start : start + rows]
        else:
            own = signs(source, rows, part.size, like=flow.trajectory.states)
        v = torch.zeros(rows, J.domain.size, dtype=J.dtype, device=J.device)
        v[:, part.slice] = own
        u = J(v)
        w = P(u) * exists[..., None]  # padded steps hold a state that has been counted
        moved = w.double().square().sum(dim=-1)  # [n, B, T]
        acting = (P.T(w).double() * u.double()).sum(dim=(1, 3))  # [n, T]
        kept["whole"].append(moved.sum(dim=(1, 2)))
        kept["trial"].append(moved.sum(dim=2))
        kept["time"].append(moved.sum(dim=1))
        kept["acting"].append(acting)
        kept["epoch"].append(torch.einsum("nbt,ebt->ne", moved, epochs.double()))
    of_all = {
        key: moment.every_trial(torch.cat(values).mT).mT
        if key == "trial"
        else moment.summed(torch.cat(values))
        for key, values in kept.items()
    }
    return {key: _estimated(values, exact) for key, values in of_all.items()}


def _estimated(values: torch.Tensor, exact: bool) -> _Estimated:  # [n, ...]
    if exact:
        return _Estimated(values.sum(dim=0), torch.zeros_like(values[0]))
    return _Estimated(values.mean(dim=0), values.std(dim=0) / len(values) ** 0.5)
