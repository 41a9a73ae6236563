"""Find, load and look up plugins, one at a time: a broken one is reported and left out alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any

from attrs import evolve, fields

from kpframe.errors import ArgumentError, PluginError, UnknownNameError, closest, mismatch
from kpframe.plugin.discovery import EntryPoint, installed_entry_points, other_versions, read_metadata
from kpframe.plugin.environment import Choice
from kpframe.plugin.loading import (
    check_api,
    check_unique,
    collect,
    load_factory,
    same_distribution,
    say,
    shared_names,
)
from kpframe.plugin.problems import explain, explain_unknown, installed_twice
from kpframe.plugin.specs import KINDS, PluginInfo, PluginProblem, PluginWarning, Spec
from kpframe.settings import NoSettings, build_settings


class PluginManager:
    """What the installed plugins offer; loads them at the first question.

    The environment variables ``KPFRAME_DISABLE_PLUGINS`` (distributions, with commas) and
    ``KPFRAME_PLUGINS`` (the only ones allowed; empty: none) choose among the installed plugins. With
    ``KPFRAME_STRICT_PLUGINS=1`` the first problem is an error, instead of a warning.
    """

    def __init__(
        self,
        entry_points: Callable[[], Iterable[EntryPoint]] = installed_entry_points,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._entry_points = entry_points
        self._choice = Choice(environ)
        self._loaded = False
        self._plugins: list[PluginInfo] = []
        self._problems: list[PluginProblem] = []
        self._brought: list[tuple[PluginInfo, PluginProblem]] = []

    def installed(self) -> list[PluginInfo]:
        """Return the installed plugins as their metadata has them; imports none of them."""
        return [info for info, _ in self._installed()]

    @property
    def plugins(self) -> list[PluginInfo]:
        """Every plugin, with what it offers."""
        self.load()
        return list(self._plugins)

    @property
    def problems(self) -> list[PluginProblem]:
        """What is wrong with the plugins."""
        self.load()
        return list(self._problems)

    def load(self) -> None:
        """Load the installed plugins, once, and warn of each problem.

        Raises:
            PluginError: for the first problem, with ``KPFRAME_STRICT_PLUGINS=1``.
        """
        if self._loaded:
            return
        self._loaded = True  # first: a plugin may ask for a model while it loads
        before = list(self._plugins), list(self._problems)
        try:
            for info, load in self._installed():
                self._add(info, load)
                self._check_once(info)
        except PluginError:
            self._plugins, self._problems = before  # so that the next question meets the same error
            self._loaded = False
            raise
        _warn(self._problems[len(before[1]) :])

    def register(self, plugin: object, *, distribution: str, version: str = "0") -> PluginInfo:
        """Load ``plugin``, a module or object with hooks, as if ``distribution`` were installed."""
        before = list(self._plugins), list(self._problems)
        try:
            self._add(PluginInfo(distribution, version, entry_point=""), lambda: plugin)
        except PluginError:
            self._plugins, self._problems = before
            raise
        info, added = self._plugins[-1], self._problems[len(before[1]) :]
        self._brought += [(info, problem) for problem in added]
        _warn(added)
        return info

    def unregister(self, info: PluginInfo) -> None:
        """Take back what ``register`` returned, with the problems it brought."""
        self._plugins = [other for other in self._plugins if other is not info]
        brought = [problem for owner, problem in self._brought if owner is info]
        self._brought = [pair for pair in self._brought if pair[0] is not info]
        self._problems = [one for one in self._problems if not any(one is other for other in brought)]

    def specs(self, kind: str) -> list[Spec]:
        """Return every spec of a kind: ``model``, ``rule``, ``task`` ..."""
        return [spec for _, spec in self._offers(kind)]

    def find(self, kind: str | None, name: str) -> Spec:
        """Return the one spec called ``name`` or ``distribution:name``; ``kind=None`` looks at all kinds.

        Raises:
            UnknownNameError: when there is none, or more than one; the message says what to write instead.
        """
        if not isinstance(name, str):
            raise ArgumentError(mismatch("name", "a string", repr(name)))
        distribution, _, bare = name.rpartition(":")
        found = [
            (plugin, spec)
            for plugin, spec in self._offers(kind)
            if spec.name == bare
            and (not distribution or same_distribution(plugin.distribution, distribution))
        ]
        if len(found) == 1:
            return found[0][1]
        if not found:
            offers = [(plugin, spec.name) for plugin, spec in self._offers(kind)]
            what = (kind or "model, rule ...").replace("_", " ")
            raise UnknownNameError(explain_unknown(what, name, offers, self._plugins))
        kinds = sorted({spec.kind for _, spec in found})
        ways = [f"{plugin.distribution}:{spec.name}" for plugin, spec in found]
        if len(kinds) > 1:
            ways = [f"{other}/{name}" for other in kinds]
        raise UnknownNameError(f"{name!r} names {len(found)} things: write one of {', '.join(ways)}")

    def plugin_of(self, spec: Spec) -> PluginInfo:
        """Return the plugin that offers this very spec."""
        return next(plugin for plugin, offered in self._offers(None) if offered is spec)

    def create(self, kind: str, name: str, settings: Mapping[str, Any]) -> Any:
        """Build the settings, then call the factory with their fields as keywords.

        Raises:
            UnknownNameError: see ``find``.
            SettingsError: listing everything that is wrong with ``settings``.
            PluginError: when the factory cannot be loaded or does not take its own settings.
        """
        spec = self.find(kind, name)
        built: Any = build_settings(spec.settings or NoSettings, settings, owner=f"{kind} {name!r}")
        settable = [attribute for attribute in fields(type(built)) if attribute.init]
        keywords = {attribute.alias: getattr(built, attribute.name) for attribute in settable}
        try:
            factory = load_factory(spec, keywords)
        except (Exception, SystemExit) as error:
            raise self._unusable(spec, error) from error
        try:
            return factory(**keywords)
        except SystemExit as error:  # a plugin does not end its host
            raise self._unusable(spec, error) from error

    def _unusable(self, spec: Spec, error: BaseException) -> PluginError:
        message = f"the factory {spec.factory!r} of {spec.kind} {spec.name!r} cannot be used: {say(error)}"
        return PluginError(str(explain(self.plugin_of(spec), "factory", message, self._choice.disabled)))

    def _installed(self) -> list[tuple[PluginInfo, Callable[[], object]]]:
        pairs = [read_metadata(entry_point) for entry_point in self._entry_points()]
        pairs.sort(key=lambda pair: (pair[0].distribution, pair[0].entry_point))
        return [(evolve(info, status=self._choice.status(info)), load) for info, load in pairs]

    def _add(self, info: PluginInfo, load: Callable[[], object]) -> None:
        if info.status == "disabled":
            self._plugins.append(info)
            return
        others = [plugin for plugin in self._plugins if plugin.specs]
        specs: tuple[Spec, ...] = ()
        stage = "import"
        try:
            plugin = load()
            stage = "hooks"
            specs = tuple(collect(plugin, info.distribution))
            siblings = [
                other.specs for other in others if same_distribution(other.distribution, info.distribution)
            ]
            check_unique(sum(siblings, specs))
            stage = "api"
            check_api(specs)
        except (Exception, SystemExit) as error:
            self._plugins.append(evolve(info, status="broken"))
            self._report(explain(info, stage, say(error), self._choice.disabled, cause=error), error)
            return
        self._plugins.append(evolve(info, status="loaded", specs=specs))
        for other in others:
            for name in shared_names(specs, other.specs):
                message = (
                    f"{other.distribution} {other.version} offers {name!r} too; the bare name is refused"
                )
                ways = f"write '{info.distribution}:{name}' or '{other.distribution}:{name}'"
                self._report(explain(info, "clash", message, self._choice.disabled, first=ways))

    def _check_once(self, info: PluginInfo) -> None:
        found = {} if info.status == "disabled" else other_versions(info)
        known = [problem.distribution for problem in self._problems if problem.stage == "twice"]
        if found and info.distribution not in known:
            message, remedy = installed_twice(info, found)
            self._report(explain(info, "twice", message, self._choice.disabled, first=remedy))

    def _report(self, problem: PluginProblem, cause: BaseException | None = None) -> None:
        if self._choice.strict:
            raise PluginError(str(problem)) from cause
        self._problems.append(problem)

    def _offers(self, kind: str | None) -> list[tuple[PluginInfo, Spec]]:
        if kind is not None and kind not in KINDS:
            raise ArgumentError(
                mismatch("kind", f"one of {', '.join(KINDS)}", repr(kind)) + closest(kind, KINDS)
            )
        offers = [(plugin, spec) for plugin in self.plugins for spec in plugin.specs]
        return [(plugin, spec) for plugin, spec in offers if kind in (None, spec.kind)]


@cache
def get_manager() -> PluginManager:
    """Return the manager of the plugins that are installed in this environment."""
    return PluginManager()


def _warn(problems: Iterable[PluginProblem]) -> None:
    for problem in problems:
        warnings.warn(str(problem), PluginWarning, stacklevel=3)
