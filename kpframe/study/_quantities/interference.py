"""What learning one group of trials does to the others: gradients, kernels and losses across groups.

For groups a and b of trials, with ``G_a`` the rows of ``G = dh/dtheta`` at the existing steps of group a, and
``Phi_ab = G_a G_b*`` the cross block of Phi::

    overlap        |Phi_ab|_F^2 / (|Phi_aa|_F |Phi_bb|_F)  =  cosine of G_a* G_a and G_b* G_b   in [0, 1]  (1)
    mean Jacobian  cosine of Gbar_a and Gbar_b, each a mean over the trials of a group         in [-1, 1]  (2)

where a mean is over the trials that exist at a step, and 0 where none does. (1) says whether the same
combinations of parameters move both groups; (2) whether a change of parameters moves their mean trajectories
alike. Both come from ``y_i = G v_i`` for random signs v: with ``Q_a[i, j] = <y_i, y_j>`` over the steps of
group a, ``|Phi_ab|_F^2`` is the mean of ``Q_a[i, j] Q_b[i, j]`` over i other than j.
"""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr

from kpframe.operators._memory import chunk_size
from kpframe.plugin._core_learning import GroupSettings
from kpframe.plugin._takes import takes_settings
from kpframe.rules._update import Update
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, numbers
from kpframe.study._quantities.draws import leave_one_out, signs
from kpframe.study._quantities.existing import existing_steps
from kpframe.study._quantities.groups import QuantityOfGroups, cosines_of, own_members
from kpframe.study._scores import SCORES
from kpframe.tasks._error import task_loss

#: The place of the random signs among a moment's sources of random numbers.
PLACE = 210
#: Most bytes that the states along random directions may take; fewer directions are drawn beyond.
MOST_BYTES = 2**28


class Interference(QuantityOfGroups):
    """Groups of trials in pairs, ``[group, group_other]``: a sub-task beside another, a class beside another.

    The loss of a group is the mean over its scored steps, and its gradient that by the network's parameters:
    the readout is held. Gradients and losses are exact; overlaps and cosines of mean Jacobians come from
    ``budget`` random directions, exact where there are no more parameters.
    """

    needs = ("readout", "targets")
    on_ranks = "all"

    @takes_settings(GroupSettings)
    def __init__(self, settings: GroupSettings) -> None:
        super().__init__(settings.by, settings.most)

    def between(self, moment: Moment, members: torch.Tensor) -> xr.Dataset:
        """Return the figures of gradients and losses, and those of kernels with their standard errors."""
        pairs, own = ("group", "group_other"), ("group",)
        gradients, losses, scored = _gradients(moment, members)
        products = gradients @ gradients.mT
        sizes = products.diagonal().clamp(min=0).sqrt()
        assert moment.around.loss is not None
        unit = SCORES[moment.around.loss].loss_unit
        data = xr.Dataset(
            {
                "group_trials": (own, members.sum(dim=1).cpu().numpy(), attributes("trials of a group")),
                "group_scored": (own, scored, attributes("scored steps of a group")),
                "group_loss": (own, numbers(losses), attributes("mean loss of a group", unit)),
                "group_gradient_norm": (own, numbers(sizes), attributes("norm of the group's gradient")),
                "group_gradient_cosine": (
                    pairs,
                    numbers(cosines_of(products)),
                    attributes("cosine of the gradients of two groups"),
                ),
                "group_loss_change": (
                    pairs,
                    -numbers(products),
                    attributes(
                        "change of the loss of group_other per unit learning rate of a step on group", unit
                    ),
                ),
                "group_loss_change_per_length": (
                    pairs,
                    -numbers(products / torch.where(sizes > 0, sizes, torch.nan)[:, None]),
                    attributes(
                        "change of the loss of group_other per unit length of a step down group's gradient",
                        unit,
                    ),
                ),
            }
        )
        for variable, text, (value, stderr) in _kernels(moment, members):
            data[variable] = (pairs, value, attributes(text))
            data[f"{variable}_stderr"] = (pairs, stderr, attributes(f"standard error of the {text}"))
        return data


