"""Whatever a plugin raises stays with it; Ctrl-C is not the plugin's, and says whose code it stopped."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import types
from itertools import product

import pytest

from kpframe.errors import PluginError
from kpframe.plugin import PluginManager, PluginWarning
from kpframe.plugin import _manager as manager_module

HOOK = """
    from kpframe.plugin import ModelSpec, hookimpl

    class Own(BaseException):
        pass

    class Mute(BaseException):
        def __str__(self):
            raise SystemExit(4)

    @hookimpl
    def kpframe_models():
        yield ModelSpec("bad", "kpf_bad:build")
        {hook}

    {top}
"""
RAISED = {
    "raise Own('mine')": "Own: mine",
    "raise Mute": "Mute: (its message cannot be read)",
    "raise SystemExit(3)": "SystemExit: 3",
    "raise KeyboardInterrupt": "KeyboardInterrupt",
    "raise KeyboardInterrupt('by hand')": "KeyboardInterrupt: by hand",
    "raise GeneratorExit": "GeneratorExit",
    "import asyncio; raise asyncio.CancelledError": "CancelledError",
    "import pytest; pytest.exit('all of it')": "Exit: all of it",
    "raise RecursionError('deep')": "RecursionError: deep",
    "raise ValueError('a\\nError: forged \\x1b[31m')": "ValueError: a Error: forged \\x1b[31m",
    "raise ValueError('x' * 10**6)": "ValueError: xxx",
}
#: Ctrl-C while the plugin runs, whatever it makes of it.
PRESSED = {
    "plain": "import signal; signal.raise_signal(signal.SIGINT)",
    "renamed": """
try:
    import signal; signal.raise_signal(signal.SIGINT)
except BaseException as error:
    raise ImportError('no module') from error
""",
    "swallowed": """
try:
    import signal; signal.raise_signal(signal.SIGINT)
except BaseException:
    pass
""",
}


def source(stage, code):
    code = code.strip()
    at_top = {"hook": "pass", "top": code} if stage == "import" else {"hook": code, "top": ""}
    at_top = {
        name: text.replace("\n", "\n        " if name == "hook" else "\n    ")
        for name, text in at_top.items()
    }
    return HOOK.format(**at_top)


def load(*entry_points, **environ):
    manager = PluginManager(lambda: entry_points, environ)
    with pytest.warns(PluginWarning):
        manager.load()
    return manager


@pytest.mark.parametrize(("stage", "raised"), list(product(("import", "hooks"), RAISED)))
def test_any_exception_is_isolated_and_named(stage, raised, fake, good):
    manager = load(fake("kpf-bad", source(stage, raised), "6.7"), fake("kpf-good", good))
    (problem,) = manager.problems
    assert (problem.distribution, problem.version, problem.stage) == ("kpf-bad", "6.7", stage)
    where = "kpframe_models(): " if stage == "hooks" else ""
    if "10**6" in raised:
        assert problem.message.startswith(where + RAISED[raised])
        assert 400 < len(problem.message) < 600
    else:
        assert problem.message == where + RAISED[raised]
    assert [info.status for info in manager.plugins] == ["broken", "loaded"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.parametrize(("stage", "how"), list(product(("import", "hooks"), PRESSED)))
def test_ctrl_c_names_the_plugin_and_leaves_the_manager_as_it_was(stage, how, fake, good):
    pressed = fake("kpf-slow", source(stage, PRESSED[how]), "6.7")
    sources = [pressed]
    manager = PluginManager(lambda: [fake("kpf-a", good), *sources], {"KPFRAME_DISABLE_PLUGINS": "kpf-a"})
    with pytest.raises(KeyboardInterrupt) as caught:
        manager.load()
    assert str(caught.value) == (
        "plugin kpf-slow 6.7 was loading; to leave it out: KPFRAME_DISABLE_PLUGINS=kpf-a,kpf-slow"
    )
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    sources[:] = [fake("kpf-good", good)]
    assert [info.status for info in manager.plugins] == ["disabled", "loaded"]  # asked again, it loads again
    assert manager.problems == []


def test_ctrl_c_reaches_the_handler_that_was_there(fake, good):
    """As that of a notebook or of asyncio, which may do something else than raise."""
    calls = []
    before = signal.signal(signal.SIGINT, lambda *_: calls.append("pressed"))
    own = signal.getsignal(signal.SIGINT)
    try:
        manager = PluginManager(lambda: [fake("kpf-slow", source("import", PRESSED["plain"]))], {})
        with pytest.raises(KeyboardInterrupt, match="kpf-slow"):
            manager.load()
        assert signal.getsignal(signal.SIGINT) is own
    finally:
        signal.signal(signal.SIGINT, before)
    assert calls == ["pressed"]


def test_a_handler_that_a_plugin_sets_stays(fake):
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"
    try:
        assert PluginManager(lambda: [fake("kpf-sets", source("import", code))], {}).problems == []
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def test_loading_in_another_thread(fake, good):
    """Where no signal arrives: a KeyboardInterrupt is the plugin's own."""
    bad = fake("kpf-bad", source("import", "raise KeyboardInterrupt"))
    manager = PluginManager(lambda: [bad, fake("kpf-good", good)], {"KPFRAME_STRICT_PLUGINS": "0"})
    found = []

    def ask():
        with pytest.warns(PluginWarning):
            found.append(manager.specs("model"))

    thread = threading.Thread(target=ask)
    thread.start()
    thread.join()
    assert [spec.name for spec in found[0]] == ["good_model"]


