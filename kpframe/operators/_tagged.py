"""``TaggedAsInner``: the base of operators that are self-adjoint and positive where another one is."""

from __future__ import annotations

from kpframe.operators._base import Operator
from kpframe.operators._spaces import Space


class TaggedAsInner(Operator):
    """An operator made of another one, whose tags it hands on.

    Args:
        inner: the other one; its dtype and device are this one's too.
        domain: the space it maps from; that of ``inner`` when left out.
        codomain: the space it maps to; that of ``inner`` when left out.
    """

    def __init__(self, inner: Operator, domain: Space | None = None, codomain: Space | None = None) -> None:
        super().__init__(
            inner.domain if domain is None else domain,
            inner.codomain if codomain is None else codomain,
            dtype=inner.dtype,
            device=inner.device,
        )
        self.inner = inner

    @property
    def _widest(self) -> int:
        """Those of the operator inside, where they are more."""
        return max(super()._widest, self.inner._widest)

    @property
    def self_adjoint(self) -> bool:
        """Whether the inner operator is self-adjoint, and so this one."""
        return self.inner.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether the inner operator is positive, and so this one."""
        return self.inner.positive

    @property
    def separate_axes(self) -> frozenset[str]:
        """Those of the inner operator that are left."""
        return self.inner.separate_axes & {*self.domain.names} & {*self.codomain.names}
