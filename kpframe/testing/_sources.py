"""What a check is run on: a registered name, a spec, a class, a factory, an instance, a checkpoint."""

from __future__ import annotations

import copy
import inspect
import warnings
from collections.abc import Callable, Mapping
from importlib import import_module
from operator import attrgetter
from typing import Any

from attrs import field, frozen

from kpframe.errors import (
    ArgumentError,
    MemoryBudgetError,
    StabilityWarning,
    UnknownNameError,
    UnsupportedError,
    mismatch,
    say,
)
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._propagator import Propagator
from kpframe.models._model import Model, create_model
from kpframe.operators._reducer import Reducer, create_reducer
from kpframe.plugin import KINDS, Spec, get_manager
from kpframe.plugin._loading import load_factory, settings_of
from kpframe.plugin._takes import call_with, keywords_of
from kpframe.rules._rule import LearningRule, create_rule
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._networks.weight_files import SUFFIXES
from kpframe.study._quantity import Quantity, create_quantity
from kpframe.testing._residual import CheckFailure

BASES: dict[str, type] = {
    "model": Model,
    "rule": LearningRule,
    "reducer": Reducer,
    "propagator": Propagator,
    "parameter_operator": ParameterOperator,
    "quantity": Quantity,
}
#: Kinds of what is made of something: a propagator of A, a parameter operator of J.
FORMS = {"propagator": "a step Jacobian", "parameter_operator": "a parameter Jacobian"}
ALGEBRA = "algebra"
_CREATE: dict[str, Callable[..., Any]] = {
    "model": create_model,
    "rule": create_rule,
    "reducer": create_reducer,
    "quantity": create_quantity,
}


@frozen
class Source:
    """Where a checked thing comes from.

    Attributes:
        kind: ``"model"``, ``"rule"``, ``"reducer"``, ``"propagator"``, ``"parameter_operator"`` or
            ``"quantity"``.
        label: short name, the first half of test ids.
        reference: what drawn cases carry; ``create`` builds from it.
        verdicts: settings as printed -> whether they build; the checks of a subject draw the same again.
        fitting: what a form fits, once it was looked at.
    """

    kind: str
    label: str
    reference: Any
    verdicts: dict[str, bool] = field(factory=dict, init=False, eq=False, repr=False)
    fitting: list[Any] = field(factory=list, init=False, eq=False, repr=False)

    @property
    def spec(self) -> Spec | None:
        """The spec with the settings, where there is one."""
        return find_spec(self.kind, self.reference)


def source_of(spec: object, kind: str = "model", label: str | None = None) -> Source:
    """Return the source that ``spec`` names; nothing is imported or built yet.

    Args:
        spec: a registered name (``"gru"``, ``"distribution:gru"``), ``"package.module:Class"``, the path of
            a checkpoint, a spec, a class, a factory function, or an instance. ``"rule:bptt"``,
            ``"propagator:scan"`` choose another kind; ``"operator:algebra"`` is the algebra of operators.
        kind: what a bare name is.
        label: another name for test ids.

    Raises:
        ArgumentError: for anything else.
    """
    if isinstance(spec, Source):
        return spec
    if isinstance(spec, str):
        head, _, rest = spec.partition(":")
        head = head.replace("-", "_")  # as the command line writes kinds, too
        if rest and (head in KINDS or head == "operator"):
            kind, spec = head, rest
        if (kind, spec) == ("operator", ALGEBRA):
            return Source(kind, label or ALGEBRA, spec)
        _check_kind(kind)
        short = str(spec).removesuffix(".safetensors").replace("\\", "/").rpartition("/")[2]
        return Source(kind, label or short.rpartition(":")[2], str(spec))
    if isinstance(spec, Spec):
        _check_kind(spec.kind)
        return Source(spec.kind, label or spec.name, spec)
    for name, base in BASES.items():
        if isinstance(spec, base):
            if name in FORMS:
                got = f"an instance of {type(spec).__name__}, which is of one alone"
                raise ArgumentError(mismatch("spec", f"a class, which is made of {FORMS[name]}", got))
            return Source(name, label or type(spec).__name__, spec)
        if isinstance(spec, type) and issubclass(spec, base):
            return Source(name, label or spec.__name__, spec)
    if callable(spec):
        _check_kind(kind)
        return Source(kind, label or str(getattr(spec, "__name__", type(spec).__name__)), spec)
    raise ArgumentError(
        mismatch("spec", f"a name, a spec, a class, a factory or an instance of a {kind}", repr(spec))
    )


