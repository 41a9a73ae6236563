"""Really installed distributions, seen from a fresh interpreter."""

from __future__ import annotations

import pytest

import kpframe.plugin._manager
from kpframe import LearningRule, Model, Task
from kpframe.plugin import PluginManager

CODE = """
    import sys, warnings
    from kpframe.plugin import PluginWarning, get_manager
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        print(get_manager().create("model", "good_model", {"size": 3}))
    print([w.category is PluginWarning for w in caught], *(str(w.message) for w in caught))
    assert "torch" not in sys.modules
"""


def test_a_good_plugin_is_found(site, good):
    site.install("kpf-good", good)
    done = site.python(CODE)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == ["('good', 3, 0.5)", "[]"]


@pytest.mark.rows(16)
def test_a_broken_plugin_warns_and_is_left_out(site, good, broken):
    source, _, message = broken
    site.install("kpf-good", good)
    site.install("kpf-bad", source, "6.7")
    done = site.python(CODE)
    assert (done.returncode, done.stderr) == (0, "")
    created, warned = done.stdout.splitlines()
    assert created == "('good', 3, 0.5)"
    assert warned.startswith("[True] plugin kpf-bad 6.7 (")
    assert message in warned


@pytest.mark.slow
def test_importing_the_host_imports_no_torch(site):
    code = "import sys, kpframe.plugin, kpframe.cli; print('torch' in sys.modules)"
    assert site.python(code).stdout == "False\n"
    assert site.python(code.replace("kpframe.cli;", "kpframe.cli, torch;")).stdout == "True\n"


@pytest.mark.parametrize("kind", ["model", "rule", "task"])
def test_the_registry_asks_the_manager(kind, monkeypatch):
    asked = []

    class Manager(PluginManager):
        def create(self, kind, name, settings, cls):
            asked.append((kind, name, settings, cls))
            return len(asked)

    manager = Manager(lambda: ())
    monkeypatch.setattr(kpframe.plugin._manager, "get_manager", lambda: manager)
    create = getattr(kpframe, f"create_{kind}")
    assert create("thing", size=3, name="n") == 1
    assert create("other") == 2
    cls = {"model": Model, "rule": LearningRule, "task": Task}[kind]
    assert asked == [(kind, "thing", {"size": 3, "name": "n"}, cls), (kind, "other", {}, cls)]
