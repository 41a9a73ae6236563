"""How the cost of Phi grows with trials, steps, units and probes: fitted exponents."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from attrs import asdict, evolve, frozen

from kpframe.models._linearize import linearize
from kpframe.study._bench.products import Size, make
from kpframe.study._bench.timing import Clock, fitted_exponent

#: What each sweep runs over; the rest stays at ``BASE``.
SWEEPS = {
    "batch": (200, 500, 1000, 2000),
    "time": (100, 200, 500, 1000),
    "hidden": (128, 256, 512, 1024),
    "probes": (4, 8, 16, 40),
}
BASE = Size(50, 50, 128)


@frozen
class Sweep:
    """How the time of ``Phi q`` grows with one size.

    Attributes:
        model: its name.
        over: ``"batch"``, ``"time"``, ``"hidden"`` or ``"probes"``.
        sizes: the values.
        milliseconds: median time at each [ms].
        exponent: least-squares slope of log time over log size.
    """

    model: str
    over: str
    sizes: tuple[int, ...]
    milliseconds: tuple[float, ...]
    exponent: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return asdict(self)


def sweeps(name: str, *, runs: int, dtype: torch.dtype, device: torch.device) -> Iterator[Sweep]:
    """Yield one sweep of a model after the other."""
    clock = Clock(device)
    for over, values in SWEEPS.items():
        seconds = []
        for value in values:
            size = BASE if over == "probes" else evolve(BASE, **{over: value})
            model = make(name, size.hidden, dtype, device)
            x = torch.randn(size.batch, size.time, model.input_size, dtype=dtype, device=device)
            Phi = linearize(model, x).Phi
            probes = (value,) if over == "probes" else ()
            q = torch.randn(*probes, *Phi.domain.shape, dtype=dtype, device=device)
            seconds.append(clock.median(lambda Phi=Phi, q=q: Phi(q), runs))  # type: ignore[misc]
        milliseconds = tuple(1e3 * value for value in seconds)
        yield Sweep(name, over, values, milliseconds, fitted_exponent(values, seconds))
