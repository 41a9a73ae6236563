from __future__ import annotations

import re

import pytest
from attrs import frozen

from kpframe.cli import _plugins as plugins
from kpframe.plugin import ModelSpec, RuleSpec, hookimpl, setting

LONG = "a very long explanation that goes on and on " * 5


@frozen
class Settings:
    size: int = setting(ge=1, help="units [1]")
    mode: str = setting("fast", choices=("fast", "slow"), help=LONG.strip())
    dt: float | None = setting(None, gt=0, lt=1)


class Plugin:
    @hookimpl
    def kpframe_models(self):
        yield ModelSpec("net", "a.b:Net", settings=Settings, summary="a [bold]net[/bold]")
        yield ModelSpec("plain", "a.b:Plain")
        yield ModelSpec("both", "a.b:ModelBoth")

    @hookimpl
    def kpframe_rules(self):
        yield RuleSpec("both", "a.b:RuleBoth")


@pytest.fixture
def run(run_on):
    """The command line on a plugin with everything there is to show."""
    return run_on(Plugin(), "kpf-shown")


def test_show_prints_everything_there_is(run):
    code, out, err = run("show", "net")
    assert (code, err) == (0, "")
    facts = dict(line.split(":", 1) for line in out.splitlines()[:5])
    assert {label: text.strip() for label, text in facts.items()} == {
        "name": "net",
        "kind": "model",
        "distribution": "kpf-shown 4.2",
        "summary": "a [bold]net[/bold]",
        "factory": "a.b:Net",
    }
    rows = {line.split()[0]: line.split() for line in out.splitlines()[5:] if line.strip()}
    assert rows["setting"] == ["setting", "type", "default", "bounds", "choices", "meaning"]
    assert rows["size"] == ["size", "int", "required", ">=", "1", "units", "[1]"]
    assert rows["mode"][:5] == ["mode", "str", "'fast'", "fast,", "slow"]
    assert rows["dt"] == ["dt", "float", "|", "None", "None", ">", "0", "and", "<", "1"]
    assert LONG.strip() in out  # nothing is cut or wrapped in a pipe


def test_show_of_what_has_no_settings(run):
    code, out, _ = run("show", "kpf-shown:plain")
    assert code == 0
    assert "It has no settings." in out
    assert "It has no settings." not in run("show", "net")[1]


def test_one_name_in_two_kinds(run):
    code, out, err = run("show", "both")
    assert (code, out) == (2, "")
    assert err == "Error: 'both' names 2 things: write one of model:both, rule:both\n"
    assert "a.b:ModelBoth" in run("show", "model:both")[1]
    assert "a.b:RuleBoth" in run("show", "rule:both")[1]
    assert "a.b:RuleBoth" in run("show", "rule:kpf-shown:both")[1]
    assert run("show", "rule:kpf-shown:both") == run("show", "rule:both")
    assert run("show", "kpf-shown:net") == run("show", "net")


def test_show_says_what_a_form_fits(run):
    for name, words in (
        ("propagator:dense", "any A of a narrow state"),
        ("parameter-operator:gram", "the J of"),
    ):
        code, out, err = run("show", name)
        assert (code, err) == (0, "")
        (line,) = [line for line in out.splitlines() if line.startswith("fits:")]
        assert line.split(maxsplit=1)[1].startswith(words)
    assert run("show", "parameter_operator:gram") == run("show", "gram")
    assert "fits:" not in run("show", "net")[1]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nte", "Error: no model, rule ... 'nte'; did you mean 'model:net'?; 'kpframe plugins' lists all "),
        ("rule:net", "Error: no rule 'net'; there is both"),
        ("modle:net", "Error: no kind or distribution 'modle'; did you mean 'model:net'? (kinds are model, "),
    ],
)
def test_an_unknown_name_takes_one_line(run, name, message):
    code, out, err = run("show", name)
    assert (code, out) == (2, "")
    assert err.startswith(message)
    assert err.count("\n") == 1


def test_an_unknown_name_says_the_nearest(run):
    said = run("show", "nte")[2]
    assert "; did you mean 'model:net'?" in said
    assert re.search(r"; 'kpframe plugins' lists all \d+\n$", said)


def test_debug_shows_the_traceback(run):
    code, _, err = run("--debug", "show", "nte")
    assert code == 2
    assert "Traceback (most recent call last)" in err
    assert err.splitlines()[-1].startswith("Error: no model")
    assert "Traceback" not in run("show", "nte")[2]


def test_an_unexpected_error_takes_one_line_too(run, monkeypatch):
    def fail(settings):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(plugins, "describe", fail)
    code, _, err = run("show", "net")
    assert code == 2
    assert err == (
        "Error: ZeroDivisionError: oops; unexpected, see the traceback with 'kpframe --debug ...'\n"
    )
    assert "Traceback" in run("--debug", "show", "net")[2]