def create(kind: str, reference: Any, settings: Mapping[str, Any], *arguments: Any) -> Any:
    """Return the model, rule, reducer or form of a reference and its settings, checked for its class.

    Args:
        kind, reference: what is made; see ``Source``.
        settings: its settings, by name.
        arguments: what a form is made of.

    Raises:
        CheckFailure: when it cannot be built, or is something else.
        ArgumentError: (of which SettingsError) for settings that do not go together.
        UnsupportedError: for a form that does not fit what it would be made of.
        MemoryBudgetError: for a form whose settings allow it too little memory.
    """
    base = BASES[kind]
    if isinstance(reference, base):
        return copy.deepcopy(reference)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", StabilityWarning)  # drawn settings may be unstable ones
            made = _make(kind, reference, dict(settings), arguments)
    except (ValueError, UnknownNameError):
        raise  # settings that do not go together are not drawn again; the caller tells them apart
    except (Exception, SystemExit) as error:
        if arguments and isinstance(error, UnsupportedError | MemoryBudgetError):
            raise
        raise CheckFailure(
            f"{show(reference)} cannot be built with {dict(settings)}: {say(error)}"
        ) from error
    if not isinstance(made, base):
        raise CheckFailure(
            mismatch(f"{show(reference)}({_arguments(settings)})", f"a kpframe.{base.__name__}", _what(made))
        )
    return made


def find_spec(kind: str, reference: object) -> Spec | None:
    """Return the spec of a reference, None where it has none."""
    if isinstance(reference, Spec):
        return reference
    if isinstance(reference, str):  # most are paths, of which no error is made here
        found = get_manager().named(kind, reference)
        return found[0] if len(found) == 1 else None
    return None


def check_exists(source: Source) -> None:
    """Raise unless the source names something: a registered name, something to import, a checkpoint.

    Raises:
        UnknownNameError: for a name that no plugin offers.
        CheckFailure: for what cannot be imported.
        CheckpointError: for a file that is missing or corrupt.
    """
    kind, reference = source.kind, source.reference
    if not isinstance(reference, str) or reference == ALGEBRA:
        return
    if kind == "model" and reference.endswith(SUFFIXES):
        load_checkpoint(reference).build_model()
    elif find_spec(kind, reference) is None:
        _import(kind, reference)


def class_of(kind: str, reference: Any) -> type | None:
    """Return the class that a reference names, None where it is a function that makes one."""
    spec = find_spec(kind, reference)
    if spec is not None:
        module, _, attribute = spec.factory.partition(":")
        reference = attrgetter(attribute)(import_module(module))
    elif isinstance(reference, str):
        reference = _import(kind, reference)
    return reference if isinstance(reference, type) else None


def factory_of(kind: str, reference: Any) -> Any:
    """Return what is called to build a reference without a spec."""
    return _import(kind, reference) if isinstance(reference, str) else reference


def show(reference: object) -> str:
    """Return a reference as code: what a pasted case needs in its place."""
    if isinstance(reference, str):
        return repr(reference)
    if isinstance(reference, Spec):
        return repr(reference.factory)
    name, module = getattr(reference, "__qualname__", None), getattr(reference, "__module__", None)
    if name is None:
        return f"<an instance of {type(reference).__qualname__}>"
    try:
        found = attrgetter(name)(import_module(str(module)))
    except (ImportError, AttributeError):
        return str(name).rpartition(".")[2]
    return repr(f"{module}:{name}") if found is reference else str(name).rpartition(".")[2]


def _make(kind: str, reference: Any, settings: dict[str, Any], arguments: tuple[Any, ...]) -> Any:
    if isinstance(reference, Spec):
        built = settings_of(reference, settings, owner=f"{kind} {reference.name!r}")
        factory = load_factory(reference, keywords_of(built), arguments)
        return call_with(factory, built, *arguments)
    if isinstance(reference, str):
        if kind == "model" and reference.endswith(SUFFIXES):
            return load_checkpoint(reference).build_model()
        if find_spec(kind, reference) is not None:
            if kind in FORMS:
                return get_manager().create(kind, reference, settings, BASES[kind], *arguments)
            return _CREATE[kind](reference, **settings)
        reference = _import(kind, reference)
        if isinstance(reference, BASES[kind]):
            return copy.deepcopy(reference)
    return reference(*arguments, **settings)


def _import(kind: str, reference: str) -> Any:
    """Return the object that ``package.module:attribute`` names."""
    module, _, attribute = reference.rpartition(":")
    if not all(part.isidentifier() for part in module.split(".")):
        get_manager().find(kind, reference)  # raises, saying which names there are
    try:
        return attrgetter(attribute)(import_module(module))
    except (Exception, SystemExit) as error:
        raise CheckFailure(f"{reference!r} cannot be imported: {say(error)}") from error


def signature_of(factory: Any) -> inspect.Signature:
    """Return a factory's signature; raises ``CheckFailure`` where it has none."""
    try:
        return inspect.signature(factory)
    except (TypeError, ValueError) as error:
        raise CheckFailure(
            f"{show(factory)}: its arguments cannot be read; give a ModelSpec with settings"
        ) from error


def _check_kind(kind: str) -> None:
    if kind not in BASES:
        raise ArgumentError(mismatch("spec", f"one of the kinds {', '.join(BASES)}", kind))


def _arguments(settings: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in settings.items())


def _what(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else type(value).__name__
