"""The wall: bundled plugins and the examples import what a stranger may import, and nothing else.

Public are the names in ``kpframe.__all__`` and those in ``__all__`` of the public modules.
"""

from __future__ import annotations

import ast
import inspect
import re
import runpy
from importlib import import_module
from pathlib import Path

import pytest

import kpframe

from .public_names import trespasses

ROOT = Path(__file__).parents[1]
FILES = sorted([*ROOT.glob("plugins/*/src/**/*.py"), *ROOT.glob("docs/examples/**/*.py")])
TESTS = sorted(ROOT.glob("plugins/*/tests/**/*.py"))


@pytest.mark.parametrize("path", [*FILES, *TESTS], ids=lambda path: str(path.relative_to(ROOT)))
def test_only_public_names_are_used(path) -> None:
    assert trespasses(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("source", "private"),
    [
        ("from kpframe.flow._propagator import Propagator", "kpframe.flow._propagator"),
        ("def f():\n    import kpframe.plugin._manager", "kpframe.plugin._manager"),
        ("from kpframe.plugin import _manager", "kpframe.plugin._manager"),
        ("import kpframe.cli", "kpframe.cli"),
        ("from kpframe.flow import Model", "kpframe.flow.Model"),  # it is another module's
        ("import kpframe\nkpframe.rules._rule.by_name", "kpframe.rules._rule"),
        ("import kpframe as k\nx = k._HOME", "kpframe._HOME"),
        ("import kpframe.flow as flow\nflow._flow.Flow", "kpframe.flow._flow"),
        ("from kpframe import operators\noperators._base.Operator()", "kpframe.operators._base"),
        ("patch('kpframe.study._running.run_study.run', None)", "kpframe.study._running"),
        ("kpframe.plot.matrix(kpframe.wrapped)", "kpframe.wrapped"),  # as the blocks of a page go on
        ("kpframe.Operator.means", "kpframe.Operator.means"),
    ],
)
def test_a_private_name_is_found(source, private) -> None:
    assert trespasses(source) == [private]


@pytest.mark.parametrize(
    "source",
    [
        "from kpframe.flow import Propagator",
        "from kpframe import Model, errors\nerrors.ArgumentError",
        "import kpframe\nkpframe.readout.error\nkpframe.__version__\nkpframe.Model._anything",
        "kpframe.plot.matrix(kpframe.Operator.mean)",
        "import kpframe.plugin as plugin\nplugin.setting()",
        "from kpframe.testing import strategies",
        "kpframe = 'kpframe_rules._private.thing'",
    ],
)
def test_public_names_are_let_through(source) -> None:
    assert trespasses(source) == []


#: What an author of operators overrides, and what torch calls the parameters of a module.
OVERRIDDEN = {"_apply", "_apply_adjoint", "_formula", "_parameters"}


def borrowed(sources: list[str]) -> set[str]:
    """Return the private attributes that the files of a plugin read and none of them defines."""
    nodes = [node for source in sources for node in ast.walk(ast.parse(source))]
    defined, read = set(OVERRIDDEN), set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            defined.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            defined.add(node.attr)
        elif isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            read.add(node.attr)
    return read - defined


@pytest.mark.parametrize(
    "folder",
    sorted([*ROOT.glob("plugins/*/src"), *ROOT.glob("docs/examples/*/src")]),
    ids=lambda path: path.parent.name,
)
def test_no_private_attribute_of_an_object_is_used(folder) -> None:
    sources = [path.read_text(encoding="utf-8") for path in folder.rglob("*.py")]
    assert sources
    assert borrowed(sources) == set()


def test_a_private_attribute_is_found() -> None:
    source = "class Mine:\n    def _own(self):\n        self._held = flow._made\n        self._own()"
    assert borrowed([source]) == {"_made"}
    assert borrowed([source, "def _made(): pass"]) == set()


def test_every_public_module_says_what_it_offers() -> None:
    for name in kpframe._MODULES:
        module = import_module(f"kpframe.{name}")
        assert module.__doc__, name
        assert not [entry for entry in module.__all__ if entry.startswith("_")]
        for entry in module.__all__:
            value = getattr(module, entry)
            if isinstance(value, type) or inspect.isroutine(value):
                assert value.__doc__, f"{name}.{entry}"


def test_what_is_private_is_marked() -> None:
    """A file that is no public module has an underscore in its path; commands are no modules for others."""
    package = Path(kpframe.__file__).parent
    paths = [path.relative_to(package).with_suffix("") for path in package.rglob("*.py")]
    unmarked = {
        ".".join(path.parts)
        for path in paths
        if not any(part.startswith("_") and part != "__init__" for part in path.parts)
    }
    unmarked = {name.removesuffix(".__init__") for name in unmarked} - {"__init__", "cli"}
    kit = {name for name in unmarked if name.startswith("testing.")}
    assert unmarked - kit == set(kpframe._MODULES)
    parts = {name.split(".")[1] for name in kit}
    assert parts == {"identities", "mutants", "pytest_plugin", "strategies"}


def test_the_page_on_plugins_lists_what_is_public() -> None:
    made = runpy.run_path(str(ROOT / "docs" / "tables" / "public_names.py"))
    page = made["PAGE"].read_text(encoding="utf-8")
    listed = made["TABLE"].search(page).group()
    assert listed == made["table"](), "run: python docs/tables/public_names.py"
    assert "`takes_settings`" in listed
    assert "`GramParameterOperator`" in listed
    assert "`by_name`" not in listed


def test_the_files_are_found() -> None:
    names = {path.name for path in FILES}
    assert {"mlp.py", "bptt.py", "structured.py"} <= names
    assert len(TESTS) > 50
