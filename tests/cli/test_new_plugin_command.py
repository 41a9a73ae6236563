from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from email.message import Message
from pathlib import Path

import pytest

from kpframe.cli import _app as app
from kpframe.cli import _new_plugin as new_plugin

KINDS = ("model", "rule", "reducer", "task", "propagator", "parameter_operator", "quantity")


@pytest.fixture
def run(capsys, monkeypatch, tmp_path):
    """A function that runs the command line in an empty folder: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KPFRAME_PLUGINS", "")

    def call(*arguments):
        code = app.run(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def installed(run, site, kind, name="sample"):
    """Write a plugin, and put it on the path as pip would; returns its folder."""
    folder = site.folder / f"written-{kind}"
    assert run("new-plugin", name, "--kind", kind, "--output", str(folder))[0] == 0
    project = tomllib.loads((folder / "pyproject.toml").read_text())
    about = project["project"]
    package = about["entry-points"]["kpframe"][about["name"]]
    shutil.copytree(folder / "src" / package, site.folder / package)
    info = site.folder / f"{package}-{about['version']}.dist-info"
    info.mkdir()
    metadata = Message()
    metadata["Metadata-Version"], metadata["Name"] = "2.1", about["name"]
    metadata["Version"], metadata["Summary"] = about["version"], about["description"]
    (info / "METADATA").write_text(str(metadata))
    (info / "entry_points.txt").write_text(f"[kpframe]\n{about['name']} = {package}\n")
    site.names.append(about["name"])
    return folder


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.rows(6)
def test_what_is_written_is_found_and_described(run, site, kind):
    installed(run, site, kind)
    done = site.kpframe("plugins", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    (info,) = [info for info in document["plugins"] if info["distribution"] == "kpframe-sample"]
    assert (info["status"], info["offers"], info["version"]) == ("loaded", {kind: ["sample"]}, "0.1.0")
    assert document["problems"] == []
    shown = site.kpframe("show", "sample")
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "setting" in shown.stdout
    without_torch = site.python("import sys, kpframe_sample; print('torch' in sys.modules)")
    assert without_torch.stdout == "False\n"


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_the_tests_that_are_written_pass(run, site, kind):
    folder = installed(run, site, kind)
    done = run_tests(site, folder)
    assert done.returncode == 0, done.stdout + done.stderr
    passed = int(re.search(r"(\d+) passed", done.stdout)[1])
    assert passed >= 5


@pytest.mark.slow
def test_the_tests_that_are_written_notice_a_fault(run, site):
    folder = installed(run, site, "model")
    path = site.folder / "kpframe_sample" / "model.py"
    right = 'torch.tanh(u["u"])}'
    source = path.read_text()
    assert right in source
    path.write_text(source.replace(right, 'torch.tanh(u["u"] + u["u"].roll(1, -1))}'))  # not unit by unit
    done = run_tests(site, folder)
    assert done.returncode == 1
    assert re.search(r"\d+ failed", done.stdout)


def run_tests(site, folder):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "error", "tests"],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{site.folder}{os.pathsep}{Path(new_plugin.__file__).parents[2]}",
            "KPFRAME_CHECK_EXAMPLES": "3",
            "KPFRAME_PLUGINS": "kpframe-sample",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_no_trace_of_the_template_is_left(run, tmp_path, kind):
    code, out, err = run("new-plugin", "spike-timing", "--kind", kind)
    assert (code, err) == (0, "")
    folder = tmp_path / "kpframe-spike-timing"
    files = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    package = "src/kpframe_spike_timing"
    assert files == sorted(
        [
            "README.md",
            "pyproject.toml",
            f"{package}/__init__.py",
            f"{package}/py.typed",
            f"{package}/{kind}.py",
            "tests/test_conformance.py",
        ]
    )
    for name in files:
        text = (folder / name).read_text()
        assert not re.search(r"{%|%}|{{ | }}|{#", text), name
        assert all(len(line) <= 110 and line == line.rstrip() for line in text.splitlines()), name
        assert not text.endswith("\n\n"), name
        if name.endswith(".py"):
            compile(text, name, "exec")
        assert name in out
    source = (folder / package / f"{kind}.py").read_text()
    assert "class SpikeTiming(" in source
    project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "kpframe-spike-timing"
    assert project["entry-points"] == {"kpframe": {"kpframe-spike-timing": "kpframe_spike_timing"}}


def test_the_next_commands_are_printed(run, tmp_path):
    _, out, _ = run("new-plugin", "kpframe-kuramoto", "--kind", "model", "--output", "my plugin")
    assert out.splitlines()[-5:] == [
        "Next:",
        "  pip install -e './my plugin[test]'",
        "  kpframe show kuramoto",
        "  pytest './my plugin'",
        "Then write your own model in my plugin/src/kpframe_kuramoto/model.py.",
    ]


@pytest.mark.parametrize(
    ("name", "distribution", "offered", "cls"),
    [
        ("kuramoto", "kpframe-kuramoto", "kuramoto", "Kuramoto"),
        ("kpframe-kuramoto", "kpframe-kuramoto", "kuramoto", "Kuramoto"),
        ("kpframe_spike_timing", "kpframe-spike-timing", "spike_timing", "SpikeTiming"),
        ("Spike.Timing2", "kpframe-spike-timing2", "spike_timing2", "SpikeTiming2"),
        ("none", "kpframe-none", "none", "MyNone"),
        ("site-model", "kpframe-site-model", "site_model", "MySiteModel"),
        ("parameter-operator", "kpframe-parameter-operator", "parameter_operator", "MyParameterOperator"),
    ],
)
def test_names_that_follow_from_one(name, distribution, offered, cls):
    assert new_plugin.names_of(name) == {
        "distribution": distribution,
        "package": distribution.replace("-", "_"),
        "name": offered,
        "cls": cls,
    }


@pytest.mark.parametrize(
    "name", ["", "3body", "kpframe", "kpframe-", "kpframe-3", "my plugin", "-x", "x-", "../x", "ä", "x/y"]
)
def test_a_bad_name_is_refused(run, tmp_path, name):
    code, out, err = run("new-plugin", "--kind", "model", "--", name)
    assert (code, out) == (2, "")
    assert err.startswith("Error: NAME: expected ")
    assert repr(name) in err
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_something_in_it_is_refused_and_kept(run, tmp_path):
    (tmp_path / "kpframe-kuramoto").mkdir()
    assert run("new-plugin", "kuramoto", "--kind", "model")[0] == 0  # empty
    before = {path: path.read_text() for path in tmp_path.rglob("*.py")}
    code, out, err = run("new-plugin", "kuramoto", "--kind", "rule")
    assert (code, out) == (2, "")
    assert err == "Error: --output: expected a new or empty folder, got kpframe-kuramoto, which is not\n"
    assert {path: path.read_text() for path in tmp_path.rglob("*.py")} == before
    (tmp_path / "file").write_text("")
    assert run("new-plugin", "other", "--kind", "rule", "--output", "file")[0] == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kuramoto"], "Missing option '--kind'"),
        (["kuramoto", "--kind", "propagater"], "Invalid value for '--kind'"),
        (["scan", "--kind", "propagator"], "NAME: expected none of the core's propagators (scan, "),
        (["mean", "--kind", "reducer"], "NAME: expected none of the core's reducers (mean, "),
        (["trace", "--kind", "quantity"], "NAME: expected none of the core's quantities (scores, "),
    ],
)
def test_a_wrong_command_line_takes_one_line(run, arguments, message):
    code, out, err = run("new-plugin", *arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"Error: {message}")


def test_a_name_that_is_taken_warns(site, good, tmp_path):
    site.install("kpf-good", good)
    target = str(tmp_path / "new")
    done = site.kpframe("new-plugin", "good-model", "--kind", "model", "--output", target)
    assert done.returncode == 0
    assert done.stderr == (
        "Warning: kpf-good 1.0 offers the model 'good_model' too; with both installed the bare name is "
        "refused, and 'kpframe-good-model:good_model' is yours\n"
    )
    rule = site.kpframe("new-plugin", "good-model", "--kind", "rule", "--output", f"{target}-rule")
    assert (rule.returncode, rule.stderr) == (0, "")


def test_a_place_that_cannot_be_written(run, tmp_path):
    (tmp_path / "file").write_text("in the way")
    code, out, err = run("new-plugin", "sample", "--kind", "model", "--output", "file/sample")
    assert (code, out) == (2, "")
    assert err == (
        "Error: cannot write 'file/sample': 'file' is a file, where a folder is needed; give another place "
        "to write to\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
