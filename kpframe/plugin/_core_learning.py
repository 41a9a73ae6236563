"""The core's quantities of how learning moves a network, and of what it has become; imports no torch."""

from __future__ import annotations

from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin._settings import setting
from kpframe.plugin._specs import QuantitySpec

_ROOM = "kpframe.study._quantities"


@frozen
class GroupSettings:
    """Which trials belong together."""

    by: str | None = setting(
        None, help="coordinate of the trials; the first that puts them into 2 to `most` groups when left out"
    )
    most: int = setting(12, ge=2, help="largest number of groups")


_QUANTITIES = (
    (
        "predicted_change",
        "_change:PredictedChange",
        None,
        "how states and outputs changed since the step before, beside two predictions",
    ),
    (
        "contributions",
        "_contributions:Contributions",
        None,
        "the loss's descent and the trace of Phi by parameter, trial, time and epoch",
    ),
    (
        "interference",
        "_interference:Interference",
        GroupSettings,
        "what learning one group of trials does to the others",
    ),
)


def learning_quantities() -> Iterator[QuantitySpec]:
    """Yield the quantities."""
    for name, factory, settings, summary in _QUANTITIES:
        yield QuantitySpec(name, f"{_ROOM}.{factory}", settings=settings, summary=summary)
