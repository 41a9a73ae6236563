"""The command line's tests use the same installed plugins, good and broken, as the plugin host's."""

from __future__ import annotations

import importlib.util
from pathlib import Path

_SPEC = importlib.util.spec_from_file_location(
    "installed_plugins", Path(__file__).parents[1] / "plugin" / "conftest.py"
)
_MODULE = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(_MODULE)
site, good, broken = _MODULE.site, _MODULE.good, _MODULE.broken
