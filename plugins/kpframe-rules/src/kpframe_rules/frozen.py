"""Frozen parameters."""

from __future__ import annotations

from kpframe import LearningRule, Update
from kpframe.plugin import takes_settings
from kpframe_rules.specs_structural import FrozenSettings


class Frozen(LearningRule):
    """Some parameters do not learn: ``g = M J* P* Err`` with ``M`` zero on them and one elsewhere.

    Freezing the recurrent and input weights leaves a reservoir (Jaeger 2001, GMD report 148). The
    operators of the parameters one by one add up to K, and with all of them frozen nothing moves. Cost: that
    of the parameters left.

    Raises:
        SettingsError: for a string in place of a list.
        ArgumentError: when it is applied, for a name that matches no parameter of the model; lists those
            there are.
    """

    @takes_settings(FrozenSettings)
    def __init__(self, settings: FrozenSettings) -> None:
        self.parameters = settings.parameters

    def change(self, update: Update) -> Update:
        """Return the update of the parameters that learn."""
        return update.replace(K=update.K.freeze(self.parameters))

    def __repr__(self) -> str:
        return f"Frozen(parameters={list(self.parameters)})"
