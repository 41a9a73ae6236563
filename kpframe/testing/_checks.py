"""Checks: identities run on drawn cases of one model, rule, reducer, form or quantity."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from functools import cached_property
from typing import Any

from attrs import define, field, frozen
from hypothesis import HealthCheck, Phase, Verbosity, given, reject, settings
from hypothesis.errors import Flaky, Unsatisfiable

from kpframe.errors import ArgumentError, KpframeError, mismatch, say, whole
from kpframe.testing import strategies
from kpframe.testing._constants import look_for_constants_in_own_code
from kpframe.testing._identity import ON_RANKS, REGISTRY, Tally, rejects
from kpframe.testing._ranks.figures import LostRanks
from kpframe.testing._report import Report, Result
from kpframe.testing._residual import CheckFailure
from kpframe.testing._sources import Source, source_of
from kpframe.testing._values import seeded
from kpframe.testing.identities import Identity, NotApplicable

look_for_constants_in_own_code()

#: Cases that a check draws unless ``KPFRAME_CHECK_EXAMPLES`` or the Hypothesis profile asks for more.
EXAMPLES = 20

#: The part of the cases in which a partner must have been looked at.
PARTNERS = 0.1

_STRATEGIES: dict[str, Callable[..., Any]] = {
    "model": strategies.flows,
    "rule": strategies.rules,
    "reducer": strategies.reducers,
    "propagator": strategies.propagators,
    "parameter_operator": strategies.parameter_operators,
    "quantity": strategies.quantities,
    "operator": lambda source, **fixed: strategies.operators(),
}


def examples() -> int:
    """Return how many cases a check draws.

    ``KPFRAME_CHECK_EXAMPLES`` says it; without it a Hypothesis profile with more than 100 examples (such as
    ``thorough``) draws half of its number, and any other 20.

    Raises:
        ArgumentError: when the variable is no whole number >= 1.
    """
    text = os.environ.get("KPFRAME_CHECK_EXAMPLES", "")
    if text:
        if not text.isdecimal() or int(text) < 1:
            raise ArgumentError(mismatch("KPFRAME_CHECK_EXAMPLES", "a whole number >= 1", repr(text)))
        return int(text)
    wanted: int = settings.default.max_examples if settings.default else 0
    return wanted // 2 if wanted > 100 else EXAMPLES


class ProvesTooLittle(CheckFailure):
    """No case was one in which a wrong implementation would have failed."""


@define(eq=False)
class Subject:
    """One model, rule, reducer, form or quantity under check; remembers whether its gates were passed.

    Attributes:
        source: what is checked.
        ranks: how many share the trials of its flows; 0 for the checks of one process.
    """

    source: Source
    ranks: int = 0
    _blocked: dict[str, str] = field(factory=dict, init=False)
    _looked: bool = field(default=False, init=False)

    @property
    def kind(self) -> str:
        """What it is, as checks are registered."""
        return f"{self.source.kind}_on_ranks" if self.ranks else self.source.kind

    def checks(self) -> list[Check]:
        """Return the checks of its kind."""
        return [Check(self, identity) for identity in REGISTRY[self.kind].values()]

    def cases(self, **fixed: Any) -> Any:
        """Return the strategy of its cases."""
        if self.ranks:
            return strategies.on_ranks(self.source, self.ranks, **fixed)
        return _STRATEGIES[self.source.kind](self.source, **fixed)

    def blocked(self, identity: Identity) -> str:
        """Return why a check has no meaning (a gate before it fails), or an empty string."""
        for check in self.checks():
            if check.identity is identity:
                return ""
            if check.identity.gate and check.fails_at_all:
                return f"{check.identity.name} fails"
        return ""

    def fails(self, identity: Identity) -> bool:
        """Whether a gate fails on a few cases; looked at once."""
        if identity.name not in self._blocked:
            few = min(5, examples()) if self.ranks else 5
            result = Check(self, identity).result(few)
            self._blocked[identity.name] = result.message if result.verdict == "failed" else ""
        return bool(self._blocked[identity.name])


@frozen(eq=False)
class Check:
    """One identity on one subject; calling it draws cases, and raises when one fails."""

    subject: Subject
    identity: Identity

    @property
    def name(self) -> str:
        """The check's name."""
        return self.identity.name

    @property
    def id(self) -> str:
        """The test id: ``gru-phi_equals_total_jacobian``."""
        return f"{self.subject.source.label}-{self.identity.name}"

    @cached_property
    def fails_at_all(self) -> bool:
        """Whether it fails on a few cases."""
        return self.subject.fails(self.identity)

    def __call__(self, count: int | None = None) -> Tally:
        """Run the check as Hypothesis does, with the loaded profile.

        Raises:
            CheckFailure: with Hypothesis' note of the smallest failing case.
            NotApplicable: when it has no meaning for the subject, or a gate before it fails.
        """
        blocked = self.subject.blocked(self.identity)
        if blocked:
            raise NotApplicable(f"not run: {blocked}")
        tallies: list[Tally] = []
        self._drawn(count or examples(), tallies, [""])
        return tallies[-1]

    def result(self, examples: int) -> Result:
        """Run the check with a fixed seed and no database, and return what came of it."""
        tallies: list[Tally] = []
        failing = [""]
        case, message = "", ""
        try:
            self._drawn(
                examples, tallies, failing, derandomize=True, database=None, verbosity=Verbosity.quiet
            )
            verdict = "passed"
        except NotApplicable as reason:
            verdict, message = "not applicable", str(reason)
        except CheckFailure as failure:
            verdict, message, case = "failed", str(failure), failing[-1]
        tally = tallies[-1]
        return Result(
            self.name,
            verdict,  # type: ignore[arg-type]
            tally.worst,
            tally.tolerance,
            tally.cases,
            tally.partners,
            tally.degenerate + tally.inapplicable,
            message,
            case,
            self.identity.source,
        )

    def _drawn(self, number: int, tallies: list[Tally], failing: list[str], **options: Any) -> None:
        """Run the check, of as many cases as it takes; the last tally is that of these.

        Few cases, or of many the few in which the check has a meaning, may by chance all be such that both
        sides vanish. So more are drawn before that is a fault, until 20 have had a meaning.
        """
        while True:
            tallies.append(Tally())
            try:
                return self._run(tallies[-1], failing, settings(**self._options(number), **options))
            except ProvesTooLittle:
                if tallies[-1].cases >= EXAMPLES or number >= 10 * EXAMPLES:
                    raise
                number = EXAMPLES if number < EXAMPLES else 10 * EXAMPLES

    def _run(self, tally: Tally, failing: list[str], options: settings) -> None:
        identity = self.identity
        lost: dict[
            str, LostRanks
        ] = {}  # it takes seconds to find that a rank is gone: no smaller case is tried

        def body(case: Any) -> None:
            if lost and repr(case) not in lost:
                return
            with seeded(_seed(case)):
                try:
                    if lost:
                        raise lost[repr(case)]
                    identity.verify(case, tally)
                except NotApplicable:
                    return
                except LostRanks as failure:
                    lost[repr(case)] = failure
                    failing[:] = [repr(case)]
                    raise
                except CheckFailure:
                    failing[:] = [repr(case)]
                    raise
                except Exception as error:
                    if rejects(error):
                        reject()
                    raise

        # what Hypothesis says of a failing example names the check
        name = re.sub(r"\W", "_", f"{self.subject.kind}_{self.id}")
        body.__name__ = body.__qualname__ = name
        try:
            options(given(case=self.subject.cases(**identity.fixed))(body))()
        except Unsatisfiable as error:
            raise CheckFailure(
                f"{self.name}: no case could be drawn: every draw was refused by the settings, or left the "
                "finite numbers\n  look at: the settings' bounds and defaults, and the checks across them"
            ) from error
        except Flaky as error:
            raise CheckFailure(
                f"{self.name}: the same case failed once and passed once\n  look at: state outside the model "
                "(class attributes, globals, files, clocks) that step() or __init__ depends on"
            ) from error
        except CheckFailure as failure:
            if failing[0]:
                raise
            raise CheckFailure(identity.explain(str(failure))) from failure  # nothing was drawn
        except KpframeError as error:
            raise CheckFailure(identity.explain(say(error))) from error
        if tally.inapplicable and not tally.cases:
            raise NotApplicable(tally.reason)
        if identity.partner is not None and tally.partners < max(1, int(PARTNERS * tally.cases)):
            raise ProvesTooLittle(
                f"{self.name}: it proves too little: in {tally.degenerate} of {tally.cases} cases both sides "
                "vanish, so that a wrong implementation would pass\n  look at: initial values of parameters "
                "and states that make the quantity zero"
            )

    @staticmethod
    def _options(count: int) -> dict[str, Any]:
        return {
            "max_examples": count,
            "deadline": None,
            "suppress_health_check": list(HealthCheck),
            "phases": [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink],
            "report_multiple_bugs": False,
        }

    def __repr__(self) -> str:
        return self.id


