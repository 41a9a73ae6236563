"""The operators that arithmetic builds: adjoint, composition, sum and scaling, with their tags."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from functools import partial, reduce
from itertools import pairwise
from typing import Any

import torch

from kpframe.errors import ArgumentError, SpaceMismatchError, mismatch
from kpframe.operators._base import (
    Operator,
    add,
    adjoint,
    check_operator,
    check_together,
    compose,
    power,
    scale,
)
from kpframe.operators._elementary import IdentityOperator, ZeroOperator
from kpframe.operators._formula import ATOM, PRODUCT, SUM, bracket
from kpframe.operators._scale import gathered, is_far, scaled_product, times
from kpframe.operators._spaces import BATCH, tell_apart, why_apart
from kpframe.operators._tagged import TaggedAsInner


class AdjointOperator(TaggedAsInner):
    """``A*`` of ``inner``; made by ``A.T``, and ``A.T.T is A``."""

    def __init__(self, inner: Operator) -> None:
        super().__init__(inner, inner.codomain, inner.domain)

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self.inner._adjoint = weakref.ref(self)  # as ``A.T`` made it, so that ``A.T.T is A`` holds of a copy

    @property
    def T(self) -> Operator:
        """The operator of which this is the adjoint."""
        return self.inner

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.inner._apply_adjoint(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.inner._apply(r)

    def _inverse(self) -> Operator:
        return self.inner.inverse.T

    def _formula(self) -> tuple[str, int]:
        if isinstance(self.inner, Composition):
            return self.inner._printed(*(factor.T for factor in reversed(self.inner.factors))), PRODUCT
        return f"{bracket(self.inner, ATOM)}*", ATOM


class Composition(Operator):
    """A product ``A B C`` of operators, applied from the right; its adjoint is ``C* B* A*``.

    It is a congruence ``F M F*``, and as self-adjoint or positive as its middle M, where its factors read
    from both ends are adjoint to each other.

    Args:
        factors: the operators.
        numbers: positive, one for each factor, where they are so far from 1 that taking them together could
            leave the range of the dtype: each is multiplied when its factor has been applied.
    """

    def __init__(self, factors: Sequence[Operator], numbers: Sequence[float] = ()) -> None:
        first, last = factors[0], factors[-1]
        super().__init__(last.domain, first.codomain, dtype=first.dtype, device=first.device)
        self.factors = tuple(factors)
        self.numbers = tuple(numbers) or (1.0,) * len(self.factors)

    @property
    def _widest(self) -> int:
        """Those of the factor that has most."""
        return max(factor._widest for factor in self.factors)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return _applied(self._steps(), q)

    def _steps(self) -> list[tuple[Operator, float]]:
        """Return the factors as they are applied, from the right, and the number that multiplies each."""
        return list(zip(reversed(self.factors), reversed(self.numbers), strict=True))

    @property
    def _splits(self) -> bool:
        """Whether a factor does; not where it is multiplied by a far number, which may take two products."""
        return any(factor._splits and not is_far(number) for factor, number in self._steps())

    def _begin(self, q: torch.Tensor) -> Callable[[], torch.Tensor]:
        steps = self._steps()
        for place, (factor, number) in enumerate(steps):
            if factor._splits and not is_far(number):
                finish, later = factor._begin(_applied(steps[:place], q)), steps[place + 1 :]
                return lambda: _applied(later, times(number, finish()))
        return partial(self._apply, q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        for factor, number in zip(self.factors, self.numbers, strict=True):
            r = scaled_product(number, factor._apply_adjoint, r)
        return r

    def _middle(self) -> Operator | None:
        """Return the middle of a palindrome ``A B ... B* A*`` (an identity if it has none), else None."""
        left, right = 0, len(self.factors) - 1
        while left < right:
            if not is_adjoint_of(self.factors[left], self.factors[right]):
                return None
            left, right = left + 1, right - 1
        if left == right:
            return self.factors[left]
        middle = self.factors[left].domain
        return IdentityOperator(middle, dtype=self.dtype, device=self.device)

    @property
    def self_adjoint(self) -> bool:
        """Whether the product is a palindrome around a self-adjoint operator."""
        middle = self._middle()
        return middle is not None and middle.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether the product is a palindrome around a positive operator."""
        middle = self._middle()
        return middle is not None and middle.positive

    @property
    def separate_axes(self) -> frozenset[str]:
        """Those that all factors have."""
        return frozenset.intersection(*(factor.separate_axes for factor in self.factors))

    def _inverse(self) -> Operator:
        parts = zip(reversed(self.numbers), reversed(self.factors), strict=True)
        return compose(*(scale(factor.inverse, 1 / number) for number, factor in parts))

    def _formula(self) -> tuple[str, int]:
        return self._printed(*self.factors), PRODUCT

    def _printed(self, *factors: Operator) -> str:
        """Return the formula of factors with the numbers in front, as one where that can be held."""
        number = gathered(*self.numbers)
        shown = (f"{part:g}" for part in (self.numbers if number is None else (number,)) if part != 1)
        return " ".join((*shown, *(bracket(factor, PRODUCT) for factor in factors)))


