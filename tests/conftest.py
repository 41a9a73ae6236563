"""Fake and really installed plugins, good and broken."""

from __future__ import annotations

import gc
import importlib
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import kpframe
from kpframe.plugin import PluginInfo, PluginManager, PluginProblem, PluginWarning

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as of what a shell runs in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)

#: Every other process of pytest-xdist: what one compiles in a fresh environment the others read.
ODD = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % 2 == 1

if ODD:  # while the others begin with torch
    for name in ("scipy.stats", "xarray", "matplotlib.pyplot"):
        if importlib.util.find_spec(name.partition(".")[0]) is not None:
            importlib.import_module(name)

ROOT = Path(kpframe.__file__).parents[1]
TESTS = Path(__file__).parent
#: Of the tests here that run on ranks.
_RANKS = ("tests/distributed/", "tests/integration/test_sharded_", "tests/integration/test_planned_ranks")

GOOD = """
    from attrs import frozen
    from kpframe.plugin import ModelSpec, hookimpl, setting

    @frozen
    class Settings:
        size: int = setting(ge=1, help="units [1]")
        dt: float = setting(0.5, gt=0)

    @hookimpl
    def kpframe_models():
        yield ModelSpec(
            name="good_model", factory="kpf_good:build", settings=Settings, summary="a good one",
        )

    def build(size, dt):
        return ("good", size, dt)
"""


def pytest_configure(config: pytest.Config) -> None:
    """Wait for no disk, and give the tests of a file to one process.

    What a power failure would leave is nothing that a test could see. A process makes the fixtures of a file,
    and imports what it needs, once.
    """
    os.fsync = lambda descriptor: None
    gc.set_threshold(20_000, 20, 20)  # with 700 it takes a twenty-fifth of the time of all tests
    _keep_files_in_memory()
    if config.getoption("dist", "no") == "load":  # what pytest-xdist does unless somebody chose otherwise
        config.option.dist = "loadfile"
        # those of plugins, which are short, last: no process waits long for another one's last file
        config.option.loadscopereorder = False


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give the tests of all files that start the same ranks to one process, too: it starts them once."""
    if config.getoption("dist") != "loadfile":
        return None
    from xdist.scheduler import LoadFileScheduling

    class OneForRanks(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            file: str = super()._split_scope(nodeid)
            return "ranks" if file.startswith(_RANKS) or file.endswith("_on_ranks.py") else file

    return OneForRanks(config, log)


def _keep_files_in_memory() -> None:
    """Let temporary files lie in memory, where that is told for nothing else and there is enough of it.

    Files that take the place of others wait for some disks, a third of the time of a test of a run.
    """
    place = "/dev/shm"
    if "TMPDIR" in os.environ or not os.access(place, os.W_OK):
        return
    may_run = not os.statvfs(place).f_flag & os.ST_NOEXEC  # some tests run what they write
    if may_run and shutil.disk_usage(place).free > 2**31:
        os.environ["TMPDIR"] = tempfile.tempdir = place  # that of processes that are begun, too


class Backwards(pytest.Dir):
    """A folder from its last file to the first."""

    def collect(self) -> Iterator[pytest.Item | pytest.Collector]:
        return reversed(list(super().collect()))


def pytest_collect_directory(path: Path, parent: pytest.Collector) -> pytest.Dir | None:
    """Let every other process of pytest-xdist collect backwards.

    In a fresh clone, processes that went the same way would each compile every file at the same time; so
    they meet in the middle, and read from there what another one has compiled.
    """
    return Backwards.from_parent(parent, path=path) if _is_backwards(parent.config) else None


@pytest.hookimpl(tryfirst=True)  # before pytest puts tests together that share what is made for many
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Put tests that were collected backwards into the order that all processes have."""
    if _is_backwards(config):
        folders = groupby(items, lambda item: _folder(item.path))
        items[:] = [item for folder, found in folders for item in _turned(found, folder)]


def _folder(path: Path) -> str:
    """Return the folder here that a file is below, or nothing: what is here itself is not turned."""
    parts = path.parts[len(TESTS.parts) :] if path.is_relative_to(TESTS) else ()
    return parts[0] if len(parts) > 1 else ""


def _turned(items: Iterator[pytest.Item], folder: str) -> list[pytest.Item]:
    files = [[*file] for _, file in groupby(items, lambda item: item.path)]
    return [item for file in (reversed(files) if folder else files) for item in file]


