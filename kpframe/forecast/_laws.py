"""What is left of an error after so many updates: along an eigenvector of Theta a function of its eigenvalue.

For a squared error with ``H = c I`` and ``a = eta c`` the error ``r = y - target`` obeys a linear law, and
``s``, the sum of the slopes that moved the outputs, ``y = y_0 - Theta s``, follows::

    descent     r_k = (1 - a lambda)^k r_0,         s_k = (1 - (1 - a lambda)^k) / lambda r_0            (1)
    flow        r_k = exp(-a k lambda) r_0,         s_k = (1 - exp(-a k lambda)) / lambda r_0            (2)

Without the eigenvectors, after m steps of Lanczos from r_0 (``Theta V = V T + h v_{m+1} e_m*``), the same
functions of T give ``V r(T) e_1 |r_0|``, which obeys the law up to a remainder ``rho`` along v_{m+1}. Theta
being positive, a remainder grows no more than by ``g = max(1, a lambda_max - 1)`` an update, and by 1 of the
flow, so that the error of r_k is at most ``Sum_{j<k} g^{k-1-j} |rho_j|``, or ``Integral |rho|``, with

    |rho_j| = a h |e_m* (I - a T)^j e_1| |r_0|,     |rho(t)| = h |e_m* exp(-t T) e_1| |r_0|.             (3)

The latter does not change its sign, as the entries beside the diagonal of T have one sign each, so that its
integral is ``h |e_m* (1 - exp(-t T)) / T e_1| |r_0|``. What y_0 - Theta s differs from that is one more such
term, ``h |e_m* s(T) e_1| |r_0|``, which is no larger than the sum for g = 1.

Sources: Saad 1992 (Krylov approximations of the exponential); Botchev, Grimm, Hochbruck 2013 (residuals).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias

import numpy as np
from attrs import frozen

Law: TypeAlias = Literal["descent", "flow"]

LAWS: tuple[str, ...] = ("descent", "flow")

#: Updates that are summed over at a time.
CHUNK = 4096


@frozen
class Decay:
    """The law of an error.

    Attributes:
        law: ``descent``, in updates, or ``flow``, in their limit of small ones.
        rate: a, the learning rate times the loss's curvature.
    """

    law: Law
    rate: float

    def left(self, values: np.ndarray, count: float) -> np.ndarray:
        """Return what is left of an error after so many updates, by eigenvalues."""
        with np.errstate(over="ignore"):
            if self.law == "flow":
                return np.asarray(np.exp(-self.rate * count * values))
            return np.asarray((1 - self.rate * values) ** count)

    def summed(self, values: np.ndarray, count: float) -> np.ndarray:
        """Return s for an error of one, by eigenvalues."""
        x = self.rate * values
        tiny = np.abs(x) * max(count, 1) < 1e-12
        safe = np.where(tiny, 1.0, values)
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            if self.law == "flow":
                lost = -np.expm1(-count * x)
            else:
                small = np.where(x < 0.5, x, 0.0)
                lost = np.where(x < 0.5, -np.expm1(count * np.log1p(-small)), 1 - (1 - x) ** count)
        return np.asarray(np.where(tiny, self.rate * count, lost / safe))

    def largest_remainder(self, values: np.ndarray, weights: np.ndarray, beyond: float, most: int) -> float:
        """Return one of the largest remainders of descent, which the bound is not below; 0 for the flow."""
        if self.law == "flow":
            return 0.0
        j = np.unique(np.geomspace(1, max(most, 1), 64).astype(int)) - 1
        with np.errstate(over="ignore", invalid="ignore"):
            rho = np.abs((1 - self.rate * values) ** j[:, None] @ weights)
        return float(self.rate * beyond * np.nan_to_num(rho, nan=np.inf).max()) if most else 0.0

    def remainders(
        self, values: np.ndarray, weights: np.ndarray, beyond: float, growth: float, counts: Sequence[int]
    ) -> np.ndarray:
        """Return the bounds of (3) on the error of r, for ``|r_0| = 1``, after each of so many updates.

        Args:
            values: eigenvalues of T, ``[m]``.
            weights: the last times the first entry of its eigenvectors, ``[m]``.
            beyond: h.
            growth: g, at least 1.
            counts: numbers of updates, ascending.
        """
        if self.law == "flow":
            return beyond * np.abs([self.summed(values, count) @ weights for count in counts])
        from scipy.signal import lfilter  # takes a second to import, and few forecasts need it

        most, total = counts[-1], 0.0
        bounds = np.zeros(most + 1)
        with np.errstate(over="ignore", invalid="ignore"):
            for start in range(0, most, CHUNK):
                j = np.arange(start, min(start + CHUNK, most))
                rho = self.rate * beyond * np.abs((1 - self.rate * values) ** j[:, None] @ weights)
                bounds[j + 1] = lfilter([1.0], [1.0, -growth], rho, zi=[growth * total])[0]
                total = bounds[j[-1] + 1]
        return bounds[list(counts)]
