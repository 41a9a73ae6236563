"""``K`` in one compiled pass over the units."""

from __future__ import annotations

import ctypes
import math

import torch

from kpframe import Operator
from kpframe.errors import UnsupportedError
from kpframe.flow import GroupProjector, ParameterJacobian, ProductParameterOperator, WeightedRead
from kpframe.operators import IdentityOperator
from kpframe_native.arrays import Arrays
from kpframe_native.library import Kernel, Read, library, vector_bytes

#: Multiplications of a product for each thread, below which more threads cost more than they save.
WORK = 2**17


class NativeParameterOperator(ProductParameterOperator):
    """``K = J J*`` of weights behind pointwise gains, ``(K r)_s = D_s (sum_s' (D_s' r_s') z_s'^T) z_s``.

    A unit's rows of the weight come from its own entries of the state and serve these alone. So the library
    takes a panel of units at a time, whose part of the weight stays in a cache, fused with the gains on both
    sides; threads share the units. With a metric that mixes parameters it is the three products.

    Raises:
        UnsupportedError: for a parameter Jacobian of another kind or on another device, and where the library
            was not built.
    """

    _compiled: tuple[tuple[str, ...], _Compiled] | None = None

    @classmethod
    def fits(cls, jacobian: ParameterJacobian) -> str | None:
        """Return why the library cannot take these parameters, or None where it can."""
        if jacobian.device.type != "cpu":
            return f"the library works on the CPU, and J is on {jacobian.device}"
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
            self._compiled = self.parameters, _Compiled(reads, *self.domain.shape)
        return self._compiled[1].product(q)


class _Compiled:
    """What is read, as rows and turned, and the gains as the library reads them."""

    def __init__(self, reads: tuple[WeightedRead, ...], batch: int, time: int, hidden: int) -> None:
        self._arrays, self._hidden = Arrays(batch, time), hidden
        self._units = reads[0].gains[0][2].shape[-1] if reads and reads[0].gains else 0
        self._weights = sum(self._units * read.blocks * read.z.shape[-1] for read in reads)
        made = [self._read(read) for read in reads]
        self._num = len(made)
        self._reads = (Read * max(1, len(made)))(*made)

    def product(self, q: torch.Tensor) -> torch.Tensor:
        """Return the product with ``q`` ``[..., B, T, H]``."""
        probes, batch, time = q.shape[:-3], self._arrays.batch, self._arrays.time
        count = math.prod(probes)
        rows = q.reshape(count, batch, time, self._hidden)
        if rows.stride(-1) != 1:
            rows = rows.contiguous()
        out = q.new_zeros(time, count, batch, self._hidden)  # as scans want it
        if count and self._num:
            work = 2 * count * batch * time * self._weights
            kernel = Kernel(
                steps=time,
                batch=batch,
                probes=count,
                units=self._units,
                hidden=self._hidden,
                step_stride=rows.stride(2),
                probe_stride=rows.stride(0),
                row_stride=rows.stride(1),
                num_reads=self._num,
                reads=self._reads,
                threads=max(1, min(torch.get_num_threads(), work // WORK)),
                doubles=q.dtype == torch.float64,
            )
            library().kpn_kernel(ctypes.byref(kernel), rows.data_ptr(), out.data_ptr(), vector_bytes())
        return out.reshape(time, *probes, batch, self._hidden).movedim(0, -2)

    def _read(self, read: WeightedRead) -> Read:
        width, tile = read.z.shape[-1], library().kpn_tile()
        rows = read.z.flatten(0, 1).contiguous()  # [T B, m]
        turned = torch.nn.functional.pad(rows, (0, -width % tile)).reshape(len(rows), -1, tile)
        return Read(
            blocks=read.blocks,
            width=width,
            ones=read.biases,
            rows=self._arrays.address(rows),
            turned=self._arrays.address(turned.transpose(0, 1).contiguous()),
            num_gains=len(read.gains),
            gains=self._arrays.gains(read.gains),
        )
