"""What the distributions say of themselves: what they need, their versions, licenses and links."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import kpframe
from kpframe.cli._extra import EXTRA

ROOT = Path(__file__).parents[1]
PLUGINS = sorted((ROOT / "plugins").glob("kpframe-*"))
CORE = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

pytestmark = pytest.mark.skipif(
    not PLUGINS, reason="plugins are in the repository, not in the core's archive"
)
each_plugin = pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)

#: Distributions that are not named as the module they bring.
OTHERWISE = {"sklearn": "scikit-learn"}

#: Hosts that pages link to: those of papers, data and licenses.
HOSTS = {"arxiv.org", "creativecommons.org", "doi.org"}


def project(plugin: Path) -> dict:
    return tomllib.loads((plugin / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def imported(source: str) -> set[str]:
    """Return the distributions, apart from Python's own library, that a file imports anywhere in it."""
    modules: set[str] = set()
    left: list[ast.AST] = [ast.parse(source)]
    while left:  # statements alone, which are a tenth of all that there is
        node = left.pop()
        for part in ("body", "orelse", "finalbody", "handlers", "cases"):
            left += getattr(node, part, ())
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            modules.add(node.module)
    tops = {module.partition(".")[0] for module in modules} - set(sys.stdlib_module_names)
    return {canonicalize_name(OTHERWISE.get(top, top)) for top in tops}


def imported_below(folder: Path, *patterns: str) -> set[str]:
    files = [file for pattern in patterns for file in folder.rglob(pattern)]
    assert files, folder
    return set().union(*(imported(file.read_text(encoding="utf-8")) for file in files))


def test_imports_are_found_wherever_they_stand() -> None:
    source = """
        import os.path, scipy.linalg as la
        from . import near
        from kpframe.errors import mismatch
        def late():
            try:
                pass
            except ImportError:
                with nothing:
                    from sklearn.datasets import load_digits
    """
    assert imported("if True:" + source) == {"scipy", "kpframe", "scikit-learn"}


@each_plugin
def test_a_plugin_declares_what_it_imports(plugin: Path) -> None:
    told = project(plugin)
    found = imported_below(plugin / "src", "*.py") - {plugin.name}
    extras = [names(wanted) for extra, wanted in told["optional-dependencies"].items() if extra != "test"]
    assert found == names(told["dependencies"]).union(*extras)


@each_plugin
def test_a_plugin_declares_what_its_tests_import(plugin: Path) -> None:
    told = project(plugin)
    found = imported_below(plugin / "tests", "test_*.py", "conftest.py") - {plugin.name}
    wanted = told["optional-dependencies"]["test"]
    (core,) = [r for r in map(Requirement, wanted) if r.name == "kpframe"]
    assert "test" in core.extras
    brought = set().union(*(names(CORE["optional-dependencies"][extra]) for extra in core.extras))
    assert found <= names(told["dependencies"]) | names(wanted) | brought


def test_the_core_declares_what_it_imports() -> None:
    extras = {name: names(CORE["optional-dependencies"][name]) for name in EXTRA.values()}
    needed = names(CORE["dependencies"])
    found = imported_below(ROOT / "kpframe", "*.py") - {"kpframe"}
    assert needed <= found
    assert found <= needed | extras["study"] | extras["test"] | extras["notebook"] | extras["cluster"]
    tests = {name for name in imported_below(ROOT / "tests", "*.py") if not name.startswith("kpf")}
    # packaging comes with pytest, and xdist is asked for where it is there
    assert tests <= needed.union(*extras.values()) | {"packaging", "xdist"}


def test_the_command_line_knows_what_each_extra_brings() -> None:
    brought = {extra: {canonicalize_name(m) for m in EXTRA if EXTRA[m] == extra} for extra in EXTRA.values()}
    offered = {
        extra: names(wanted) for extra, wanted in CORE["optional-dependencies"].items() if extra != "all"
    }
    assert brought == offered