def _is_backwards(config: pytest.Config) -> bool:
    given = [config.invocation_params.dir / argument for argument in config.args]
    if any(TESTS in path.parents for path in given):  # some of them, in an order of their own
        return False
    return ODD


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Name the files that a run of the whole suite spends most of its time in: it is to take minutes."""
    spent: Counter[str] = Counter()
    for reports in terminalreporter.stats.values():
        for report in reports:
            if isinstance(report, pytest.TestReport):
                spent[report.nodeid.partition("::")[0]] += report.duration
    if len(spent) > 100:
        terminalreporter.section(f"{sum(spent.values()):.0f} s of tests, of which")
        for name, seconds in spent.most_common(10):
            terminalreporter.line(f"{seconds:6.1f} s  {name}")


@pytest.fixture
def module_of() -> Callable[[str], ModuleType]:
    """A function that turns source text into a module."""

    def make(source: str) -> ModuleType:
        module = ModuleType("fake_plugin")
        exec(compile(textwrap.dedent(source), "fake_plugin.py", "exec", dont_inherit=True), module.__dict__)
        return module

    return make


class FakeEntryPoint:
    """An entry point whose distribution exists nowhere, and whose module is source text."""

    group = "kpframe"

    def __init__(self, distribution: str, version: str, load: Callable[[], object]) -> None:
        self.name = distribution
        self.value = distribution.replace("-", "_")
        self.load = load
        self.dist = self
        self.metadata = {"Name": distribution, "Version": version, "Summary": f"summary of {distribution}"}


@pytest.fixture
def fake(module_of: Callable[[str], ModuleType]) -> Callable[..., FakeEntryPoint]:
    """A function that returns an injectable entry point."""

    def make(distribution: str, source: str, version: str = "1.0") -> FakeEntryPoint:
        return FakeEntryPoint(distribution, version, lambda: module_of(source))

    return make


class Site:
    """A folder on PYTHONPATH with installed distributions, and a way to run the command line on it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.names: list[str] = []

    def install(self, distribution: str, source: str, version: str = "1.0") -> None:
        module = distribution.replace("-", "_")
        (self.folder / module).mkdir()
        (self.folder / module / "__init__.py").write_text(textwrap.dedent(source))
        info = self.folder / f"{module}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\nSummary: [x] {distribution}\n"
        )
        (info / "entry_points.txt").write_text(f"[kpframe]\n{distribution} = {module}\n")
        (info / "RECORD").write_text(
            f"{module}/__init__.py,,\n{info.name}/METADATA,,\n{info.name}/RECORD,,\n"
        )
        self.names.append(distribution)

    def python(self, code: str, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        return self._run("-c", textwrap.dedent(code), env=env)

    def kpframe(self, *arguments: str, env: Mapping[str, str] = {}) -> subprocess.CompletedProcess[str]:
        return self._run("-m", "kpframe", *arguments, env=env)

    def _run(self, *arguments: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("KPFRAME_")}
        # The allow list hides the plugins that this environment may or may not have.
        chosen = {"PYTHONPATH": f"{self.folder}{os.pathsep}{ROOT}", "KPFRAME_PLUGINS": ",".join(self.names)}
        return subprocess.run(
            [sys.executable, "-W", "error", *arguments],
            env={**inherited, **chosen, **env},
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=120,
        )


class Here:
    """Distributions installed in folders of this process's own path; the first folder is found first."""

    def __init__(self, folders: list[Path]) -> None:
        self.sites = [Site(folder) for folder in folders]

    def manager(self, **environ: str) -> PluginManager:
        """Return a manager of what is installed there."""
        importlib.invalidate_caches()
        names = {name for site in self.sites for name in site.names}
        return PluginManager(environ={"KPFRAME_PLUGINS": ",".join(sorted(names)), **environ})

    def load(self, **environ: str) -> tuple[dict[str, PluginInfo], list[PluginProblem]]:
        """Return the infos by distribution, and what is wrong."""
        for name in [name for name in sys.modules if name.startswith("kpf_")]:
            del sys.modules[name]
        manager = self.manager(**environ)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)
            plugins, problems = manager.plugins, manager.problems
        own = [info for info in plugins if info.status != "disabled"]
        assert len(own) == len({info.distribution for info in own})
        return {info.distribution: info for info in own}, problems


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Here]:
    """Two folders on this process's path, to install distributions in."""
    folders = [tmp_path / "first", tmp_path / "second"]
    for folder in reversed(folders):
        folder.mkdir()
        monkeypatch.syspath_prepend(folder)
    yield Here(folders)
    for name in [name for name in sys.modules if name.startswith("kpf_")]:
        del sys.modules[name]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty folder of installed distributions."""
    return Site(tmp_path)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the drawings of pages empty, which take most of the time of many commands; texts stay."""
    page = importlib.import_module("kpframe.study._report.page")
    monkeypatch.setattr(page, "inline", lambda figure, anchor, alt: page.Markup("<svg></svg>"))
    monkeypatch.setattr(page, "save", lambda figure, folder, name: [])


