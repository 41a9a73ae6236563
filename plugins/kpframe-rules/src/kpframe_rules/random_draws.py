"""Random signs and normal numbers, and going through all signs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import product

import torch

from kpframe import Operator, Space, StochasticRule
from kpframe.operators import BATCH, trial_generators


def signs(shape: Sequence[int], generator: torch.Generator, like: Operator) -> torch.Tensor:
    """Return random signs, in an operator's dtype and on its device; the draw depends on neither."""
    drawn = torch.randint(2, tuple(shape), generator=generator, device=generator.device)
    return (2 * drawn - 1).to(like.device, like.dtype)


def normals(shape: Sequence[int], generator: torch.Generator, like: Operator) -> torch.Tensor:
    """Return independent normal numbers of variance 1; see ``signs``."""
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64, device=generator.device).to(
        like.device, like.dtype
    )


def by_trial(
    draw: Callable[[Sequence[int], torch.Generator, Operator], torch.Tensor],
    space: Space,
    generator: torch.Generator,
    like: Operator,
) -> torch.Tensor:  # [B, *rest]
    """Return what is drawn for each trial, of the shape of the other axes of a space.

    Each trial has a generator of its own, by its place among all trials: so a draw does not depend on how
    trials are sharded over ranks.
    """
    rest = space.without(BATCH).shape
    drawn = [draw(rest, own, like) for own in trial_generators(space, generator)]
    return torch.stack(drawn) if drawn else torch.empty(0, *rest, dtype=like.dtype, device=like.device)


def sign_patterns(rule: StochasticRule, count: int, like: Operator) -> Iterator[tuple[float, torch.Tensor]]:
    """Yield ``count`` signs ``[count]`` in all ways that differ by more than all signs at once.

    Each with its probability. The first sign is ``+1``: what is quadratic in the signs takes the same value
    for the opposite ones.

    Raises:
        ArgumentError: for more than ``max_outcomes`` ways.
    """
    free = max(0, count - 1)
    rule.check_outcomes(free)
    for rest in product((1.0, -1.0), repeat=free):
        pattern = torch.tensor((1.0, *rest)[:count], dtype=like.dtype, device=like.device)
        yield 0.5**free, pattern


def divided(values: torch.Tensor, by: torch.Tensor) -> torch.Tensor:
    """Return ``values / by``, and 0 where ``by`` is."""
    zero = by == 0
    return torch.where(zero, 0.0, values / torch.where(zero, 1.0, by))
