"""The nodes that arithmetic builds: adjoint, composition, sum and scaling, with their tags."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch

from kpframe.errors import ArgumentError, SpaceMismatchError, mismatch
from kpframe.operators.atoms import IdentityOperator, ZeroOperator
from kpframe.operators.base import ATOM, PRODUCT, SUM, Operator, bracket, check_together
from kpframe.spaces import tell_apart


class AdjointOperator(Operator):
    """``A*``; made by ``A.T``, and ``A.T.T is A``."""

    def __init__(self, inner: Operator) -> None:
        super().__init__(inner.codomain, inner.domain, dtype=inner.dtype, device=inner.device)
        self.inner = inner

    @property
    def T(self) -> Operator:
        """The operator of which this is the adjoint."""
        return self.inner

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.inner._apply_adjoint(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.inner._apply(r)

    def _formula(self) -> tuple[str, int]:
        if isinstance(self.inner, Composition):
            return " ".join(bracket(factor.T, PRODUCT) for factor in reversed(self.inner.factors)), PRODUCT
        return f"{bracket(self.inner, ATOM)}*", ATOM


class Composition(Operator):
    """A product ``A B C`` of operators, applied from the right."""

    def __init__(self, factors: Sequence[Operator]) -> None:
        first, last = factors[0], factors[-1]
        super().__init__(last.domain, first.codomain, dtype=first.dtype, device=first.device)
        self.factors = tuple(factors)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        for factor in reversed(self.factors):
            q = factor._apply(q)
        return q

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        for factor in self.factors:
            r = factor._apply_adjoint(r)
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

    def _formula(self) -> tuple[str, int]:
        return " ".join(bracket(factor, PRODUCT) for factor in self.factors), PRODUCT


class SumOperator(Operator):
    """A sum ``A + B + ...`` of operators between the same spaces."""

    def __init__(self, terms: Sequence[Operator]) -> None:
        first = terms[0]
        super().__init__(first.domain, first.codomain, dtype=first.dtype, device=first.device)
        self.terms = tuple(terms)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        total = self.terms[0]._apply(q)
        for term in self.terms[1:]:
            total = total + term._apply(q)
        return total

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        total = self.terms[0]._apply_adjoint(r)
        for term in self.terms[1:]:
            total = total + term._apply_adjoint(r)
        return total

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

    def _formula(self) -> tuple[str, int]:
        text = bracket(self.terms[0], SUM)
        for term in self.terms[1:]:
            part = bracket(term, SUM)
            text += f" - {part[1:]}" if part.startswith("-") else f" + {part}"
        return text, SUM


class ScaledOperator(Operator):
    """``c A`` with a real number ``c``."""

    def __init__(self, scalar: float, inner: Operator) -> None:
        super().__init__(inner.domain, inner.codomain, dtype=inner.dtype, device=inner.device)
        self.scalar = scalar
        self.inner = inner

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.scalar * self.inner._apply(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.scalar * self.inner._apply_adjoint(r)

    @property
    def self_adjoint(self) -> bool:
        """Whether the scaled operator is self-adjoint."""
        return self.inner.self_adjoint

    @property
    def positive(self) -> bool:
        """Whether the scaled operator is positive and the scale is not negative."""
        return self.scalar >= 0 and self.inner.positive

    def _formula(self) -> tuple[str, int]:
        inner = bracket(self.inner, PRODUCT)
        if self.scalar == -1:
            return f"-{inner}", PRODUCT
        return f"{self.scalar:g} {inner}", PRODUCT


def is_adjoint_of(first: Operator, second: Operator) -> bool:
    """Whether two operators are one object and its adjoint, or one self-adjoint object."""
    if isinstance(first, AdjointOperator) and first.inner is second:
        return True
    if isinstance(second, AdjointOperator) and second.inner is first:
        return True
    return first is second and first.self_adjoint


def compose(*operators: Operator) -> Operator:
    """Return the product of operators, numbers pulled to the front, identities and zeros resolved.

    Raises:
        SpaceMismatchError, DtypeError, DeviceError: when two neighbours do not fit.
    """
    for left, right in pairwise(operators):
        if left.domain != right.codomain:
            domain, codomain = tell_apart(left.domain, right.codomain)
            raise SpaceMismatchError(
                f"{left!r} @ {right!r}: the domain of {left!r} is ({domain}), "
                f"the codomain of {right!r} is ({codomain})"
            )
        check_together(left, right, "@")
    scalar = 1.0
    factors: list[Operator] = []
    for operator in operators:
        number, parts = _factors(operator)
        scalar *= number
        factors += [part for part in parts if not isinstance(part, IdentityOperator)]
    first, last = operators[0], operators[-1]
    if any(isinstance(factor, ZeroOperator) for factor in factors):
        return ZeroOperator(last.domain, first.codomain, dtype=first.dtype, device=first.device)
    if not factors:
        return scale(scalar, IdentityOperator(last.domain, dtype=first.dtype, device=first.device))
    return scale(scalar, factors[0] if len(factors) == 1 else Composition(factors))


def _factors(operator: Operator) -> tuple[float, tuple[Operator, ...]]:
    """Return an operator as a number times a flat sequence of factors."""
    if isinstance(operator, Composition):
        return 1.0, operator.factors
    if isinstance(operator, ScaledOperator):
        number, parts = _factors(operator.inner)
        return operator.scalar * number, parts
    if isinstance(operator, AdjointOperator) and isinstance(operator.inner, Composition | ScaledOperator):
        number, parts = _factors(operator.inner)
        return number, tuple(part.T for part in reversed(parts))
    return 1.0, (operator,)


def add(first: Operator, second: Operator) -> Operator:
    """Return the sum of two operators between the same spaces; raises ``SpaceMismatchError``."""
    if (first.domain, first.codomain) != (second.domain, second.codomain):
        domains = tell_apart(first.domain, second.domain)
        codomains = tell_apart(first.codomain, second.codomain)
        raise SpaceMismatchError(
            f"{first!r} + {second!r}: they map ({domains[0]}) to ({codomains[0]}) "
            f"and ({domains[1]}) to ({codomains[1]})"
        )
    check_together(first, second, "+")
    terms: list[Operator] = []
    for operator in (first, second):
        terms += operator.terms if isinstance(operator, SumOperator) else (operator,)
    kept = [term for term in terms if not isinstance(term, ZeroOperator)]
    if not kept:
        return first
    return kept[0] if len(kept) == 1 else SumOperator(kept)


def scale(scalar: float, operator: Operator) -> Operator:
    """Return ``scalar * operator``, numbers gathered into one."""
    if not math.isfinite(scalar):
        raise ArgumentError(mismatch("scalar", "a finite number", scalar))
    if isinstance(operator, ScaledOperator):
        scalar, operator = scalar * operator.scalar, operator.inner
    if scalar == 1 or isinstance(operator, ZeroOperator):
        return operator
    return ScaledOperator(scalar, operator)


def power(operator: Operator, exponent: int) -> Operator:
    """Return ``operator`` composed with itself ``exponent`` times (0: the identity)."""
    if not operator.square:
        raise SpaceMismatchError(
            f"{operator!r} ** {exponent}: a power needs a square operator; "
            f"this one maps ({operator.domain}) to ({operator.codomain})"
        )
    if exponent < 0:
        raise ArgumentError(mismatch("exponent", "a whole number >= 0", exponent))
    if exponent == 0:
        return IdentityOperator(operator.domain, dtype=operator.dtype, device=operator.device)
    return compose(*[operator] * exponent)
