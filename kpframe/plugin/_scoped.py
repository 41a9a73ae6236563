"""Plugins for the length of a ``with`` block."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from kpframe.errors import PluginError, PluginWarning
from kpframe.plugin._manager import PluginManager, get_manager
from kpframe.plugin._specs import PluginInfo


@contextmanager
def temporary(
    plugin: object,
    *,
    distribution: str = "temporary",
    version: str = "0",
    manager: PluginManager | None = None,
) -> Iterator[PluginInfo]:
    """Offer ``plugin`` inside a ``with`` block, for notebooks and tests; nothing is left of it afterwards.

    ::

        class Mine:
            @hookimpl
            def kpframe_models(self):
                yield ModelSpec("mine", "__main__:Cell", settings=Settings)

        with kpframe.plugin.temporary(Mine()):
            model = kpframe.create_model("mine", input_size=2, hidden_size=8)

    Blocks nest, and end as well on an exception. A name that an installed plugin has too is refused bare;
    ``temporary:mine`` picks the temporary one.

    Args:
        plugin: a module or object with hooks.
        distribution: the name it goes by.
        version: its version.
        manager: the manager to use; that of this environment when left out.

    Yields:
        What the manager says of the plugin.

    Raises:
        PluginError: on entry, when the plugin is broken.
    """
    manager = get_manager() if manager is None else manager
    manager.load()  # first: an installed plugin must not be said to clash with one that goes away
    known = len(manager.problems)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PluginWarning)
        info = manager.register(plugin, distribution=distribution, version=version)
    added = manager.problems[known:]
    try:
        if info.status == "broken":
            raise PluginError(f"plugin {distribution} {version} ({added[0].stage}): {added[0].message}")
        for problem in added:
            warnings.warn(str(problem), PluginWarning, stacklevel=3)
        yield info
    finally:
        manager.unregister(info)
