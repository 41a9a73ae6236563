"""What plugins say and print reaches the terminal as text, and JSON not at all."""

from __future__ import annotations

import io
import json
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import kpframe
from kpframe.cli import _app as app
from kpframe.cli import _plugins as plugins
from kpframe.errors import PluginError, message_of, one_line, printable, told
from kpframe.plugin import (
    ModelSpec,
    PluginInfo,
    PluginManager,
    PluginProblem,
    PropagatorSpec,
    hookimpl,
    setting,
)
from kpframe.study._disk import results as results

ROOT = Path(kpframe.__file__).parents[1]
HOSTILE = "title \x1b]0;owned\x07 \x1b[31mred\r\nWarning: forged\u2028line \u202eesrever\u202c \x9b2J\x00"
SHOWN = "title \\x1b]0;owned\\x07 \\x1b[31mred Warning: forged line \\u202eesrever\\u202c \\x9b2J\\x00"
NOISY = """
    import atexit, ctypes, os, subprocess, sys
    from kpframe.plugin import ModelSpec, hookimpl

    print("noise of print")
    print("noise of the stream", file=sys.__stdout__)
    os.write(1, b"noise of the descriptor\\n")
    subprocess.run(["echo", "noise of a process"], check=True)
    ctypes.CDLL(None).puts(b"noise of a library")
    atexit.register(print, "noise at exit")

    @hookimpl
    def kpframe_models():
        print("noise of a hook")
        yield ModelSpec("noisy", "kpf_noisy:build")
"""
NOISES = ["print", "the stream", "the descriptor", "a process", "a library", "a hook", "exit"]


def test_text_of_others_is_made_printable():
    assert one_line(HOSTILE) == SHOWN
    assert one_line(HOSTILE).isprintable()
    assert printable("two\nlines \t\x1b") == "two\nlines \\t\\x1b"
    for plain in ("", "plain", "ΔΦ ± 1 → 中文 é", "[x] 'y'"):
        assert one_line(plain) == printable(plain) == plain
    assert one_line("x" * 100, 10) == "xxxxxxx..."
    assert one_line("\ud800") == "\\ud800"


def test_messages_of_errors_are_made_printable():
    class Mute(Exception):
        def __str__(self):
            raise SystemExit(4)

    assert told(ValueError(HOSTILE)) == f"ValueError: {SHOWN}"
    assert told(Mute()) == "Mute: (its message cannot be read)"
    assert len(message_of(ValueError("x" * 10**6))) == 500
    assert message_of(ValueError("short")) == "short"


def test_what_pages_say_of_plugins_is_printable(monkeypatch):
    """Their names and versions, which a run keeps with its figures."""
    manager = PluginManager(lambda: (), {})
    hostile = type("Plugin", (), {"hook": hookimpl(specname="kpframe_models")(lambda self: [])})()
    manager.register(hostile, distribution=f"kpf{HOSTILE}", version=HOSTILE)
    monkeypatch.setattr(results, "get_manager", lambda: manager)
    assert json.loads(results.versions()["plugin_versions"]) == {f"kpf{SHOWN}": SHOWN}


def test_specs_infos_and_problems_are_printable():
    spec = PropagatorSpec("net", "a:b", summary=HOSTILE, fits=HOSTILE)
    assert spec.summary == SHOWN
    assert spec.fits == SHOWN
    info = PluginInfo("kpf\x1b", "1\n2", "a\x07", summary=HOSTILE)
    assert (info.distribution, info.version, info.entry_point, info.summary) == (
        "kpf\\x1b",
        "1 2",
        "a\\x07",
        SHOWN,
    )
    problem = PluginProblem("kpf-bad", "1.0", "import", HOSTILE, f"pip\n{HOSTILE}")
    assert str(problem) == f"plugin kpf-bad 1.0 (import): {SHOWN}; fix: pip {SHOWN}"
    for wrong in (3, None, b"x"):
        with pytest.raises(PluginError, match="summary: expected a string"):
            ModelSpec("net", "a:b", summary=wrong)


@pytest.fixture
def run(run_on):
    """The command line on a hostile plugin."""
    from attrs import frozen

    @frozen
    class Settings:
        size: int = setting(1, help=HOSTILE)
        mode: str = setting("\x1b[31m", choices=("\x1b[31m", "b"))

    class Plugin:
        @hookimpl
        def kpframe_models(self):
            yield ModelSpec("net", "a.b:Net", settings=Settings, summary=HOSTILE)
            yield ModelSpec("long_name", "a.b:Net")

    return run_on(Plugin(), "kpf-hostile")


def clean(text):
    return all(char.isprintable() or char in "\n\t" for char in text)


def test_tables_and_facts_hold_no_control_characters(run):
    code, out, err = run("show", "net")
    assert (code, err) == (0, "")
    assert clean(out)
    facts = dict(line.split(":", 1) for line in out.splitlines()[:5])
    assert facts["summary"].strip() == SHOWN
    (row,) = [line for line in out.splitlines() if line.strip().startswith("size")]
    assert SHOWN in row
    assert not [line for line in out.splitlines() if line.startswith("Warning")]
    assert run("show", "model:long-name")[1] == run("show", "long_name")[1]
    code, out, _ = run("plugins")
    assert code == 0
    assert clean(out)


def test_errors_and_warnings_hold_no_control_characters(run, monkeypatch):
    def fail(settings):
        warnings.warn(HOSTILE, UserWarning, stacklevel=1)
        raise ZeroDivisionError(HOSTILE)

    monkeypatch.setattr(plugins, "describe", fail)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        code, _, err = run("show", "net")
    assert code == 2
    assert clean(err)
    assert err.splitlines()[-1].startswith(
        f"Error: ZeroDivisionError: {SHOWN}; unexpected, see the traceback"
    )
    _, _, err = run("show", "\x1b[31m")
    assert clean(err)
    assert "no model, rule ... '\\x1b[31m'" in err