def test_ctrl_c_at_the_command_line_says_what_it_stopped(site, good):
    site.install("kpf-good", good)
    site.install(
        "kpf-slow", "import sys, time\nprint('here', file=sys.stderr, flush=True)\ntime.sleep(60)", "6.7"
    )
    env = {**os.environ, "PYTHONPATH": f"{site.folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    env |= {"KPFRAME_PLUGINS": "kpf-good,kpf-slow"}
    running = subprocess.Popen(
        [sys.executable, "-m", "kpframe", "show", "good_model"],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stderr.readline() == "here\n"
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, "")
    assert err.strip() == (
        "Aborted: plugin kpf-slow 6.7 was loading; to leave it out: KPFRAME_DISABLE_PLUGINS=kpf-slow"
    )
    env["KPFRAME_DISABLE_PLUGINS"] = "kpf-slow"
    followed = subprocess.run(running.args, env=env, capture_output=True, text=True, timeout=60)
    assert (followed.returncode, followed.stderr) == (0, "")


ASKS = """
    import kpframe.plugin
    from kpframe.plugin import ModelSpec, hookimpl

    {top}

    @hookimpl
    def kpframe_models():
        {hook}
        yield ModelSpec("asking", "kpf_asks:build")
"""
QUESTIONS = (
    "kpf_shared.manager.create('model', 'good_model', dict(size=3))",
    "kpf_shared.manager.specs('model')",
    "kpf_shared.manager.problems",
    "kpf_shared.manager.register(object(), distribution='kpf-other')",
    "kpframe.plugin.temporary(object(), manager=kpf_shared.manager).__enter__()",
)


@pytest.mark.parametrize(("question", "where"), list(product(QUESTIONS, ("top", "hook"))))
def test_a_plugin_that_asks_while_plugins_load_is_refused(question, where, fake, good, monkeypatch):
    """It would see those before it in the alphabet, and not those after it."""
    shared = types.ModuleType("kpf_shared")
    monkeypatch.setitem(sys.modules, "kpf_shared", shared)
    code = {"top": "import kpf_shared", "hook": "pass"}
    code[where] = f"import kpf_shared; {question}"
    asking = ASKS.format(**code)
    shared.manager = PluginManager(lambda: [fake("kpf-asks", asking), fake("kpf-good", good)], {})
    with pytest.warns(PluginWarning):
        shared.manager.load()
    (problem,) = shared.manager.problems
    assert problem.stage == {"top": "import", "hook": "hooks"}[where]
    assert "plugin kpf-asks 1.0 asks for what plugins offer while they load: create models" in problem.message
    assert [info.status for info in shared.manager.plugins] == ["broken", "loaded"]
    # a plugin that can do without the answer loads
    careful = ASKS.format(top=code["top"] if where == "hook" else "import kpf_shared", hook="pass").replace(
        "import kpf_shared", f"import kpf_shared\n    try: {question}\n    except RuntimeError: pass"
    )
    shared.manager = PluginManager(lambda: [fake("kpf-asks", careful), fake("kpf-good", good)], {})
    assert [info.status for info in shared.manager.plugins] == ["loaded", "loaded"]
    assert shared.manager.find("model", "asking").name == "asking"


def test_threads_that_ask_while_one_loads_wait_for_all_of_it(fake, good):
    slow = "import time\ntime.sleep(0.3)\n" + "from kpframe.plugin import ModelSpec, hookimpl\n"
    slow += "@hookimpl\ndef kpframe_models(): yield ModelSpec('slow', 'a:b')\n"
    manager = PluginManager(lambda: [fake("kpf-good", good), fake("kpf-slow", slow)], {})
    found = []
    threads = [threading.Thread(target=lambda: found.append(manager.specs("model"))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [len(specs) for specs in found] == [2] * 4


def test_a_thread_does_not_wait_for_ever(fake, monkeypatch):
    """As for a plugin that starts a thread, which asks, and waits for it."""
    monkeypatch.setattr(manager_module, "PATIENCE", 0.2)
    shared = types.ModuleType("kpf_shared")
    monkeypatch.setitem(sys.modules, "kpf_shared", shared)
    code = """
        import threading
        import kpf_shared
        thread = threading.Thread(target=kpf_shared.ask)
        thread.start()
        thread.join()
    """
    refused = []

    def ask():
        try:
            shared.manager.specs("model")
        except PluginError as error:
            refused.append(str(error))

    shared.ask = ask
    shared.manager = PluginManager(lambda: [fake("kpf-waits", code)], {})
    started = time.monotonic()
    with pytest.warns(PluginWarning):
        shared.manager.load()
    assert time.monotonic() - started < 20
    assert refused == ["another thread has been loading plugins for 0 s: plugin kpf-waits 1.0"]
