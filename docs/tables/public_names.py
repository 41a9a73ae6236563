"""Write the table of public names into the page on plugins: ``python docs/tables/public_names.py``."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import kpframe

PAGE = Path(__file__).parents[1] / "plugins.md"
TABLE = re.compile(r"(?<=<!-- made by tables/public_names.py -->\n).*?(?=<!-- end of table -->)", re.DOTALL)


def table() -> str:
    """Return the public names by module; a module without names of its own has what ``kpframe`` has."""
    top = set(kpframe.__all__)
    rows = [("kpframe", "what most plugins need", sorted(top))]
    for name in kpframe._MODULES:
        module = import_module(f"kpframe.{name}")
        summary = str(module.__doc__).splitlines()[0].rstrip(".")
        rows.append((f"kpframe.{name}", summary, sorted(set(module.__all__) - top)))
    lines = ["| module | what it is | names (beside those of `kpframe`) |", "|---|---|---|"]
    lines += [
        f"| `{module}` | {summary.replace('``', '`')} | {', '.join(f'`{entry}`' for entry in names)} |"
        for module, summary, names in rows
    ]
    return "\n".join(["", *lines, "", ""])


if __name__ == "__main__":
    PAGE.write_text(TABLE.sub(lambda _: table(), PAGE.read_text(encoding="utf-8")), encoding="utf-8")
