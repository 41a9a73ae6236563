"""What the environment variables choose among the installed plugins."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import frozen

from kpframe.errors import ArgumentError, closest, mismatch, nearest
from kpframe.plugin._discovery import normalized
from kpframe.plugin._loading import same_distribution
from kpframe.plugin._specs import PluginInfo, PluginProblem, Status

DISABLE, ALLOW, STRICT = "KPFRAME_DISABLE_PLUGINS", "KPFRAME_PLUGINS", "KPFRAME_STRICT_PLUGINS"
_ON, _OFF = ("1", "true", "yes", "on"), ("", "0", "false", "no", "off")


@frozen
class Choice:
    """``KPFRAME_DISABLE_PLUGINS``, ``KPFRAME_PLUGINS`` and ``KPFRAME_STRICT_PLUGINS``, read when asked."""

    environ: Mapping[str, str]

    @property
    def disabled(self) -> list[str]:
        """The distributions that are not to be loaded."""
        return self._names(DISABLE)

    @property
    def strict(self) -> bool:
        """Whether the first problem is an error.

        Raises:
            ArgumentError: for a value that is neither on nor off.
        """
        return _is_on(self.environ.get(STRICT, ""))

    def status(self, info: PluginInfo) -> Status:
        """Return ``"disabled"`` for a plugin that is not to be loaded, else the status it has."""
        allowed = ALLOW not in self.environ or _listed(info.distribution, self._names(ALLOW))
        refused = not allowed or _listed(info.distribution, self.disabled)
        return "disabled" if refused else info.status

    def problems(self, plugins: Iterable[PluginInfo]) -> Iterator[PluginProblem]:
        """Yield what is set and does nothing: names of plugins that are not there, misspelt variables.

        Raises:
            ArgumentError: as ``strict``.
        """
        _is_on(self.environ.get(STRICT, ""))
        installed = sorted({normalized(info.distribution) for info in plugins})
        for variable in (ALLOW, DISABLE):
            names = self._names(variable)
            for name in names:
                if normalized(name) in installed:
                    continue
                near = _nearest_plugin(name, installed)
                put = [near if other == name else other for other in names]
                fix = _assignment(variable, [other for other in put if other])
                if not near and variable == ALLOW:
                    fix = f"pip install {shlex.quote(name)}, or {fix}"
                hint = f"; did you mean {near!r}?" if near else ""
                yield _problem(f"{variable} names {name!r}, which is no installed plugin{hint}", fix)
        for variable, value in self.environ.items():
            known = (ALLOW, DISABLE, STRICT)
            if variable.startswith("KPFRAME_") and "PLUGIN" in variable and variable not in known:
                near = nearest(variable, known)
                fix = f"unset {variable}" + (f" && export {near}={shlex.quote(value)}" if near else "")
                yield _problem(f"{variable} is no variable of kpframe{closest(variable, known)}", fix)

    def _names(self, variable: str) -> list[str]:
        names = self.environ.get(variable, "").split(",")
        return [name.strip() for name in names if name.strip()]


def _is_on(text: str) -> bool:
    value = text.strip().lower()
    if value not in (*_ON, *_OFF):
        choices = f"one of {', '.join(_ON)} or {', '.join(_OFF[1:])}"
        raise ArgumentError(mismatch(STRICT, choices, repr(text)) + closest(value, (*_ON, *_OFF)))
    return value in _ON


def _problem(message: str, fix: str) -> PluginProblem:
    return PluginProblem("", "", "environment", message, fix)


def _nearest_plugin(name: str, installed: Sequence[str]) -> str:
    """Return what is meant: a plugin, perhaps by what it offers (nets of kpframe-nets), or several."""
    several = re.split(r"[\s;:]+", name)
    if len(several) > 1 and all(normalized(other) in installed for other in several):
        return ",".join(several)  # names are separated by commas
    ending = [other for other in installed if other.endswith(f"-{normalized(name)}")]
    return ending[0] if len(ending) == 1 else nearest(normalized(name), installed)


def _assignment(variable: str, names: Sequence[str]) -> str:
    return f"{variable}={shlex.quote(','.join(names))}" if names else f"unset {variable}"


def _listed(name: str, names: Iterable[str]) -> bool:
    return any(same_distribution(name, other) for other in names)
