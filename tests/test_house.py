"""The rules of the house: imports run one way, files stay small, the core names no plugin."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import kpframe

ROOT = Path(kpframe.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))

#: Rooms from the ground up; a room imports only from itself and from the lines before.
FLOORS = [
    {"errors"},
    {"plugin"},
    {"operators"},
    {"flow"},
    {"tasks"},
    {"readout"},
    {"models"},
    {"rules", "spectra"},
    {"comparison", "gradient_flow"},
    {"forecast"},
    {"study"},
    {"checkpoint", "interchange", "lightning", "plot", "training"},
    {"testing"},
    {"cli"},
]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@cache
def modules() -> frozenset[str]:
    return frozenset(map(module_of, FILES))


@cache
def imports(path: Path) -> frozenset[str]:
    """Return the kpframe modules a file imports anywhere, inside functions and for type checkers, too.

    But for what the package itself names for type checkers: its names are those of the rooms above.
    """
    tree = ast.parse(path.read_text(encoding="utf-8"))
    if path.name == "__init__.py":
        for node in ast.walk(tree):
            if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
                node.body = [ast.Pass()]
    known = modules()
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            found |= inner or {node.module}
    return known & found


def room(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else None


def test_there_is_no_import_circle() -> None:
    graph = {module_of(path): imports(path) - {module_of(path)} for path in FILES}
    # a package's own __init__ gathers its files; a file of the room never needs it
    try:
        order = list(TopologicalSorter(graph).static_order())
    except CycleError as error:
        raise AssertionError(f"import circle: {' -> '.join(error.args[1])}") from error
    assert len(order) == len(FILES)
    assert order.index("kpframe.operators._base") < order.index("kpframe.operators._algebra")


def test_no_room_reaches_up() -> None:
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    rooms = {name for path in FILES if (name := room(module_of(path))) and name != "__main__"}
    assert rooms == set(floor)
    for path in FILES:
        own = room(module_of(path))
        if own in (None, "__main__"):
            continue
        for other in imports(path):
            above = room(other)
            if above is not None:
                assert floor[above] <= floor[own], f"{path.relative_to(ROOT)} imports {other}"


def test_files_stay_small() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert max(lengths.values()) <= 650, max(lengths, key=lengths.get)
    assert sum(length > 400 for length in lengths.values()) <= 5  # a symbol of the paper may take more
    assert lengths[ROOT / "plugin" / "_hookspecs.py"] < 80
    assert lengths[ROOT / "plugin" / "_manager.py"] < 270


def test_the_core_names_no_plugin() -> None:
    names = "rnn|gru|lstm|ssm|scan|mpn|hh|ode|feedforward"
    bundled = re.compile(rf"kpframe-({names}|rules|tasks)\b|kpframe_({names})\b|kpframe_(rules|tasks)\.")
    for path in FILES:
        assert not bundled.search(path.read_text(encoding="utf-8")), path


#: Names that documentation and examples use right after ``import kpframe``, and what each comes to.
ATTRIBUTES = {
    "kpframe.readout.error": "function",
    "kpframe.spectra": "module",
    "kpframe.spectra.trace": "function",
    "kpframe.gradient_flow": "module",
    "kpframe.training.Trainer": "type",
    "kpframe.study": "module",
    "kpframe.study.compare_rules": "function",
    "kpframe.linearize": "function",
    "kpframe.readouts": "module 'kpframe' has no attribute 'readouts'",
    "kpframe.readout.eror": "module 'kpframe.readout' has no attribute 'eror'",
    "kpframe.study.compare_rule": "module 'kpframe.study' has no attribute 'compare_rule'",
}
#: Each name with no module of kpframe imported before but the package; torch is, from the second name on.
#: Before the first, after it and all public names, and at the end, it prints what has been imported.
EACH_FRESH = """
import sys
for name in {names}:
    for module in [module for module in sys.modules if module.partition(".")[0] == "kpframe"]:
        del sys.modules[module]
    import kpframe
    if name == {names}[0]:
        print(*sys.modules)
    try:
        print(type(eval(name)).__name__)
    except AttributeError as error:
        print(str(error).partition(". Did you")[0])
    if name == {names}[0]:
        [getattr(kpframe, name) for name in kpframe.__all__]
        print(*sys.modules)
print(*sys.modules)
"""


def output_of(code: str) -> list[str]:
    return subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()


def libraries(line: str) -> set[str]:
    return {module.partition(".")[0] for module in line.split()}


def test_names_are_there_after_import_kpframe_alone_and_bring_only_what_is_used() -> None:
    at_first, one, with_all, *others, at_last = output_of(EACH_FRESH.format(names=list(ATTRIBUTES)))
    assert [one, *others] == list(ATTRIBUTES.values())
    study = {"click", "rich", "xarray", "matplotlib", "jinja2", "safetensors", "pytest"}
    assert not libraries(at_first) & {*study, "torch", "numpy", "scipy"}
    assert "torch" in libraries(with_all)
    assert not libraries(with_all) & study
    # which names of the study bring, and the study alone does not: see below
    assert {"numpy", "torch", "xarray"} <= libraries(at_last)


def test_importing_the_study_brings_neither_torch_nor_xarray() -> None:
    code = "import sys; {}; print(*sorted({'torch', 'xarray', 'numpy'} & set(sys.modules)))"
    for line in ("import kpframe.study", "import kpframe; kpframe.study"):
        assert output_of(code.replace("{}", line)) == [""]


def test_public_names_load_and_are_documented() -> None:
    assert {"linearize", "Model", "SiteModel", "Propagator", "ParameterOperator", "create_model"} <= set(
        kpframe.__all__
    )
    assert kpframe.__all__ == sorted(kpframe._HOME)
    for name in kpframe.__all__:
        assert getattr(kpframe, name).__doc__, name
    assert set(kpframe.__all__) <= set(dir(kpframe))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kpframe.no_such_name


def test_no_public_name_is_that_of_a_module() -> None:
    """Importing a submodule binds its name on the package, which would hide the public object."""
    modules = {path.stem for path in ROOT.glob("*.py")} | {
        path.parent.name for path in ROOT.glob("*/__init__.py")
    }
    assert "flow" in modules
    assert not modules & set(kpframe.__all__)
