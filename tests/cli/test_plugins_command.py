from __future__ import annotations

import json

import pytest

HELP_WITHOUT_TORCH = """
    import sys
    from kpframe.cli import main
    sys.argv = ["kpframe", *{arguments!r}]
    try:
        main()
    except SystemExit as done:
        print("exit", done.code, file=sys.stderr)
    watched = ("torch", "rich", "kpframe.plugin", "kpframe.cli._plugins", "kpf_good")
    print("loaded", *(name for name in watched if name in sys.modules), file=sys.stderr)
"""
NO_EXTRA = """
    import sys
    sys.modules[{module!r}] = None
    from kpframe.cli import main
    sys.argv = ["kpframe", "plugins"]
    main()
"""
NO_PLUGIN = """
    import importlib.metadata, sys
    importlib.metadata.distributions = lambda **_: []
    from kpframe.cli import main
    sys.argv = ["kpframe", *{arguments!r}]
    main()
"""
CLASH = """
    from kpframe.plugin import ModelSpec, hookimpl

    @hookimpl
    def kpframe_models():
        yield ModelSpec("good_model", "kpf_clash:other")
"""


def test_a_good_plugin_is_listed(site, good):
    site.install("kpf-good", good, "1.2")
    done = site.kpframe("plugins")
    assert (done.returncode, done.stderr) == (0, "")
    (line,) = [line for line in done.stdout.splitlines() if "kpf-good" in line]
    # the summary's brackets are no markup
    assert line.split("\t") == ["kpf-good", "1.2", "loaded", "model:good_model", "[x] kpf-good"]
    assert "reducer:mean" in next(line for line in done.stdout.splitlines() if line.startswith("kpframe\t"))


@pytest.mark.parametrize("arguments", [["plugins"], ["plugins", "--no-load"]])
def test_no_plugin_says_how_to_install_some(site, arguments):
    done = site.python(NO_PLUGIN.format(arguments=arguments))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == (
        "No plugin is installed. To get some: "
        "pip install a distribution with the entry-point group 'kpframe'.\n"
    )


def test_no_plugin_means_no_name(site):
    done = site.python(NO_PLUGIN.format(arguments=["show", "gru"]))
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("Error: no model, rule ... 'gru'; 'kpframe plugins' lists all ")
    assert done.stderr.endswith(
        "; no plugin is loaded: to get some, "
        "pip install a distribution with the entry-point group 'kpframe'\n"
    )
    shown = site.python(NO_PLUGIN.format(arguments=["show", "scan"]))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "kpframe.flow:ScanPropagator" in shown.stdout


@pytest.mark.parametrize("broken", ["import", "misspelt", "halfway"], indirect=True)
@pytest.mark.rows(6)
def test_a_broken_plugin_breaks_no_command(site, good, broken):
    check_broken(site, good, broken)


@pytest.mark.slow
def test_no_broken_plugin_breaks_a_command(site, good, broken):
    check_broken(site, good, broken)


