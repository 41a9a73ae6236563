"""``P`` in one compiled loop over the steps."""

from __future__ import annotations

import ctypes

import torch

from kpframe import Propagator, StepJacobian
from kpframe.errors import UnsupportedError
from kpframe.flow import WeightedPath, WeightedSteps
from kpframe_native.arrays import Arrays, flat, panels
from kpframe_native.library import Direct, Problem, Site, States, library, vector_bytes

#: Multiplications in a step of all rows for each thread, below which more threads cost more than they save.
STEP_WORK = 2**14
#: Rows for each thread from which the rows are shared rather than the columns of the weights: as many as pass
#: a column while it is at hand.
ROWS = 4


class NativePropagator(Propagator):
    """``P`` of a step that is weights between pointwise gains, ``A_t = sum_k D_k[t] W_k S_k[t] + E[t]``.

    The library walks the steps by itself: products with the weights, packed once, and gains are fused, and
    each step is a few microseconds rather than several calls of torch. It takes as many threads as torch is
    set to use, which share the rows (probes and trials) or the columns of the weights. Its sums have another
    order than torch's, so that products agree to rounding and not to the last bit.

    Args:
        A: the step Jacobian.
        name: how it prints.
        why: why the products are computed so.

    Raises:
        UnsupportedError: for a step Jacobian of another kind or on another device, and where the library was
            not built.
    """

    device_type = "cpu"

    def __init__(self, A: StepJacobian, *, name: str = "P", why: str = "asked for") -> None:
        super().__init__(A, name=name, why=why)
        self._compiled: _Compiled | None = None

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why the library cannot walk these steps, or None where it can."""
        reason = super().fits(A)
        if reason is not None:
            return reason
        try:
            library()
        except (UnsupportedError, OSError) as error:
            return str(error)
        if A.weighted_steps() is None:
            return "A is not known as weights between pointwise gains, the same weights at each step"
        return None

    @classmethod
    def prefers(cls, A: StepJacobian) -> bool:
        """Always true: where it fits it was the fastest at all sizes."""
        return True

    @property
    def method(self) -> str:
        """Always ``"native"``."""
        return "native"

    def __getstate__(self) -> dict[str, object]:
        """Return what is pickled: not the addresses of arrays."""
        return {**super().__getstate__(), "_compiled": None}

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._scan(q, adjoint=False)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._scan(r, adjoint=True)

    def _scan(self, q: torch.Tensor, *, adjoint: bool) -> torch.Tensor:
        if self._compiled is None:
            steps = self.A.weighted_steps()
            assert steps is not None  # fits
            self._compiled = _Compiled(steps, *self.A.domain.shape[:2])
        return self._compiled.product(q, adjoint=adjoint)


class _Compiled:
    """The weights in panels and the gains as the library reads them."""

    def __init__(self, steps: WeightedSteps, batch: int, time: int) -> None:
        self._steps, self._arrays = steps, Arrays(batch, time)
        self._weights = sum(path.weight.numel() for path in steps.weighted)
        sites = [self._site(path) for path in steps.weighted]
        self._sites = (Site * max(1, len(sites)))(*sites)
        direct = [Direct(target, source, self._arrays.steps(gain)) for target, source, gain in steps.direct]
        self._direct = (Direct * max(1, len(direct)))(*direct)

    def product(self, q: torch.Tensor, *, adjoint: bool) -> torch.Tensor:
        """Return the scan of ``q`` ``[..., B, T, H]``."""
        given = flat(q)
        probes, batch, time, hidden = given.shape
        out = q.new_empty(time, *q.shape[:-2], hidden)  # as the next product wants it
        rows = probes * batch
        if rows:
            states = States.of(given, self._steps.units, rows * (self._weights + hidden) // STEP_WORK)
            problem = Problem(
                states=states,
                num_sites=len(self._steps.weighted),
                sites=self._sites,
                num_direct=len(self._steps.direct),
                direct=self._direct,
                share_columns=rows < ROWS * states.threads,
                adjoint=adjoint,
            )
            library().kpn_scan(ctypes.byref(problem), given.data_ptr(), out.data_ptr(), vector_bytes())
        return out.movedim(0, -2)

    def _site(self, path: WeightedPath) -> Site:
        units = self._steps.units
        panel = 2 * vector_bytes() // path.weight.itemsize
        blocks, width = len(path.weight) // units, path.weight.shape[1]
        keep = self._arrays
        return Site(
            blocks=blocks,
            width=width,
            source=path.source,
            packed=keep.address(panels(path.weight.reshape(blocks, units, width).mT, panel)),
            packed_adjoint=keep.address(panels(path.weight.unsqueeze(0), panel)),
            slope=None if path.slope is None else keep.steps(path.slope),
            num_gains=len(path.gains),
            gains=keep.gains(path.gains),
        )
