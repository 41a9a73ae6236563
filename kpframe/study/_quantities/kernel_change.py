"""How far operators have moved since the beginning: where that is little, learning is lazy."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from kpframe.spectra import frobenius_norm
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, operator_coordinate
from kpframe.study._quantity import Quantity


class KernelChange(Quantity):
    """The relative change of each operator, ``|A_t - A_0| / |A_0|`` in Frobenius norms.

    ``A_0`` is that of the first network that is known, which for a training is the untrained one. Both norms
    are estimated from random probes that are the same at all steps, others for each of the two; exact where
    the state has no more dimensions than the budget has products. Alignments with the first step are those
    of ``alignment``.
    """

    on_ranks = "all"

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the changes, with dims ``operator``; 0 at the first step itself, NaN where none is known."""
        values, errors = [], []
        first, budget = moment.first, moment.around.budget
        for place, (name, operator) in enumerate(moment.operators.items()):
            if first is None or first.step == moment.step:
                values.append(math.nan if first is None else 0.0)
                errors.append(values[-1])
                continue
            whole, moved = (moment.shared_generator(100 + 2 * place + own) for own in range(2))
            size = frobenius_norm(first.remembered[name], budget=budget, generator=whole)
            change = frobenius_norm(operator - first.operators[name], budget=budget, generator=moved)
            share = change.value / size.value if size.value > 0 else math.nan
            values.append(share)
            errors.append(math.hypot(change.stderr, share * size.stderr) / (size.value or math.nan))
        text = "|A_t - A_0| / |A_0|, relative change of an operator since the first step"
        return xr.Dataset(
            {
                "kernel_change": ("operator", np.array(values), attributes(text)),
                "kernel_change_stderr": (
                    "operator",
                    np.array(errors),
                    attributes(f"standard error: {text}"),
                ),
            },
            coords={"operator": operator_coordinate(moment.operators)},
        )
