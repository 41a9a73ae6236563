"""Write the page on settings from what is declared: ``python docs/tables/settings.py``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from kpframe.plugin import KINDS, get_manager
from kpframe.plugin._settings import SettingInfo, describe

PAGE = Path(__file__).parents[1] / "settings.md"
BUNDLED = {"kpframe", *(path.name for path in (Path(__file__).parents[2] / "plugins").glob("kpframe-*"))}
HEAD = """# Settings

What models, rules, tasks, reducers and forms of P and K take, as they declare it: the constructor,
`kpframe show` and the study file read the same declaration. This page is made by `docs/tables/settings.py`.
"""


def page() -> str:
    """Return the page, a table for each thing that has settings, by kind."""
    return "\n".join([HEAD, *(line for kind in KINDS for line in section(kind))]).rstrip() + "\n"


def section(kind: str) -> Iterator[str]:
    """Yield the lines on one kind, in the order of names; those without settings in one line at the end."""
    manager = get_manager()
    specs = [spec for spec in manager.specs(kind) if manager.plugin_of(spec).distribution in BUNDLED]
    yield f"## {kind.replace('_', ' ').capitalize()}s\n"
    bare = []
    for spec in sorted(specs, key=lambda spec: spec.name):
        infos = describe(spec.settings)
        if not infos:
            bare.append(f"`{spec.name}` ({plain(spec.summary)})")
            continue
        yield f"### `{spec.name}`\n"
        yield f"{plain(spec.summary)}, from `{manager.plugin_of(spec).distribution}`.\n"
        yield "| setting | type | default | bounds | meaning |"
        yield "|---|---|---|---|---|"
        yield from map(row, infos)
        yield ""
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
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
