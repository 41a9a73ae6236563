"""``Block``: one table of settings in a study, and what is wrong with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from attrs import frozen

from kpframe.errors import KpframeError, UnknownNameError, told
from kpframe.plugin import PluginManager, Spec
from kpframe.plugin._discovery import normalized
from kpframe.plugin._loading import settings_of
from kpframe.plugin._settings import build_settings, describe

#: What the tables of a study name, as plugins offer it.
KINDS = {"network": "model", "rule": "rule", "task": "task", "quantity": "quantity"}

#: Numbers of inputs that settings of a model are tried with; some models take multiples of something alone.
INPUTS = (1, 5040)


@frozen
class Block:
    """A table of settings.

    Attributes:
        path: of the table, ``network[1]``.
        part: ``"network"``, ``"rule"``, ``"task"``, ``"quantity"``, ``"training"`` or ``"measure"``.
        settings: as they are given.
        takes: what takes them, a spec or a settings class; None where that is not known.
        name: of the spec.
        label: of the network or rule.
    """

    path: str
    part: str
    settings: Mapping[str, Any]
    takes: Spec | type | None
    name: str = ""
    label: str | None = None

    @property
    def what(self) -> str:
        """What has the settings, in words."""
        return f"{KINDS[self.part]} {self.name!r}" if self.part in KINDS else f"[{self.part}]"

    @property
    def names(self) -> list[str] | None:
        """The names of its settings; None where any name may be one."""
        cls = self.takes.settings if isinstance(self.takes, Spec) else self.takes
        if self.takes is None or hasattr(cls, "gather"):
            return None
        return [info.name for info in describe(cls)]

    def problems(self, changes: Mapping[str, Any] | None = None, owner: str = "") -> list[str]:
        """Return what is wrong with the settings, a line each.

        Args:
            changes: other values than those given.
            owner: what the lines begin with; the path of the table when left out.
        """
        if self.takes is None:
            return []
        values, owner = {**self.settings, **(changes or {})}, owner or self.path
        if self.part != "network" or "input_size" not in (self.names or ()) or "input_size" in values:
            return self._told(values, owner)
        of_inputs = (f"{owner}.input_size: ", f"{owner}: input_size: ")
        found: list[str] = []
        for size in INPUTS:  # the task's, whatever that will be
            found = self._told({"input_size": size, **values}, owner)
            if not any(line.startswith(of_inputs) for line in found):
                break
        return [line for line in found if not line.startswith(of_inputs)]

    def _told(self, values: Mapping[str, Any], owner: str) -> list[str]:
        words = {"owner": owner, "joint": ".", "of": f"the settings of {self.what}"}
        try:
            if isinstance(self.takes, Spec):
                settings_of(self.takes, values, **words)
            elif self.takes is not None:
                build_settings(self.takes, values, **words)
        except KpframeError as error:
            return str(error).splitlines()
        except Exception as error:  # of the settings class itself
            return [f"{owner}: {told(error)}"]
        return []


class Offered:
    """What plugins offer of what a study names.

    Args:
        manager: of the plugins.
        needed: the distributions that the study says it needs.
    """

    def __init__(self, manager: PluginManager, needed: Sequence[str]) -> None:
        self._manager, self._needed = manager, needed

    def find(self, kind: str, name: str) -> Spec:
        """Return what has a name.

        Raises:
            UnknownNameError: for no such name; it says what to install where the study does.
        """
        try:
            return self._manager.find(kind, name)
        except UnknownNameError as error:
            installed = {normalized(info.distribution) for info in self._manager.plugins}
            missing = [one for one in self._needed if normalized(one) not in installed]
            if not missing:  # they are disabled or broken, which the error says
                raise
            raise UnknownNameError(
                f"no {kind} {name!r}: this study needs {', '.join(missing)}, not installed here: "
                f"pip install {' '.join(missing)}"
            ) from error


def lines_of(error: KpframeError, path: str) -> list[str]:
    """Return the lines of an error, each after a path."""
    return [f"{path}: {line}" for line in str(error).splitlines()]
