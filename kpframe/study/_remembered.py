"""``Remembered``: an operator that multiplies a vector once, for all quantities that ask for its product."""

from __future__ import annotations

import torch

from kpframe.operators._base import Operator
from kpframe.operators._tagged import TaggedAsInner
from kpframe.spectra._numerics.small_side import SmallSide, small_side

#: Most bytes of vectors and products that one operator keeps.
KEPT_BYTES = 512 * 2**20


class Remembered(TaggedAsInner):
    """An operator, and its latest products: rank, trace, norm and alignment meet the same random vectors.

    A product is the operator's own, to the last bit: it is kept with the vectors that went in together.
    """

    def __init__(self, inner: Operator) -> None:
        super().__init__(inner)
        self._kept: dict[tuple[object, ...], list[tuple[torch.Tensor, torch.Tensor]]] = {}
        self._bytes = 0
        #: Where the operator goes through a smaller space, whose eigenvalues are found once.
        self.small_side = small_side(inner)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        key = (q.shape, *q.flatten()[:4].tolist())
        for vectors, product in self._kept.get(key, []):
            if torch.equal(vectors, q):
                return product.clone()
        product = self.inner._apply(q)
        size = q.nbytes + product.nbytes
        if self._bytes + size <= KEPT_BYTES:
            self._bytes += size
            self._kept.setdefault(key, []).append((q.clone(), product.clone()))
        return product

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._apply(r) if self.inner.self_adjoint else self.inner._apply_adjoint(r)

    @property
    def block_labels(self) -> torch.Tensor | None:
        """A label for each entry of the last axis, where the operator has no entry between two labels."""
        return self.inner.block_labels

    def _formula(self) -> tuple[str, int]:
        return self.inner._formula()


@small_side.register
def _(op: Remembered) -> SmallSide | None:
    return op.small_side
