"""Read one plugin: its hooks (strictly) and its factories."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from importlib import import_module
from operator import attrgetter
from typing import Any

import pluggy

from kpframe.errors import PluginError, closest, mismatch, say, shown
from kpframe.plugin import _hookspecs as hookspecs
from kpframe.plugin._discovery import INSTALL_HINT as INSTALL_HINT
from kpframe.plugin._discovery import normalized
from kpframe.plugin._settings import NoSettings, build_settings
from kpframe.plugin._specs import API_VERSION, HOOKS, ApiError, PluginInfo, Spec, refuse_api


class LoadFailure(Exception):
    """A plugin could not be read: at which stage, and for what error."""

    def __init__(self, stage: str, error: BaseException) -> None:
        super().__init__(stage)
        self.stage, self.error = stage, error


def read_plugin(
    load: Callable[[], object], distribution: str, siblings: Sequence[Spec]
) -> tuple[object, tuple[Spec, ...]]:
    """Return what ``load`` imports and the specs that its hooks yield.

    Args:
        load: imports the plugin.
        distribution: whose it is.
        siblings: what else the distribution offers.

    Raises:
        LoadFailure: whatever it is that the plugin raises.
    """
    stage = "import"
    try:
        plugin = load()
        stage = "hooks"
        specs = tuple(collect(plugin, distribution))
        check_unique((*siblings, *specs))
        stage = "api"
        check_api(specs)
    except BaseException as error:  # the caller tells Ctrl-C apart
        raise LoadFailure(stage, error) from error
    return plugin, specs


def collect(plugin: object, distribution: str) -> Iterator[Spec]:
    """Yield what the hooks of ``plugin`` yield.

    Raises:
        PluginError: when a hook is unknown, raises, or yields something else than specs of its kind.
        ApiError: when a spec is of a later api and this one does not know its fields.
    """
    # A pluggy manager per plugin: whatever this one does cannot reach the hooks of another.
    host = pluggy.PluginManager("kpframe")
    host.add_hookspecs(hookspecs)
    _check_names(host, plugin)
    host.register(plugin, name=distribution)
    for caller in host.get_hookcallers(plugin) or []:
        try:
            results = caller()
            if not results:  # pluggy drops None
                raise PluginError("expected an iterable of specs, got None; use yield")
            for result in results:
                yield from _specs(result, HOOKS[caller.name])
        except ApiError:
            raise
        except BaseException as error:  # the caller tells Ctrl-C apart
            raise PluginError(f"{caller.name}(): {say(error)}") from error


def called(name: str, offers: Iterable[tuple[PluginInfo, Spec]]) -> list[tuple[PluginInfo, Spec]]:
    """Return those of ``offers`` that ``name`` or ``distribution:name`` means."""
    distribution, _, bare = name.rpartition(":")
    bare = bare.replace("-", "_")  # names differ by more than that
    return [
        (plugin, spec)
        for plugin, spec in offers
        if spec.name == bare and (not distribution or same_distribution(plugin.distribution, distribution))
    ]


def same_distribution(left: str, right: str) -> bool:
    """Whether two distribution names are one, as pip compares them."""
    return normalized(left) == normalized(right)


def clashes(specs: Iterable[Spec], others: Iterable[PluginInfo]) -> Iterator[tuple[str, list[PluginInfo]]]:
    """Yield the names in ``specs`` that other plugins offer too, in the same kind, with those plugins."""
    owners: dict[tuple[str, str], list[PluginInfo]] = {(spec.kind, spec.name): [] for spec in specs}
    for other in others:
        for spec in other.specs:
            if (spec.kind, spec.name) in owners:
                owners[spec.kind, spec.name].append(other)
    for (_, name), found in owners.items():
        if found:
            yield name, found


def check_unique(specs: Iterable[Spec]) -> None:
    """Raise PluginError when one distribution offers one name twice."""
    seen: set[tuple[str, str]] = set()
    for spec in specs:
        if (spec.kind, spec.name) in seen:
            raise PluginError(f"it offers the {spec.kind} {spec.name!r} twice")
        seen.add((spec.kind, spec.name))


def check_api(specs: Iterable[Spec]) -> None:
    """Raise ApiError when a spec is for another plugin api."""
    for spec in specs:
        if spec.api != API_VERSION:
            refuse_api(spec.kind, spec.name, spec.api)


def wrong_result(made: object, cls: type) -> PluginError:
    """Return the error for a factory that made no instance of ``cls``."""
    got = f"the class {made.__qualname__}" if isinstance(made, type) else shown(made)
    home = "kpframe.study" if cls.__module__.startswith("kpframe.study") else "kpframe"
    return PluginError(mismatch("its result", f"a {home}.{cls.__name__}", got))


def settings_of(
    spec: Spec, values: Mapping[str, Any], *, owner: str, joint: str = ": ", of: str = "its settings"
) -> Any:
    """Return the settings object that ``values`` make.

    A settings class that has no names of its own for what it takes (an index for each axis, whatever the
    axes are called) has a method ``gather(values)``, which puts them into its fields.

    Args:
        spec: what is to be made.
        values: the settings, by name.
        owner, joint, of: for messages, as in ``build_settings``.

    Raises:
        SettingsError: listing everything that is wrong with ``values``.
    """
    cls: Any = spec.settings or NoSettings
    gather = getattr(cls, "gather", None)
    return build_settings(cls, gather(values) if gather else values, owner=owner, joint=joint, of=of)


def factory_of(spec: Spec) -> Any:
    """Import the factory of ``spec``; raises what the import raises, TypeError for what cannot be called."""
    module, _, attribute = spec.factory.partition(":")
    factory = attrgetter(attribute)(import_module(module))
    if not callable(factory):
        raise TypeError(mismatch(attribute, "something to call", repr(factory)))
    return factory


def load_factory(spec: Spec, keywords: Mapping[str, Any], arguments: Sequence[Any] = ()) -> Any:
    """Import the factory of ``spec`` and check that it takes ``arguments`` and ``keywords``.

    Raises:
        Exception: whatever the import raises; TypeError when the factory does not take them.
    """
    factory = factory_of(spec)
    try:
        signature = inspect.signature(factory)
    except ValueError:  # written in C; the call itself will tell
        return factory
    signature.bind(*arguments, **keywords)
    return factory


def _check_names(host: pluggy.PluginManager, plugin: object) -> None:
    hooks = ", ".join(HOOKS)
    marked = 0
    for name in dir(plugin):
        options = host.parse_hookimpl_opts(plugin, name)
        hook = (options and options.get("specname")) or name
        if options is None:
            if name in HOOKS and inspect.isroutine(getattr(plugin, name)):
                raise PluginError(f"{name}() is not marked with @hookimpl, so it would never be called")
        elif hook not in HOOKS:
            raise PluginError(f"{hook}() is not a hook (there are {hooks}){closest(hook, HOOKS)}")
        else:
            marked += 1
    if not marked:
        raise PluginError(f"no function is marked with @hookimpl (the hooks are {hooks})")


def _specs(result: object, cls: type[Spec]) -> Iterator[Spec]:
    if not isinstance(result, Iterable):
        raise PluginError(mismatch("result", f"an iterable of {cls.__name__}", repr(result)))
    for spec in result:
        if not isinstance(spec, cls):
            raise PluginError(mismatch("yielded", f"a {cls.__name__}", repr(spec)))
        yield spec
