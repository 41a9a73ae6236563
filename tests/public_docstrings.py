"""What a docstring has to say of a public name, and what it leaves out, read beside its code."""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import kpframe
from kpframe import errors

#: A function may name so many parameters in its text; one that takes more lists them under ``Args:``.
IN_TEXT = 4
#: Parameters that are quantities with a unit, and the words of which the text on one has one.
UNITS = {
    r"(\w+_)?bytes|memory(_budget)?": r"\b([KMG]i?B|bytes?)\b",
    r"(max_)?budget|num_matvecs": r"\b(products?|bytes)\b",
    r"(\w+_)?seconds|timeout|limit_s": r"\b(seconds?|s)\b",
    r"dt|time_step": r"\[[^\]]+\]|\btime\b|\bunits?\b",
    r"eta|(\w+_)?rate|learning_rate": r"\b(eta|rate|step|loss|unit)",
}
HEADS = r"Args|Returns|Yields|Raises|Attributes|Examples?|Sources?|References|Note|Notes"
SECTION = re.compile(rf"^(?:{HEADS}):\s*$", re.MULTILINE)
SENTENCE = re.compile(r"(?:``.+?``|[^.;`]|[.;](?!\s)|`)+", re.DOTALL)
SPAN = re.compile(r"``(.+?)``", re.DOTALL)
#: "see ``with_propagator``", "raises like ``direct``", "as ``update``": what that says holds here, too.
ELSEWHERE = re.compile(r"\b(?:see|like|as|alike)\s+``([\w.]+)``", re.IGNORECASE)
SHAPE = re.compile(r"\[[\w*. ,+()-]*\]|\(\w+,( *\w+,?)*\)|\bscalars?\b|\bshapes?\b", re.IGNORECASE)
TENSOR = re.compile(r"\b(Tensor|ndarray|NDArray|DataArray)\b")
RETURNS = re.compile(
    r"^(Return|Yield|Whether|Open|Load|Read|Estimate|Draw)|\b(returns?|yield(s|ing)?)\b", re.IGNORECASE
)
#: An author and a year, a number of arXiv, or the word that it is ours.
SOURCE = re.compile(
    r"\b[A-Z][a-z][\w'-]+[^;`]{0,90}?\b(1[89]\d\d|20[0-3]\d)\b|\barXiv[: ]\d{4}\.\d{4,5}|\bOurs\b"
)


class Entry(NamedTuple):
    """A public name: its dotted name, the object that has the docstring, the class it belongs to."""

    name: str
    value: Any
    owner: type | None

    @property
    def text(self) -> str:
        return inspect.cleandoc(self.value.__doc__ or "")


def function_of(value: object) -> FunctionType | None:
    """Return the function within a method, property, cached property or wrapper; None for anything else."""
    for inside in ("fget", "func", "__func__"):
        value = getattr(value, inside, None) or value
    value = inspect.unwrap(value) if callable(value) else value
    return value if isinstance(value, FunctionType) else None


def is_property(value: object) -> bool:
    return hasattr(value, "fget") or type(value).__name__ == "cached_property"


def entries_of(name: str, value: object) -> Iterator[Entry]:
    """Yield a name and those of its public methods and properties that no public base has."""
    yield Entry(name, value, None)
    known = public_classes()
    for base in value.__mro__ if isinstance(value, type) else ():
        if base is value or (base.__module__.startswith("kpframe.") and base not in known):
            for part, member in vars(base).items():
                if not part.startswith("_") and (function_of(member) or is_property(member)):
                    yield Entry(f"{name}.{part}", member, value)


@cache
def public() -> dict[str, Entry]:
    """Return the functions and classes that users see, with their methods, by the first of their names."""
    found: dict[str, Entry] = {}
    seen: set[int] = set()
    for module, name, value in public_values():
        if id(value) not in seen and (isinstance(value, type) or function_of(value)):
            seen.add(id(value))
            found |= {entry.name: entry for entry in entries_of(f"{module}.{name}", value)}
    return found


@cache
def public_classes() -> frozenset[type]:
    return frozenset(value for _, _, value in public_values() if isinstance(value, type))


def public_values() -> Iterator[tuple[str, str, Any]]:
    """Yield the module, name and value of all that ``__all__`` of kpframe and its public modules has."""
    for room in ("", *kpframe._MODULES):
        yield from _values_of(import_module(f"kpframe.{room}".rstrip(".")))


def _values_of(module: ModuleType, within: bool = True) -> Iterator[tuple[str, str, Any]]:
    own = [
        name for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__
    ]
    for name in getattr(module, "__all__", own):
        value = getattr(module, name)
        if name[0] != "_":
            yield module.__name__, name, value
        if inspect.ismodule(value) and within:
            yield from _values_of(value, within=False)


