"""``kpframe plugins`` and ``kpframe show``: what is installed, and what it takes."""

from __future__ import annotations

import json
import sys
import warnings
from typing import TYPE_CHECKING, Any

import click
from attrs import asdict

from kpframe.errors import UnknownNameError, closest
from kpframe.plugin import KINDS, PluginInfo, PluginProblem, PluginWarning, Spec, get_manager
from kpframe.plugin.loading import INSTALL_HINT
from kpframe.settings import SettingInfo, describe

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--no-load", is_flag=True, help="List what is installed without importing it.")
def plugins(as_json: bool, no_load: bool) -> None:
    """List the installed plugins, what they offer, and what is wrong with them."""
    manager = get_manager()
    if no_load:
        infos, problems = manager.installed(), []
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", PluginWarning)  # the problems are printed below
            infos, problems = manager.plugins, manager.problems
    if as_json:
        click.echo(json.dumps(_document(infos, problems), indent=2))
        return
    if infos:
        table = _table("distribution", "version", "status", "offers", "summary")
        for info in infos:
            offers = [f"{kind}: {', '.join(names)}" for kind, names in _offers(info).items()]
            table.add_row(info.distribution, info.version, info.status, "; ".join(offers), info.summary)
        _console().print(table)
    else:
        click.echo(f"No plugin is installed. To get some: {INSTALL_HINT}.")
    for problem in problems:
        click.echo(f"Warning: {problem}", err=True)


@click.command()
@click.argument("name")
def show(name: str) -> None:
    """Show what NAME is and its settings.

    NAME is a model, rule, task ...; write distribution:name or kind/name to choose among
    things of one name.
    """
    manager = get_manager()
    kind, _, bare = name.rpartition("/")
    if kind and kind not in KINDS:
        raise UnknownNameError(f"no kind {kind!r} (there are {', '.join(KINDS)}){closest(kind, KINDS)}")
    spec = manager.find(kind or None, bare)
    plugin = manager.plugin_of(spec)
    console = _console()
    facts = {
        "name": spec.name,
        "kind": spec.kind,
        "distribution": f"{plugin.distribution} {plugin.version}",
        "summary": spec.summary,
        "factory": spec.factory,
        "capabilities": ", ".join(sorted(spec.capabilities)),
    }
    for label, text in facts.items():
        console.print(f"{label + ':':<14} {text or '-'}")
    console.print()
    console.print(_settings_table(spec))


def _settings_table(spec: Spec) -> Table | str:
    infos = describe(spec.settings)
    if not infos:
        return "It has no settings."
    table = _table("setting", "type", "default", "bounds", "choices", "meaning")
    for info in infos:
        choices = ", ".join(map(str, info.choices))
        table.add_row(info.name, info.type, _default(info), info.bounds, choices, info.help)
    return table


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


def _console() -> Console:
    """Return a console that takes text as it is (``[mV]`` is no markup) and cuts nothing in a pipe."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 1000
    return Console(width=width, markup=False, highlight=False, emoji=False)


def _table(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table
