"""``K`` in two compiled passes over the steps."""

from __future__ import annotations

import ctypes

import torch

from kpframe import Operator
from kpframe.errors import UnsupportedError
from kpframe.flow import GroupProjector, ParameterJacobian, ProductParameterOperator, WeightedRead
from kpframe.operators import IdentityOperator
from kpframe_native.arrays import Arrays, flat
from kpframe_native.library import Kernel, Read, States, library, vector_bytes

#: Multiplications of a product for each thread, below which more threads cost more than they save.
WORK = 2**17
#: Entries of what the weights move by, of all threads, beyond which threads do not each add up their own.
OWN_WEIGHTS = 2**24


class NativeParameterOperator(ProductParameterOperator):
    """``K = J J*`` of weights behind pointwise gains, ``(K r)_s = D_s (sum_s' (D_s' r_s') z_s'^T) z_s``.

    The library takes a block of steps at a time, which stays in a cache, fused with the gains on both sides:
    what reaches the preactivations is never in memory for all steps. Threads share the steps. With a metric
    that mixes parameters it is the three products.

    Raises:
        UnsupportedError: for a parameter Jacobian of another kind or on another device, and where the library
            was not built.
    """

    device_type = "cpu"
    _compiled: tuple[tuple[str, ...], _Compiled] | None = None

    @classmethod
    def fits(cls, jacobian: ParameterJacobian) -> str | None:
        """Return why the library cannot take these parameters, or None where it can."""
        reason = super().fits(jacobian)
        if reason is not None:
            return reason
        try:
            library()
        except (UnsupportedError, OSError) as error:
            return str(error)
        if jacobian.weighted_reads(part.name for part in jacobian.domain["parameter"].parts) is None:
            return "J is not known as parameters that are weights behind pointwise gains, each in one place"
        return None

    @property
    def method(self) -> str:
        """Always ``"native"``."""
        return "native"

    def __getstate__(self) -> dict[str, object]:
        """Return what is pickled: not the addresses of arrays."""
        return {**super().__getstate__(), "_compiled": None}

    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        if not isinstance(metric, IdentityOperator | GroupProjector):
            return super()._sandwich(metric, q)
        if self._compiled is None:
            reads = self.jacobian.weighted_reads(self.parameters)
            assert reads is not None  # fits
            self._compiled = self.parameters, _Compiled(reads, *self.domain.shape[:2])
        return self._compiled[1].product(q)


class _Compiled:
    """What is read and the gains as the library reads them."""

    def __init__(self, reads: tuple[WeightedRead, ...], batch: int, time: int) -> None:
        self._arrays = Arrays(batch, time)
        acting = [read for read in reads if read.gains]
        self._units = acting[0].gains[0][2].shape[-1] if acting else 0
        self._weights = sum(self._units * read.blocks * read.z.shape[-1] for read in acting)
        made = [self._read(read) for read in acting]
        self._num = len(made)
        self._reads = (Read * max(1, len(made)))(*made)

    def product(self, q: torch.Tensor) -> torch.Tensor:
        """Return the product with ``q`` ``[..., B, T, H]``."""
        given = flat(q)
        probes, batch, time, hidden = given.shape
        make = q.new_empty if self._num else q.new_zeros
        out = make(time, *q.shape[:-2], hidden)  # as scans want it
        if probes and self._num:
            work = 2 * probes * batch * time * self._weights
            states = States.of(given, self._units, work // WORK)
            kernel = Kernel(
                states=states,
                num_reads=self._num,
                reads=self._reads,
                share_columns=states.threads * self._weights > OWN_WEIGHTS,
            )
            library().kpn_kernel(ctypes.byref(kernel), given.data_ptr(), out.data_ptr(), vector_bytes())
        return out.movedim(0, -2)

    def _read(self, read: WeightedRead) -> Read:
        return Read(
            blocks=read.blocks,
            width=read.z.shape[-1],
            ones=read.biases,
            rows=self._arrays.address(read.z.contiguous()),  # [T, B, m]
            num_gains=len(read.gains),
            gains=self._arrays.gains(read.gains),
        )
