"""What recurrent weights are made of: masks, Dale's law, low rank, and how they start."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping

import torch
from attrs import fields, frozen

from kpframe.errors import ArgumentError, ShapeError, StabilityWarning, mismatch
from kpframe_rnn import RNNSettings

#: How weights are kept non-negative under Dale's law.
RECTIFIERS: Mapping[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "abs": torch.abs,
    "relu": torch.relu,
    "softplus": torch.nn.functional.softplus,
}


@frozen
class Connectivity:
    """How the weights among ``units`` are made and start; see ``RNN`` and its settings for the fields."""

    units: int
    gain: float | None
    density: float | None
    self_connections: bool
    excitatory_fraction: float | None
    rectifier: str
    rank: int | None
    train_bulk: bool

    @classmethod
    def of(cls, settings: RNNSettings) -> Connectivity:
        """Return the connectivity that the settings ask for."""
        names = [attribute.name for attribute in fields(cls)[1:]]
        return cls(settings.hidden_size, **{name: getattr(settings, name) for name in names})

    @property
    def dale(self) -> bool:
        """Whether each unit's outgoing weights have one sign."""
        return self.excitatory_fraction is not None

    @property
    def sparse(self) -> bool:
        """Whether recurrent weights have a mask from the start."""
        return self.density is not None or not self.self_connections

    def draw_mask(self, generator: torch.Generator | None) -> torch.Tensor:  # [H, H]
        """Return a random mask with equally many ones in each row, at least one (if it may have any)."""
        n = self.units
        allowed = n if self.self_connections else n - 1
        count = min(allowed, max(1, round((self.density or 1.0) * allowed)))
        scores = torch.rand(n, n, generator=generator, dtype=torch.float32, device="cpu")
        if not self.self_connections:
            scores.fill_diagonal_(-1)
        return torch.zeros_like(scores).scatter_(1, scores.topk(count, dim=1).indices, 1)

    def signs(self) -> torch.Tensor:  # [H]
        """Return +1 for the excitatory units, which come first, and -1 for the inhibitory ones."""
        excitatory = round((self.excitatory_fraction or 0) * self.units)
        return torch.where(torch.arange(self.units) < excitatory, 1.0, -1.0)

    def start(
        self, drawn: torch.Tensor, mask: torch.Tensor | None, signs: torch.Tensor | None, *, recurrent: bool
    ) -> torch.Tensor:
        """Return the parameter that a matrix starts from, given the values of a full matrix.

        A mask that keeps a share p divides by sqrt(p), so that summed inputs vary as much as without it.
        With ``signs`` (Dale's law) the sizes of the drawn values are taken; those of inhibitory columns
        are scaled by one factor, so that all weights sum to zero, and those of a recurrent matrix by
        another, so that its spectral radius is ``gain``, if that is given.
        """
        kept = torch.ones_like(drawn) if mask is None else mask
        share = float(kept.mean())
        drawn = drawn / math.sqrt(share) if share > 0 else drawn
        if signs is None:
            return drawn
        sizes = drawn.abs()
        excitation, inhibition = (float((sizes * kept)[:, signs == sign].sum()) for sign in (1, -1))
        if excitation > 0 and inhibition > 0:
            sizes = torch.where(signs > 0, sizes, sizes * (excitation / inhibition))
        if recurrent and self.gain is not None:
            radius = float(torch.linalg.eigvals((sizes * signs * kept).double()).abs().max())
            sizes = sizes * (self.gain / radius if radius > 0 else 1)  # 0 at any scale without a cycle
        return _inverse_softplus(sizes) if self.rectifier == "softplus" else sizes

    def warn_if_unstable(self, nonlinearity: str) -> None:
        """Issue a ``StabilityWarning`` for initial weights under which activity is known to grow.

        Rectification halves the variance that a random matrix of gain g passes on, so activity in a large
        network grows when g^2 / 2 > 1, at any leak. Weights that are all excitatory are a positive matrix,
        whose activity grows with the spectral radius (Perron, Frobenius).
        """
        if nonlinearity != "relu" or self.gain is None:
            return
        if not self.dale and self.gain > math.sqrt(2):
            _warn(mismatch("gain", "at most sqrt(2) in a large network of relu units", self.gain))
        if self.dale and self.gain > 1 and bool((self.signs() > 0).all()):
            _warn(mismatch("gain", "at most 1 where all units are excitatory relu units", self.gain))


def check_mask(mask: object, weight: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a mask, checked.

    Raises:
        ShapeError: for another shape.
        ArgumentError: for other entries than 0 and 1.
    """
    argument = f"mask of {weight}"
    if not isinstance(mask, torch.Tensor) or mask.shape != shape:
        got = f"shape {list(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
        raise ShapeError(mismatch(argument, f"shape {list(shape)}", got))
    others = mask[(mask != 0) & (mask != 1)]
    if others.numel():
        raise ArgumentError(mismatch(argument, "zeros and ones", others[0].item()))
    return mask


def _warn(message: str) -> None:
    warnings.warn(f"{message}; activity grows without bound", StabilityWarning, stacklevel=6)


def _inverse_softplus(y: torch.Tensor) -> torch.Tensor:
    """Return x with ``log(1 + exp(x)) = y``, for y > 0 (an exact 0 counts as the smallest normal number)."""
    y = y.clamp(min=torch.finfo(y.dtype).tiny)
    return y + torch.log(-torch.expm1(-y))
