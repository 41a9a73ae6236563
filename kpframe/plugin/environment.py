"""What the environment variables choose among the installed plugins."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from attrs import frozen

from kpframe.plugin.loading import same_distribution
from kpframe.plugin.specs import PluginInfo, Status


@frozen
class Choice:
    """``KPFRAME_DISABLE_PLUGINS``, ``KPFRAME_PLUGINS`` and ``KPFRAME_STRICT_PLUGINS``, read when asked."""

    environ: Mapping[str, str]

    @property
    def disabled(self) -> list[str]:
        """The distributions that are not to be loaded."""
        names = self.environ.get("KPFRAME_DISABLE_PLUGINS", "").split(",")
        return [name.strip() for name in names if name.strip()]

    @property
    def strict(self) -> bool:
        """Whether the first problem is an error."""
        return self.environ.get("KPFRAME_STRICT_PLUGINS", "") not in ("", "0")

    def status(self, info: PluginInfo) -> Status:
        """Return ``"disabled"`` for a plugin that is not to be loaded, else the status it has."""
        allowed = self.environ.get("KPFRAME_PLUGINS", info.distribution).split(",")
        refused = not _listed(info.distribution, allowed) or _listed(info.distribution, self.disabled)
        return "disabled" if refused else info.status


def _listed(name: str, names: Iterable[str]) -> bool:
    return any(same_distribution(name, other) for other in names)
