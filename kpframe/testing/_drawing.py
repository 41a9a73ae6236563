"""Draw settings among those that their class allows."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from kpframe.testing._choices import Among, Choice, Either, choices_of, go_together
from kpframe.testing._sources import Source

Drawn = st.SearchStrategy[Any]


def settings_strategy(source: Source) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy of keyword settings that build; optional ones are left out half of the time.

    Raises:
        CheckFailure: for a required setting or argument that nothing is known of.
    """
    required, optional = choices_of(source.kind, source.reference)
    if not required and not optional:
        return st.just({})

    def build(settings: dict[str, Any]) -> bool:
        text = repr(settings)
        if text not in source.verdicts:
            source.verdicts[text] = go_together(source.kind, source.reference, settings)
        return source.verdicts[text]

    return st.fixed_dictionaries(
        {name: strategy_of(choice) for name, choice in required.items()},
        optional={name: strategy_of(choice) for name, choice in optional.items()},
    ).filter(build)


def strategy_of(choice: Choice) -> Drawn:
    """Return a strategy of the values of a choice."""
    if isinstance(choice, Either):
        return st.one_of([strategy_of(arm) for arm in choice.arms])
    if isinstance(choice, Among):
        values = choice.values
        if isinstance(values, range):
            return st.integers(values[0], values[-1])
        return st.booleans() if values == (False, True) else st.sampled_from(values)
    item = strategy_of(choice.item)
    if choice.length is not None:
        return st.tuples(*[item] * choice.length).map(tuple)
    return st.lists(item, min_size=1, max_size=2, unique=True).map(tuple)