class SumOperator(Operator):
    """A sum ``A + B + ...`` of operators, ``terms``, between the same spaces."""

    def __init__(self, terms: Sequence[Operator]) -> None:
        first = terms[0]
        super().__init__(first.domain, first.codomain, dtype=first.dtype, device=first.device)
        self.terms = tuple(terms)

    @property
    def _widest(self) -> int:
        """Those of the term that has most."""
        return max(term._widest for term in self.terms)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return reduce(torch.add, (term._apply(q) for term in self.terms))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return reduce(torch.add, (term._apply_adjoint(r) for term in self.terms))

    @property
    def self_adjoint(self) -> bool:
        """Whether each term is self-adjoint or stands beside its own adjoint (``A + A*``)."""
        left = [term for term in self.terms if not term.self_adjoint]
        while left:
            term = left.pop()
            partner = next((place for place, other in enumerate(left) if is_adjoint_of(term, other)), None)
            if partner is None:
                return False
            del left[partner]  # one partner each: A + A* + A* is not self-adjoint
        return True

    @property
    def positive(self) -> bool:
        """Whether every term is positive."""
        return all(term.positive for term in self.terms)

    @property
    def separate_axes(self) -> frozenset[str]:
        """Those that all terms have."""
        return frozenset.intersection(*(term.separate_axes for term in self.terms))

    def _formula(self) -> tuple[str, int]:
        text = bracket(self.terms[0], SUM)
        for term in self.terms[1:]:
            part = bracket(term, SUM)
            text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
        return text, SUM


class ScaledOperator(TaggedAsInner):
    """``c A`` with a real number ``scalar`` for c and ``inner`` for A."""

    def __init__(self, scalar: float, inner: Operator) -> None:
        super().__init__(inner)
        self.scalar = scalar

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return scaled_product(self.scalar, self.inner._apply, q)

    @property
    def _splits(self) -> bool:
        """Whether what is scaled does; not by a far number, which may take two products."""
        return self.inner._splits and not is_far(self.scalar)

    def _begin(self, q: torch.Tensor) -> Callable[[], torch.Tensor]:
        if not self._splits:
            return partial(self._apply, q)
        finish = self.inner._begin(q)
        return lambda: times(self.scalar, finish())

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return scaled_product(self.scalar, self.inner._apply_adjoint, r)

    @property
    def positive(self) -> bool:
        """Whether the scaled operator is positive and the scale is not negative."""
        return self.scalar >= 0 and self.inner.positive

    def _inverse(self) -> Operator:
        if self.scalar == 0:
            raise ArgumentError(mismatch(f"inverse of {self!r}", "a factor other than 0", 0))
        return scale(self.inner.inverse, 1 / self.scalar)

    def _formula(self) -> tuple[str, int]:
        number = "-" if self.scalar == -1 else f"{self.scalar:g} "
        return number + bracket(self.inner, PRODUCT), PRODUCT


def is_adjoint_of(first: Operator, second: Operator) -> bool:
    """Whether two operators are one object and its adjoint, or one self-adjoint object."""
    for one, other in ((first, second), (second, first)):
        if isinstance(one, AdjointOperator) and one.inner is other:
            return True
    return first is second and first.self_adjoint


@adjoint.register
def _adjoint(operator: Operator) -> AdjointOperator:
    return AdjointOperator(operator)


@compose.register
def _compose(first: Operator, *others: Operator) -> Operator:
    """Return the product of operators; see ``compose``.

    Numbers beyond ``PULLED`` stay with their factors, so that ``(A / 1e25) @ (B / 1e25)`` of operators of
    that size does not overflow on the way; it prints as if they were pulled.
    """
    operators = (first, *others)
    for other in others:
        check_operator(other, "argument of compose")
    for left, right in pairwise(operators):
        if left.domain != right.codomain:
            domain, codomain = tell_apart(left.domain, right.codomain)
            raise SpaceMismatchError(
                f"{left!r} @ {right!r}: the domain of {left!r} is ({domain}), "
                f"the codomain of {right!r} is ({codomain}){why_apart(left.domain, right.codomain)}"
            )
        check_together(left, right, "@")
    _check_groups(operators)
    last = operators[-1]
    parts = [part for operator in operators for part in _factors(operator)]
    if any(isinstance(factor, ZeroOperator) for _, factor in parts):
        return ZeroOperator(last.domain, first.codomain, dtype=first.dtype, device=first.device)
    numbers = [number for number, _ in parts]
    scalar = math.prod(numbers)
    if not any(map(is_far, numbers)) and (not is_far(scalar) or 0 in numbers):
        factors = [factor for _, factor in parts if not isinstance(factor, IdentityOperator)]
        if not factors:
            return scale(IdentityOperator.like(last), scalar)
        product = factors[0] if len(factors) == 1 else Composition(factors)
        return product if scalar == 1 else scale(product, scalar)
    kept = _without_identities(parts)
    if len(kept) == 1:
        number, factor = kept[0]
        return scale(factor, number)
    sign = math.prod(math.copysign(1, number) for number in numbers)
    numbered = Composition([factor for _, factor in kept], [abs(number) for number, _ in kept])
    return scale(numbered, sign)


