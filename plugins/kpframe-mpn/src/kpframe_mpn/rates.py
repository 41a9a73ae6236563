"""Plasticity rates: given and read in plain units, trained without clamping."""

from __future__ import annotations

import math

import torch
from attrs import frozen

from kpframe_mpn import Values


@frozen
class Range:
    """``(-inf, inf)``, ``(0, inf)`` or ``(0, high)`` as a smooth image of the real line.

    The identity, softplus and ``high * sigmoid``: what an optimizer does to the real number leaves no rate
    outside.
    """

    low: float = -math.inf
    high: float = math.inf

    def __str__(self) -> str:
        if math.isinf(self.low):
            return "finite numbers"
        return f"numbers > {self.low:g}" + ("" if math.isinf(self.high) else f" and < {self.high:g}")

    def value(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the rate of a real number."""
        if math.isinf(self.low):
            return raw
        if math.isinf(self.high):
            return torch.nn.functional.softplus(raw)
        return self.high * torch.sigmoid(raw)

    def raw(self, value: torch.Tensor) -> torch.Tensor:
        """Return the real number of a rate."""
        if math.isinf(self.low):
            return value
        if math.isinf(self.high):
            return value + torch.log(-torch.expm1(-value))
        return torch.logit(value / self.high)

    def slope(self, raw: torch.Tensor) -> torch.Tensor:
        """Return the derivative of ``value``."""
        if math.isinf(self.low):
            return torch.ones_like(raw)
        if math.isinf(self.high):
            return torch.sigmoid(raw)
        return self.high * torch.sigmoid(raw) * torch.sigmoid(-raw)


class Rate(torch.nn.Module):
    """A rate for every synapse ``[n, k]``, shared over neurons, over inputs, over both or not at all.

    While it trains, its parameter ``raw`` holds a real number for each entry and the rate is
    ``range.value(raw)``. A fixed rate is a buffer; where all its entries are equal it is a Python number,
    which is exact in every dtype.

    Args:
        values: one number, or one for each entry; ``MPNSettings`` has checked them.
        shape: ``"scalar"`` ``[]``, ``"pre"`` ``[k]``, ``"post"`` ``[n]`` or ``"matrix"`` ``[n, k]``.
        size: ``(n, k)``.
        within: its range, open while it trains, closed while it is fixed.
        trained: whether it is a parameter.
    """

    raw: torch.Tensor
    fixed: float | None

    def __init__(
        self, values: Values, shape: str, size: tuple[int, int], within: Range, trained: bool
    ) -> None:
        super().__init__()
        neurons, inputs = size
        sizes = {"scalar": (), "pre": (inputs,), "post": (neurons,), "matrix": size}
        self.shape, self.range, self.trained, self.fixed = shape, within, trained, None
        given = torch.tensor(values, dtype=torch.float64, device="cpu")
        value = given.reshape(sizes[shape]) if given.ndim else given.expand(sizes[shape]).clone()
        low, high = float(value.min()), float(value.max())
        if trained:
            self.raw = torch.nn.Parameter(within.raw(value).to(torch.empty(0)))  # of the default's kind
        elif low == high:
            self.shape, self.fixed = "scalar", low
        else:
            self.register_buffer("raw", value.to(torch.empty(0)))

    def forward(self) -> torch.Tensor | float:
        """Return the rate in plain units: a number, or ``[1 or n, 1 or k]``."""
        if self.fixed is not None:
            return self.fixed
        return spread(self.range.value(self.raw) if self.trained else self.raw, self.shape)

    def extra_repr(self) -> str:
        """Return shape and range for ``repr``."""
        trained = f"trains within {self.range}" if self.trained else "fixed"
        return f"{self.shape}, {trained}" + ("" if self.fixed is None else f" at {self.fixed:g}")


def spread(values: torch.Tensor, shape: str) -> torch.Tensor:  # [..., *shape] -> [..., 1 or n, 1 or k]
    """Return a rate's entries so that they broadcast over synapses."""
    if shape == "scalar":
        return values.unsqueeze(-1).unsqueeze(-1)
    if shape == "matrix":
        return values
    return values.unsqueeze(-2 if shape == "pre" else -1)


def gather(synapses: torch.Tensor, shape: str) -> torch.Tensor:  # [..., n, k] -> [..., *shape]
    """Return the adjoint of ``spread``: sums over the synapses that share an entry."""
    if shape == "scalar":
        return synapses.sum(dim=(-2, -1))
    if shape == "matrix":
        return synapses
    return synapses.sum(dim=-2 if shape == "pre" else -1)
