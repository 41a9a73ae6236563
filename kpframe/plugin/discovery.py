"""Find the installed plugins by their metadata: imports none of them, and survives what cannot be read."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import frozen

from kpframe.errors import PluginError
from kpframe.plugin.specs import PluginInfo

GROUP = "kpframe"
INSTALL_HINT = f"pip install a distribution with the entry-point group {GROUP!r}"
UNKNOWN_VERSION = "(unknown version)"


class MetadataError(PluginError):
    """What pip wrote about a plugin cannot be read, or names a module that is not there.

    ``folder`` is what has to go before pip can install the plugin again; an empty string for nothing.
    """

    def __init__(self, message: str, folder: str = "") -> None:
        super().__init__(message)
        self.folder = folder


@frozen(eq=False)
class UnreadableEntryPoint:
    """Stands for the entry points of a distribution that cannot be read: it may be a plugin or not."""

    dist: metadata.Distribution
    error: Exception
    value: str = ""

    @property
    def name(self) -> str:
        """The distribution's name, as far as it is known."""
        return name_of(self.dist)

    def load(self) -> object:
        """Raise MetadataError."""
        raise MetadataError(f"its entry points cannot be read: {_say(self.error)}", _folder(self.dist))


EntryPoint = metadata.EntryPoint | UnreadableEntryPoint


def installed_entry_points() -> Iterable[EntryPoint]:
    """Return the entry points of every installed plugin; of a name found twice, the first on the path."""
    try:
        return list(metadata.entry_points(group=GROUP))
    except Exception:  # one unreadable distribution hides all others: ask one by one
        return list(_one_by_one())


def _one_by_one() -> Iterator[EntryPoint]:
    seen: set[str] = set()
    for dist in metadata.distributions():
        name = normalized(name_of(dist))
        if name in seen:
            continue
        seen.add(name)
        try:
            found = list(dist.entry_points.select(group=GROUP))
        except Exception as error:
            yield UnreadableEntryPoint(dist, error)
        else:
            yield from found


def read_metadata(entry_point: EntryPoint) -> tuple[PluginInfo, Callable[[], object]]:
    """Return what the metadata says of a plugin that is not imported, and what imports it.

    Where the metadata cannot be read the info is ``broken`` and the import raises MetadataError.
    """
    dist = entry_point.dist
    if isinstance(entry_point, UnreadableEntryPoint):
        return PluginInfo(entry_point.name, UNKNOWN_VERSION, "", status="broken"), entry_point.load
    if dist is None:
        return PluginInfo(entry_point.name, UNKNOWN_VERSION, entry_point.value), entry_point.load
    try:
        about: Any = dist.metadata
        name, version = _field(about, "Name"), _field(about, "Version")
        summary = str(about["Summary"]) if "Summary" in about else ""
    except Exception as error:
        refused = MetadataError(f"its metadata cannot be read: {_say(error)}", _folder(dist))

        def refuse() -> object:
            raise refused

        info = PluginInfo(entry_point.name, UNKNOWN_VERSION, entry_point.value, status="broken")
        return info, refuse
    info = PluginInfo(name, version, entry_point.value, summary=summary, source=_source(dist))
    return info, lambda: _load(entry_point)


def other_versions(info: PluginInfo) -> dict[str, str]:
    """Return version -> folder of every installation of a plugin, when they are of several versions."""
    found: dict[str, str] = {}
    for dist in metadata.distributions(name=info.distribution):
        try:
            version = str(dist.metadata["Version"] or UNKNOWN_VERSION)
        except Exception:
            version = UNKNOWN_VERSION
        found.setdefault(version, str(dist.locate_file("")))
    return found if len(found) > 1 else {}


def normalized(name: str) -> str:
    """Return a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def name_of(dist: metadata.Distribution) -> str:
    """Return a distribution's name, by its folder where its metadata cannot be read."""
    try:
        return _field(dist.metadata, "Name")
    except Exception:
        stem = Path(_folder(dist)).stem
        return stem.partition("-")[0].replace("_", "-") or "(unknown distribution)"


def _field(about: Any, key: str) -> str:
    if about is None or key not in about:
        raise ValueError(f"it has no {key}")
    return str(about[key])


def _load(entry_point: metadata.EntryPoint) -> object:
    if not re.fullmatch(r"[\w.]+\s*(:\s*[\w.]+\s*)?", entry_point.value):
        raise MetadataError(f"its entry point {entry_point.value!r} names no module")
    try:
        return entry_point.load()
    except ModuleNotFoundError as error:
        module = entry_point.value.partition(":")[0].strip()
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MetadataError(
            f"its entry point names the module {module!r}, and there is no module {error.name!r}: "
            "it was removed, moved or installed in part"
        ) from error


def _source(dist: metadata.Distribution) -> str:
    """Return what pip was given in place of a name: ``-e FOLDER``, a wheel, a URL, or an empty string."""
    try:
        about = json.loads(dist.read_text("direct_url.json") or "{}")
        url = urlsplit(about.get("url", ""))
        if url.scheme != "file":
            vcs = about.get("vcs_info", {}).get("vcs", "")
            return shlex.quote(f"{vcs}+{about['url']}" if vcs else about["url"]) if url.scheme else ""
        editable = "-e " if about.get("dir_info", {}).get("editable") else ""
        return editable + shlex.quote(unquote(url.path))
    except Exception:  # no such file, or not of the form that pip writes
        return ""


def _folder(dist: metadata.Distribution) -> str:
    return str(getattr(dist, "_path", ""))  # the standard library has no public way to ask


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"
