"""Faults planted in the source of kpframe: a text is replaced, the module runs again in its own place."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import jinja2
import pytest

import kpframe

ROOT = Path(kpframe.__file__).parent


@dataclass(frozen=True)
class Fault:
    """A wrong figure, sign, unit, bound or order, and the check that must see it.

    Attributes:
        what: what a reader would be told wrongly; no two faults say the same.
        file: the file below ``kpframe/``, a module or a template.
        right: a text that stands there once.
        wrong: what is put in its place.
        check: a function without arguments that runs the code and fails for a wrong outcome.
    """

    what: str
    file: str
    right: str
    wrong: str
    check: Callable[[], None]

    @property
    def source(self) -> str:
        """The file's text with the fault in it; fails where there is nothing to replace."""
        text = (ROOT / self.file).read_text(encoding="utf-8")
        assert text.count(self.right) == 1, f"{self.file} has {text.count(self.right)} times: {self.right}"
        assert self.right != self.wrong
        return text.replace(self.right, self.wrong)


@contextmanager
def planted(fault: Fault) -> Iterator[None]:
    """Run with a fault; everything is as before at the end."""
    with _template(fault) if fault.file.endswith(".j2") else _module(fault):
        yield


@contextmanager
def _template(fault: Fault) -> Iterator[None]:
    source, name = fault.source, Path(fault.file).name
    before = jinja2.PackageLoader.get_source

    def get_source(self: Any, environment: Any, template: str) -> Any:
        text, path, uptodate = before(self, environment, template)
        return (source if template == name else text), path, uptodate

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jinja2.PackageLoader, "get_source", get_source)
        yield


@contextmanager
def _module(fault: Fault) -> Iterator[None]:
    name = "kpframe." + fault.file.removesuffix(".py").replace("/", ".")
    module = import_module(name)
    before = dict(vars(module))
    try:
        exec(compile(fault.source, str(ROOT / fault.file), "exec"), vars(module))
        now = dict(vars(module))
        _exchange(before, now, module)
        yield
    finally:
        _exchange(dict(vars(module)), before, module)  # in modules that were imported meanwhile, too
        vars(module).clear()
        vars(module).update(before)


def _exchange(old: dict[str, Any], new: dict[str, Any], module: ModuleType) -> None:
    """Exchange what other modules have imported from a module."""
    for other in [m for name, m in sys.modules.items() if name.startswith("kpframe.") and m is not module]:
        for key, value in list(vars(other).items()):
            if key in new and key in old and value is old[key] and new[key] is not value:
                setattr(other, key, new[key])


def noticed(fault: Fault) -> bool:
    """Return whether the check of a fault fails with it, by an assertion."""
    with planted(fault):
        try:
            fault.check()
        except AssertionError:
            return True
    return False
