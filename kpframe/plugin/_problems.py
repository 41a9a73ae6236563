"""What to say, and what to do, when something is wrong with a plugin or a name."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from importlib.util import find_spec

from kpframe.plugin._discovery import INSTALL_HINT, UNKNOWN_VERSION, Copy, MetadataError
from kpframe.plugin._specs import ApiError, PluginInfo, PluginProblem, Spec

#: Names that are written out; of more, the nearest are.
MOST = 8
NEAREST = 3

#: Modules whose distribution has another name.
DISTRIBUTIONS = {
    "PIL": "pillow",
    "cv2": "opencv-python",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def explain(
    info: PluginInfo,
    stage: str,
    message: str,
    disabled: Sequence[str],
    *,
    first: str = "",
    cause: BaseException | None = None,
    own: str = "",
) -> PluginProblem:
    """Return the problem of a plugin with the commands that mend it.

    Args:
        info: the plugin.
        stage: where it went wrong: ``import``, ``hooks``, ``api``, ``clash`` ...
        message: what went wrong.
        disabled: the distributions that are disabled already, which stay so.
        first: a remedy to name before the general ones.
        cause: the error, if there was one.
        own: a module that the plugin names, and so brings itself; besides that of its entry point.
    """
    if isinstance(cause, MetadataError):
        stage = "metadata"
    elif isinstance(cause, ApiError):
        stage = "api"
    remedies = [first] if first else _by_cause(info, cause, own)
    if info.distribution == "kpframe":  # the core, which nothing can leave out
        return PluginProblem(
            info.distribution, info.version, stage, message, "pip install --force-reinstall kpframe"
        )
    if not info.entry_point and stage != "metadata":  # registered by hand: nothing for pip to mend
        fix = ", or ".join(remedies or ["mend the object that was registered"])
        return PluginProblem(info.distribution, info.version, stage, message, fix)
    name = shlex.quote(info.distribution)
    may_be_old = stage in ("import", "hooks", "factory") or (isinstance(cause, ApiError) and not cause.newer)
    if may_be_old and not any("--force-reinstall" in command for command in remedies):  # it upgrades, too
        remedies.append(f"pip install --upgrade {info.source or name}")
    # pip cannot remove what it cannot read, and takes along what a distribution shares with another
    if stage not in ("twice", "shared") and not (isinstance(cause, MetadataError) and cause.folder):
        remedies.append(f"pip uninstall {name}")
    remedies.append(disabling(info, disabled))
    return PluginProblem(info.distribution, info.version, stage, message, ", or ".join(remedies))


def named(info: PluginInfo) -> str:
    """Return a plugin with its version, for a sentence."""
    return f"plugin {info.distribution} {info.version}"


def disabling(info: PluginInfo, disabled: Sequence[str]) -> str:
    """Return what to set so that a plugin is not loaded; those that are ``disabled`` stay so."""
    return f"KPFRAME_DISABLE_PLUGINS={shlex.quote(','.join([*disabled, info.distribution]))}"


def _by_cause(info: PluginInfo, cause: BaseException | None, own: str) -> list[str]:
    again = f"pip install --force-reinstall {info.source or shlex.quote(info.distribution)}"
    if isinstance(cause, MetadataError):
        return [f"delete {shlex.quote(cause.folder)}, then {again}" if cause.folder else again]
    if isinstance(cause, ApiError):
        return ["pip install --upgrade kpframe"] if cause.newer else []
    module = _missing_module(cause)
    top = module.partition(".")[0]
    if not module or top in sys.stdlib_module_names:
        return []
    if top in (_top(info.entry_point), _top(own)):
        return [again] if info.entry_point else []
    name = DISTRIBUTIONS.get(top, top)
    return [f"pip install --upgrade {name}" if _is_there(top) else f"pip install {name}"]


def _missing_module(error: BaseException | None) -> str:
    """Return the module for want of which something failed, an empty string where it was something else."""
    while error is not None:
        if isinstance(error, ModuleNotFoundError):
            name = error.name or ""
            return name if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*", name) else ""
        error = error.__cause__
    return ""


def _top(reference: str) -> str:
    return reference.partition(":")[0].partition(".")[0]


def _is_there(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def installed_twice(info: PluginInfo, copies: Sequence[Copy]) -> tuple[str, str] | None:
    """Return what to say and to do about a distribution that is installed in several versions.

    None for the same version twice: an editable installation is seen twice, and so is a folder that stands
    on the path twice.
    """
    if not copies:
        return None
    used, others = copies[0], list[Copy]()
    for copy in copies[1:]:
        if copy.version == UNKNOWN_VERSION or copy.version not in {
            used.version,
            *(o.version for o in others),
        }:
            others.append(copy)
    if not others or used.version == UNKNOWN_VERSION:  # where nothing can be read, that is the problem
        return None
    if any(copy.version != UNKNOWN_VERSION for copy in others):
        places = " and ".join(f"{copy.version} in {copy.site}" for copy in (used, *others))
        message = f"it is installed {1 + len(others)} times ({places}); {used.version} is used"
    else:
        left = " and ".join(copy.folder for copy in others)
        message = (
            f"beside version {used.version} in {used.site} there is {left}, left of another installation"
        )
    by_pip = [copy for copy in (used, *others) if copy.removable]
    by_hand = [copy for copy in (used, *others) if not copy.removable]
    again = any(copy.removable for copy in others)
    if not again:  # what is used can stay as it is
        by_hand = others
    steps = []
    if by_hand:
        remains = [shlex.quote(place) for copy in by_hand for place in copy.remains(used)]
        steps.append(f"delete {' and '.join(remains)}")
    if again:
        uninstall = [f"pip uninstall -y {shlex.quote(info.distribution)}"] * len(by_pip)
        steps.append(
            " && ".join([*uninstall, f"pip install {info.source or shlex.quote(info.distribution)}"])
        )
    return message, ", then ".join(steps)


def shared_module(info: PluginInfo, other: PluginInfo) -> tuple[str, str]:
    """Return what to say and to do about two distributions that install one module."""
    module = info.entry_point.partition(":")[0].strip()
    message = (
        f"{other.distribution} {other.version} installs the module {module!r} too, and is taken for its owner"
    )
    remove = f"pip uninstall -y {shlex.quote(info.distribution)}"  # and with it the module of both
    return message, (
        f"{remove} && pip install --force-reinstall {other.source or shlex.quote(other.distribution)}"
    )


def clash(info: PluginInfo, name: str, others: Sequence[PluginInfo]) -> tuple[str, str]:
    """Return what to say and to do about a name that several distributions offer."""
    first, more = others[0], len(others) - 1
    owners = f"{first.distribution} {first.version}" + (f" and {more} more" if more else "")
    message = f"{owners} {'offer' if more else 'offers'} {name!r} too; the bare name is refused"
    return message, f"write '{info.distribution}:{name}' or '{first.distribution}:{name}'"


def explain_unknown(
    kind: str | None, name: str, offers: Iterable[tuple[PluginInfo, Spec]], plugins: Iterable[PluginInfo]
) -> str:
    """Return the sentence for a name that nothing has; a short one, however many names there are.

    Args:
        kind: that was asked for; None for any, which names are told with, ``rule:bptt``.
        name: the name, with its distribution if one was given.
        offers: what there is, with the plugins that offer it.
        plugins: all plugins; those that are not loaded might have the name.
    """
    what = (kind or "model, rule ...").replace("_", " ")
    known = sorted(
        {f"{info.distribution}:{spec.name}" if ":" in name else spec.name for info, spec in offers}
    )
    full: dict[str, tuple[str, ...]] = {one: (one,) for one in known}
    if kind is None and ":" not in name:
        full = {one: tuple(f"{spec.kind}:{one}" for _, spec in offers if spec.name == one) for one in known}
    plugins = list(plugins)
    out = [f"{info.distribution} ({info.status})" for info in plugins if info.status != "loaded"]
    left_out = f"; without {_some(out, name)}" if out else ""
    asked = f"{name!r:.80}"
    if known:
        if not any(info.status == "loaded" for info in plugins):  # all that there is are the core's own
            left_out += f"; no plugin is loaded: to get some, {INSTALL_HINT}"
        near = [text for one in get_close_matches(name[:80], known, n=NEAREST) for text in full[one]]
        return f"no {what} {asked}{_meant(near)}{_there_are(list(full.values()), near)}{left_out}"
    return f"no {what} {asked}: no loaded plugin offers any{left_out}; to get some, {INSTALL_HINT}"


def explain_ambiguous(name: str, ways: Sequence[str]) -> str:
    """Return the sentence for a name that several things have."""
    return f"{name!r} names {len(ways)} things: write one of {_some(sorted(ways), name)}"


def _meant(near: Sequence[str]) -> str:
    """Return the names that are nearest as a question, the closest first."""
    if not near:
        return ""
    others = f" (or {', '.join(map(repr, near[1:NEAREST]))})" if len(near) > 1 else ""
    return f"; did you mean {near[0]!r}?{others}"


def _there_are(names: Sequence[Sequence[str]], near: Sequence[str]) -> str:
    """Return the names there are; of many how many, and where to see all."""
    every = [text for texts in names for text in texts]
    if len(every) <= MOST:
        rest = [text for text in every if text not in near]
        return (
            f"; there {'is' if len(rest) == 1 else 'are'}{' also' if near else ''} {', '.join(rest)}"
            if rest
            else ""
        )
    return f"; 'kpframe plugins' lists all {len(every)}"


def _some(names: Sequence[str], near: str) -> str:
    """Return the names; of many those nearest to ``near``, and where to see all."""
    if len(names) <= MOST:
        return ", ".join(names)
    shown = get_close_matches(near[:80], names, n=NEAREST, cutoff=0.0)
    return f"{len(names)}, such as {', '.join(shown)}; see 'kpframe plugins'"
