"""The hooks. A plugin is a module with some of these functions, marked ``@hookimpl``.

Each yields specs: names, with the factories that build what they name. Factories are strings and load
on first use, so that a hook module needs no torch and listing what is installed costs next to nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from kpframe.plugin._specs import (
        ModelSpec,
        ParameterOperatorSpec,
        PropagatorSpec,
        QuantitySpec,
        ReducerSpec,
        RuleSpec,
        TaskSpec,
    )

hookspec = pluggy.HookspecMarker("kpframe")
hookimpl = pluggy.HookimplMarker("kpframe")


@hookspec
def kpframe_models() -> Iterable[ModelSpec]:
    """Yield recurrent models; each factory returns a ``kpframe.Model``."""
    raise NotImplementedError


@hookspec
def kpframe_rules() -> Iterable[RuleSpec]:
    """Yield learning rules; each factory returns a ``kpframe.LearningRule``."""
    raise NotImplementedError


@hookspec
def kpframe_reducers() -> Iterable[ReducerSpec]:
    """Yield reducers; each factory returns a ``kpframe.Reducer``."""
    raise NotImplementedError


@hookspec
def kpframe_propagators() -> Iterable[PropagatorSpec]:
    """Yield propagators; each factory returns a ``kpframe.Propagator``."""
    raise NotImplementedError


@hookspec
def kpframe_parameter_operators() -> Iterable[ParameterOperatorSpec]:
    """Yield parameter operators; each factory returns a ``kpframe.ParameterOperator``."""
    raise NotImplementedError


@hookspec
def kpframe_tasks() -> Iterable[TaskSpec]:
    """Yield tasks; each factory returns a ``kpframe.Task``."""
    raise NotImplementedError


@hookspec
def kpframe_quantities() -> Iterable[QuantitySpec]:
    """Yield what studies can record; each factory returns a ``kpframe.study.Quantity``."""
    raise NotImplementedError
