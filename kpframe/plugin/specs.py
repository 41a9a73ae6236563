"""What a plugin yields (specs), and what the host says about it (plugins and their problems)."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal, NoReturn, Self

from attrs import Attribute, field, fields_dict, frozen, has

from kpframe.errors import PluginError, mismatch
from kpframe.settings import describe

API_VERSION = 1
"""The version of the hooks and specs; a spec for another one is refused."""

_NAME = re.compile(r"[a-z][a-z0-9_]*")
_FACTORY = re.compile(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*(\.[^\W\d]\w*)*")


class ApiError(PluginError):
    """A spec is for another version of the hooks and specs; ``newer`` than this kpframe's, or older."""

    def __init__(self, message: str, newer: bool) -> None:
        super().__init__(message)
        self.newer = newer


def refuse_api(kind: str, name: object, api: int) -> NoReturn:
    """Raise ApiError for a spec of ``api``."""
    raise ApiError(f"{kind} {name!r} is for api {api}, this kpframe has {API_VERSION}", api > API_VERSION)


def _matches(pattern: re.Pattern[str], meaning: str) -> Any:
    def check(spec: Spec, attribute: Attribute[str], value: object) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise PluginError(mismatch(f"{type(spec).__name__}.{attribute.name}", meaning, repr(value)))

    return check


def _check_settings(spec: Spec, attribute: Attribute[Any], value: object) -> None:
    if value is not None and not (isinstance(value, type) and has(value)):
        label = f"settings of {spec.kind} {spec.name!r}"
        raise PluginError(mismatch(label, "an attrs class or None", repr(value)))
    describe(value)  # raises when an annotation cannot be resolved


def _check_api(spec: Spec, attribute: Attribute[int], value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool):
        raise PluginError(mismatch(f"api of {spec.kind} {spec.name!r}", "an integer", repr(value)))


def _capabilities(value: Any) -> frozenset[str]:
    if isinstance(value, str):  # frozenset("abc") would be three capabilities
        raise PluginError(mismatch("capabilities", "a set of strings", repr(value)))
    return frozenset(value)


@frozen
class Spec:
    """A name that a plugin offers; ``factory("module:attribute")`` is called with the settings' fields.

    Raises:
        PluginError: at construction, for a name, factory, settings class or api of the wrong form.
        ApiError: for fields that this api does not have, in a spec of a later one.
    """

    kind: ClassVar[str] = "thing"

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        """Tell a spec of a later api from one with a misspelt field; see ``ApiError``."""
        api = keywords.get("api")
        if isinstance(api, int) and api > API_VERSION and not set(keywords) <= set(fields_dict(cls)):
            refuse_api(cls.kind, args[0] if args else keywords.get("name"), api)
        return super().__new__(cls)

    name: str = field(validator=_matches(_NAME, "lower-case letters, digits and _, from a letter on"))
    factory: str = field(validator=_matches(_FACTORY, "'package.module:attribute'"))
    settings: type | None = field(default=None, validator=_check_settings)
    capabilities: frozenset[str] = field(default=frozenset(), converter=_capabilities)
    api: int = field(default=API_VERSION, validator=_check_api)
    summary: str = ""


@frozen
class ModelSpec(Spec):
    """A recurrent model."""

    kind = "model"


@frozen
class RuleSpec(Spec):
    """A learning rule."""

    kind = "rule"


@frozen
class ReducerSpec(Spec):
    """A reducer of operators."""

    kind = "reducer"


@frozen
class PropagatorSpec(Spec):
    """A propagator."""

    kind = "propagator"


@frozen
class ParameterOperatorSpec(Spec):
    """A parameter operator."""

    kind = "parameter_operator"


@frozen
class TaskSpec(Spec):
    """A task."""

    kind = "task"


KINDS: dict[str, type[Spec]] = {
    cls.kind: cls
    for cls in (ModelSpec, RuleSpec, ReducerSpec, PropagatorSpec, ParameterOperatorSpec, TaskSpec)
}
HOOKS: dict[str, type[Spec]] = {f"kpframe_{kind}s": cls for kind, cls in KINDS.items()}


Status = Literal["loaded", "disabled", "broken", "not loaded"]


class PluginWarning(UserWarning):
    """A plugin is broken and was left out, or clashes with another."""


@frozen
class PluginProblem:
    """What is wrong with one plugin, and the commands that mend it."""

    distribution: str
    version: str
    stage: str
    message: str
    fix: str

    def __str__(self) -> str:
        return f"plugin {self.distribution} {self.version} ({self.stage}): {self.message}; fix: {self.fix}"


@frozen
class PluginInfo:
    """One installed plugin and what it offers (nothing, unless it is loaded).

    ``source`` is what pip was given to install it in place of its name (``-e FOLDER``, a wheel, a URL).
    """

    distribution: str
    version: str
    entry_point: str
    status: Status = "not loaded"
    specs: tuple[Spec, ...] = ()
    summary: str = ""
    source: str = ""