def _gradients(moment: Moment, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, list[int]]:
    """Return each group's gradient ``[group, M]``, loss ``[group]``, NaN of no steps, and scored steps."""
    flow, trials, loss = moment.flow, moment.whole_trials, moment.around.loss
    assert moment.readout is not None
    assert loss is not None
    err = Update.exact(flow, moment.readout).incoming(output_err=moment.output_err)
    counts = [int(trials.scored[member].sum()) for member in members]
    with torch.no_grad():
        outputs = moment.every_trial(moment.readout(flow.trajectory.states))
    gradients, losses = [], []
    for member, here, scored in zip(members, own_members(moment, members), counts, strict=True):
        places = member.nonzero().flatten()
        own = trials.select(places)
        share = sum(counts) / scored if scored else 0.0  # from the mean over all steps to that of the group
        gradients.append(flow.J.T(flow.P.T(err * here[:, None, None])).double() * share)
        losses.append(float(task_loss(outputs[places], own, loss)) if scored else float("nan"))
    return torch.stack(gradients), torch.tensor(losses, dtype=torch.float64), counts


def _kernels(moment: Moment, members: torch.Tensor) -> list[tuple[str, str, tuple[np.ndarray, np.ndarray]]]:
    """Return (1) and (2) with their standard errors."""
    states, exact = _moved(moment)
    weight = own_members(moment, members)[:, :, None] * existing_steps(moment)  # [group, B, T]
    trials = moment.summed(weight.sum(dim=1).double()).clamp(min=1)  # [group, T]
    Q, sums = [], []
    for own in weight:
        places = own.any(dim=1).nonzero().flatten()
        part = states[:, places] * own[places][..., None]
        rows = part.flatten(start_dim=1).double()
        Q.append(rows @ rows.mT)
        sums.append(part.double().sum(dim=1))
    gram = moment.summed(torch.stack(Q))
    pairs = torch.einsum("aij,bij->abij", gram, gram)
    if not exact:  # a direction with itself is no estimate
        pairs.diagonal(dim1=-2, dim2=-1).zero_()
    mean = (moment.summed(torch.stack(sums)) / trials[:, None, :, None]).flatten(start_dim=2)
    products = torch.einsum("aix,bix->abi", mean, mean)
    texts = (
        "overlap |Phi_ab|_F^2 / (|Phi_aa|_F |Phi_bb|_F) of two groups",
        "cosine of the mean Jacobians of two groups",
    )
    each = (2 * pairs.sum(dim=-1), products)  # what goes when one direction is left out
    figures = [
        _jackknife(whole, part, exact)
        for whole, part in zip((pairs.sum(dim=(-2, -1)), products.sum(dim=-1)), each, strict=True)
    ]
    low = (0.0, -1.0)
    return [
        (name, text, (np.clip(value, least, 1.0), stderr))
        for name, text, least, (value, stderr) in zip(
            ("group_overlap", "group_jacobian_cosine"), texts, low, figures, strict=True
        )
    ]


def _jackknife(whole: torch.Tensor, each: torch.Tensor, exact: bool) -> tuple[np.ndarray, np.ndarray]:
    """Return cosines of the sums ``whole`` ``[a, b]``, and standard errors from leaving one direction out."""
    value = cosines_of(whole)
    if exact:
        return numbers(value), np.zeros(value.shape)
    without = cosines_of((whole[..., None] - each).movedim(-1, 0))  # [n, a, b]
    corrected, stderr = leave_one_out(value, without)
    itself = torch.eye(len(value), dtype=torch.bool, device=value.device)  # exact, but for rounding
    return numbers(torch.where(itself, value, corrected)), numbers(stderr.masked_fill(itself, 0.0))


def _moved(moment: Moment) -> tuple[torch.Tensor, bool]:  # [n, B, T, H]
    """Return how the states move along random signs of the parameters, and whether along each instead."""
    G, size = moment.flow.G, moment.flow.J.domain.size
    each = moment.flow.P.domain.dimension * moment.flow.P.dtype.itemsize
    count = min(moment.around.budget, max(8, MOST_BYTES // each))
    exact = size <= count
    if exact:
        v = torch.eye(size, dtype=G.dtype)
    else:
        v = signs(moment.generator(PLACE), count, size, like=moment.flow.trajectory.states)
    chunk = chunk_size(G, len(v), held=2)
    return torch.cat([G(part.to(G.device)) for part in torch.split(v, chunk)]), exact