@pytest.fixture
def good() -> str:
    """The source of a plugin with the model ``good_model``; install it as ``kpf-good``."""
    return GOOD


BROKEN = {
    "import": ("import no_such_module_anywhere", "import", "No module named 'no_such_module_anywhere'"),
    "exit": ("raise SystemExit(3)", "import", "SystemExit: 3"),
    "syntax": ("def broken(:", "import", "SyntaxError"),
    "misspelt": (
        """
        from kpframe.plugin import hookimpl
        @hookimpl
        def kpframe_modles():
            yield 1
        """,
        "hooks",
        "kpframe_modles() is not a hook (there are kpframe_models,",
    ),
    "unmarked": ("def kpframe_models(): yield 1", "hooks", "kpframe_models() is not marked with @hookimpl"),
    "no hook": ("x = 1", "hooks", "no function is marked with @hookimpl"),
    "arguments": (
        """
        from kpframe.plugin import hookimpl
        @hookimpl
        def kpframe_models(surprise):
            yield 1
        """,
        "hooks",
        "surprise",
    ),
    "newer api": (
        """
        from kpframe.plugin import RuleSpec, hookimpl
        @hookimpl
        def kpframe_rules():
            yield RuleSpec("bad", "a:b", api=2)
        """,
        "api",
        "rule 'bad' is for api 2, this kpframe has 1",
    ),
    "older api": (
        """
        from kpframe.plugin import RuleSpec, hookimpl
        @hookimpl
        def kpframe_rules():
            yield RuleSpec("bad", "a:b", api=0)
        """,
        "api",
        "rule 'bad' is for api 0, this kpframe has 1",
    ),
    "no spec": (
        """
        from kpframe.plugin import hookimpl
        @hookimpl
        def kpframe_models():
            yield "bad"
        """,
        "hooks",
        "kpframe_models(): yielded: expected a ModelSpec, got 'bad'",
    ),
    "spec of another kind": (
        """
        from kpframe.plugin import RuleSpec, hookimpl
        @hookimpl
        def kpframe_models():
            yield RuleSpec("bad", "a:b")
        """,
        "hooks",
        "kpframe_models(): yielded: expected a ModelSpec, got RuleSpec",
    ),
    "lone spec": (
        """
        from kpframe.plugin import RuleSpec, hookimpl
        @hookimpl
        def kpframe_rules():
            return RuleSpec("bad", "a:b")
        """,
        "hooks",
        "kpframe_rules(): result: expected an iterable of RuleSpec",
    ),
    "nothing returned": (
        """
        from kpframe.plugin import RuleSpec, hookimpl
        @hookimpl
        def kpframe_rules():
            RuleSpec("bad", "a:b")
        """,
        "hooks",
        "kpframe_rules(): expected an iterable of specs, got None",
    ),
    "halfway": (
        """
        from kpframe.plugin import RuleSpec, hookimpl
        @hookimpl
        def kpframe_rules():
            yield RuleSpec("bad", "a:b")
            raise ValueError("half\\nway")
        """,
        "hooks",
        "kpframe_rules(): ValueError: half way",
    ),
    "malformed spec": (
        """
        from kpframe.plugin import RuleSpec, hookimpl
        @hookimpl
        def kpframe_rules():
            yield RuleSpec("Bad Name", "a:b")
        """,
        "hooks",
        "RuleSpec.name: expected lower-case letters",
    ),
    "twice": (
        """
        from kpframe.plugin import RuleSpec, hookimpl
        @hookimpl
        def kpframe_rules():
            yield RuleSpec("bad", "a:b")
            yield RuleSpec("bad", "c:d")
        """,
        "hooks",
        "it offers the rule 'bad' twice",
    ),
}


@pytest.fixture(params=BROKEN, ids=[name.replace(" ", "-") for name in BROKEN])
def broken(request: pytest.FixtureRequest) -> tuple[str, str, str]:
    """(source, stage, part of the message) of one broken plugin after the other."""
    return BROKEN[request.param]
