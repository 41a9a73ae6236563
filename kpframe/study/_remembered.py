"""``Remembered``: an operator that multiplies a vector once, for all quantities that ask for its product.

Operators that begin alike, as ``P P*`` and ``Phi = P K P*`` do by P*, take the product with that first factor
from one memory: a scan back over the steps for both. So do estimates from products with X* alone, of which P*
is the first factor.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterator
from typing import Any, TypeGuard

import torch
from attrs import frozen

from kpframe.operators._algebra import Composition
from kpframe.operators._base import Operator
from kpframe.operators._shards import Shards
from kpframe.operators._tagged import TaggedAsInner
from kpframe.spectra._numerics.small_side import SmallSide, factors_of, small_side

#: Most bytes of vectors and products that one operator keeps.
KEPT_BYTES = 512 * 2**20


@frozen(eq=False)
class _Kept:
    """Vectors that went in together, and their products."""

    vectors: torch.Tensor
    product: torch.Tensor
    head: list[float]  # the first entries, by which most vectors are told apart

    def is_of(self, vectors: torch.Tensor, head: list[float]) -> bool:
        return self.head == head and torch.equal(self.vectors, vectors)


class Remembered(TaggedAsInner):
    """An operator, and its latest products: rank, trace, norm and alignment meet the same random vectors.

    A product is the operator's own, to the last bit: it is kept with the vectors that went in together. On
    several ranks it is remembered where it is on all of them, so that all or none go on without it.

    Args:
        inner: the operator.
        begun: what it may begin by, as others do.
    """

    def __init__(self, inner: Operator, begun: Begun | None = None) -> None:
        super().__init__(inner)
        self.begun = begun
        self._kept: dict[tuple[int, ...], list[_Kept]] = {}
        self._bytes = 0
        #: Where the operator goes through a smaller space, whose eigenvalues are found once.
        self.small_side = small_side(inner)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        kept, head = self._kept.setdefault(tuple(q.shape), []), q.flatten()[:4].tolist()
        shards = self.domain.shards or self.codomain.shards
        same = (one for one in kept if one.is_of(q, head))
        known = next(same if shards is None else _on_all(kept, [*same], shards), None)
        if known is not None:
            return self._copy(known.product)
        vectors = self._copy(q)
        product = self._product(vectors)
        probes = math.prod(q.shape[: q.ndim - len(self.domain.axes)])
        size = probes * (self.domain.largest + self.codomain.largest) * q.itemsize  # the same on all ranks
        if self._bytes + size <= KEPT_BYTES:
            self._bytes += size
            kept.append(_Kept(vectors, self._copy(product), head))
        return product

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.clone()

    def _product(self, q: torch.Tensor) -> torch.Tensor:
        begun = self.begun
        # of one operator alone the whole products are kept, and those on the way would be of no use
        if begun is None or not begun.of_several or not begun.begins(self.inner):
            return self.inner._apply(q)
        q = begun._apply(q)
        for factor in reversed(self.inner.factors[:-1]):
            q = factor._apply(q)
        return q

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._apply(r) if self.inner.self_adjoint else self.inner._apply_adjoint(r)

    def block_labels(self) -> torch.Tensor | None:
        """Return a label for each entry of the last axis; the operator has no entry between two labels."""
        return self.inner.block_labels()

    def _formula(self) -> tuple[str, int]:
        return self.inner._formula()


class Begun(Remembered):
    """The first factor of several operators, whose products they share also where threads meet.

    They keep the vectors themselves and write to none: nothing is copied here.

    Args:
        inner: the factor.
        operators: those that may begin by it.

    Attributes:
        of_several: whether more than one of them does.
    """

    def __init__(self, inner: Operator, operators: Collection[Operator]) -> None:
        super().__init__(inner)
        self._turn = threading.Lock()
        self.of_several = sum(map(self.begins, operators)) > 1

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        del state["_turn"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._turn = threading.Lock()

    def begins(self, operator: Operator) -> TypeGuard[Composition]:
        """Return whether an operator is a product that begins by it."""
        if not isinstance(operator, Composition) or operator.factors[-1] is not self.inner:
            return False
        return all(number == 1 for number in operator.numbers)

    def among(self, factors: list[Operator]) -> list[Operator]:
        """Return factors of an operator with this one, and its adjoint, in place of those without memory."""
        known = {id(self.inner): self, id(self.inner.T): self.T}
        return [known.get(id(factor), factor) for factor in factors]

    def _copy(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        with self._turn:
            return super()._apply(q)


def _on_all(kept: list[_Kept], same: list[_Kept], shards: Shards) -> Iterator[_Kept]:
    """Yield what is the same on every rank: a rank knows no difference between vectors of its own zeros."""
    if kept:
        others = shards.max(torch.tensor([float(one not in same) for one in kept], device=shards.device))
        yield from (one for one, other in zip(kept, others.tolist(), strict=True) if not other)


@small_side.register
def _(op: Remembered) -> SmallSide | None:
    return op.small_side


@factors_of.register
def _(op: Remembered) -> tuple[tuple[float, ...], list[Operator]]:
    numbers, factors = factors_of(op.inner)
    return numbers, factors if op.begun is None else op.begun.among(factors)
