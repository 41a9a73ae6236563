"""Draw ``architecture.svg``: which room of kpframe imports which, from the imports in the code.

``python docs/images/draw_architecture.py`` writes the picture and the table of imports in the page on the
architecture. A room is a folder of the package, or ``errors``; a door, a module that offers what lies in a
room, stands in the box of the room that it opens. An import that others make necessary gets no arrow.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

import kpframe

SOURCE = Path(kpframe.__file__).parent
PAGE = Path(__file__).parents[1] / "architecture.md"
TABLE = re.compile(
    r"(?<=<!-- made by images/draw_architecture.py -->\n).*?(?=<!-- end of table -->)", re.DOTALL
)
#: What a room or door imports, by name.
Graph = dict[str, set[str]]

WIDTH, ROW, TOP, BOX = 400, 72, 16, 40
INK, LINE, ROOM, DOOR = "#1f2933", "#5b6b7b", "#e3ecf7", "#4b5a69"


def imports(source: Path = SOURCE) -> Graph:
    """Return what each room, and each module beside the rooms, imports of the others.

    Imports inside functions and for type checkers count. The package itself, whose names are those of all
    rooms, does not.
    """
    graph: Graph = {}
    for path in sorted(source.rglob("*.py")):
        name = path.relative_to(source).parts[0].removesuffix(".py")
        if name.startswith("__"):
            continue
        found = graph.setdefault(name, set())
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            modules: list[str] = []
            if isinstance(node, ast.Import):
                modules = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module == "kpframe":
                modules = [f"kpframe.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules = [node.module]
            found |= {module.split(".")[1] for module in modules if module.startswith("kpframe.")}
    return {name: (found - {name}) & set(graph) for name, found in graph.items()}


def doors(graph: Graph, source: Path = SOURCE) -> dict[str, str]:
    """Return which room each door opens: the one highest up of those that it imports."""
    modules = {path.stem for path in source.glob("*.py")} & set(graph)
    above = {name: reached(graph, name) for name in graph}
    found = {}
    for name in sorted(modules):
        inside = graph[name] - modules
        if inside:
            (found[name],) = (room for room in inside if inside <= above[room] | {room})
    return found


def reached(graph: Graph, start: str) -> set[str]:
    """Return all that a room imports, or what it imports does."""
    found: set[str] = set()
    todo = list(graph[start])
    while todo:
        name = todo.pop()
        if name not in found:
            found.add(name)
            todo += graph[name]
    return found


def arrows(graph: Graph) -> Graph:
    """Return the imports that do not follow from others."""
    return {
        name: {one for one in found if not any(one in reached(graph, other) for other in found - {one})}
        for name, found in graph.items()
    }


def rows(graph: Graph) -> list[list[str]]:
    """Return the rooms by row from the top: each right below the lowest that imports it.

    In a row a room stands by where those above stand that import it.

    Raises:
        ValueError: when imports go round.
    """
    left, found = set(graph), []
    place: dict[str, float] = {}
    while left:
        free = sorted(name for name in left if not any(name in graph[other] for other in left))
        if not free:
            raise ValueError(f"imports go round among {', '.join(sorted(left))}")
        centre = {
            name: [place[other] for other in place if name in arrows(graph)[other]] or [0.0] for name in free
        }
        free.sort(key=lambda name: (sum(centre[name]) / len(centre[name]), name))
        place |= {name: (at + 0.5) / len(free) for at, name in enumerate(free)}
        found.append(free)
        left -= set(free)
    return found


def drawing(graph: Graph, opened: dict[str, str]) -> str:
    """Return the picture as SVG."""
    rooms = {name: found - set(opened) for name, found in graph.items() if name not in opened}
    behind = {room: sorted(name for name, other in opened.items() if other == room) for room in rooms}
    layout = rows(rooms)
    centre = {
        name: (WIDTH * (at + 0.5) / len(row), TOP + level * ROW + BOX / 2)
        for level, row in enumerate(layout)
        for at, name in enumerate(row)
    }
    height = 2 * TOP + len(layout) * ROW - (ROW - BOX)
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" '
        f'height="{height}" font-family="monospace" text-anchor="middle" role="img">',
        "<title>The rooms of kpframe, and which imports which</title>",
        f'<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        f'orient="auto"><path d="M0 0 8 4 0 8z" fill="{LINE}"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
    ]
    for name, found in sorted(arrows(rooms).items()):
        x, y = centre[name]
        for other in sorted(found):
            to, below = centre[other]
            end = below - BOX / 2
            start = end - (ROW - BOX)  # straight down past the rows between
            middle = (start + end) / 2
            lines.append(
                f'<path d="M{x:.0f} {y + BOX / 2:.0f}V{start:.0f}'
                f'C{x:.0f} {middle:.0f} {to:.0f} {middle:.0f} {to:.0f} {end:.0f}" '
                f'fill="none" stroke="{LINE}" stroke-width="1.4" marker-end="url(#tip)"/>'
            )
    for name, (x, y) in centre.items():
        text = " ".join(behind[name])
        width = max(92.0, 8.4 * len(name) + 20, 6.1 * len(text) + 16)
        lines.append(
            f'<rect x="{x - width / 2:.0f}" y="{y - BOX / 2:.0f}" width="{width:.0f}" height="{BOX}" rx="6" '
            f'fill="{ROOM}" stroke="{LINE}"/>'
        )
        lines.append(
            f'<text x="{x:.0f}" y="{y + (-1 if text else 5):.0f}" font-size="14" fill="{INK}">{name}</text>'
        )
        if text:
            lines.append(f'<text x="{x:.0f}" y="{y + 13:.0f}" font-size="10" fill="{DOOR}">{text}</text>')
    return "\n".join([*lines, "</svg>", ""])


def table(graph: Graph, opened: dict[str, str]) -> str:
    """Return all imports as a table, from the top; doors with what they open."""
    rooms = {name: found - set(opened) for name, found in graph.items() if name not in opened}
    order = [name for row in rows(rooms) for name in row]
    lines = ["", "| room | imports | doors |", "|---|---|---|"]
    for name in order:
        inside = ", ".join(f"`{other}`" for other in order if other in rooms[name])
        behind = ", ".join(f"`{door}`" for door, room in sorted(opened.items()) if room == name)
        lines.append(f"| `{name}` | {inside or 'nothing'} | {behind} |")
    return "\n".join([*lines, "", ""])


if __name__ == "__main__":
    made = imports()
    opened = doors(made)
    Path(__file__).with_name("architecture.svg").write_text(drawing(made, opened), encoding="utf-8")
    text = TABLE.sub(lambda _: table(made, opened), PAGE.read_text(encoding="utf-8"))
    PAGE.write_text(text, encoding="utf-8")
