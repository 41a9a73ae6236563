"""Whether products are finite, looked at once for many of them.

To look at a product, the host waits for the device that makes it. ``deferred_checks`` leaves a flag with the
device for each product instead, and reads all flags where its block ends.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from attrs import frozen

from kpframe.errors import NonFiniteError, mismatch


@contextmanager
def deferred_checks() -> Iterator[None]:
    """Check the products of a block together where it ends, so that none waits for the device.

    ``op(q)`` looks whether its product is finite before it returns it: the host waits for the device, once a
    product. In this block it does not, and products are launched one after the other; leaving the block reads
    all flags at once. Take numbers to the host after the block: within it nothing has been checked.

    Products of operators whose trials are sharded over ranks, those in other threads, and what estimates and
    ``linearize`` check, are checked at once as ever; ``op(q, check=False)`` is not checked here either. A
    block that ends by an error of its own raises that one.

    Raises:
        NonFiniteError: where the block ends, for its first product with NaN or infinity. The message names
            the place, as that of ``op(q)``, if argument and product are still there and were not written to.
    """
    mine = Pending()
    token = _pending.set(mine)
    try:
        yield
    finally:
        _pending.reset(token)
    mine.check()


def pending_checks() -> Pending | None:
    """Return where this thread's products leave their flags; None: each is checked at once."""
    return _pending.get()


@frozen
class _Left:
    """A product that is still to be checked."""

    finite: torch.Tensor  # [], bool
    operator: object
    tensors: tuple[tuple[weakref.ref[torch.Tensor], int], ...]
    look: Callable[[torch.Tensor, torch.Tensor], None]


class Pending:
    """Products that are still to be checked, in order."""

    def __init__(self) -> None:
        self._left: list[_Left] = []

    def add(
        self,
        operator: object,
        q: torch.Tensor,
        out: torch.Tensor,
        look: Callable[[torch.Tensor, torch.Tensor], None],
    ) -> None:
        """Leave a product to be checked; ``look(q, out)`` raises where it is not finite.

        Tensors are not kept alive for it.
        """
        kept = tuple((weakref.ref(tensor), tensor._version) for tensor in (q, out))
        self._left.append(_Left(torch.isfinite(out).all(), operator, kept, look))

    def check(self) -> None:
        """Raise for the first product that is not finite: one read for each device."""
        by_device: dict[torch.device, list[int]] = {}
        for place, left in enumerate(self._left):
            if not left.finite.is_meta:
                by_device.setdefault(left.finite.device, []).append(place)
        bad = [
            place
            for places in by_device.values()
            for place, finite in zip(
                places, torch.stack([self._left[place].finite for place in places]).tolist(), strict=True
            )
            if not finite
        ]
        if bad:
            self._refuse(min(bad))

    def _refuse(self, place: int) -> None:
        left = self._left[place]
        q, out = (_unchanged(*kept) for kept in left.tensors)
        if q is not None and out is not None:
            left.look(q, out)
        what = f"product of {left.operator!r}"
        found = f"NaN or infinity in product {place + 1} of {len(self._left)} of the block"
        remedy = "; without deferred_checks() the first place is named"
        raise NonFiniteError(mismatch(what, "finite numbers", found) + remedy)


def _unchanged(reference: weakref.ref[torch.Tensor], version: int) -> torch.Tensor | None:
    """Return a tensor that is still there as it was."""
    tensor = reference()
    return tensor if tensor is not None and tensor._version == version else None


_pending: ContextVar[Pending | None] = ContextVar("kpframe_pending_checks", default=None)
