"""Every way in which an installed plugin can be broken, with distributions that are really there."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import subprocess
import sys

import pytest

from kpframe.cli import _app as app
from kpframe.cli import _plugins as plugins
from kpframe.plugin import PluginManager

FUTURE_FIELD = """
    from kpframe.plugin import ModelSpec, hookimpl

    @hookimpl
    def kpframe_models():
        yield ModelSpec("bad", "a:b", api=7, memory_layout="rows")
"""
RAISES = """
    from kpframe.plugin import ModelSpec, hookimpl

    @hookimpl
    def kpframe_models():
        raise RuntimeError("no licence")
"""
MISSPELT_FIELD = """
    from kpframe.plugin import ModelSpec, hookimpl

    @hookimpl
    def kpframe_models():
        yield ModelSpec("bad", "a:b", sumary="x")
"""
FORK = """
    from kpframe.plugin import ModelSpec, hookimpl

    @hookimpl
    def kpframe_models():
        yield ModelSpec("good_model", "kpf_fork:other")
"""


@pytest.fixture
def said(site, monkeypatch, capsys):
    """A function that runs a command in this process, as if just begun, and returns (code, output, errors).

    That a process of its own finds and tells the same is tests/cli/test_plugins_command.py's.
    """

    def call(*arguments, env=None):
        for name in [name for name in sys.modules if name.startswith("kpf_")]:
            del sys.modules[name]
        environ = {"KPFRAME_PLUGINS": ",".join(site.names), **(env or {})}
        folders = environ.pop("PYTHONPATH", str(site.folder)).split(os.pathsep)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "path", [*filter(None, folders), *sys.path])
            importlib.invalidate_caches()
            manager = PluginManager(environ=environ)
            patch.setattr(plugins, "get_manager", lambda: manager)
            patch.setattr(sys, "dont_write_bytecode", True)  # the next source may be as long and as old
            code = app.run(arguments)
        return code, *capsys.readouterr()

    return call


@pytest.fixture
def listed(said):
    """A function that runs ``kpframe plugins --json`` and returns (infos by distribution, problems)."""

    def call(*arguments, env=None):
        code, out, err = said("plugins", "--json", *arguments, env=env)
        assert (code, err) == (0, "")
        document = json.loads(out)
        own = [info for info in document["plugins"] if info["distribution"].lower().startswith("kpf-")]
        infos = {info["distribution"]: info for info in own}
        assert len(infos) == len(own)
        return infos, document["problems"]

    return call


@pytest.fixture
def one_problem(site, good, said, listed):
    """A function that says what is wrong with ``kpf-bad``, once following the advice has proved to help."""

    def call():
        infos, (problem,) = listed()
        assert infos["kpf-good"]["status"] == "loaded"
        assert problem["distribution"] == "kpf-bad"
        disable = problem["fix"].rpartition(", or ")[2]
        assert disable == "KPFRAME_DISABLE_PLUGINS=kpf-bad"
        after, none = listed(env=dict([disable.split("=")]))
        assert (after["kpf-bad"]["status"], none) == ("disabled", [])
        code, out, err = said("plugins", env={"KPFRAME_STRICT_PLUGINS": "1"})
        assert (code, out) == (2, "")
        assert err.startswith("Error: plugin kpf-bad")
        code, _, err = said("plugins", "--no-load")
        assert (code, err) == (0, "")
        return infos["kpf-bad"], problem

    site.install("kpf-good", good)
    return call


def info_folder(site, version="6.7"):
    return site.folder / f"kpf_bad-{version}.dist-info"


def test_an_entry_point_to_a_module_that_is_gone(site, one_problem):
    site.install("kpf-bad", "", "6.7")
    shutil.rmtree(site.folder / "kpf_bad")
    info, problem = one_problem()
    assert (info["status"], info["version"], problem["stage"]) == ("broken", "6.7", "metadata")
    assert "names the module 'kpf_bad', and there is no module 'kpf_bad'" in problem["message"]
    assert problem["fix"].startswith("pip install --force-reinstall kpf-bad, or pip uninstall kpf-bad, or ")


def test_a_submodule_that_is_gone_and_a_dependency_that_is_missing_are_told_apart(site, one_problem):
    site.install("kpf-bad", "", "6.7")
    (info_folder(site) / "entry_points.txt").write_text("[kpframe]\nkpf-bad = kpf_bad.hooks\n")
    _, problem = one_problem()
    assert "names the module 'kpf_bad.hooks', and there is no module 'kpf_bad.hooks'" in problem["message"]
    (site.folder / "kpf_bad" / "hooks.py").write_text("import kpf_bad_needs_this\n")
    _, problem = one_problem()
    assert (problem["stage"], problem["message"]) == (
        "import",
        "ModuleNotFoundError: No module named 'kpf_bad_needs_this'",
    )
    assert problem["fix"].startswith("pip install kpf_bad_needs_this, or pip install --upgrade kpf-bad, or ")


@pytest.mark.parametrize("value", ["kpf bad", "kpf-bad!", "kpf_bad:"])
@pytest.mark.rows(6)
def test_an_entry_point_that_names_no_module(site, one_problem, value):
    site.install("kpf-bad", "", "6.7")
    (info_folder(site) / "entry_points.txt").write_text(f"[kpframe]\nkpf-bad = {value}\n")
    _, problem = one_problem()
    assert problem["stage"] == "metadata"
    assert "kpf" in problem["message"]


@pytest.mark.parametrize(
    ("source", "stage", "message", "command"),
    [
        ("def broken(:", "import", "SyntaxError", "pip install --upgrade kpf-bad"),
        (RAISES, "hooks", "kpframe_models(): RuntimeError: no licence", "pip install --upgrade kpf-bad"),
        (MISSPELT_FIELD, "hooks", "'sumary'", "pip install --upgrade kpf-bad"),
        (
            FUTURE_FIELD,
            "api",
            "'bad' is for api 7, this kpframe has 1",
            "pip install --upgrade kpframe",
        ),
    ],
    ids=["syntax", "raises", "misspelt-field", "field-of-a-later-api"],
)
@pytest.mark.rows(10)
def test_source_that_does_not_work(site, one_problem, source, stage, message, command):
    site.install("kpf-bad", source, "6.7")
    info, problem = one_problem()
    assert (info["status"], info["offers"]) == ("broken", {})
    assert problem["stage"] == stage
    assert message in problem["message"]
    assert problem["fix"].startswith(f"{command}, or pip uninstall kpf-bad, or ")


@pytest.mark.parametrize("how", ["missing", "empty", "no version", "undecodable", "a folder"])
@pytest.mark.rows(10)
def test_metadata_that_cannot_be_read(site, good, one_problem, listed, how):
    site.install("kpf-bad", good.replace("good_model", "bad_model"), "6.7")
    path = info_folder(site) / "METADATA"
    path.unlink()
    if how == "empty":
        path.write_text("")
    elif how == "no version":
        path.write_text("Metadata-Version: 2.1\nName: kpf-bad\n")
    elif how == "undecodable":
        path.write_bytes(b"Name: kpf-bad\nVersion: 6.7\nSummary: \xff\xfe\n")
    elif how == "a folder":
        path.mkdir()
    info, problem = one_problem()
    assert (info["status"], info["version"]) == ("broken", "(unknown version)")
    assert (problem["stage"], problem["version"]) == ("metadata", "(unknown version)")
    assert problem["message"].startswith("its metadata cannot be read: ")
    # pip itself stumbles over such a folder, so it has to go first; uninstalling is no way out
    assert problem["fix"] == (
        f"delete {info_folder(site)}, then pip install --force-reinstall kpf-bad, "
        "or KPFRAME_DISABLE_PLUGINS=kpf-bad"
    )
    infos, problems = listed("--no-load")
    assert (infos["kpf-bad"]["status"], infos["kpf-good"]["status"]) == ("broken", "not loaded")
    assert problems == []


@pytest.mark.parametrize("content", [b"[kpframe]\nkpf-bad = kpf_bad\n\xff\xfe", b"[kpframe\nkpf-bad"])
@pytest.mark.rows(4)
def test_entry_points_that_cannot_be_read_hide_no_other_plugin(site, good, one_problem, listed, content):
    site.install("kpf-bad", good, "6.7")
    (info_folder(site) / "entry_points.txt").write_bytes(content)
    if b"\xff" not in content:  # a section that is none: there is no entry point, and so no plugin
        infos, (problem,) = listed()
        assert (set(infos), problem["stage"]) == ({"kpf-good"}, "environment")
        assert listed(env={"KPFRAME_PLUGINS": "kpf-good"})[1] == []
        return
    info, problem = one_problem()
    assert (info["status"], problem["stage"]) == ("broken", "metadata")
    assert problem["message"].startswith("its entry points cannot be read: UnicodeDecodeError")
    assert problem["fix"].startswith(
        f"delete {info_folder(site)}, then pip install --force-reinstall kpf-bad"
    )
    infos, _ = listed("--no-load")
    assert infos["kpf-bad"]["status"] == "broken"


def test_two_distributions_that_offer_one_name(site, good, listed):
    site.install("kpf-good", good)
    site.install("kpf-fork", FORK, "2.0")
    infos, (problem,) = listed()
    assert [info["status"] for info in infos.values()] == ["loaded", "loaded"]
    assert (problem["stage"], problem["distribution"]) == ("clash", "kpf-good")
    assert problem["fix"] == (
        "write 'kpf-good:good_model' or 'kpf-fork:good_model', or pip uninstall kpf-good, "
        "or KPFRAME_DISABLE_PLUGINS=kpf-good"
    )


def second_folder(site, good, version, name="kpf-good"):
    """Install ``kpf-good`` once more, in a folder of its own; returns the PYTHONPATH with both."""
    other = type(site)(site.folder / "elsewhere")
    other.folder.mkdir()
    other.install("kpf-good", good, version)
    info = other.folder / f"kpf_good-{version}.dist-info"
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    paths = [str(site.folder), str(other.folder), os.environ.get("PYTHONPATH", "")]
    return {"PYTHONPATH": os.pathsep.join(paths)}, str(other.folder)


@pytest.mark.parametrize("name", ["kpf-good", "KPF_Good"])
@pytest.mark.rows(4)
def test_one_distribution_in_two_versions(site, good, listed, name):
    """Also when its two versions spell their name in two ways, which pip takes for one."""
    site.install("kpf-good", good, "1.0")
    env, folder = second_folder(site, good, "0.9", name)
    infos, (problem,) = listed(env=env)
    assert (infos["kpf-good"]["status"], infos["kpf-good"]["version"]) == ("loaded", "1.0")
    assert infos["kpf-good"]["offers"] == {"model": ["good_model"]}
    assert problem["stage"] == "twice"
    assert problem["message"] == (
        f"it is installed 2 times (1.0 in {site.folder} and 0.9 in {folder}); 1.0 is used"
    )
    assert problem["fix"].startswith(
        "pip uninstall -y kpf-good && pip uninstall -y kpf-good && pip install kpf-good, or "
    )
    assert site.kpframe("show", "good_model", env=env).returncode == 0


def test_the_remains_of_another_version_in_the_same_folder(site, good, listed):
    site.install("kpf-good", good, "1.0")
    shutil.copytree(site.folder / "kpf_good-1.0.dist-info", site.folder / "kpf_good-0.9.dist-info")
    path = site.folder / "kpf_good-0.9.dist-info" / "METADATA"
    path.write_text(path.read_text().replace("Version: 1.0", "Version: 0.9"))
    infos, (problem,) = listed()
    assert infos["kpf-good"]["status"] == "loaded"
    assert problem["stage"] == "twice"


def test_one_version_seen_twice_is_no_problem(site, good, listed):
    """An editable installation is seen twice, and so is a folder that stands on the path twice."""
    site.install("kpf-good", good, "1.0")
    env, _ = second_folder(site, good, "1.0")
    infos, problems = listed(env=env)
    assert (infos["kpf-good"]["status"], problems) == ("loaded", [])
    again = {"PYTHONPATH": f"{site.folder}{os.pathsep}{env['PYTHONPATH']}"}
    infos, problems = listed(env=again)
    assert (infos["kpf-good"]["status"], problems) == ("loaded", [])


@pytest.mark.parametrize(
    ("about", "given"),
    [
        (
            {"url": "file:///home/me/my%20plugin", "dir_info": {"editable": True}},
            "-e '/home/me/my plugin'",
        ),
        ({"url": "file:///home/me/plugin", "dir_info": {}}, "/home/me/plugin"),
        ({"url": "https://example.org/kpf_bad.whl", "archive_info": {}}, "https://example.org/kpf_bad.whl"),
        (
            {"url": "https://example.org/kpf.git", "vcs_info": {"vcs": "git"}},
            "git+https://example.org/kpf.git",
        ),
        ({"url": 3}, "kpf-bad"),
    ],
)
@pytest.mark.rows(10)
def test_the_command_installs_from_where_it_came(site, one_problem, about, given):
    site.install("kpf-bad", RAISES, "6.7")
    (info_folder(site) / "direct_url.json").write_text(json.dumps(about))
    _, problem = one_problem()
    assert problem["fix"].startswith(f"pip install --upgrade {given}, or pip uninstall kpf-bad, or ")


def install_many(site, good, count=50):
    for number in range(count):
        site.install(f"kpf-many{number}", good.replace("kpf_good", f"kpf_many{number}"))
        module = site.folder / f"kpf_many{number}" / "__init__.py"
        module.write_text(module.read_text().replace("good_model", f"good_model{number}"))


def test_importing_kpframe_and_listing_without_loading_import_no_plugin(site, good):
    install_many(site, good)
    code = (
        "import sys, kpframe, kpframe.plugin; manager = kpframe.plugin.get_manager()\n"
        "def loaded(): return sum(name.startswith('kpf_many') for name in sys.modules)\n"
        "print(len(manager.installed()), loaded()); print(len(manager.plugins), loaded())"
    )
    done = site.python(code)
    assert done.stderr == ""
    first, second = done.stdout.splitlines()
    assert [text.split()[1] for text in (first, second)] == ["0", "50"]
    assert int(first.split()[0]) >= 50


@pytest.mark.slow
def test_listing_fifty_plugins_takes_half_a_second(site, good):
    install_many(site, good)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("KPFRAME_")}
    env = {**inherited, "PYTHONPATH": f"{site.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    times = []
    for _ in range(5):
        before = os.times()
        done = subprocess.run(
            [sys.executable, "-m", "kpframe", "plugins", "--no-load"],
            env=env,
            capture_output=True,
            text=True,
            check=True,
        )
        after = os.times()  # of the processor: others may be at work
        times.append(
            after.children_user + after.children_system - before.children_user - before.children_system
        )
    assert done.stdout.count("kpf-many") >= 50
    assert 0.05 < min(times) < 0.5, times
