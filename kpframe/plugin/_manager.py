"""Find, load and look up plugins, one at a time: a broken one is reported and left out alone."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from attrs import evolve

from kpframe.errors import (
    ArgumentError,
    KpframeError,
    PluginError,
    PluginWarning,
    UnknownNameError,
    closest,
    mismatch,
    say,
)
from kpframe.plugin._collection import Collection
from kpframe.plugin._core import core
from kpframe.plugin._discovery import (
    EntryPoint,
    find_copies,
    installed_entry_points,
    normalized,
    read_metadata,
)
from kpframe.plugin._environment import Choice
from kpframe.plugin._isolated import Interrupted, interruptible
from kpframe.plugin._loading import called, factory_of, load_factory, settings_of, wrong_result
from kpframe.plugin._problems import explain, explain_ambiguous, explain_unknown, named
from kpframe.plugin._specs import KINDS, PluginInfo, PluginProblem, Spec
from kpframe.plugin._takes import call_with, keywords_of

#: Seconds that a question waits for another thread that loads the plugins.
PATIENCE = 60.0


class PluginManager:
    """What the installed plugins offer; loads them at the first question.

    The environment variables ``KPFRAME_DISABLE_PLUGINS`` (distributions, with commas) and
    ``KPFRAME_PLUGINS`` (the only ones allowed; empty: none) choose among the installed plugins. With
    ``KPFRAME_STRICT_PLUGINS=1`` the first problem is an error, instead of a warning. ``entry_points`` returns
    those of what is installed; the variables are read in ``environ``.
    """

    def __init__(
        self,
        entry_points: Callable[[], Iterable[EntryPoint]] = installed_entry_points,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._entry_points = entry_points
        self._choice = Choice(environ)
        self._lock = threading.RLock()
        self._loaded = False
        self._loading, self._loader = "", 0
        self._held = Collection(self._choice)
        self._brought: list[tuple[PluginInfo, PluginProblem]] = []

    def installed(self) -> list[PluginInfo]:
        """Return the installed plugins as their metadata has them; imports none of them."""
        return [info for info, _ in self._installed()]

    @property
    def plugins(self) -> list[PluginInfo]:
        """Every installed or registered plugin, with what it offers; the core is none."""
        self.load()
        return list(self._held.plugins)

    @property
    def problems(self) -> list[PluginProblem]:
        """What is wrong with the plugins."""
        self.load()
        return list(self._held.problems)

    def load(self) -> None:
        """Load the installed plugins, once, and warn of each problem.

        Raises:
            PluginError: for the first problem, with ``KPFRAME_STRICT_PLUGINS=1``; for a plugin that asks for
                what plugins offer while it is loaded itself.
            KeyboardInterrupt: at Ctrl-C, naming the plugin that was loaded.
        """
        if self._loaded:
            return
        if not self._lock.acquire(timeout=PATIENCE):
            raise PluginError(
                f"another thread has been loading plugins for {PATIENCE:.0f} s: {self._loading}"
            )
        try:
            if not self._loaded:
                self._refuse_while_loading()
                self._load()
        finally:
            self._lock.release()

    def register(self, plugin: object, *, distribution: str, version: str = "0") -> PluginInfo:
        """Load ``plugin``, a module or object with hooks, as if ``distribution`` ``version`` were there."""
        self._refuse_while_loading()
        with self._lock:
            held = self._held
            self._held = held.copy()
            known = len(held.problems)
            try:
                info = self._held.add(PluginInfo(distribution, version, entry_point=""), lambda: plugin)
            except BaseException:
                self._held = held
                raise
            added = self._held.problems[known:]
            self._brought += [(info, problem) for problem in added]
        _warn(added, depth=3)
        return info

    def unregister(self, info: PluginInfo) -> None:
        """Take back ``info``, which ``register`` returned, with the problems it brought."""
        brought = [problem for owner, problem in self._brought if owner is info]
        self._brought = [pair for pair in self._brought if pair[0] is not info]
        self._held.remove(info, brought)

    def specs(self, kind: str) -> list[Spec]:
        """Return every spec of a ``kind``: ``model``, ``rule``, ``task`` ..."""
        return [spec for _, spec in self._offers(kind)]

    def named(self, kind: str, name: str) -> list[Spec]:
        """Return every spec of a ``kind`` called ``name`` or ``distribution:name``: none is no error here."""
        return [spec for _, spec in called(name, self._offers(kind))]

    def factory(self, spec: Spec) -> Any:
        """Import and return what builds ``spec``; raises ``PluginError`` where that fails."""
        try:
            return factory_of(spec)
        except Exception as error:
            raise self._unusable(self.plugin_of(spec), spec, error) from error

    def find(self, kind: str | None, name: str) -> Spec:
        """Return the one spec called ``name`` or ``distribution:name``; ``kind=None`` looks at all kinds.

        Raises:
            UnknownNameError: when there is none, or more than one; the message says what to write instead.
            ArgumentError: for a name that is no string.
        """
        if not isinstance(name, str):
            raise ArgumentError(mismatch("name", "a string", repr(name)))
        offers = self._offers(kind)
        found = called(name, offers)
        if len(found) == 1:
            return found[0][1]
        if not found:
            raise UnknownNameError(explain_unknown(kind, name, offers, self._held.plugins))
        kinds = sorted({spec.kind for _, spec in found})
        ways = [f"{plugin.distribution}:{spec.name}" for plugin, spec in found]
        if len(kinds) > 1:
            ways = [f"{other}:{name}" for other in kinds]
        raise UnknownNameError(explain_ambiguous(name, ways))

    def plugin_of(self, spec: Spec) -> PluginInfo:
        """Return the plugin that offers this very ``spec``."""
        return next(plugin for plugin, offered in self._offers(None) if offered is spec)

    def create(
        self, kind: str, name: str, settings: Mapping[str, Any], cls: type = object, *arguments: Any
    ) -> Any:
        """Build the settings, then call ``factory(*arguments, **settings)``.

        An exception of the factory goes on as it is, with a note that names the plugin.

        Args:
            kind: ``model``, ``rule``, ``task`` ...
            name: the name, or ``distribution:name``.
            settings: the settings, by name.
            cls: what the factory has to return an instance of.
            arguments: what it is made of: a propagator of A, a parameter operator of J.

        Raises:
            UnknownNameError: see ``find``.
            SettingsError: listing everything that is wrong with ``settings``.
            PluginError: when the factory cannot be loaded, does not take its own settings, ends the
                process or returns something else.
            KeyboardInterrupt: at Ctrl-C, naming the plugin.
        """
        spec = self.find(kind, name)
        info = self.plugin_of(spec)
        try:
            with interruptible(f"{named(info)} was building {spec.kind} {spec.name!r}"):
                built = settings_of(spec, settings, owner=f"{kind} {name!r}")
                try:
                    factory = load_factory(spec, keywords_of(built), arguments)
                except Exception as error:
                    raise self._unusable(info, spec, error) from error
                made = call_with(factory, built, *arguments)
        except (KpframeError, Interrupted):
            raise
        except Exception as error:
            if isinstance(error, ImportError):
                raise self._unusable(info, spec, error) from error
            error.add_note(f"raised by {named(info)}, building {spec.kind} {spec.name!r}")
            raise
        except BaseException as error:  # a plugin does not end its host
            raise self._unusable(info, spec, error) from error
        if not isinstance(made, cls):
            raise self._unusable(info, spec, wrong_result(made, cls))
        return made

    def _unusable(self, info: PluginInfo, spec: Spec, error: BaseException) -> PluginError:
        message = f"the factory {spec.factory!r} of {spec.kind} {spec.name!r} cannot be used: {say(error)}"
        problem = explain(info, "factory", message, self._choice.disabled, cause=error, own=spec.factory)
        return PluginError(str(problem))

    def _installed(self) -> list[tuple[PluginInfo, Callable[[], object]]]:
        pairs = [read_metadata(entry_point) for entry_point in self._entry_points()]
        pairs.sort(key=lambda pair: (pair[0].distribution, pair[0].entry_point))
        return [(evolve(info, status=self._choice.status(info)), load) for info, load in pairs]

    def _load(self) -> None:
        held, self._loader = self._held.copy(), threading.get_ident()
        known = len(held.problems)
        try:
            installed, copies = self._installed(), find_copies()
            for problem in self._choice.problems(info for info, _ in installed):
                held.report(problem)
            for info, load in installed:
                self._loading = named(info)
                held.add(info, load)
                held.check_once(info, copies.get(normalized(info.distribution), []))
        finally:
            self._loading = ""
        self._held, self._loaded = held, True  # after an error the next question meets the same one
        _warn(held.problems[known:], depth=4)

    def _refuse_while_loading(self) -> None:
        if self._loading and self._loader == threading.get_ident():
            raise PluginError(
                f"{self._loading} asks for what plugins offer while they load: create models, rules and "
                "tasks in a factory, which runs once its name is asked for, not in a module or a hook"
            )

    def _offers(self, kind: str | None) -> list[tuple[PluginInfo, Spec]]:
        if kind is not None and kind not in KINDS:
            raise ArgumentError(
                mismatch("kind", f"one of {', '.join(KINDS)}", repr(kind)) + closest(kind, KINDS)
            )
        offers = [(plugin, spec) for plugin in (core(), *self.plugins) for spec in plugin.specs]
        return [(plugin, spec) for plugin, spec in offers if kind in (None, spec.kind)]


@cache
def get_manager() -> PluginManager:
    """Return the manager of the plugins that are installed in this environment."""
    return PluginManager()


def create(kind: str, name: str, settings: Mapping[str, Any], cls: type, *arguments: Any) -> Any:
    """Return what the core or an installed plugin offers under a name; see ``PluginManager.create``."""
    return get_manager().create(kind, name, settings, cls, *arguments)


def _warn(problems: Iterable[PluginProblem], depth: int) -> None:
    """Warn of problems at a line that is ``depth`` calls further out."""
    for problem in problems:
        warnings.warn(str(problem), PluginWarning, stacklevel=depth)
