"""Create what plugins offer, by name and settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from kpframe.plugin import get_manager

if TYPE_CHECKING:
    from kpframe.model import Model
    from kpframe.rules import LearningRule
    from kpframe.tasks import Task


def create_model(name: str, /, **settings: Any) -> Model:
    """Return the model called ``name`` (or ``"distribution:name"``), built from its settings.

    Raises:
        UnknownNameError: when no plugin, or more than one, offers the name.
        SettingsError: listing everything that is wrong with the settings.
        PluginError: when the plugin's factory cannot be used.
    """
    return cast("Model", get_manager().create("model", name, settings))


def create_rule(name: str, /, **settings: Any) -> LearningRule:
    """Return the learning rule called ``name``; raises like :func:`create_model`."""
    return cast("LearningRule", get_manager().create("rule", name, settings))


def create_task(name: str, /, **settings: Any) -> Task:
    """Return the task called ``name``; raises like :func:`create_model`."""
    return cast("Task", get_manager().create("task", name, settings))
