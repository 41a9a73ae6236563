"""Find the installed plugins by their metadata: imports none of them, and survives what cannot be read."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import lru_cache
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote, urlsplit

from attrs import field, frozen

from kpframe.errors import PluginError, one_line
from kpframe.plugin._specs import PluginInfo

GROUP = "kpframe"
INSTALL_HINT = f"pip install a distribution with the entry-point group {GROUP!r}"
UNKNOWN_VERSION = "(unknown version)"

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_VERSION = re.compile(r"[A-Za-z0-9.!+_-]+")
_VALUE = re.compile(r"(?P<module>[\w.]+)\s*(:\s*[\w.]+\s*)?(\[.*\]\s*)?")
#: ``kpf_good-1.0.dist-info``, ``kpf-good.egg-info``, ``kpf_good-1.0-py3.11.egg-info``
_FOLDER = re.compile(r"(?P<name>.+?)(-\d[^-]*)?(-py[\d.]+)?\.[a-z-]+")


class MetadataError(PluginError):
    """What pip wrote about a plugin cannot be read, or names a module that is not there.

    ``folder`` is what has to go before pip can install the plugin again; an empty string for nothing.
    """

    def __init__(self, message: str, folder: str = "") -> None:
        super().__init__(message)
        self.folder = folder


@frozen(eq=False)
class BrokenEntryPoint:
    """Stands for the entry points of a distribution that cannot be used, and says why."""

    dist: metadata.Distribution
    reason: str
    value: str = ""

    @property
    def name(self) -> str:
        """The distribution's name, as far as it is known."""
        return name_of(self.dist)

    def load(self) -> object:
        """Raise MetadataError."""
        raise MetadataError(self.reason, folder_of(self.dist))


EntryPoint = metadata.EntryPoint | BrokenEntryPoint


@frozen(eq=False)
class Copy:
    """One place where metadata of a distribution was found; there may be several, not all of them whole."""

    dist: metadata.Distribution
    folder: str
    entry_points: tuple[metadata.EntryPoint, ...] = field(init=False)
    error: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        found: tuple[metadata.EntryPoint, ...] = ()
        error = ""
        try:
            found = tuple(self.dist.entry_points.select(group=GROUP))
        except Exception as raised:
            error = _say(raised)
        object.__setattr__(self, "entry_points", found)
        object.__setattr__(self, "error", error)

    @property
    def version(self) -> str:
        """Its version, ``(unknown version)`` where the metadata cannot be read."""
        try:
            return _identity(self.dist)[1]
        except Exception:
            return UNKNOWN_VERSION

    @property
    def removable(self) -> bool:
        """Whether pip can uninstall it: it cannot where it finds no name or no list of files."""
        if self.version == UNKNOWN_VERSION:
            return False
        return not self.folder.endswith(".dist-info") or has_record(self.dist)

    @property
    def site(self) -> str:
        """The folder on the path that it lies in."""
        try:
            return str(self.dist.locate_file(""))
        except Exception:  # from a finder that is not the standard library's
            return ""

    def rank(self) -> tuple[bool, bool, bool]:
        """Return what makes another copy the better one; of equals the first on the path counts."""
        missing = all(_is_missing(point) for point in self.entry_points)
        return not self.entry_points, self.version == UNKNOWN_VERSION, missing

    def remains(self, chosen: Copy) -> list[str]:
        """Return what has to be deleted by hand: its metadata, and its modules where they are its own."""
        found = [self.folder]
        if self.site != chosen.site:  # in one folder the modules are those of the other copy
            tops = {_top(point) for point in (*self.entry_points, *chosen.entry_points)}
            places = [Path(self.site) / end for top in sorted(tops) for end in (top, f"{top}.py")]
            found += [str(place) for place in places if place.exists()]
        return found


def find_copies() -> dict[str, list[Copy]]:
    """Return the plugins' normalized names with every place where one was found, the one that counts first.

    What pip left when it was interrupted (folders that begin with ``~``) is under ``~`` and the name.
    """
    found: dict[str, list[Copy]] = {}
    seen: set[str] = set()
    for dist in _distributions():
        folder = folder_of(dist)
        if folder and folder in seen:  # a folder that stands on the path twice
            continue
        seen.add(folder)
        copy = Copy(dist, folder)
        interrupted = Path(folder).name.startswith("~")
        name = name_of(dist) if interrupted else _folder_name(dist) or name_of(dist)
        name = "~" * interrupted + normalized(name)
        found.setdefault(name, []).append(copy)
    plugins = {
        name: copies
        for name, copies in found.items()
        if any(copy.entry_points or copy.error for copy in copies)
    }
    for copies in plugins.values():
        if len(copies) > 1:
            copies.sort(key=_newest_of_its_site(copies))
            copies.sort(key=Copy.rank)
    return plugins


