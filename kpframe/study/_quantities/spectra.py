"""Leading singular values of operators."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import xarray as xr

from kpframe.operators._base import Operator
from kpframe.plugin._core_quantities import SpectrumSettings
from kpframe.plugin._takes import takes_settings
from kpframe.spectra import eigsh, svd
from kpframe.study._moment import Moment
from kpframe.study._operator_quantity import OperatorQuantity
from kpframe.study._quantities.dims import attributes, number_coordinate, numbers, operator_coordinate


class Spectrum(OperatorQuantity):
    """Leading singular values of each operator, ``[operator, k]``; of a positive one its eigenvalues.

    Each comes with the residual norm of its triplet, and with whether it has converged: it is within the
    tolerance, and none is missing before it.
    """

    on_ranks = "all"

    @takes_settings(SpectrumSettings)
    def __init__(self, settings: SpectrumSettings) -> None:
        self.k, self.tolerance = settings.k, settings.tolerance

    def of(self, moment: Moment, place: int, operator: Operator) -> tuple[np.ndarray, ...]:
        """Return values, residuals and flags; operators draw from ``moment.generator(0)``, ``(1)``, ..."""
        count, source, tol = self._count(moment), moment.generator(place), self.tolerance
        if operator.positive:
            pairs = eigsh(operator, k=count, tol=tol, budget=24 * count, generator=source)
            found = (pairs.eigenvalues, pairs.residual_norms, pairs.converged)
        else:  # a product with the adjoint for each with the operator
            triplets = svd(operator, k=count, tol=tol, budget=48 * count, generator=source)
            found = (triplets.S, triplets.residual_norms, triplets.converged)
        return tuple(map(numbers, found))

    def _count(self, moment: Moment) -> int:
        return min(self.k, moment.flow.P.domain.dimension)

    def together(self, moment: Moment, found: Sequence[tuple[np.ndarray, ...]]) -> xr.Dataset:
        """Return the values."""
        count = self._count(moment)
        values, residuals, flags = map(np.stack, zip(*found, strict=True))
        dims = ("operator", "k")
        largest = "leading singular values; lower bounds where not converged"
        known = "whether a singular value is within the tolerance and none is missing before"
        return xr.Dataset(
            {
                "singular_value": (dims, values, attributes(largest)),
                "singular_value_residual": (
                    dims,
                    residuals,
                    attributes("residual norm of each singular triplet"),
                ),
                "singular_value_converged": (dims, flags, attributes(known)),
            },
            coords={
                "operator": operator_coordinate(moment.operators),
                "k": number_coordinate("k", count, "place in the spectrum, largest first"),
            },
        )
