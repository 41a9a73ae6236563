"""How many products of which operators one takes, for each way in which operators are made of others."""

from __future__ import annotations

import math
from collections import Counter

from kpframe.operators._algebra import AdjointOperator, Composition, ScaledOperator, SumOperator
from kpframe.operators._cards import work, work_of_all
from kpframe.operators._congruences import Congruence
from kpframe.operators._contractions import _Contraction
from kpframe.operators._declared import DeclaredOperator


@work.register
def _adjoint(operator: AdjointOperator) -> Counter[str]:
    if isinstance(operator.inner, Composition):
        return work_of_all(factor.T for factor in operator.inner.factors)
    found = work(operator.inner)
    return Counter({repr(operator): 1}) if found == {repr(operator.inner): 1} else found


@work.register
def _composition(operator: Composition) -> Counter[str]:
    return work_of_all(reversed(operator.factors))


@work.register
def _sum(operator: SumOperator) -> Counter[str]:
    return work_of_all(operator.terms)


@work.register(ScaledOperator)
@work.register(Congruence)  # what it averages or selects costs little beside
@work.register(DeclaredOperator)
def _inner(operator: ScaledOperator | Congruence | DeclaredOperator) -> Counter[str]:
    return work(operator.inner)


@work.register
def _contraction(operator: _Contraction) -> Counter[str]:
    apart = operator.inner.separate_axes  # its entries share products, as those of two blocks may, too
    entries = math.prod(operator.inner.domain[axis].total for axis in operator._axes if axis not in apart)
    return Counter({name: entries * count for name, count in work(operator.inner).items()})