def check_model(spec: object, *, examples: int | None = None) -> Report:
    """Return the report of every check of models on ``spec``; the seed is fixed, so it is the same each time.

    Args:
        spec: a registered name, ``"package.module:Class"``, a checkpoint's path, a ``ModelSpec``, a
            class, a factory function or a model.
        examples: cases that each check draws; 20 unless ``KPFRAME_CHECK_EXAMPLES`` says otherwise.
    """
    return check_source(source_of(spec, "model"), examples, "model")


def check_rule(spec: object, *, examples: int | None = None) -> Report:
    """Return the report of every check of learning rules on ``spec``; see ``check_model``."""
    return check_source(source_of(spec, "rule"), examples, "rule")


def check_reducer(spec: object, *, examples: int | None = None) -> Report:
    """Return the report of every check of reducers on ``spec``; see ``check_model``."""
    return check_source(source_of(spec, "reducer"), examples, "reducer")


def check_propagator(spec: object, *, examples: int | None = None) -> Report:
    """Return the report of every check of propagators on ``spec``.

    That is a name, ``"package.module:Class"``, a spec or a class.

    It is made of the step Jacobians that it fits, among those of small models and of the models that its own
    plugin offers. See ``check_model``.
    """
    return check_source(source_of(spec, "propagator"), examples, "propagator")


