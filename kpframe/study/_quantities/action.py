"""What operators make of random input: how strong it is at each step, and in how many directions."""

from __future__ import annotations

from typing import Any

import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators._memory import chunk_size
from kpframe.plugin._core_learning import ActionSettings
from kpframe.plugin._takes import takes_settings
from kpframe.study._moment import Moment, operator_of, operator_problem
from kpframe.study._quantities.dims import attributes, numbers, time_coordinate
from kpframe.study._quantities.draws import drawn_signs, root_mean
from kpframe.study._quantities.existing import existing_steps
from kpframe.study._quantity import Quantity

#: The place of the random signs among a moment's sources of random numbers.
PLACE = 230


class RandomAction(Quantity):
    """The action of operators on random signs at all existing steps, ``[action]``.

    Its norm at each step is the root of the mean over draws and trials of ``|y_bt|^2``; its dimension is
    ``(tr C)^2 / tr C^2`` for ``C = Sum_bt y_bt y_bt^T``: in how many directions of the state random errors
    move it, for ``P K P*``. Both with standard errors over the draws.
    """

    on_ranks = "all"

    @takes_settings(ActionSettings)
    def __init__(self, settings: ActionSettings) -> None:
        self.draws, self.operators = settings.draws, tuple(dict.fromkeys(settings.operators))

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` for a formula that is no operator on states, and for none at all."""
        if not self.operators:
            raise ArgumentError(mismatch("operators", "at least one, such as 'P K P*'", "none"))
        for formula in self.operators:
            if problem := operator_problem(formula):
                raise ArgumentError(f"operators: {problem}")

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures, with dims ``action`` and ``time``; raises as ``check``."""
        self.check(moment)
        exists = existing_steps(moment)
        trials = moment.summed(exists.sum(dim=0).double())
        norms, dimensions = [], []
        for formula in self.operators:
            operator = operator_of(moment.flow, formula)
            source = moment.generator(PLACE)  # the same input to all of them
            squares, ranks = [], []
            chunk = chunk_size(operator, self.draws, held=3)
            for start in range(0, self.draws, chunk):
                z = drawn_signs(operator, min(chunk, self.draws - start), source)
                y = (operator(z * exists[..., None]) * exists[..., None]).double()
                squares.append(moment.summed(y.square().sum(dim=(1, 3))) / trials)  # [n, T]
                rows = y.flatten(start_dim=1, end_dim=2)
                ranks.append(participation(moment.summed(rows.mT @ rows)))
            norms.append(root_mean(torch.cat(squares)))
            dimensions.append(_mean(torch.cat(ranks)))
        data = xr.Dataset(coords=_coordinates(moment, self.operators))
        for name, dims, found, text in (
            ("action_norm", ("action", "time"), norms, "norm of the action on random signs, by step"),
            ("action_dimension", ("action",), dimensions, "effective dimension of the action, over units"),
        ):
            values, errors = (torch.stack([one[part] for one in found]) for part in (0, 1))
            data[name] = (dims, numbers(values), attributes(text))
            data[f"{name}_stderr"] = (dims, numbers(errors), attributes(f"standard error of the {text}"))
        return data


def _coordinates(moment: Moment, operators: tuple[str, ...]) -> dict[str, Any]:
    return {
        "action": ("action", list(operators), attributes("operator that acts")),
        "time": time_coordinate(moment),
    }


def participation(moments: torch.Tensor) -> torch.Tensor:  # [..., n, n] -> [...]
    """Return ``(tr C)^2 / tr C^2`` of symmetric matrices, NaN of one that is zero."""
    return moments.diagonal(dim1=-2, dim2=-1).sum(dim=-1).square() / moments.square().sum(dim=(-2, -1))


def _mean(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return values.mean(), values.std() / len(values) ** 0.5
