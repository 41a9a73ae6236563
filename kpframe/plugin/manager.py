"""Find, load and look up plugins, one at a time: a broken one is reported and left out alone."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from importlib import metadata
from typing import Any

from attrs import evolve, fields

from kpframe.errors import ArgumentError, PluginError, UnknownNameError, closest, mismatch
from kpframe.plugin.loading import (
    INSTALL_HINT,
    check_api,
    check_unique,
    collect,
    installed_entry_points,
    load_factory,
    read_metadata,
    same_distribution,
    say,
    shared_names,
)
from kpframe.plugin.specs import API_VERSION, KINDS, PluginInfo, PluginProblem, PluginWarning, Spec, Status
from kpframe.settings import NoSettings, build_settings


class PluginManager:
    """What the installed plugins offer; loads them at the first question.

    The environment variables ``KPFRAME_DISABLE_PLUGINS`` (distributions, with commas) and
    ``KPFRAME_PLUGINS`` (the only ones allowed; empty: none) choose among the installed plugins. With
    ``KPFRAME_STRICT_PLUGINS=1`` the first problem is an error, instead of a warning.
    """

    def __init__(
        self,
        entry_points: Callable[[], Iterable[metadata.EntryPoint]] = installed_entry_points,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._entry_points = entry_points
        self._environ = environ
        self._loaded = False
        self._plugins: list[PluginInfo] = []
        self._problems: list[PluginProblem] = []

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
            for info, entry_point in self._installed():
                self._add(info, entry_point.load)
        except PluginError:
            self._plugins, self._problems = before  # so that the next question meets the same error
            self._loaded = False
            raise
        _warn(self._problems[len(before[1]) :])

    def register(self, plugin: object, *, distribution: str, version: str = "0") -> PluginInfo:
        """Load ``plugin``, a module or object with hooks, as if ``distribution`` were installed."""
        known = len(self._problems)
        self._add(PluginInfo(distribution, version, entry_point=""), lambda: plugin)
        _warn(self._problems[known:])
        return self._plugins[-1]

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
            raise UnknownNameError(self._unknown(kind, name))
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
            UnknownNameError: see :meth:`find`.
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
            plugin = self.plugin_of(spec)
            message = f"the factory {spec.factory!r} of {kind} {spec.name!r} cannot be used: {say(error)}"
            raise PluginError(str(self._problem(plugin, "factory", message))) from error
        return factory(**keywords)

    def _installed(self) -> list[tuple[PluginInfo, metadata.EntryPoint]]:
        pairs = [(read_metadata(entry_point), entry_point) for entry_point in self._entry_points()]
        pairs.sort(key=lambda pair: (pair[0].distribution, pair[0].entry_point))
        return [(evolve(info, status=self._status(info.distribution)), point) for info, point in pairs]

    def _status(self, distribution: str) -> Status:
        allowed = self._environ.get("KPFRAME_PLUGINS", distribution).split(",")
        refused = not _listed(distribution, allowed) or _listed(distribution, self._disabled())
        return "disabled" if refused else "not loaded"

    def _disabled(self) -> list[str]:
        names = self._environ.get("KPFRAME_DISABLE_PLUGINS", "").split(",")
        return [name.strip() for name in names if name.strip()]

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
            newer = stage == "api" and any(spec.api > API_VERSION for spec in specs)
            problem = self._problem(info, stage, say(error), upgrade="kpframe" if newer else "")
            self._report(problem, error)
            return
        self._plugins.append(evolve(info, status="loaded", specs=specs))
        for other in others:
            for name in shared_names(specs, other.specs):
                message = (
                    f"{other.distribution} {other.version} offers {name!r} too; the bare name is refused"
                )
                ways = f"write '{info.distribution}:{name}' or '{other.distribution}:{name}', or "
                self._report(self._problem(info, "clash", message, ways))

    def _problem(
        self, info: PluginInfo, stage: str, message: str, first: str = "", upgrade: str = ""
    ) -> PluginProblem:
        disabled = ",".join([*self._disabled(), info.distribution])
        fix = (
            f"{first}pip install --upgrade {upgrade or info.distribution}, "
            f"or pip uninstall {info.distribution}, or KPFRAME_DISABLE_PLUGINS={disabled}"
        )
        return PluginProblem(info.distribution, info.version, stage, message, fix)

    def _report(self, problem: PluginProblem, cause: BaseException | None = None) -> None:
        if self._environ.get("KPFRAME_STRICT_PLUGINS", "") not in ("", "0"):
            raise PluginError(str(problem)) from cause
        self._problems.append(problem)

    def _offers(self, kind: str | None) -> list[tuple[PluginInfo, Spec]]:
        if kind is not None and kind not in KINDS:
            raise ArgumentError(
                mismatch("kind", f"one of {', '.join(KINDS)}", repr(kind)) + closest(kind, KINDS)
            )
        offers = [(plugin, spec) for plugin in self.plugins for spec in plugin.specs]
        return [(plugin, spec) for plugin, spec in offers if kind in (None, spec.kind)]

    def _unknown(self, kind: str | None, name: str) -> str:
        known = sorted(
            {
                f"{plugin.distribution}:{spec.name}" if ":" in name else spec.name
                for plugin, spec in self._offers(kind)
            }
        )
        what = (kind or "model, rule ...").replace("_", " ")
        out = [
            f"{plugin.distribution} ({plugin.status})"
            for plugin in self._plugins
            if plugin.status != "loaded"
        ]
        left_out = f"; without {', '.join(out)}" if out else ""
        if known:
            return f"no {what} {name!r} (there are {', '.join(known)}){closest(name, known)}{left_out}"
        return f"no {what} {name!r}: no loaded plugin offers any{left_out}; to get some, {INSTALL_HINT}"


@cache
def get_manager() -> PluginManager:
    """Return the manager of the plugins that are installed in this environment."""
    return PluginManager()


def _listed(name: str, names: Iterable[str]) -> bool:
    return any(same_distribution(name, other) for other in names)


def _warn(problems: Iterable[PluginProblem]) -> None:
    for problem in problems:
        warnings.warn(str(problem), PluginWarning, stacklevel=3)