@pytest.mark.parametrize("error", [SystemExit(3), SystemExit(), GeneratorExit("x"), BaseException("mine")])
def test_code_of_a_plugin_does_not_end_the_command_without_a_word(run, monkeypatch, error):
    def leave(settings):
        raise error

    monkeypatch.setattr(plugins, "describe", leave)
    code, _, err = run("show", "net")
    assert code == 2
    assert err.startswith(f"Error: {type(error).__name__}")
    assert err.count("\n") == 1


def test_an_exception_of_a_plugin_is_not_unexpected_of_us(run, monkeypatch):
    def fail(settings):
        error = ZeroDivisionError("mine")
        error.add_note("raised by plugin kpf-thing 5.0, building model 'thing'")
        raise error

    monkeypatch.setattr(plugins, "describe", fail)
    assert run("show", "net")[2] == (
        "Error: ZeroDivisionError: mine; raised by plugin kpf-thing 5.0, building model 'thing', "
        "see the traceback with 'kpframe --debug ...'\n"
    )


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("gone", name="kpf_nowhere.x"), "this command needs kpf_nowhere, which is not "
         "installed: pip install kpf_nowhere"),
        (ModuleNotFoundError("gone", name="hypothesis"), "this command needs hypothesis, which is not "
         "installed: pip install 'kpframe[test]'"),
        (ModuleNotFoundError("gone", name="kpframe.x"), "ModuleNotFoundError: gone; unexpected, see"),
        (PermissionError(13, "Permission denied", "/x/y"), "/x/y: Permission denied"),
    ],
)  # fmt: skip
def test_errors_of_the_environment_say_what_to_do(run, monkeypatch, error, said):
    def fail(settings):
        raise error

    monkeypatch.setattr(plugins, "describe", fail)
    code, _, err = run("show", "net")
    assert code == 2
    assert err.startswith(f"Error: {said}")


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [("ascii", r"\u4e2d \xb1 \xe9 \u2192"), ("latin-1", r"\u4e2d ± é \u2192"), ("utf-8", "中 ± é →")],
)
def test_text_outside_the_terminal_s_encoding(encoding, shown, monkeypatch):
    """Its characters are written out, and the columns stay columns."""

    class Plugin:
        @hookimpl
        def kpframe_models(self):
            yield ModelSpec("net", "a.b:Net", summary="中 ± é →")

    manager = PluginManager(lambda: (), {})
    manager.register(Plugin(), distribution="kpf-wide", version="4.2")
    infos = [PluginInfo(f"kpf-{number}", "1.0", "x", summary="中 ± é →" * number) for number in range(3)]
    monkeypatch.setattr(plugins, "get_manager", lambda: manager)
    monkeypatch.setattr(PluginManager, "plugins", infos)
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict", newline="")
    errors = io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="backslashreplace", newline="")
    with monkeypatch.context() as patched:
        patched.setattr(sys, "stdout", stream)
        patched.setattr(sys, "stderr", errors)
        assert app.run(["plugins"]) == 0
        assert app.run(["show", "nothing中"]) == 2
    out = stream.buffer.getvalue().decode(encoding)
    rows = {number: line for line in out.splitlines() for number in range(3) if f"kpf-{number}" in line}
    assert shown in rows[1]
    assert shown * 2 in rows[2]
    assert {line.split("\t")[2] for line in rows.values()} == {"not loaded"}
    errors.flush()
    said = errors.buffer.getvalue().decode(encoding)
    assert "'nothing中'".encode(encoding, "backslashreplace").decode(encoding) in said


def test_lenient_output_is_as_it_was_afterwards(monkeypatch, run):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    assert app.run(["show", "net"]) == 0
    assert stream.errors == "strict"
    with pytest.raises(UnicodeEncodeError):
        stream.write("→")


def test_what_a_plugin_prints_does_not_spoil_json(site, good):
    site.install("kpf-good", good)
    site.install("kpf-noisy", NOISY)
    done = site.kpframe("plugins", "--json")
    assert done.returncode == 0
    infos = {info["distribution"]: info for info in json.loads(done.stdout)["plugins"]}
    assert infos["kpf-noisy"]["offers"] == {"model": ["noisy"]}
    for noise in NOISES:
        assert f"noise {'at' if noise == 'exit' else 'of'} {noise}" in done.stderr
    shown = site.kpframe("show", "good_model")  # with no JSON at stake, it stays where it was sent
    assert "noise of print" in shown.stdout
    assert "good_model" in shown.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize(
    ("where", "code", "said"),
    [
        ("| true", 1, ""),
        ("> /dev/full", 2, "Error: writing failed: No space left on device\n"),
        (">&-", 0, ""),
    ],
)
@pytest.mark.parametrize("arguments", ["plugins --no-load", "plugins --no-load --json"])
@pytest.mark.rows(2)
def test_where_nobody_reads(where, code, said, arguments):
    """One line at most, and no traceback of the process's end."""
    if where == "| true" and "--json" in arguments:
        pytest.skip("a pipe holds so few characters, read or not")
    command = f"{shlex.quote(sys.executable)} -W error -m kpframe {arguments}"
    script = f"({command}; echo $? >&3) {where}" if "|" in where else f"{command} {where}; echo $? >&3"
    done = subprocess.run(
        ["sh", "-c", f"exec 3>&1; {script}"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.stderr == said
    assert done.stdout.split() == [str(code)]
