"""How alike the propagators of groups of trials are: tasks of one network, told apart by P.

With ``Q_i = P_i - I`` of trial i, what a perturbation becomes beyond the step at which it is made, at the
steps that exist, the similarity of groups a and b is the mean inner product of two different trials, one of
each, relative to the sizes of both::

    S(a, b) = mean over i in a, j in b, i != j of <Q_i, Q_j>_F / sqrt(mean of |Q_i|_F^2  mean of |Q_j|_F^2)

in [-1, 1]; S(a, a) says how alike trials of one group are, which S(a, b) is to be compared with. With random
signs z, the same for all trials, and ``y_i = Q_i z``, ``<y_i, y_j>`` has the mean ``<Q_i, Q_j>_F``.
"""

from __future__ import annotations

import torch
import xarray as xr

from kpframe.operators._memory import chunk_size
from kpframe.operators._scale import divided, unit_of
from kpframe.plugin._core_learning import PropagatorSettings
from kpframe.plugin._takes import takes_settings
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, numbers
from kpframe.study._quantities.draws import leave_one_out, signs
from kpframe.study._quantities.existing import existing_steps
from kpframe.study._quantities.groups import QuantityOfGroups, own_members

#: The place of the random signs among a moment's sources of random numbers.
PLACE = 260


class PropagatorSimilarity(QuantityOfGroups):
    """How alike P is along trials of two groups, and of one, ``[group, group_other]``.

    From ``draws`` random signs, exact where these are at least the steps times the width. NaN within a group
    of one trial, and where P is the identity.
    """

    needs = ("targets",)
    on_ranks = "all"

    @takes_settings(PropagatorSettings)
    def __init__(self, settings: PropagatorSettings) -> None:
        super().__init__(settings.by, settings.most)
        self.draws = settings.draws

    def between(self, moment: Moment, members: torch.Tensor) -> xr.Dataset:
        """Return the similarities and their standard errors."""
        products, squares, exact = self._products(moment, own_members(moment, members).double())
        value = _similarities(products.sum(dim=0), squares.sum(dim=0), members)
        stderr = torch.where(value.isnan(), torch.nan, 0.0)
        if not exact:
            left, size = products.sum(dim=0) - products, squares.sum(dim=0) - squares
            value, stderr = leave_one_out(value, _similarities(left, size, members))
        dims, text = ("group", "group_other"), "similarity of P - I along two trials, one of each group"
        return xr.Dataset(
            {
                "propagator_similarity": (dims, numbers(value.clamp(-1, 1)), attributes(text)),
                "propagator_similarity_stderr": (
                    dims,
                    numbers(stderr),
                    attributes("standard error of the similarity"),
                ),
            }
        )

    def _products(self, moment: Moment, members: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, bool]:
        """Return of each draw the sums ``[n, a, b]`` of <y_i, y_j>, i != j, and ``[n, a]`` of |y_i|^2.

        ``members`` ``[group, B]`` are of this rank's trials, the sums of those of all ranks.
        """
        P, exists = moment.flow.P, existing_steps(moment)[..., None]
        _, time, width = P.domain.shape
        exact = self.draws >= time * width
        count = time * width if exact else self.draws
        if exact:
            z = torch.eye(count, dtype=P.dtype, device=P.device).reshape(count, 1, time, width)
        else:
            z = signs(moment.generator(PLACE), count, 1, time, width, like=moment.flow.trajectory.states)
        products, squares, units = [], [], []
        for part in torch.split(z, chunk_size(P, count, held=3)):
            q = part * exists
            y = (P(q) - q) * exists
            units.append(unit_of(y, shards=moment.shards))
            y = divided(y, units[-1]).flatten(start_dim=2).double()  # [n, B, T H]
            own = moment.summed(y.square().sum(dim=2) @ members.mT)
            sums = moment.summed(torch.einsum("ab,nbx->nax", members, y))
            products.append(sums @ sums.mT - torch.diag_embed(own))
            squares.append(own)
        scales = [(unit / max(units)) ** 2 for unit in units]  # of no matter to a cosine but among them
        whole = [
            torch.cat([rows * scale for rows, scale in zip(parts, scales, strict=True)])
            for parts in (products, squares)
        ]
        return whole[0], whole[1], exact


def _similarities(products: torch.Tensor, squares: torch.Tensor, members: torch.Tensor) -> torch.Tensor:
    """Return S ``[..., a, b]`` from sums over pairs of trials and over trials."""
    trials = members.sum(dim=1).double()
    pairs = trials[:, None] * trials - torch.diag(trials)
    sizes = (squares.clamp(min=0) / trials).sqrt()
    scale = pairs * sizes[..., :, None] * sizes[..., None, :]
    return torch.where(scale > 0, products / scale, torch.nan)
