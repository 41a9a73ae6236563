"""Write the page on settings from what is declared: ``python docs/tables/settings.py``."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from kpframe.plugin import KINDS, get_manager
from kpframe.plugin._settings import SettingInfo, describe
from kpframe.plugin._specs import plural
from kpframe.study._running.training import TrainingSettings
from kpframe.study._settings import MeasureSettings

PAGE = Path(__file__).parents[1] / "settings.md"
BUNDLED = {"kpframe", *(path.name for path in (Path(__file__).parents[2] / "plugins").glob("kpframe-*"))}
HEAD = """# Settings

What models, rules, tasks, reducers, forms of P and K and quantities take, as they declare it: the
constructor, `kpframe show` and the study file read the same declaration. This page is made by
`docs/tables/settings.py`.
"""


def page() -> str:
    """Return the page, a table for each thing that has settings, by kind."""
    lines = [HEAD, *(line for kind in KINDS for line in section(kind)), *study()]
    return "\n".join(lines).rstrip() + "\n"


def study() -> Iterator[str]:
    """Yield the lines on the tables of a study file that are the study's own."""
    yield "## Study files\n"
    yield (
        "The tables of a study file that belong to no plugin; `kpframe run --template` shows the whole. "
        "There `steps` of `[measure]` may also be `{ every = 10 }`, `{ log = 12 }` or `{ count = 60 }`, and "
        "`rules` of `[training]` names learning rules to train by, which sets `gradient`.\n"
    )
    for name, cls in (("training", TrainingSettings), ("measure", MeasureSettings)):
        yield f"### `[{name}]`\n"
        yield from table(describe(cls))


def table(infos: Iterable[SettingInfo]) -> Iterator[str]:
    """Yield a table of settings."""
    yield "| setting | type | default | bounds | meaning |"
    yield "|---|---|---|---|---|"
    yield from map(row, infos)
    yield ""


def section(kind: str) -> Iterator[str]:
    """Yield the lines on one kind, in the order of names; those without settings in one line at the end."""
    manager = get_manager()
    specs = [spec for spec in manager.specs(kind) if manager.plugin_of(spec).distribution in BUNDLED]
    yield f"## {plural(kind).replace('_', ' ').capitalize()}\n"
    bare = []
    for spec in sorted(specs, key=lambda spec: spec.name):
        infos = describe(spec.settings)
        if not infos:
            bare.append(f"`{spec.name}` ({plain(spec.summary)})")
            continue
        yield f"### `{spec.name}`\n"
        yield f"{plain(spec.summary)}, from `{manager.plugin_of(spec).distribution}`.\n"
        yield from table(infos)
    if bare:
        yield f"Without settings: {', '.join(bare)}.\n"


def plain(text: str) -> str:
    """Return text with names and formulas set as code, which Markdown would take for emphasis."""
    return re.sub(r"[^\s,;:()]*[_^*][^\s,;:()]*", r"`\g<0>`", text)


def row(info: SettingInfo) -> str:
    """Return a line of a table; choices stand in place of bounds."""
    default = "required" if info.required else f"`{info.default!r}`"
    bounds = ", ".join(f"`{choice!r}`" for choice in info.choices) or (
        f"`{info.bounds}`" if info.bounds else ""
    )
    cells = [f"`{info.name}`", f"`{info.type}`", default, bounds, plain(info.help)]
    return f"| {' | '.join(map(in_a_table, cells))} |"


def in_a_table(cell: str) -> str:
    """Return a cell in which no ``|`` ends it; code shows a backslash in front of one as it is."""
    return re.sub(r"`([^`]*\|[^`]*)`", lambda code: f"<code>{escape(code[1])}</code>", cell).replace(
        "|", "&#124;"
    )


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