def _check_groups(operators: Sequence[Operator]) -> None:
    """Raise where trials of several groups of ranks, or of a group and of no group, meet over the parameters.

    A flow without a group has other trials on each rank, for all that is known.
    """
    spaces = [space for operator in operators for space in (operator.domain, operator.codomain)]
    sharded = next((space for space in spaces if space.shards is not None), None)
    if sharded is None or sharded.shards is None:
        return
    group = sharded.shards.group
    for operator in operators:
        sides = operator.domain, operator.codomain
        if all(side.shards is None for side in sides):
            others = [side for side in sides if BATCH in side]
        else:
            others = [side for side in sides if side.shards and side.shards.group is not group]
        if others:
            product = " @ ".join(map(repr, operators))
            raise SpaceMismatchError(
                f"{product}: on ({sharded}) and ({others[0]}){why_apart(sharded, others[0])}"
            )


def _without_identities(parts: list[tuple[float, Operator]]) -> list[tuple[float, Operator]]:
    """Return factors and numbers, those of identities given to the next factor, where they can be held."""
    kept: list[tuple[float, Operator]] = []
    for place, (number, factor) in enumerate(parts):
        before, last = kept[-1] if kept else (1.0, factor)
        product = gathered(before, number) if kept else None
        ends = place + 1 == len(parts) and isinstance(factor, IdentityOperator)
        if product is not None and (ends or isinstance(last, IdentityOperator)):
            kept[-1] = product, last if ends else factor
        else:
            kept.append((number, factor))
    return kept


def _applied(steps: Sequence[tuple[Operator, float]], q: torch.Tensor) -> torch.Tensor:
    for factor, number in steps:
        q = scaled_product(number, factor._apply, q)
    return q


def _factors(operator: Operator) -> list[tuple[float, Operator]]:
    """Return an operator as a flat sequence of factors, each with the number that multiplies it."""
    if isinstance(operator, Composition):
        return list(zip(operator.numbers, operator.factors, strict=True))
    if isinstance(operator, ScaledOperator):
        (number, leading), *rest = _factors(operator.inner)
        product = gathered(operator.scalar, number)
        return [(1.0, operator)] if product is None else [(product, leading), *rest]
    if isinstance(operator, AdjointOperator) and isinstance(operator.inner, Composition | ScaledOperator):
        return [(number, part.T) for number, part in reversed(_factors(operator.inner))]
    return [(1.0, operator)]


@add.register
def _add(first: Operator, second: Operator) -> Operator:
    if (first.domain, first.codomain) != (second.domain, second.codomain):
        domains = tell_apart(first.domain, second.domain)
        codomains = tell_apart(first.codomain, second.codomain)
        raise SpaceMismatchError(
            f"{first!r} + {second!r}: they map ({domains[0]}) to ({codomains[0]}) "
            f"and ({domains[1]}) to ({codomains[1]})"
            f"{why_apart(first.domain, second.domain) or why_apart(first.codomain, second.codomain)}"
        )
    check_together(first, second, "+")
    sides = (side.terms if isinstance(side, SumOperator) else (side,) for side in (first, second))
    kept = [term for terms in sides for term in terms if not isinstance(term, ZeroOperator)]
    if not kept:
        return first
    return kept[0] if len(kept) == 1 else SumOperator(kept)


@scale.register
def _scale(operator: Operator, scalar: float) -> Operator:
    if not math.isfinite(scalar):
        raise ArgumentError(mismatch("scalar", "a finite number", scalar))
    if isinstance(operator, ScaledOperator):
        product = gathered(scalar, operator.scalar)
        if product is not None:
            scalar, operator = product, operator.inner
    if isinstance(operator, Composition) and set(operator.numbers) != {1.0} and abs(scalar) != 1:
        return compose(ScaledOperator(scalar, operator))  # beside the numbers that its factors have
    if scalar == 1 or isinstance(operator, ZeroOperator):
        return operator
    return ScaledOperator(scalar, operator)


@power.register
def _power(operator: Operator, exponent: int) -> Operator:
    if not operator.square:
        raise SpaceMismatchError(
            f"{operator!r} ** {exponent}: a power needs a square operator; "
            f"this one maps ({operator.domain}) to ({operator.codomain})"
        )
    if exponent < 0:
        raise ArgumentError(mismatch("exponent", "a whole number >= 0", exponent))
    if exponent == 0:
        return IdentityOperator.like(operator)
    return compose(*[operator] * exponent)
