"""Which names of kpframe are public: those in its ``__all__`` and in ``__all__`` of its public modules."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType

import kpframe

#: A dotted path in a string, as tests hand to ``monkeypatch`` and specs give as a factory.
PATH = re.compile(r"kpframe(\.\w+)+(:\w+)?")


def offered(module: ModuleType) -> set[str]:
    """Return the public names of a module, those of the public modules in it among them."""
    return set(module.__all__) | (set(kpframe._MODULES) if module is kpframe else set())


def refusals(module: ModuleType, path: list[str]) -> Iterator[str]:
    """Yield what on a path of names from a module on is not public; it ends at a class or function."""
    for place, name in enumerate(path):
        if name.startswith("__") and name.endswith("__"):
            return
        if name not in offered(module):
            yield f"{module.__name__}.{name}"
            return
        found = getattr(module, name)
        if not isinstance(found, ModuleType):
            member = next(iter(path[place + 1 :]), "_")
            if isinstance(found, type) and member[0] != "_" and not hasattr(found, member):
                yield f"{module.__name__}.{name}.{member}"
            return
        module = found


def chain(node: ast.expr) -> list[str]:
    """Return the names of ``a.b.c``, and nothing for what does not begin with a name."""
    if isinstance(node, ast.Name):
        return [node.id]
    before = chain(node.value) if isinstance(node, ast.Attribute) else []
    return [*before, node.attr] if before and isinstance(node, ast.Attribute) else []


def trespasses(source: str) -> list[str]:
    """Return every name of kpframe in code that is not public: imported, as an attribute, in a path."""
    tree = ast.parse(source)
    modules = {"kpframe": kpframe}  # what the code calls them
    found: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                top, *path = alias.name.split(".")
                if top != "kpframe":
                    continue
                refused = list(refusals(kpframe, path))
                found += refused
                if not refused:
                    modules[alias.asname or top] = import_module(alias.name if alias.asname else top)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kpframe":
            _, *path = str(node.module).split(".")
            for alias in node.names:
                refused = list(refusals(kpframe, [*path, alias.name]))
                found += refused
                value = None if refused else getattr(import_module(str(node.module)), alias.name)
                if isinstance(value, ModuleType):
                    modules[alias.asname or alias.name] = value
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            name, *path = chain(node) or [""]
            if name in modules:
                found += refusals(modules[name], path)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and PATH.fullmatch(node.value):
            found += refusals(kpframe, node.value.replace(":", ".").split(".")[1:])
    return sorted(set(found))
