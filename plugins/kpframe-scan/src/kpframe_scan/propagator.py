"""``P`` by parallel scan."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch

from kpframe import Propagator, StepJacobian
from kpframe.errors import MemoryBudgetError
from kpframe.flow import ScanPropagator
from kpframe_scan import ParallelScanSettings
from kpframe_scan.tree import Tree, compose, scan, scan_adjoint

DEFAULTS = ParallelScanSettings()

#: Widest state for which composing pays: two steps cost H^3, a product with one of them H^2.
WIDTH = 32
#: Most entries of A in one step of all trials; more fill a step of a scan, which then takes no longer.
STEP_ENTRIES = 2**11
#: What ``"fastest"`` asks of A: so many steps, of few trials, and few entries of states in a step of all.
LONG, FEW_TRIALS, SMALL_STEP = 200, 8, 32
#: How many times the memory of A's blocks composing takes: twice what is kept, those of all levels.
HELD = 4


class ParallelScanPropagator(Propagator):
    """``P`` in O(log T) batched products with blocks of A and products of them, made with the first product.

    All trials lie one behind the other in a single sequence whose blocks are zero where a trial begins.
    Where products of steps grow beyond ``growth`` (see ``kpframe_scan.tree``) they are made as long as
    they stay below; where that leaves no fewer steps than A's own scan has, it is A's own scan.

    Args:
        A: the step Jacobian.
        growth: largest entry of a product of steps; None: eps^(-1/4).
        max_bytes: largest memory of the products of steps.
        name: how it prints.
        why: why the products are computed so.

    Raises:
        UnsupportedError: for a state wider than 32, or a step of more than 2^11 entries of A.
        MemoryBudgetError: for products of steps that need more than ``max_bytes``.
        SettingsError: for settings out of their bounds.
    """

    def __init__(
        self,
        A: StepJacobian,
        *,
        growth: float | None = DEFAULTS.growth,
        max_bytes: int = DEFAULTS.max_bytes,
        name: str = "P",
        why: str = "asked for",
    ) -> None:
        super().__init__(A, name=name, why=why)
        chosen = ParallelScanSettings(growth=growth, max_bytes=max_bytes)
        self.growth, self.max_bytes = chosen.growth, chosen.max_bytes
        batch, time, hidden = A.domain.shape
        needed = HELD * batch * time * hidden**2 * A.dtype.itemsize
        if needed > self.max_bytes:
            raise MemoryBudgetError(
                f"products of steps of {A!r} on ({A.domain}): expected them within "
                f"max_bytes={self.max_bytes}, got {needed} bytes ({needed / 2**30:.3g} GiB); take fewer "
                "trials or steps at a time, raise max_bytes, or take another propagator ('scan')"
            )

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why a parallel scan does not pay, None where it may.

        It does not look at the number of steps: with few, it is as good as a scan.
        """
        batch, _, hidden = A.domain.shape
        if hidden > WIDTH:
            return f"products of steps pay for at most {WIDTH} states, and A has {hidden}"
        if batch * hidden**2 > STEP_ENTRIES:
            return (
                f"products of steps pay for at most {STEP_ENTRIES} entries of A in one step of all trials, "
                f"and A has {batch * hidden**2}; take fewer trials at a time"
            )
        return None

    @classmethod
    def prefers(cls, A: StepJacobian) -> bool:
        """Return whether it was several times faster for a vector, and no slower for many; see the README."""
        batch, time, hidden = A.domain.shape
        return time >= LONG and batch <= FEW_TRIALS and batch * hidden <= SMALL_STEP

    @property
    def method(self) -> str:
        """Always ``"parallel_scan"``; ``depth`` says how far steps are composed."""
        return "parallel_scan"

    @property
    def settings(self) -> dict[str, Any]:
        """The growth and the memory that are allowed."""
        return {"growth": self.growth, "max_bytes": self.max_bytes}

    @property
    def depth(self) -> int:
        """How many products follow one after the other: about 2 log2(B T), or the T - 1 of A's own scan."""
        return self.A.steps - 1 if self._tree is None else self._tree.depth

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        if self._tree is None:
            return self._scan._apply(q)
        return self._shaped(scan(self._tree, self._rows(q)), q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        if self._tree is None:
            return self._scan._apply_adjoint(r)
        return self._shaped(scan_adjoint(self._tree, self._rows(r)), r)

    @cached_property
    def _tree(self) -> Tree | None:
        """The products of steps; None where a scan has no more steps than they leave."""
        blocks = self.A.blocks(self.max_bytes).clone()  # [B, T, H, H]
        blocks[:, 0] = 0  # P never uses it, and nothing goes from one trial to the next
        growth = torch.finfo(self.dtype).eps ** -0.25 if self.growth is None else self.growth
        tree = compose(blocks.flatten(0, 1), growth)
        return None if len(tree.top) > 1 and tree.depth >= self.A.steps - 1 else tree

    @cached_property
    def _scan(self) -> ScanPropagator:
        return ScanPropagator(self.A)

    def _rows(self, q: torch.Tensor) -> torch.Tensor:  # [..., B, T, H] -> [B T, K, H]
        """Return a copy in which the probes of each trial and step are the rows of a matrix."""
        flat = q.reshape(-1, q.shape[-3] * q.shape[-2], q.shape[-1])
        return flat.transpose(0, 1).clone(memory_format=torch.contiguous_format)

    def _shaped(self, rows: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
        return rows.transpose(0, 1).reshape(like.shape)
