"""What a plugin yields (specs), and what the host says about it (plugins and their problems)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, NoReturn, Self

from attrs import Attribute, field, fields_dict, frozen, has

from kpframe.errors import PluginError, mismatch, one_line
from kpframe.plugin._settings import describe

API_VERSION = 1
"""The version of the hooks and specs; a spec for another one is refused."""

_NAME = re.compile(r"[a-z][a-z0-9_]{0,63}")
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


def _check_wraps(spec: Spec, attribute: Attribute[Any], value: object) -> None:
    label = f"wraps of {spec.kind} {spec.name!r}"
    if not isinstance(value, Mapping) or not all(
        isinstance(kind, str)
        and isinstance(names, tuple | list)
        and all(isinstance(name, str) for name in names)
        for kind, names in value.items()
    ):
        expected = "a mapping of 'package.module.Class' to names of its attributes"
        raise PluginError(mismatch(label, expected, repr(value)))
    known = set() if spec.settings is None else set(fields_dict(spec.settings))
    unknown = sorted({name for names in value.values() for name in names} - known)
    if unknown:
        raise PluginError(mismatch(label, f"names of its settings {sorted(known)}", unknown))


def _words(name: str) -> Any:
    def convert(value: Any) -> str:
        if not isinstance(value, str):
            raise PluginError(mismatch(name, "a string", repr(value)))
        return one_line(value)

    return field(default="", converter=convert)


@frozen
class Spec:
    """A name that a plugin offers; ``factory("module:attribute")`` is called with the settings' fields.

    Attributes:
        name: lower-case letters, digits and ``_``, from a letter on, at most 64.
        factory: where the class or function that builds it is, ``"package.module:attribute"``.
        settings: attrs class of its settings; None where it has none.
        api: version of hooks and specs that it is written for.
        summary: what it is, on one line.

    Raises:
        PluginError: at construction, for a name, factory, settings class or api of the wrong form, and for
            fields that this api does not have, in a spec of a later one.
    """

    kind: ClassVar[str] = "thing"

    def __new__(cls, *args: Any, **keywords: Any) -> Self:
        """Tell a spec of a later api from one with a misspelt field; see ``ApiError``."""
        api = keywords.get("api")
        if isinstance(api, int) and api > API_VERSION and not set(keywords) <= set(fields_dict(cls)):
            refuse_api(cls.kind, args[0] if args else keywords.get("name"), api)
        return super().__new__(cls)

    name: str = field(
        validator=_matches(_NAME, "lower-case letters, digits and _, from a letter on, at most 64")
    )
    factory: str = field(validator=_matches(_FACTORY, "'package.module:attribute'"))
    settings: type | None = field(default=None, validator=_check_settings)
    api: int = field(default=API_VERSION, validator=_check_api)
    summary: str = _words("summary")


@frozen
class ModelSpec(Spec):
    """A recurrent model.

    Attributes:
        wraps: the foreign modules whose parameters the model takes over by their names, and for each the
            attributes that say its settings: ``{"torch.nn.modules.rnn.GRU": ("input_size", "hidden_size")}``.
            ``wrap`` of such a module then returns this model.
    """

    kind = "model"
    wraps: Mapping[str, tuple[str, ...]] = field(factory=dict, validator=_check_wraps, hash=False)


@frozen
class RuleSpec(Spec):
    """A learning rule."""

    kind = "rule"


@frozen
class ReducerSpec(Spec):
    """A reducer of operators."""

    kind = "reducer"


def _check_flag(spec: Any, attribute: Attribute[Any], value: Any) -> None:
    if not isinstance(value, bool):
        raise PluginError(mismatch(attribute.name, "True or False", repr(value)))


@frozen
class FormSpec(Spec):
    """A form of an operator, made of a Jacobian; a base.

    Attributes:
        fits: in plain words, which Jacobians it takes and where it is fast; the class's own ``fits`` decides.
        automatic: whether it gives the products of the core's own form to rounding, and may be taken unasked.
    """

    fits: str = _words("fits")
    automatic: bool = field(default=False, validator=_check_flag)


@frozen
class PropagatorSpec(FormSpec):
    """A form of propagator, made of a step Jacobian: ``factory(A, **settings)``.

    ``"auto"`` takes an ``automatic`` one in the place of A's own scan where it prefers A
    (``Propagator.prefers``).
    """

    kind = "propagator"


@frozen
class ParameterOperatorSpec(FormSpec):
    """A form of parameter operator, made of a parameter Jacobian: ``factory(J, **settings)``.

    ``"auto"`` takes an ``automatic`` one where it fits J.
    """

    kind = "parameter_operator"


@frozen
class TaskSpec(Spec):
    """A task."""

    kind = "task"


@frozen
class QuantitySpec(Spec):
    """Something that studies record of a network at a step of its training."""

    kind = "quantity"


#: The class of spec of each kind of thing that plugins offer.
KINDS: dict[str, type[Spec]] = {
    cls.kind: cls
    for cls in (
        *(ModelSpec, RuleSpec, ReducerSpec, PropagatorSpec, ParameterOperatorSpec, TaskSpec),
        QuantitySpec,
    )
}


def plural(kind: str) -> str:
    """Return the plural of a kind, as in the names of hooks."""
    return f"{kind[:-1]}ies" if kind.endswith("y") else f"{kind}s"


HOOKS: dict[str, type[Spec]] = {f"kpframe_{plural(kind)}": cls for kind, cls in KINDS.items()}


Status = Literal["loaded", "disabled", "broken", "not loaded"]


@frozen
class PluginProblem:
    """What is wrong with one plugin, and the commands that mend it.

    Attributes:
        distribution: the plugin's; empty where it is not a plugin that is wrong but an environment variable.
        version: of the distribution.
        stage: where it went wrong: ``import``, ``hooks``, ``api``, ``clash`` ...
        message: what is wrong, on one line.
        fix: the commands.
    """

    distribution: str = field(converter=one_line)
    version: str = field(converter=one_line)
    stage: str
    message: str = field(converter=one_line)
    fix: str = field(converter=one_line)

    def __str__(self) -> str:
        owner = f"plugin {self.distribution} {self.version} " if self.distribution else ""
        return f"{owner}({self.stage}): {self.message}; fix: {self.fix}"


@frozen
class PluginInfo:
    """One installed plugin and what it offers (nothing, unless it is loaded).

    What comes from its metadata is on one line and printable.

    Attributes:
        distribution: its name on the package index.
        version: of the distribution.
        entry_point: the module or object that has its hooks.
        status: ``"loaded"``, ``"disabled"``, ``"broken"`` or ``"not loaded"``.
        specs: the names it offers.
        summary: the distribution's, from its metadata.
        source: what pip was given to install it in place of its name (``-e FOLDER``, a wheel, a URL).
    """

    distribution: str = field(converter=one_line)
    version: str = field(converter=one_line)
    entry_point: str = field(converter=one_line)
    status: Status = "not loaded"
    specs: tuple[Spec, ...] = ()
    summary: str = field(default="", converter=one_line)
    source: str = ""
