"""Matrix-vector products, counted, checked and batched: the only place where spectra multiplies."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kpframe.errors import NonFiniteError
from kpframe.operators import Operator
from kpframe.operators._memory import chunk_size
from kpframe.operators._scale import divided, unit_of
from kpframe.operators._spaces import Space
from kpframe.operators._tagged import TaggedAsInner
from kpframe.spectra._numerics.probes import agreed, new_generator, probes
from kpframe.spectra._numerics.ranks import basis_rows, largest_entry, whole_rows


class ScaledOperator(TaggedAsInner):
    """``op / unit``, with a unit that keeps the squares of products within the range of the dtype.

    Estimators square products: of an operator of size 1e25 these overflow in float32, of 1e-25 they are zero.
    The unit, a power of two so that dividing rounds nothing, is chosen from the first products that are not
    zero, those of random vectors, and serves the adjoint too; it is 1 where these are of ordinary size. What
    estimators find does not depend on scale, or is multiplied by ``unit`` at the end, as a Python number.
    """

    def __init__(self, op: Operator) -> None:
        super().__init__(op)
        self.unit = 1.0
        self._open = True

    def in_units(self, products: torch.Tensor, space: Space) -> torch.Tensor:
        """Return products of ``op`` in units; the first that are not zero, on any rank, choose the unit."""
        if self._open:
            largest = largest_entry(products, space)
            if bool(largest != 0):
                self.unit = unit_of(largest)
                self._open = False
        return divided(products, self.unit)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.in_units(self.inner._apply(q), self.codomain)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.in_units(self.inner._apply_adjoint(r), self.domain)

    def _formula(self) -> tuple[str, int]:
        return self.inner._formula()


class Matvecs:
    """The products of one operator with rows of vectors; ``count`` says how many were spent.

    Vectors are rows ``[m, n]`` here, each a flattened tensor of the operator's domain, which gets its axes
    back inside a product only. All rows are multiplied in one call, or in as few as memory allows.

    Args:
        op: the operator.
        weight: how many operator products one product counts for (2 for ``A A*``).
        plain: return products as they are; otherwise divided by ``unit``, see ``ScaledOperator``.
    """

    def __init__(self, op: Operator, weight: int = 1, *, plain: bool = False) -> None:
        self.op = op
        self.weight = weight
        self.count = 0
        self._scaled = ScaledOperator(op)
        self._plain = plain

    @property
    def unit(self) -> float:
        """What products are divided by; final once a product was not zero."""
        return self._scaled.unit

    @property
    def T(self) -> Matvecs:
        """Products of the adjoint, in the same units, counted on their own."""
        other = Matvecs(self.op.T, self.weight, plain=self._plain)
        other._scaled = self._scaled
        return other

    def __call__(self, rows: torch.Tensor) -> torch.Tensor:  # [m, domain.size] -> [m, codomain.size]
        """Return the products with ``rows``; raises ``NonFiniteError``."""
        return self._run(self.op, rows)

    def adjoint(self, rows: torch.Tensor) -> torch.Tensor:  # [m, codomain.size] -> [m, domain.size]
        """Return the adjoint's products with ``rows``."""
        return self._run(self.op.T, rows)

    def _run(self, op: Operator, rows: torch.Tensor) -> torch.Tensor:
        shaped = rows.reshape(len(rows), *op.domain.shape)
        products = op(shaped, chunk=chunk_size(op, max(1, len(rows))), check=False)
        out = products.reshape(len(rows), op.codomain.size)
        bad, where, shards = ~torch.isfinite(out).all(1), "", op.codomain.shards
        if shards is not None:  # the first rank with any, found by all
            ranks = shards.max(bad * float(shards.ranks - shards.rank))
            bad, where = ranks > 0, f" on rank {shards.ranks - int(ranks[ranks > 0][:1].sum())}"
        if bad.any():
            first = int(bad.nonzero()[0]) + self.count // self.weight
            raise NonFiniteError(
                f"{op!r}: expected finite products, got NaN or infinity with probe {first}{where}"
            )
        self.count += self.weight * len(rows)
        return out if self._plain else self._scaled.in_units(out, op.codomain)

    def dense(self) -> torch.Tensor:  # [codomain.dimension, domain.dimension]
        """Return the matrix in units, from as many products as the smaller side has dimensions.

        Every rank gets all of it.
        """
        op = self.op
        domain, codomain = op.domain, op.codomain
        if codomain.dimension < domain.dimension:
            return whole_rows(self.adjoint(basis_rows(codomain, 0, codomain.dimension, op)), domain)
        return whole_rows(self(basis_rows(domain, 0, domain.dimension, op)), codomain).mT


class Sampler:
    """Random probes of an operator's domain and the products with them, both kept and drawn on demand.

    Asking for more probes later draws and multiplies only the new ones; each kind is kept apart, and the
    generator is shared. Ranks that share trials compare their generators first, and what else is ``shared``.
    """

    def __init__(
        self,
        op: Operator,
        generator: torch.Generator | None,
        weight: int = 1,
        *,
        plain: bool = False,
        shared: Mapping[str, object] | None = None,
    ) -> None:
        self.op = op
        self.matvec = Matvecs(op, weight, plain=plain)
        self.generator = agreed(new_generator(generator), op, **(shared or {}))
        self._probes: dict[str, torch.Tensor] = {}
        self._products: dict[str, torch.Tensor] = {}

    @property
    def count(self) -> int:
        """Number of operator products spent so far, with probes of every kind."""
        return self.matvec.count

    def probes(self, num: int, kind: str) -> torch.Tensor:  # [num, n]
        """Return the first ``num`` probes of a kind."""
        op = self.op
        known = self._probes.get(kind, torch.empty(0, op.domain.size, dtype=op.dtype, device=op.device))
        missing = num - len(known)
        if missing > 0:
            new = probes(
                op.domain, missing, generator=self.generator, kind=kind, dtype=op.dtype, device=op.device
            )
            known = torch.cat([known, new.flatten(1)])
        self._probes[kind] = known
        return known[:num]

    def products(self, num: int, kind: str) -> tuple[torch.Tensor, torch.Tensor]:  # [num, n] each
        """Return the first ``num`` probes of a kind and the operator's products with them."""
        vectors, op = self.probes(num, kind), self.op
        known = self._products.get(kind, torch.empty(0, op.codomain.size, dtype=op.dtype, device=op.device))
        if num > len(known):
            known = torch.cat([known, self.matvec(vectors[len(known) :])])
        self._products[kind] = known
        return vectors, known[:num]
