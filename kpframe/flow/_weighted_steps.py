"""Steps and parameters written as weights between pointwise gains, for products that are compiled."""

from __future__ import annotations

import torch
from attrs import evolve, frozen


@frozen(eq=False)
class WeightedPath:
    """``D_t W S_t``: a weight that reads part of the state, and the gains by which it moves the new one.

    Attributes:
        weight: ``W`` ``[G n, m]``, the same at each step; its rows are G blocks of n units.
        source: where on ``hidden`` it reads, m entries from here.
        slope: ``S_t`` ``[T, B, m]``; None for the identity.
        gains: for each, which block of rows, where on ``hidden`` it adds (n entries from there), and
            ``D_t`` ``[T, B, n]``.
    """

    weight: torch.Tensor
    source: int
    slope: torch.Tensor | None
    gains: tuple[tuple[int, int, torch.Tensor], ...]


@frozen(eq=False)
class WeightedSteps:
    """``A_t = sum_k D_k[t] W_k S_k[t] + E[t]``, with D, S and E diagonal.

    Attributes:
        units: n, the width of each component of the state.
        weighted: the paths through weights.
        direct: those from entry to entry: where on ``hidden`` it adds, where it reads (n entries each), and
            ``E_t`` ``[T, B, n]``.
    """

    units: int
    weighted: tuple[WeightedPath, ...]
    direct: tuple[tuple[int, int, torch.Tensor], ...]

    def cut(self, keep: torch.Tensor) -> WeightedSteps:  # [T, B, 1]
        """Return the same with all gains times ``keep`` ``[T, B, 1]``."""
        weighted = (
            evolve(path, gains=tuple((block, at, keep * gain) for block, at, gain in path.gains))
            for path in self.weighted
        )
        direct = ((target, source, keep * gain) for target, source, gain in self.direct)
        return evolve(self, weighted=tuple(weighted), direct=tuple(direct))


@frozen(eq=False)
class WeightedRead:
    """Weights that learn, as they act on some preactivations: ``J dtheta = D (dW z)``; each is a parameter.

    Attributes:
        z: what is read, ``[T, B, m]``.
        blocks: the number G of preactivations of n units; W is ``[G n, m]``.
        biases: how many biases learn; where any does, the last column of z is ones.
        gains: for each, which block of rows, where on ``hidden`` it adds (n entries from there), and
            ``D_t`` ``[T, B, n]``.
    """

    z: torch.Tensor
    blocks: int
    biases: int
    gains: tuple[tuple[int, int, torch.Tensor], ...]
