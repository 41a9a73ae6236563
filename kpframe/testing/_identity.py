"""An identity: a named, documented function of a case, with its tolerance, source and partner."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from attrs import define, field

from kpframe.errors import ArgumentError, NonFiniteError, NonFiniteProductError, closest, say
from kpframe.testing._residual import CheckFailure, NotApplicable, Residual

Function = Callable[[Any], Residual | None]

#: What is checked on flows whose trials several ranks share, too.
ON_RANKS = ("model", "rule", "propagator", "parameter_operator")

#: kind -> name -> identity, in the order in which they run.
REGISTRY: dict[str, dict[str, Identity]] = {
    kind: {}
    for kind in (
        *("operator", "model", "rule", "reducer", "propagator", "parameter_operator", "quantity"),
        *(f"{kind}_on_ranks" for kind in ON_RANKS),
    )
}


@define(eq=False)
class Tally:
    """What happened over the drawn cases of one check."""

    cases: int = 0
    partners: int = 0
    degenerate: int = 0
    inapplicable: int = 0
    worst: float = 0.0
    tolerance: float = 0.0
    reason: str = ""

    def add(self, residual: Residual) -> None:
        """Count one case."""
        self.cases += 1
        self.tolerance = residual.tolerance
        self.worst = math.inf if math.isnan(residual.value) else max(self.worst, residual.value)


@define(eq=False)
class Identity:
    """A statement that must hold for every case.

    Attributes:
        name: the check's name.
        kind: what it is a statement about: ``"operator"``, ``"model"``, ``"rule"`` ...
        function: case -> residual.
        source: where the statement is written.
        look: where an author should look first when it fails.
        fixed: fields of the case that are not drawn.
        gate: whether the other checks have no meaning when this one fails.
        partner: case -> residual of a variant that must differ; None when the draw is degenerate.
    """

    name: str
    kind: str
    function: Function
    source: str
    look: str
    fixed: Mapping[str, Any] = field(factory=dict)
    gate: bool = False
    partner: Function | None = None

    @property
    def summary(self) -> str:
        """The statement in words, on one line."""
        return " ".join((self.function.__doc__ or "").split())

    def __call__(self, case: Any) -> Residual:
        """Return how far the identity is from holding for a case.

        Raises:
            CheckFailure: when it cannot even be evaluated.
            NotApplicable: when it has no meaning for the case.
        """
        return self.function(case) or Residual(0.0)

    def differs(self, function: Function) -> Function:
        """Register and return the partner, ``function``: on the same draw, it must not hold."""
        self.partner = function
        return function

    def verify(self, case: Any, tally: Tally | None = None) -> Residual:
        """Return how far the identity is from holding for ``case``, after its partner was seen to differ.

        ``tally`` counts what came of it.

        Raises:
            CheckFailure: when the identity does not hold, or its partner does.
        """
        tally = Tally() if tally is None else tally
        try:
            residual = self(case)
            other = self.partner(case) if self.partner else None
        except NotApplicable as reason:
            tally.inapplicable += 1
            tally.reason = str(reason)
            raise
        except CheckFailure as failure:
            tally.worst = max(tally.worst, float("inf"))
            raise CheckFailure(self.explain(str(failure))) from failure
        except Exception as error:
            if rejects(error):
                raise
            tally.worst = float("inf")
            raise CheckFailure(self.explain(f"it raised {say(error)}")) from error
        tally.add(residual)
        if not residual.ok:
            size = f"relative error {residual.value:.2g}, tolerance {residual.tolerance:g}"
            raise CheckFailure(self.explain(f"{residual.detail or self.summary} ({size})"))
        if self.partner is None:
            return residual
        if other is None:
            tally.degenerate += 1
            return residual
        tally.partners += 1
        if other.ok:
            raise CheckFailure(
                self.explain(
                    f"a variant that must not satisfy it does too (difference {other.value:.2g}): "
                    "the comparison sees nothing"
                )
            )
        return residual

    def explain(self, text: str) -> str:
        """Return ``text`` as a message that leads to the fault: the check's name, what is wrong, where."""
        return f"{self.name}: {text}\n  look at: {self.look}\n  source: {self.source}"


def rejects(error: BaseException) -> bool:
    """Whether an error means that the case is to be drawn again: the roll-out left the finite numbers."""
    return isinstance(error, NonFiniteError) and not isinstance(error, NonFiniteProductError)


def identity(
    kind: str, /, *, source: str, look: str, gate: bool = False, **fixed: Any
) -> Callable[[Function], Identity]:
    """Return a decorator that makes an identity of a function and registers it under its name.

    See ``Identity`` for the arguments.
    """

    def make(function: Function) -> Identity:
        made = Identity(function.__name__, kind, function, source, look, fixed, gate)
        REGISTRY[kind][made.name] = made
        return made

    return make


def identity_named(kind: str, name: str) -> Identity:
    """Return the identity called ``name`` of a ``kind``; raises ``ArgumentError`` for an unknown one."""
    known = REGISTRY[kind]
    if name not in known:
        raise ArgumentError(f"no {kind} check {name!r} (there are {', '.join(known)}){closest(name, known)}")
    return known[name]
