"""Every command that a message names is run, by pip in an environment of its own, and helps."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shlex
import shutil
import subprocess
import textwrap
import venv
import zipfile
from pathlib import Path

import attrs
import pytest

import kpframe

GOOD = """
    from kpframe.plugin import ModelSpec, hookimpl

    @hookimpl
    def kpframe_models():
        yield ModelSpec("model_of_kpf", "{module}:build", api={api})

    def build():
        from kpframe.testing._toys import Plain
        return Plain(1, 2)
"""
NEEDS = "import kpf_optional\n" + textwrap.dedent(GOOD)
ENSUREPIP = pytest.importorskip("ensurepip")
PIP = sorted(Path(ENSUREPIP.__file__).parent.glob("_bundled/pip-*.whl"))
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PIP, reason="this Python brings no pip"),
]


def write_wheel(folder, name, version, source, module=None):
    """Write a wheel as pip takes it: a module of one file and its metadata."""
    module = module or name.replace("-", "_")
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    files = {
        f"{module}/__init__.py": textwrap.dedent(source),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[kpframe]\n{name} = {module}\n" if "hookimpl" in source else "",
    }
    lines = [f"{info}/RECORD,,"]
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text.encode())}")
    files[f"{info}/RECORD"] = "\n".join(lines) + "\n"
    path = folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for name_in, text in files.items():
            wheel.writestr(name_in, text)
    return path


class Environment:
    """A virtual environment with pip, kpframe and what it needs, and a folder to install from."""

    def __init__(self, folder):
        self.folder, self.links = folder / "venv", folder / "links"
        self.links.mkdir()
        venv.create(self.folder, symlinks=True)
        (self.site,) = self.folder.glob("lib/python*/site-packages")
        with zipfile.ZipFile(PIP[-1]) as wheel:
            wheel.extractall(self.site)
        paths = {Path(kpframe.__file__).parents[1], Path(attrs.__file__).parents[1]}
        (self.site / "kpf.pth").write_text("".join(f"{path}\n" for path in paths))
        pip = self.folder / "bin" / "pip"
        pip.write_text(f'#!/bin/sh\nexec {shlex.quote(str(self.folder / "bin" / "python"))} -m pip "$@"\n')
        pip.chmod(0o755)
        self.own = {path.name for path in self.site.iterdir()}
        inherited = {
            name: text for name, text in os.environ.items() if not name.startswith(("KPFRAME_", "PIP_"))
        }
        self.env = {
            **inherited,
            "PATH": f"{self.folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": "",
            "PIP_NO_INDEX": "1",
            "PIP_FIND_LINKS": str(self.links),
            "PIP_DISABLE_PIP_VERSION_CHECK": "1",
            "PIP_CONFIG_FILE": os.devnull,
        }

    def clear(self):
        """Remove all that was installed."""
        for path in self.site.iterdir():
            if path.name not in self.own:
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        for path in self.links.iterdir():
            path.unlink()

    def install(self, name, version, source, module=None):
        """Unpack a wheel, as pip does, and leave none to install from."""
        path = write_wheel(self.links, name, version, source, module)
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(self.site)
        path.unlink()

    def offer(self, name, version, source, module=None):
        """Have a wheel to install from."""
        write_wheel(self.links, name, version, source, module)

    def follow(self, command, **environ):
        """Do what a message says, and return the status of the plugins and what is wrong with them."""
        deleted, then, rest = command.partition(", then ")
        if command.startswith("delete "):
            for path in shlex.split(deleted.removeprefix("delete ")):
                if path != "and":
                    assert Path(path).is_relative_to(self.site)
                    shutil.rmtree(path)
            command = rest if then else ""
        if command.startswith("KPFRAME_"):
            environ |= dict([command.split("=")])
        elif command:
            done = subprocess.run(
                command, shell=True, env=self.env, input="y\n", capture_output=True, text=True, timeout=120
            )
            assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        return self.listed(**environ)

    def listed(self, **environ):
        done = subprocess.run(
            [str(self.folder / "bin" / "python"), "-m", "kpframe", "plugins", "--json"],
            env=self.env | environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode == 0, done.stderr
        document = json.loads(done.stdout)
        return (
            {
                info["distribution"]: f"{info['status']} {info['version']}"
                for info in document["plugins"]
                if info["distribution"].startswith("kpf-")
            },
            [
                problem
                for problem in document["problems"]
                if not problem["distribution"].startswith("kpframe")
            ],
        )


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    return Environment(tmp_path_factory.mktemp("remedies"))


def plugin(name="kpf-bad", api=1):
    return GOOD.format(module=name.replace("-", "_"), api=api)


def broken(env):
    env.install("kpf-bad", "1.0", "from kpframe.plugin import hookimpl\nraise ValueError")
    env.offer("kpf-bad", "1.1", plugin())


def old_api(env):
    env.install("kpf-bad", "1.0", plugin(api=0))
    env.offer("kpf-bad", "1.1", plugin())


def missing(env):
    env.install("kpf-bad", "1.0", NEEDS.format(module="kpf_bad", api=1))
    env.offer("kpf-optional", "1.0", "x = 1")
    env.offer("kpf-bad", "1.1", plugin())


def gone(env):
    env.install("kpf-bad", "1.0", plugin())
    shutil.rmtree(env.site / "kpf_bad")
    env.offer("kpf-bad", "1.0", plugin())


def gone_in_part(env):
    env.install("kpf-bad", "1.0", "import kpf_bad.part\n" + textwrap.dedent(plugin()))
    env.offer("kpf-bad", "1.0", plugin())


def no_metadata(env):
    env.install("kpf-bad", "1.0", plugin())
    (env.site / "kpf_bad-1.0.dist-info" / "METADATA").unlink()
    env.offer("kpf-bad", "1.0", plugin())


def no_record(env):
    gone(env)
    (env.site / "kpf_bad-1.0.dist-info" / "RECORD").unlink()


def left_over(env):
    env.install("kpf-bad", "1.0", plugin())
    (env.site / "kpf_bad-0.9.dist-info").mkdir()


def interrupted(env):
    gone(env)
    (env.site / "kpf_bad-1.0.dist-info").rename(env.site / "~pf_bad-1.0.dist-info")


def twice(env):
    env.install("kpf-bad", "0.9", plugin())
    env.install("kpf-bad", "1.0", plugin())
    env.offer("kpf-bad", "1.1", plugin())


def shared(env):
    env.install("kpf-a", "1.0", plugin(), "kpf_shared")
    env.install("kpf-bad", "1.0", plugin(), "kpf_shared")
    env.offer("kpf-a", "1.0", plugin(), "kpf_shared")


def clashing(env):
    env.install("kpf-a", "1.0", plugin("kpf-a"))
    env.install("kpf-bad", "1.0", plugin("kpf-bad"))


OLD, NEW, OFF = "loaded 1.0", "loaded 1.1", {"kpf-bad": "disabled 1.0"}
UNKNOWN = {"kpf-bad": "disabled (unknown version)"}
UP, GO = "pip install --upgrade", "pip uninstall"
CASES = {
    broken: ("import", {f"{UP} kpf-bad": {"kpf-bad": NEW}, f"{GO} kpf-bad": {}, "KPFRAME_": OFF}),
    old_api: ("api", {f"{UP} kpf-bad": {"kpf-bad": NEW}, f"{GO} kpf-bad": {}, "KPFRAME_": OFF}),
    missing: (
        "import",
        {
            "pip install kpf_optional": {"kpf-bad": OLD},
            f"{UP} kpf-bad": {"kpf-bad": NEW},
            f"{GO} kpf-bad": {},
            "KPFRAME_": OFF,
        },
    ),
    gone: (
        "metadata",
        {"pip install --force-": {"kpf-bad": OLD}, f"{GO} kpf-bad": {}, "KPFRAME_": OFF},
    ),
    gone_in_part: (
        "import",
        {
            "pip install --force-": {"kpf-bad": OLD},
            f"{GO} kpf-bad": {},
            "KPFRAME_": OFF,
        },
    ),
    no_metadata: ("metadata", {"delete ": {"kpf-bad": OLD}, "KPFRAME_": UNKNOWN}),
    no_record: ("metadata", {"delete ": {"kpf-bad": OLD}, "KPFRAME_": OFF}),
    left_over: ("twice", {"delete ": {"kpf-bad": OLD}, "KPFRAME_": OFF}),
    interrupted: ("metadata", {"delete ": {"kpf-bad": OLD}, "KPFRAME_": UNKNOWN}),
    twice: ("twice", {f"{GO} -y kpf-bad": {"kpf-bad": NEW}, "KPFRAME_": None}),
    shared: ("shared", {f"{GO} -y kpf-bad": {"kpf-a": OLD}, "KPFRAME_": {"kpf-a": OLD, **OFF}}),
    clashing: (
        "clash",
        {"write ": None, f"{GO} kpf-bad": {"kpf-a": OLD}, "KPFRAME_": {"kpf-a": OLD, **OFF}},
    ),
}


@pytest.mark.parametrize("case", CASES, ids=[case.__name__ for case in CASES])
def test_each_remedy_helps(environment, case):
    stage, expected = CASES[case]
    for number, start in enumerate(expected):
        environment.clear()
        case(environment)
        _, (problem,) = environment.listed()
        assert problem["distribution"] == "kpf-bad"
        assert problem["stage"] == stage
        ways = problem["fix"].split(", or ")
        assert len(ways) == len(expected), ways
        assert ways[number].startswith(start)
        if start == "write ":
            continue  # for a name in a call, as test_manager tries
        infos, problems = environment.follow(ways[number])
        assert problems == []
        if expected[start] is not None:
            assert infos == expected[start]


def test_what_does_not_help_is_noticed(environment):
    """The harness itself: an upgrade where there is none changes nothing."""
    environment.clear()
    environment.install("kpf-bad", "1.0", "from kpframe.plugin import hookimpl\nraise ValueError")
    environment.offer("kpf-bad", "1.0", plugin())
    infos, problems = environment.follow("pip install --upgrade kpf-bad")
    assert infos == {"kpf-bad": "broken 1.0"}
    assert len(problems) == 1
