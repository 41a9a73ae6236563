"""The plugin host: what a plugin's author imports, and the manager that finds what plugins offer.

A plugin is a distribution with the entry point ``<distribution> = "<module>"`` in the group ``kpframe``;
the module implements some of the hooks in ``kpframe.plugin._hookspecs``. Nothing here imports torch.
"""

from __future__ import annotations

from kpframe.errors import PluginWarning
from kpframe.plugin._hookspecs import hookimpl
from kpframe.plugin._manager import PluginManager, get_manager
from kpframe.plugin._scoped import temporary
from kpframe.plugin._settings import setting
from kpframe.plugin._specs import (
    API_VERSION,
    KINDS,
    ModelSpec,
    ParameterOperatorSpec,
    PluginInfo,
    PluginProblem,
    PropagatorSpec,
    QuantitySpec,
    ReducerSpec,
    RuleSpec,
    Spec,
    TaskSpec,
)
from kpframe.plugin._takes import takes_settings

__all__ = [
    "API_VERSION",
    "KINDS",
    "ModelSpec",
    "ParameterOperatorSpec",
    "PluginInfo",
    "PluginManager",
    "PluginProblem",
    "PluginWarning",
    "PropagatorSpec",
    "QuantitySpec",
    "ReducerSpec",
    "RuleSpec",
    "Spec",
    "TaskSpec",
    "get_manager",
    "hookimpl",
    "setting",
    "takes_settings",
    "temporary",
]
