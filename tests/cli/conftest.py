"""What tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kpframe.cli import _app as app
from kpframe.cli import _plugins as plugins
from kpframe.plugin import PluginManager

#: A call of the command line: its arguments to exit code, output and errors.
CommandLine = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[[object, str], CommandLine]:
    """A function that returns the command line, in this process, on one plugin and its distribution."""

    def on(plugin: object, distribution: str) -> CommandLine:
        manager = PluginManager(lambda: (), {})
        manager.register(plugin, distribution=distribution, version="4.2")
        monkeypatch.setattr(plugins, "get_manager", lambda: manager)

        def call(*arguments: str) -> tuple[int, str, str]:
            code = app.run(arguments)
            captured = capsys.readouterr()
            return code, captured.out, captured.err

        return call

    return on
