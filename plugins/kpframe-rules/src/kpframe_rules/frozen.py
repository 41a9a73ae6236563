"""Frozen parameters."""

from __future__ import annotations

from collections.abc import Sequence

from kpframe import LearningRule, Update
from kpframe.errors import ArgumentError, mismatch


class Frozen(LearningRule):
    """Some parameters do not learn: ``g = M J* P* Err`` with ``M`` zero on them and one elsewhere.

    Freezing the recurrent and input weights leaves a reservoir. The operators of the parameters one by
    one add up to K, and with all of them frozen nothing moves. Cost: that of the parameters left.

    Args:
        parameters: names of the frozen parameters; ``*`` and ``?`` match as in file names.

    Raises:
        ArgumentError: for a string in place of a list; when it is applied, for a name that matches no
            parameter of the model, listing those there are.
    """

    def __init__(self, parameters: Sequence[str]) -> None:
        if isinstance(parameters, str):  # would be taken for a list of letters
            raise ArgumentError(mismatch("parameters", f"a list such as [{parameters!r}]", repr(parameters)))
        self.parameters = tuple(parameters)

    def change(self, update: Update) -> Update:
        """Return the update of the parameters that learn."""
        return update.replace(K=update.K.freeze(self.parameters))

    def __repr__(self) -> str:
        return f"Frozen(parameters={list(self.parameters)})"
