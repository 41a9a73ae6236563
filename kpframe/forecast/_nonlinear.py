"""Outputs that a cross entropy drives along a fixed Theta, ``y = y_0 - Theta s``: s, the sum of the slopes.

Descent is iterated; the flow ``ds/dt = e(y_0 - Theta s)`` is integrated by the method of Dormand and Prince
of order 8, twice, and the difference is taken for the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from attrs import frozen
from scipy.integrate import solve_ivp

from kpframe.errors import ArgumentError
from kpframe.forecast._laws import Law
from kpframe.operators._spaces import Space
from kpframe.spectra._numerics.ranks import own_rows, whole_rows


@frozen(eq=False)
class Drive:
    """What drives the scored outputs, n of them in a row.

    Attributes:
        start: ``y_0``, ``[n]``.
        targets: one where the class is the output's, zero else, ``[n]``.
        outputs: number of outputs O at each step.
        count: number of scored steps, of all ranks.
        product: with Theta, ``[n] -> [n]``.
        space: of rows ``[n]``, which ranks may share.
    """

    start: torch.Tensor
    targets: torch.Tensor
    outputs: int
    count: int
    product: Callable[[torch.Tensor], torch.Tensor]
    space: Space

    def summed(
        self, law: Law, rate: float, counts: Sequence[int], *, exact: bool
    ) -> tuple[torch.Tensor, np.ndarray, str]:
        """Return s ``[k, n]``, bounds on the errors of the outputs, and how it was found.

        Args:
            law: ``descent`` or ``flow``.
            rate: learning rate of an update.
            counts: numbers of updates, ascending.
            exact: whether products are known to float64.
        """
        if law == "descent":
            return self._iterated(rate, counts), np.zeros(len(counts)), "iterated"
        times = [rate * count for count in counts]
        runs = [self._integrated(times, rtol) for rtol in ((1e-9, 1e-12) if exact else (1e-5, 1e-7))]
        apart = torch.stack([self.product(one) for one in runs[1] - runs[0]])
        return runs[1], self.space.norms(apart).cpu().numpy(), "DOP853"

    def _slope(self, s: torch.Tensor, moved: bool) -> torch.Tensor:
        y = self.start - self.product(s) if moved else self.start
        return (y.reshape(-1, self.outputs).softmax(dim=1).flatten() - self.targets) / self.count

    def _iterated(self, rate: float, counts: Sequence[int]) -> torch.Tensor:
        s, kept, wanted = torch.zeros_like(self.start), {}, set(counts)
        for made in range(counts[-1] + 1):
            if made in wanted:
                kept[made] = s
            if made < counts[-1]:
                s = s + rate * self._slope(s, made > 0)
        return torch.stack([kept[count] for count in counts])

    def _integrated(self, times: Sequence[float], rtol: float) -> torch.Tensor:
        """Return s ``[k, n]`` of the flow, from one horizon to the next: within a step it is less exact."""
        space = self.space
        s, kept, before = self.start.new_zeros(space.dimension), [], 0.0  # all of it on every rank

        def derivative(_: float, at: np.ndarray) -> np.ndarray:
            own = own_rows(torch.from_numpy(at).to(s)[None], space)[0]
            slope = self._slope(own, bool(at.any()))
            return np.asarray(whole_rows(slope[None], space)[0].cpu().numpy())

        for time in times:
            if time > before:
                solved = solve_ivp(
                    derivative,
                    (before, time),
                    s.cpu().numpy(),
                    method="DOP853",
                    rtol=rtol,
                    atol=rtol * time / len(s),
                )
                if not solved.success:
                    raise ArgumentError(f"law: the flow could not be integrated: {solved.message}")
                s, before = torch.from_numpy(solved.y[:, -1].copy()).to(s), time
            kept.append(own_rows(s[None], space)[0])
        return torch.stack(kept)