# -- what a docstring says ------------------------------------------------------------------------------


def section(text: str, *heads: str) -> str:
    """Return what lies under one of the headings, an empty string without it."""
    parts = SECTION.split(text)
    names = [match[0].strip().rstrip(":") for match in SECTION.finditer(text)]
    return "\n".join(part for name, part in zip(names, parts[1:], strict=True) if name in heads)


def listed(text: str, *heads: str) -> dict[str, str]:
    """Return the entries under a heading: names before the first colon, and what it says of them."""
    found: dict[str, str] = {}
    for line in re.split(r"\n(?=    \S)", section(text, *heads)):
        names, _, said = line.strip().partition(":")
        names = re.sub(r"\(.*?\)", "", names)
        if re.fullmatch(r"[*\w., ]+", names):
            found |= dict.fromkeys((name.strip(" *") for name in names.split(",")), said.rstrip())
    return found


def in_text(text: str) -> set[str]:
    """Return the identifiers in code spans of a docstring."""
    return {word for span in SPAN.findall(text) for word in re.findall(r"\w+", span)}


def elsewhere(entry: Entry) -> list[Entry]:
    """Return what else says what holds of an entry: the method it overrides, and what its text points to."""
    found = []
    own = entry.name.rpartition(".")[2]
    if entry.owner is not None:
        found += [
            Entry(entry.name, vars(base)[own], base) for base in entry.owner.__mro__[1:] if own in vars(base)
        ]
    elif isinstance(entry.value, type):
        bases = [base for base in entry.value.__mro__[1:] if base.__module__.partition(".")[0] == "kpframe"]
        found += [Entry(base.__name__, base, None) for base in bases]
    else:
        room = sys.modules.get(entry.name.rpartition(".")[0])  # which may say what its functions share
        found += [Entry(room.__name__, room, None)] if room is not None else []
    if inspect.ismodule(entry.value):
        return []
    function = function_of(entry.value)
    scope = sys.modules[(function or entry.owner or entry.value).__module__]
    for name in ELSEWHERE.findall(entry.text):
        head, _, last = name.rpartition(".")
        owner = entry.owner if not head else getattr(scope, head, getattr(kpframe, head, None))
        value = inspect.getattr_static(owner, last, None) if owner is not None else None
        if value is None and not head:
            owner, value = None, getattr(scope, last, None) or getattr(kpframe, last, None)
        if value is not entry.value and (isinstance(value, type) or is_property(value) or function_of(value)):
            found.append(Entry(f"{entry.name} -> {name}", value, owner if isinstance(owner, type) else None))
    return found


def said_of(entry: Entry, parameter: str, depth: int = 3) -> list[str]:
    """Return what is said of a parameter, here and where the text points to: entries, or sentences."""
    text = entry.text
    if isinstance(entry.value, type) and "__init__" in vars(entry.value):
        text += "\n\n" + inspect.cleandoc(vars(entry.value)["__init__"].__doc__ or "")
    found = [said for name, said in listed(text, "Args", "Attributes").items() if name == parameter]
    found += [setting_help(entry.value, parameter)] if isinstance(entry.value, type) else []
    if inspect.ismodule(entry.value):  # a list of what its functions share
        return re.findall(rf"^- ``{parameter}``: (.+)", text, re.MULTILINE)
    if len(parameters_of(entry)) <= IN_TEXT:
        found += [sentence for sentence in SENTENCE.findall(text) if parameter in in_text(sentence)]
    for other in elsewhere(entry) if depth else ():
        found += said_of(other, parameter, depth - 1)
    return found


def setting_help(value: type, name: str) -> str:
    """Return the ``help`` of a setting of an attrs class, an empty string where it has none."""
    fields = getattr(value, "__attrs_attrs__", ())
    limits = [limit for field in fields if field.name == name for limit in field.metadata.values()]
    return "".join(getattr(limit, "help", "") for limit in limits)


def parameters_of(entry: Entry) -> dict[str, str]:
    """Return the parameters of a call and their annotations."""
    if is_property(entry.value):
        return {}
    made = entry.value
    if isinstance(made, type):
        if getattr(made, "_is_protocol", False) or "__init__" not in vars(made):
            return {}
        made = made.__init__
    function = function_of(made)
    if function is None:
        return {}
    found = inspect.signature(function).parameters.values()
    return {p.name: str(p.annotation) for p in found if p.name not in ("self", "cls") and p.name[0] != "_"}


# -- what the code does ---------------------------------------------------------------------------------


