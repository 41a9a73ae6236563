"""What to say, and what to do, when something is wrong with a plugin or a name."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from kpframe.errors import closest
from kpframe.plugin.discovery import INSTALL_HINT, MetadataError
from kpframe.plugin.specs import ApiError, PluginInfo, PluginProblem


def explain(
    info: PluginInfo,
    stage: str,
    message: str,
    disabled: Sequence[str],
    *,
    first: str = "",
    cause: BaseException | None = None,
) -> PluginProblem:
    """Return the problem of a plugin with the commands that mend it.

    Args:
        info: the plugin.
        stage: where it went wrong: ``import``, ``hooks``, ``api``, ``clash`` ...
        message: what went wrong.
        disabled: the distributions that are disabled already, which stay so.
        first: a remedy to name before the general ones.
        cause: the error, if there was one.
    """
    remedies = [first] if first else []
    if isinstance(cause, MetadataError):
        stage = "metadata"
        delete = f"delete {shlex.quote(cause.folder)}, then " if cause.folder else ""
        remedies.append(f"{delete}pip install --force-reinstall {info.source or info.distribution}")
    elif isinstance(cause, ApiError):
        stage = "api"
        remedies.append(
            f"pip install --upgrade {'kpframe' if cause.newer else info.source or info.distribution}"
        )
    elif stage != "twice":
        remedies.append(f"pip install --upgrade {info.source or info.distribution}")
    if not (isinstance(cause, MetadataError) and cause.folder):  # pip cannot remove what it cannot read
        remedies.append(f"pip uninstall {info.distribution}")
    remedies.append(f"KPFRAME_DISABLE_PLUGINS={','.join([*disabled, info.distribution])}")
    return PluginProblem(info.distribution, info.version, stage, message, ", or ".join(remedies))


def installed_twice(info: PluginInfo, versions: dict[str, str]) -> tuple[str, str]:
    """Return what to say and to do about a distribution that is installed in several versions."""
    places = " and ".join(f"{version} in {folder}" for version, folder in versions.items())
    message = f"it is installed {len(versions)} times ({places}); python finds {info.version} first"
    again = " && ".join([f"pip uninstall -y {info.distribution}"] * len(versions))
    return message, f"{again} && pip install {info.source or info.distribution}"


def explain_unknown(
    what: str, name: str, offers: Iterable[tuple[PluginInfo, str]], plugins: Iterable[PluginInfo]
) -> str:
    """Return the sentence for a name that nothing has.

    Args:
        what: the kind that was asked for.
        name: the name, with its distribution if one was given.
        offers: the names there are, with the plugins that offer them.
        plugins: all plugins; those that are not loaded might have the name.
    """
    known = sorted({f"{info.distribution}:{bare}" if ":" in name else bare for info, bare in offers})
    out = [f"{info.distribution} ({info.status})" for info in plugins if info.status != "loaded"]
    left_out = f"; without {', '.join(out)}" if out else ""
    if known:
        return f"no {what} {name!r} (there are {', '.join(known)}){closest(name, known)}{left_out}"
    return f"no {what} {name!r}: no loaded plugin offers any{left_out}; to get some, {INSTALL_HINT}"
