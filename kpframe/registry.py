"""Create what plugins offer, by name and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kpframe.errors import SettingsError
from kpframe.plugin import get_manager

if TYPE_CHECKING:
    from kpframe.model import Model
    from kpframe.reducer import Reducer
    from kpframe.rules import LearningRule
    from kpframe.tasks import Task


def create_model(name: str, /, **settings: Any) -> Model:
    """Return the model called ``name`` (or ``"distribution:name"``), built from its settings.

    Raises:
        UnknownNameError: when no plugin, or more than one, offers the name.
        SettingsError: listing everything that is wrong with the settings.
        PluginError: when the plugin's factory cannot be used, or returns something else.
    """
    from kpframe.model import Model

    return cast("Model", get_manager().create("model", name, settings, Model))


def create_rule(name: str, /, **settings: Any) -> LearningRule:
    """Return the learning rule called ``name``; raises like ``create_model``."""
    from kpframe.rules import LearningRule

    return cast("LearningRule", get_manager().create("rule", name, settings, LearningRule))


def create_task(name: str, /, **settings: Any) -> Task:
    """Return the task called ``name``; raises like ``create_model``."""
    from kpframe.tasks import Task

    return cast("Task", get_manager().create("task", name, settings, Task))


def create_reducer(name: str, /, **settings: Any) -> Reducer:
    """Return the reducer called ``name``: one of the core's, or one that a plugin offers.

    The core has ``mean``, ``sum``, ``partial_trace`` and ``block_diagonal`` (``axes=["time"]``), ``bin``
    (``time=5``), ``select`` (``time=-1``), ``last_valid`` (``mask=...``) and ``project``
    (``directions=..., axis=..., name=...``).

    Raises:
        SettingsError: when the settings are not those of the reducer.
        UnknownNameError, PluginError: as ``create_model``.
    """
    from kpframe.reducer import REDUCERS, Reducer

    make = REDUCERS.get(name.replace("-", "_")) if isinstance(name, str) else None
    if make is None:
        return cast("Reducer", get_manager().create("reducer", name, settings, Reducer))
    try:
        return make(**settings)
    except TypeError as error:
        raise SettingsError(f"reducer {name!r}: {error}") from error