@cache
def functions_in(path: str) -> dict[int, ast.FunctionDef]:
    """Return the functions of a file by the line they begin at, decorators included."""
    if not Path(path).is_file():  # made by attrs
        return {}
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {min([node.lineno, *(d.lineno for d in node.decorator_list)]): node for node in nodes}


def raised_by(function: FunctionType) -> set[str]:
    """Return the names of our errors that a function raises in its own body."""
    node = functions_in(function.__code__.co_filename).get(function.__code__.co_firstlineno)
    found = set()
    left: list[ast.AST] = list(node.body) if node else []
    while left:
        inside = left.pop()
        if isinstance(inside, ast.FunctionDef | ast.ClassDef | ast.Lambda):
            continue  # what it makes, not what it does
        left += ast.iter_child_nodes(inside)
        if isinstance(inside, ast.Raise) and inside.exc is not None:
            made = inside.exc.func if isinstance(inside.exc, ast.Call) else inside.exc
            name = made.attr if isinstance(made, ast.Attribute) else getattr(made, "id", "")
            kind = getattr(errors, name, None)
            if isinstance(kind, type) and issubclass(kind, errors.KpframeError):
                found.add(name)
    return found


def errors_of(entry: Entry, depth: int = 3) -> set[str]:
    """Return the classes that a docstring says are raised, here or where it points to."""
    text = entry.text
    found = set(listed(text, "Raises"))
    found |= {
        name
        for told in re.findall(r"\b[Rr]aises?:?\s+((?:``\w+``(?:, | and | or )?)+)", text)
        for name in SPAN.findall(told)
    }
    for other in elsewhere(entry) if depth else ():
        found |= errors_of(other, depth - 1)
    return found


def faults(entry: Entry) -> list[str]:
    """Return what the docstring of a public name leaves out or has wrong, in words."""
    if not entry.text or entry.text.startswith(f"{entry.name.rpartition('.')[2]}("):  # one that attrs makes
        return ["has no docstring"]
    return [*_of_parameters(entry), *_of_return(entry), *_of_errors(entry)]


def _of_parameters(entry: Entry) -> Iterator[str]:
    for name, annotation in parameters_of(entry).items():
        said = "\n".join(said_of(entry, name))
        if not said:
            yield f"does not say what {name} is"
            continue
        if TENSOR.search(annotation) and "Callable[" not in annotation and not SHAPE.search(said):
            yield f"does not say the shape of {name}"
        for pattern, units in UNITS.items():
            if re.fullmatch(pattern, name) and not re.search(units, said):
                yield f"does not say the unit of {name}"

    if function_of(entry.value):
        for line in re.findall(r"^    (\*{0,2}\w[\w, *]*): ", section(entry.text, "Args"), re.MULTILINE):
            if "," in line:
                yield f"has {line} in one line, which the site cannot tell apart"
            elif line.strip("*") not in {"cls", *parameters_of(entry)}:
                yield f"lists {line}, which it does not take"


def _of_return(entry: Entry) -> Iterator[str]:
    function = function_of(entry.value)
    if function is None or isinstance(entry.value, type):
        return
    returned = str(inspect.signature(function).return_annotation)
    texts = [entry.text, *(other.text for other in elsewhere(entry))]
    nothing = returned in ("None", "NoReturn", str(inspect.Signature.empty))
    if not nothing and not is_property(entry.value) and not any(map(RETURNS.search, texts)):
        yield "does not say what it returns"
    for pattern, units in UNITS.items():
        number = returned in ("int", "float") or TENSOR.search(returned)
        named = re.fullmatch(pattern, entry.name.rpartition(".")[2])
        if number and named and not any(re.search(units, text) for text in texts):
            yield "does not say the unit of what it returns"
    if TENSOR.search(returned) and not any(map(SHAPE.search, texts)):
        yield "does not say the shape of what it returns"


def _of_errors(entry: Entry) -> Iterator[str]:
    made = vars(entry.value) if isinstance(entry.value, type) else {"__init__": entry.value}
    told = errors_of(entry)
    for body in ("__init__", "__attrs_post_init__"):
        function = function_of(made.get(body))
        for name in sorted(raised_by(function)) if function else ():
            kinds = {base.__name__ for base in getattr(errors, name).__mro__}
            if not told & (kinds - {"KpframeError", "Exception", "BaseException", "object"} | {name}):
                yield f"does not say that it raises {name}"
    scope = vars(sys.modules[(function_of(entry.value) or entry.value).__module__])
    for name in listed(entry.text, "Raises"):
        kind = getattr(errors, name, None) or getattr(builtins, name, None) or scope.get(name)
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            yield f"says that it raises {name}, which is no error"