def check_broken(site, good, broken):
    source, stage, message = broken
    site.install("kpf-good", good)
    site.install("kpf-bad", source, "6.7")

    listed = site.kpframe("plugins")
    assert listed.returncode == 0
    rows = {line.split()[0]: line.split()[2] for line in listed.stdout.splitlines() if "kpf-" in line}
    assert rows == {"kpf-good": "loaded", "kpf-bad": "broken"}

    shown = site.kpframe("show", "good_model")
    assert shown.returncode == 0
    assert "good_model" in shown.stdout

    for done in (listed, shown):
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Warning: plugin kpf-bad 6.7 ({stage}): ")
        assert message in line
        assert line.endswith("or pip uninstall kpf-bad, or KPFRAME_DISABLE_PLUGINS=kpf-bad")

    helped = site.kpframe("--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert "plugins" in helped.stdout

    followed = site.kpframe("plugins", env={"KPFRAME_DISABLE_PLUGINS": "kpf-bad"})
    assert (followed.returncode, followed.stderr) == (0, "")
    assert "disabled" in followed.stdout

    strict = site.kpframe("plugins", env={"KPFRAME_STRICT_PLUGINS": "1"})
    assert (strict.returncode, strict.stdout) == (2, "")
    assert strict.stderr.startswith("Error: plugin kpf-bad 6.7")


def test_a_clash_is_reported_and_breaks_no_command(site, good):
    site.install("kpf-good", good)
    site.install("kpf-clash", CLASH, "2.0")
    listed, shown = site.kpframe("plugins"), site.kpframe("show", "kpf-clash:good_model")
    assert (listed.returncode, shown.returncode) == (0, 0)
    assert "kpf_clash:other" in shown.stdout
    for done in (listed, shown):
        (line,) = done.stderr.splitlines()
        assert line.startswith("Warning: plugin kpf-good 1.0 (clash): kpf-clash 2.0 offers 'good_model' too")
        assert "write 'kpf-good:good_model' or 'kpf-clash:good_model'" in line
    refused = site.kpframe("show", "good_model")
    assert refused.returncode == 2
    assert "kpf-clash:good_model, kpf-good:good_model" in refused.stderr
    assert site.kpframe("--help").returncode == 0


def test_json(site, good):
    site.install("kpf-good", good, "1.2")
    site.install("kpf-bad", "import no_such_module_anywhere", "6.7")
    done = site.kpframe("plugins", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    infos = {info["distribution"]: info for info in document["plugins"]}
    assert infos["kpf-good"] == {
        "distribution": "kpf-good",
        "version": "1.2",
        "entry_point": "kpf_good",
        "status": "loaded",
        "summary": "[x] kpf-good",
        "offers": {"model": ["good_model"]},
    }
    assert infos["kpf-bad"]["status"] == "broken"
    (problem,) = document["problems"]
    assert set(problem) == {"distribution", "version", "stage", "message", "fix"}
    assert (problem["distribution"], problem["stage"]) == ("kpf-bad", "import")


def test_no_load_imports_no_plugin(site, good):
    site.install("kpf-good", good)
    site.install("kpf-bad", "import no_such_module_anywhere")
    done = site.kpframe("plugins", "--no-load", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    document = json.loads(done.stdout)
    infos = {info["distribution"]: info for info in document["plugins"]}
    for name in ("kpf-bad", "kpf-good"):
        assert (infos[name]["status"], infos[name]["offers"]) == ("not loaded", {})
    assert document["problems"] == []


@pytest.mark.parametrize(
    ("arguments", "loaded"),
    [
        (["--help"], []),
        (["--version"], []),
        ([], []),
        (["plugins", "--no-load"], ["rich", "kpframe.plugin", "kpframe.cli._plugins"]),
        (["plugins"], ["rich", "kpframe.plugin", "kpframe.cli._plugins", "kpf_good"]),
        (["show", "good_model"], ["rich", "kpframe.plugin", "kpframe.cli._plugins", "kpf_good"]),
    ],
)
def test_what_a_command_imports(site, good, arguments, loaded):
    site.install("kpf-good", good)
    done = site.python(HELP_WITHOUT_TORCH.format(arguments=arguments))
    assert done.stderr.splitlines() == ["exit 0", " ".join(["loaded", *loaded])]


@pytest.mark.parametrize("module", ["click", "rich"])
def test_without_the_extra_one_line_says_what_to_install(site, good, module):
    site.install("kpf-good", good)
    done = site.python(NO_EXTRA.format(module=module))
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line == (
        f"Error: this command needs {module}, which is not installed: pip install 'kpframe[study]'"
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["plgins"], "No such command 'plgins' (did you mean 'plugins'?)"),
        (["show"], "Missing argument 'NAME'"),
        (["plugins", "--bad"], "No such option"),
    ],
)
def test_a_wrong_command_line_takes_one_line(site, arguments, message):
    done = site.kpframe(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {message}")
    assert "--help" in line