def test_all_means_the_bundled_plugins_that_need_no_compiler() -> None:
    core, *others = sorted(
        map(Requirement, CORE["optional-dependencies"]["all"]), key=lambda wanted: wanted.name
    )
    assert (core.name, core.extras) == ("kpframe", {"study"})
    pure = [plugin.name for plugin in PLUGINS if not (plugin / "setup.py").exists()]
    assert [plugin.name for plugin in others] == pure
    major, minor = map(int, CORE["version"].split(".")[:2])
    assert {str(plugin.specifier) for plugin in others} == {f"<{major}.{minor + 1},>={major}.{minor}"}


@pytest.mark.parametrize("plugin", [ROOT, *PLUGINS], ids=lambda path: path.name)
def test_metadata_is_complete(plugin: Path) -> None:
    told = project(plugin)
    assert {"description", "readme", "requires-python", "license", "keywords", "classifiers"} <= set(told)
    assert "urls" not in told  # there is no home of the project that could be named
    assert len(told["keywords"]) >= 2
    kinds = {classifier.partition(" :: ")[0] for classifier in told["classifiers"]}
    assert kinds >= {"Development Status", "Intended Audience", "Programming Language", "Topic", "Typing"}
    minors = [c.rpartition(".")[2] for c in told["classifiers"] if "Python :: 3." in c]
    assert minors == ["11", "12", "13"]


@each_plugin
def test_a_plugin_asks_for_the_core_it_is_released_with(plugin: Path) -> None:
    told = project(plugin)
    assert told["version"] == CORE["version"]
    major, minor = map(int, CORE["version"].split(".")[:2])
    wanted = f"<{major}.{minor + 1},>={major}.{minor}"  # as packaging writes a range
    requirements = [*told["dependencies"], *told["optional-dependencies"]["test"]]
    ranges = {r.name: str(r.specifier) for r in map(Requirement, requirements) if not r.extras}
    assert "kpframe" in ranges
    assert {r for name, r in ranges.items() if name.startswith("kpframe")} == {wanted}
    assert told["requires-python"] == CORE["requires-python"]


def test_one_version_is_told_everywhere() -> None:
    version = CORE["version"]
    assert kpframe.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert changes[0] == version


@each_plugin
def test_a_plugin_has_the_license_in_a_file(plugin: Path) -> None:
    told = project(plugin)
    assert (told["license"], told["license-files"]) == (CORE["license"], ["LICENSE"])
    assert (plugin / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


@pytest.mark.parametrize("file", ["requirements.txt", "requirements-dev.txt"])
def test_the_readmes_commands_install_every_plugin_that_needs_no_compiler(file: str) -> None:
    listed = re.findall(r"^-e plugins/(\S+)$", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE)
    compiled = {plugin.name for plugin in PLUGINS if (plugin / "setup.py").exists()}
    assert compiled == {"kpframe-native"}
    assert sorted(listed) == [plugin.name for plugin in PLUGINS if plugin.name not in compiled]


def test_pages_link_to_what_exists_and_to_no_page_of_others() -> None:
    pages = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "docs" / "tutorials").glob("*.py"),
        *(plugin / "README.md" for plugin in PLUGINS),
    ]
    inside = 0
    for page in pages:
        for target in re.findall(r"\]\(([^()\s]+)\)", page.read_text(encoding="utf-8")):
            url = urlsplit(target)
            if url.scheme:
                assert url.hostname in HOSTS, f"{page.relative_to(ROOT)} links to {target}"
            elif url.path:
                inside += 1
                written = page.parent / url.path
                notebook = written.with_suffix(".py")  # of which the site makes the page
                there = written.exists() or (written.parent.name == "tutorials" and notebook.exists())
                assert there, f"{page.relative_to(ROOT)} links to {target}"
    assert inside > 30


def test_a_folder_of_the_same_name_does_not_hide_the_package(tmp_path: Path) -> None:
    """As for a script that lies beside a clone of the repository."""
    (tmp_path / "kpframe").mkdir()
    said = "import sys; assert sys.path[0] == ''; import kpframe; print(kpframe.__version__)"
    done = subprocess.run(
        [sys.executable, "-c", said], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == kpframe.__version__
    hidden = subprocess.run(
        [sys.executable, "-S", "-c", said], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert "no attribute '__version__'" in hidden.stderr  # where nothing is installed it is that folder
