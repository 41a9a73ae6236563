"""What a mutant is: a wrong implementation, the check that must catch it, and what that must say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from attrs import field, frozen

from kpframe.testing._checks import Check, Subject
from kpframe.testing._identity import identity_named
from kpframe.testing._report import Result
from kpframe.testing._sources import Source, source_of


@frozen
class Mutant:
    """A wrong implementation.

    Attributes:
        wrong: the class, factory or name that is checked.
        check: name of the check that must catch it.
        says: a part of the message that leads to the fault.
        kind: what it is: ``"model"``, ``"rule"``, ``"reducer"``, ``"propagator"`` ...
        patch: a context in which the wrong code stands in for the core's, for a mutant that is a name.
        ranks: how many share the trials, where it is a check of that.
    """

    wrong: Any
    check: str
    says: str
    kind: str = "model"
    patch: Callable[[], AbstractContextManager[Any]] = field(default=nullcontext, repr=False)
    ranks: int = 0

    @property
    def name(self) -> str:
        """A name for test ids."""
        return f"{self.check}-{getattr(self.wrong, '__name__', self.wrong)}"

    @property
    def source(self) -> Source:
        """What the checks run on."""
        return source_of(self.wrong, self.kind)

    @property
    def subject(self) -> Subject:
        """What the checks run on, and on how many ranks."""
        return Subject(self.source, self.ranks)

    def result(self, examples: int = 20) -> Result:
        """Return what the check that must catch it says, after as many ``examples``."""
        with self.patch():
            return Check(self.subject, identity_named(self.subject.kind, self.check)).result(examples)
