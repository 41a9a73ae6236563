"""What recording the graph of a step or a roll-out needs of a model."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch

from kpframe.flow._flow import Dynamics
from kpframe.flow._trajectory import Trajectory
from kpframe.operators._spaces import Space


class Recorded(Dynamics, Protocol):
    """A model whose steps can be recorded; ``kpframe.Model`` is one."""

    @property
    def parameter_space(self) -> Space:
        """The space of theta."""

    def parameters(self, recurse: bool = True) -> Iterator[torch.nn.Parameter]:
        """Return all parameters, those that do not learn, too."""

    def _advance(self, trajectory: Trajectory, t: int, h: torch.Tensor) -> torch.Tensor:
        """Return the state ``[B, H]`` after step ``t``."""

    def _rows(
        self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """Return the next states ``[N, H]`` of N rows, held where the mask is False."""
