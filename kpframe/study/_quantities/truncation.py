"""What is lost where errors travel back a few steps only: of P, of the flow of learning, of the gradient.

With ``P_k = Sum_{j<k} (A Z)^j``, what a window of k steps keeps of P, and ``g_k = J* P_k* Err``::

    of P           |P - P_k|_F / |P|_F
    of the flow    |Phi - P K P_k*|_F / |Phi|_F        which moves the states under truncated learning
    of the gradient    |g - g_k| / |g|, the cosine of g and g_k, and the share <g, g_k> / |g|^2 of the descent

``(P - P_k)* = Sum_{j>=k} (Z* A*)^j``: one pass of products with ``A*`` serves all windows.
"""

from __future__ import annotations

import torch
import xarray as xr

from kpframe.flow import unshift
from kpframe.operators._memory import chunk_size
from kpframe.plugin._core_learning import TruncationSettings
from kpframe.plugin._takes import takes_settings
from kpframe.rules._update import Update
from kpframe.spectra._numerics.ranks import basis_rows
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, numbers
from kpframe.study._quantities.draws import drawn_signs, leave_one_out
from kpframe.study._quantities.existing import existing_steps
from kpframe.study._quantity import Quantity

#: The place of the random signs among a moment's sources of random numbers.
PLACE = 250


class Truncation(Quantity):
    """Relative errors of truncated learning by window, ``[window]``: how many steps back are enough.

    A window of 1 step is ``P_1 = I``, and one of all steps is exact. Norms are over the existing steps of all
    trials, from ``draws`` random signs, exact where these are at least as many as the state space has
    dimensions. What is said of the gradient is exact, and there where readout and targets are; NaN for a
    gradient of zero.
    """

    on_ranks = "all"

    @takes_settings(TruncationSettings)
    def __init__(self, settings: TruncationSettings) -> None:
        self.draws, self.windows = settings.draws, settings.windows

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the errors; costs a product with ``A*`` a step, and one with ``P K`` a window."""
        steps = moment.flow.A.steps
        windows = sorted({min(k, steps) for k in self.windows or _doubled(steps)})
        exists, P = existing_steps(moment)[..., None], moment.flow.P
        size = P.domain.dimension
        exact = self.draws >= size
        count = size if exact else self.draws
        source = moment.generator(PLACE)
        rows = []
        chunk = chunk_size(P, count, held=4 + len(windows))
        for start in range(0, count, chunk):
            num = min(chunk, count - start)
            if exact:
                z = basis_rows(P.domain, start, start + num, P).reshape(num, *P.domain.shape)
            else:
                z = drawn_signs(P, num, source)
            rows.append(self._squares(moment, z * exists, windows))
        squares = moment.summed(torch.cat(rows))  # [draw, P or flow, window, with the whole as the last]
        data = xr.Dataset(
            coords={
                "window": ("window", windows, attributes("steps that an error travels back, and its own"))
            }
        )
        for place, name, text in (
            (0, "truncation_error", "relative error |P - P_k| / |P| of the truncated propagator"),
            (1, "truncation_flow_error", "relative error |Phi - P K P_k*| / |Phi| of the truncated flow"),
        ):
            value, stderr = _ratio(squares[:, place], exact)
            data[name] = ("window", numbers(value), attributes(text))
            data[f"{name}_stderr"] = ("window", numbers(stderr), attributes(f"standard error of the {text}"))
        if moment.readout is not None and moment.around.loss is not None and moment.probe.trials is not None:
            for name, text, values in _of_gradient(moment, windows):
                data[name] = ("window", numbers(values), attributes(text))
        return data

    def _squares(self, moment: Moment, z: torch.Tensor, windows: list[int]) -> torch.Tensor:
        """Return ``|(P - P_k)* z|^2`` and ``|(Phi - P K P_k*) z|^2`` for each window, and for k = 0."""
        flow, exists = moment.flow, existing_steps(moment)[..., None]
        found = []
        for rest in _left_out(moment, z, [*windows, 0]):
            moved = flow.P(flow.K(rest)) * exists
            found.append(
                torch.stack([one.double().square().flatten(1).sum(1) for one in (rest, moved)], dim=1)
            )
        return torch.stack(found, dim=2)


def _doubled(steps: int) -> list[int]:
    found = [1]
    while found[-1] < steps:
        found.append(min(2 * found[-1], steps))
    return found


def _left_out(moment: Moment, z: torch.Tensor, windows: list[int]) -> list[torch.Tensor]:
    """Return ``(P - P_k)* z`` for each window, in their order; of 0 it is ``P* z``."""
    A, steps = moment.flow.A, moment.flow.A.steps
    whole = moment.flow.P.T(z)
    kept, power, sums = torch.zeros_like(z), z, {0: whole}
    for k in range(1, steps + 1):
        kept = kept + power
        if k in windows:  # nothing is left of a window of all steps, not even rounding
            sums[k] = whole - kept if k < steps else torch.zeros_like(z)
        if k < steps:
            power = unshift(A.T(power))
    return [sums[k] for k in windows]


def _ratio(squares: torch.Tensor, exact: bool) -> tuple[torch.Tensor, torch.Tensor]:  # [draw, window + 1]
    """Return roots of ratios of the sums over draws, the last column being the whole, with their errors."""
    total = squares.sum(dim=0)
    value = (total[:-1] / total[-1]).sqrt()
    if exact:
        return value, torch.where(value.isnan(), torch.nan, 0.0)
    without = total - squares
    value, stderr = leave_one_out(value, (without[:, :-1] / without[:, -1:]).sqrt())
    return value.clamp(min=0), stderr


def _of_gradient(moment: Moment, windows: list[int]) -> list[tuple[str, str, torch.Tensor]]:
    flow = moment.flow
    err = Update.exact(flow, moment.readout).incoming(output_err=moment.output_err)
    rest = torch.stack([flow.J.T(one) for one in _left_out(moment, err[None], [*windows, 0])])[:, 0].double()
    whole = rest[-1]
    kept = whole - rest[:-1]
    size = whole.norm()
    size = size if float(size) > 0 else torch.full_like(size, torch.nan)
    along = kept @ whole / size
    text = "of the gradient by truncated errors"
    return [
        ("truncation_gradient_error", f"relative error |g - g_k| / |g| {text}", rest[:-1].norm(dim=1) / size),
        ("truncation_gradient_cosine", f"cosine with the exact gradient {text}", along / kept.norm(dim=1)),
        ("truncation_descent", f"share of the exact descent {text}", along / size),
    ]