def installed_entry_points() -> Iterable[EntryPoint]:
    """Return the entry points of every installed plugin; of one that is found twice, those of one copy."""
    copies = find_copies()
    found: list[EntryPoint] = []
    for name, several in copies.items():
        first = several[0]
        if name.startswith("~"):
            if first.entry_points and name.removeprefix("~") not in copies:
                left = Path(first.folder).name
                reason = f"pip was interrupted while it removed or replaced it, and left {left!r}"
                found.append(BrokenEntryPoint(first.dist, reason))
        elif first.entry_points:
            found += first.entry_points
        else:  # it may be a plugin or not
            broken = next(copy for copy in several if copy.error)
            found.append(BrokenEntryPoint(broken.dist, f"its entry points cannot be read: {broken.error}"))
    return found


def read_metadata(entry_point: EntryPoint) -> tuple[PluginInfo, Callable[[], object]]:
    """Return what the metadata says of a plugin that is not imported, and what imports it.

    Where the metadata cannot be read the info is ``broken`` and the import raises MetadataError.
    """
    dist = entry_point.dist
    if isinstance(entry_point, BrokenEntryPoint):
        return PluginInfo(entry_point.name, UNKNOWN_VERSION, "", status="broken"), entry_point.load
    if dist is None:
        return PluginInfo(entry_point.name, UNKNOWN_VERSION, entry_point.value), entry_point.load
    try:
        name, version = _identity(dist)
        about: Any = dist.metadata
        summary = str(about["Summary"]) if "Summary" in about else ""
    except Exception as error:
        refused = MetadataError(f"its metadata cannot be read: {_say(error)}", folder_of(dist))

        def refuse() -> object:
            raise refused

        info = PluginInfo(name_of(dist), UNKNOWN_VERSION, entry_point.value, status="broken")
        return info, refuse
    info = PluginInfo(name, version, entry_point.value, summary=summary, source=_source(dist))
    return info, lambda: _load(entry_point)


@lru_cache(maxsize=10_000)
def normalized(name: str) -> str:
    """Return a distribution's name as pip compares it."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def name_of(dist: metadata.Distribution) -> str:
    """Return a distribution's name, by its folder where its metadata cannot be read."""
    try:
        return _identity(dist)[0]
    except Exception:
        return _folder_name(dist).replace("_", "-") or "(unknown distribution)"


def folder_of(dist: metadata.Distribution) -> str:
    """Return the folder or file of a distribution's metadata; an empty string where it has none."""
    return str(getattr(dist, "_path", ""))  # the standard library has no public way to ask


def has_record(dist: metadata.Distribution) -> bool:
    """Whether there is the list of files that pip needs to remove a distribution."""
    try:
        return dist.read_text("RECORD") is not None
    except Exception:
        return False


def _distributions() -> list[metadata.Distribution]:
    """Return all installed distributions; those of other finders also where one finder fails."""
    try:
        return list(metadata.distributions())
    except Exception:
        found: list[metadata.Distribution] = []
        for finder in sys.meta_path:
            with suppress(Exception):
                found += finder.find_distributions(metadata.DistributionFinder.Context())  # type: ignore[attr-defined]
        return found


def _folder_name(dist: metadata.Distribution) -> str:
    match = _FOLDER.fullmatch(Path(folder_of(dist)).name)
    return match["name"] if match else ""


def _newest_of_its_site(copies: list[Copy]) -> Callable[[Copy], tuple[int, float]]:
    """Return the order of the path, and within one folder of what was written last: its modules are there."""
    sites = list(dict.fromkeys(copy.site for copy in copies))

    def order(copy: Copy) -> tuple[int, float]:
        try:
            written = Path(copy.folder).stat().st_mtime
        except OSError:
            written = 0.0
        return sites.index(copy.site), -written

    return order


def _identity(dist: metadata.Distribution) -> tuple[str, str]:
    """Return name and version; raises ValueError where one is missing or none."""
    about: Any = dist.metadata
    found = []
    for key, pattern in (("Name", _NAME), ("Version", _VERSION)):
        if about is None or key not in about:
            raise ValueError(f"it has no {key}")
        text = str(about[key])
        if not pattern.fullmatch(text):
            raise ValueError(f"its {key} is {text!r:.80}")
        found.append(text)
    return found[0], found[1]


def _top(entry_point: metadata.EntryPoint) -> str:
    return entry_point.value.partition(":")[0].strip().partition(".")[0]


def _is_missing(entry_point: metadata.EntryPoint) -> bool:
    try:
        return find_spec(_top(entry_point)) is None
    except Exception:
        return True


def _load(entry_point: metadata.EntryPoint) -> object:
    match = _VALUE.fullmatch(entry_point.value)
    if not match:
        raise MetadataError(f"its entry point {entry_point.value!r} names no module")
    module, dist = match["module"], entry_point.dist
    # pip cannot remove, and so not replace, what has no list of files
    folder = "" if dist is None or has_record(dist) else folder_of(dist)
    try:
        plugin = entry_point.load()
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise MetadataError(
            f"its entry point names the module {module!r}, and there is no module {error.name!r}: "
            "it was removed, moved or installed in part",
            folder,
        ) from error
    spec = getattr(plugin, "__spec__", None)
    if isinstance(plugin, ModuleType) and spec is not None and spec.origin is None:
        raise MetadataError(
            f"its entry point names the module {module!r}, of which only a folder without code is left",
            folder,
        )
    return plugin


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


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 200)}"
