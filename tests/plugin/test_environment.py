"""The environment variables: what is set and does nothing is said."""

from __future__ import annotations

import shlex
import warnings

import pytest

from kpframe.errors import ArgumentError, PluginError
from kpframe.plugin import PluginManager, PluginWarning
from kpframe.plugin._environment import ALLOW, DISABLE, STRICT


@pytest.fixture
def ask(fake, good):
    """A function that returns the manager of kpf-good, kpf-other and kpframe-nets."""
    points = [fake(name, good) for name in ("kpf-good", "kpf-other", "kpframe-nets")]
    bad = fake("kpf-bad", "raise ValueError")

    def call(broken=False, **environ):
        manager = PluginManager(lambda: [*points, *([bad] if broken else [])], environ)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)
            manager.load()
        return manager

    return call


def problems(manager):
    return [problem for problem in manager.problems if problem.stage == "environment"]


def follow(environ, fix):
    """Return the environment after a fix of the form of a shell command."""
    environ = dict(environ)
    for command in fix.split(" && "):
        *words, last = shlex.split(command)
        if words == ["unset"]:
            del environ[last]
        else:
            assert words in ([], ["export"])
            name, _, value = last.partition("=")
            environ[name] = value
    return environ


@pytest.mark.parametrize(
    ("variable", "value", "name", "near", "fix"),
    [
        (ALLOW, "kpf-godo", "kpf-godo", "kpf-good", "KPFRAME_PLUGINS=kpf-good"),
        (ALLOW, "kpf-other, KPF_Godo", "KPF_Godo", "kpf-good", "KPFRAME_PLUGINS=kpf-other,kpf-good"),
        (ALLOW, "nets", "nets", "kpframe-nets", "KPFRAME_PLUGINS=kpframe-nets"),
        (ALLOW, "zzz,kpf-good", "zzz", "", "pip install zzz, or KPFRAME_PLUGINS=kpf-good"),
        (ALLOW, "zzz", "zzz", "", "pip install zzz, or unset KPFRAME_PLUGINS"),
        (DISABLE, "kpf-godo", "kpf-godo", "kpf-good", "KPFRAME_DISABLE_PLUGINS=kpf-good"),
        (DISABLE, "zzz", "zzz", "", "unset KPFRAME_DISABLE_PLUGINS"),
        *(
            (variable, text, text, "kpf-good,kpf-other", f"{variable}=kpf-good,kpf-other")
            for variable in (ALLOW, DISABLE)
            for text in ("kpf-good;kpf-other", "kpf-good kpf-other")
        ),
        (DISABLE, "a\x1b[31m,kpf-good", "a\x1b[31m", "", "KPFRAME_DISABLE_PLUGINS=kpf-good"),
    ],
)
def test_a_name_that_is_no_installed_plugin(ask, variable, value, name, near, fix):
    manager = ask(**{variable: value})
    (problem,) = problems(manager)
    hint = f"; did you mean {near!r}?" if near else ""
    assert problem.message == f"{variable} names {name!r}, which is no installed plugin{hint}"
    assert problem.fix == fix
    assert str(problem) == f"(environment): {problem.message}; fix: {fix}"
    assert "\x1b" not in str(problem)
    followed = follow({variable: value}, fix.rpartition(", or ")[2])
    assert problems(ask(**followed)) == []
    with pytest.raises(PluginError, match="which is no installed plugin"):
        ask(**{variable: value, STRICT: "1"})


@pytest.mark.parametrize("value", ["kpf-good", "KPF_GOOD", " kpf.good ,kpframe-nets,", "", ","])
@pytest.mark.parametrize("variable", [ALLOW, DISABLE])
def test_names_that_are_there_are_no_problem(ask, variable, value):
    assert problems(ask(**{variable: value})) == []
    assert len(problems(ask(**{variable: f"{value},nothing"}))) == 1


@pytest.mark.parametrize(
    ("variable", "fix"),
    [
        ("KPFRAME_DISABLE_PLUGIN", "unset KPFRAME_DISABLE_PLUGIN && export KPFRAME_DISABLE_PLUGINS=kpf-good"),
        ("KPFRAME_PLUGIN", "unset KPFRAME_PLUGIN && export KPFRAME_PLUGINS=kpf-good"),
    ],
)
def test_a_variable_that_is_misspelt(ask, variable, fix):
    manager = ask(**{variable: "kpf-good"})
    (problem,) = problems(manager)
    right = fix.rpartition(" ")[2].partition("=")[0]
    assert problem.message == f"{variable} is no variable of kpframe; did you mean {right!r}?"
    assert problem.fix == fix
    assert problems(ask(**follow({variable: "kpf-good"}, fix))) == []


@pytest.mark.parametrize("value", ["", "0", "false", "False", "no", "OFF", " off "])
def test_strict_is_off(ask, value):
    assert len(ask(broken=True, **{STRICT: value}).problems) >= 1


@pytest.mark.parametrize("value", ["1", "true", "TRUE", "yes", "on", " on "])
def test_strict_is_on(ask, value):
    with pytest.raises(PluginError, match="kpf-bad"):
        ask(broken=True, **{STRICT: value, DISABLE: "kpf-other,kpframe-nets"})


@pytest.mark.parametrize(
    ("value", "near"), [("flase", "; did you mean 'false'?"), ("2", ""), ("\x1b[31m", "")]
)
def test_strict_is_neither(ask, value, near):
    with pytest.raises(ArgumentError) as caught:
        ask(**{STRICT: value})
    assert str(caught.value) == (
        f"KPFRAME_STRICT_PLUGINS: expected one of 1, true, yes, on or 0, false, no, off, got {value!r}{near}"
    )