def check_parameter_operator(spec: object, *, examples: int | None = None) -> Report:
    """Return the report of every check of parameter operators on ``spec``; see ``check_propagator``."""
    return check_source(source_of(spec, "parameter_operator"), examples, "parameter_operator")


def check_quantity(spec: object, *, examples: int | None = None) -> Report:
    """Return the report of every check of quantities on ``spec``.

    That is a name, ``"package.module:Class"``, a spec or a class.

    It is measured of small networks at a step of a training, with readout, trials and rules. See
    ``check_model``.
    """
    return check_source(source_of(spec, "quantity"), examples, "quantity")


def check_on_ranks(spec: object, ranks: int = 2, *, examples: int | None = None) -> Report:
    """Return the report of checks of flows whose trials several ranks of this machine share.

    They are held to those of one process.

    Each rank is a process of its own, in a gloo group, that lives on for further checks. Products, adjoints,
    inner products, reductions, an estimate and what is sent are checked for models, updates for rules, and
    products and what is sent for forms. Shares are uneven for the most part.

    Args:
        spec: a model, a rule, a propagator or a parameter operator; see ``check_model``. Other processes
            must find it: a name, or a class or factory of a module.
        ranks: how many, at least 2.
        examples: cases that each check draws; 20 unless ``KPFRAME_CHECK_EXAMPLES`` says otherwise.

    Raises:
        ArgumentError: for what has no checks on ranks, or what other processes cannot import.
        UnsupportedError: where torch is built without gloo.
    """
    return check_source(source_of(spec), examples, ranks=whole(ranks, "ranks", 2))


def check_source(
    source: Source,
    count: int | None,
    kind: str | None = None,
    report: Callable[[str, int, int], None] | None = None,
    ranks: int = 0,
) -> Report:
    """Run every check of what a source names on it; raises ``ArgumentError`` for one of another kind.

    ``report`` is called before each check with its name, the number of those before it and of all. With
    ``ranks`` it is the checks of trials that so many share.
    """
    kind = source.kind if kind is None else kind
    if source.kind != kind:
        raise ArgumentError(mismatch("spec", f"a {_said(kind)}", f"a {_said(source.kind)}: {source.label}"))
    if ranks and kind not in ON_RANKS:
        known = ", ".join(f"a {_said(one)}" for one in ON_RANKS)
        raise ArgumentError(
            mismatch("spec", f"{known} to check on ranks", f"a {_said(kind)}: {source.label}")
        )
    subject = Subject(source, ranks)
    number = examples() if count is None else whole(count, "examples")
    results: list[Result] = []
    checks = list(subject.checks())
    for place, check in enumerate(checks):
        if report is not None:
            report(check.name, place, len(checks))
        gate = next(
            (r.name for r in results if r.verdict == "failed" and REGISTRY[subject.kind][r.name].gate), ""
        )
        if gate:
            reason = f"not run: {gate} fails"
            results.append(Result(check.name, "not run", message=reason, source=check.identity.source))
        else:
            results.append(check.result(number))
    label = f"{source.label} on {ranks} ranks" if ranks else source.label
    return Report(kind, label, tuple(results))


def _said(kind: str) -> str:
    return kind.replace("_", " ")


def _seed(case: Any) -> int:
    return int(case.flow.seed if hasattr(case, "flow") else case.seed)
