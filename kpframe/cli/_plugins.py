"""``kpframe plugins`` and ``kpframe show``: what is installed, and what it takes."""

from __future__ import annotations

import json
import warnings
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import click
from attrs import asdict

from kpframe.cli._terminal import kept_for_json
from kpframe.errors import UnknownNameError, nearest
from kpframe.plugin import (
    KINDS,
    PluginInfo,
    PluginProblem,
    PluginWarning,
    Spec,
    get_manager,
)
from kpframe.plugin._core import core
from kpframe.plugin._discovery import normalized
from kpframe.plugin._loading import INSTALL_HINT
from kpframe.plugin._settings import SettingInfo, describe
from kpframe.plugin._specs import FormSpec

if TYPE_CHECKING:
    from kpframe.cli._tables import PlainTable


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-load", is_flag=True, help="List what is installed without importing it.")
def plugins(as_json: bool, no_load: bool) -> None:
    """List the installed plugins, what they offer, and what is wrong with them."""
    manager = get_manager()
    if no_load:
        infos, problems = manager.installed(), []
    else:
        with kept_for_json() if as_json else nullcontext(), warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)  # the problems are printed below
            infos, problems = manager.plugins, manager.problems
    if as_json:
        click.echo(json.dumps(_document(infos, problems), indent=2))
        return
    if infos:
        from kpframe.cli._tables import new_console, new_table

        rows = new_table(
            "distribution", "version", "status", "offers", "summary", prose=("offers", "summary")
        )
        for info in (core(), *infos):
            offers = ", ".join(f"{spec.kind}:{spec.name}" for spec in info.specs)
            rows.add_row(info.distribution, info.version, info.status, offers, info.summary)
        new_console().print(rows)
    else:
        click.echo(f"No plugin is installed. To get some: {INSTALL_HINT}.")
    for problem in problems:
        click.echo(f"Warning: {problem}", err=True)


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what NAME is, its settings, and for what a propagator or parameter operator is fit.

    NAME is a model, rule, task ...; write kind:name (rule:bptt) or distribution:name to choose among
    things of one name.
    """
    from kpframe.cli._tables import new_console

    manager = get_manager()
    spec = manager.find(*_kind_and_name(name))
    plugin = manager.plugin_of(spec)
    out = new_console()
    facts = {
        "name": spec.name,
        "kind": spec.kind,
        "distribution": f"{plugin.distribution} {plugin.version}",
        "summary": spec.summary,
        "factory": spec.factory,
    }
    if isinstance(spec, FormSpec):
        facts["fits"] = spec.fits
    for label, text in facts.items():
        out.print(f"{label + ':':<14} {text or '-'}")
    out.print()
    out.print(_settings_table(spec))


def _kind_and_name(name: str) -> tuple[str | None, str]:
    """Return the kind (None where none is said) and the rest of ``kind:name``."""
    head, colon, rest = name.partition(":")
    head = head.replace("-", "_")
    if colon and head in KINDS:
        return head, rest
    known = {normalized(info.distribution) for info in (core(), *get_manager().plugins)}
    if colon and normalized(head) not in known and (meant := nearest(head, KINDS)):
        raise UnknownNameError(
            f"no kind or distribution {head!r}; did you mean '{meant}:{rest}'? (kinds are {', '.join(KINDS)})"
        )
    return None, name


def _settings_table(spec: Spec) -> PlainTable | str:
    from kpframe.cli._tables import new_table

    infos = describe(spec.settings)
    if not infos:
        return "It has no settings."
    rows = new_table(
        *("setting", "type", "default", "bounds", "choices", "meaning"), prose=("choices", "meaning")
    )
    for info in infos:
        choices = ", ".join(map(str, info.choices))
        rows.add_row(info.name, info.type, _default(info), info.bounds, choices, info.help)
    return rows


def _default(info: SettingInfo) -> str:
    return "required" if info.required else repr(info.default)


def _offers(info: PluginInfo) -> dict[str, list[str]]:
    offers: dict[str, list[str]] = {}
    for spec in info.specs:
        offers.setdefault(spec.kind, []).append(spec.name)
    return offers


def _document(infos: list[PluginInfo], problems: list[PluginProblem]) -> dict[str, Any]:
    return {
        "plugins": [
            {
                "distribution": info.distribution,
                "version": info.version,
                "entry_point": info.entry_point,
                "status": info.status,
                "summary": info.summary,
                "offers": _offers(info),
            }
            for info in infos
        ],
        "problems": [asdict(problem) for problem in problems],
    }
