"""Write the page of a study from a run of it: ``python docs/studies/make_page.py NAME RUN``.

A study is a file ``NAME.toml`` with the tables ``[about]`` and ``[quick]``, and a module ``findings/NAME.py``
with

    def numbers(run, folder) -> xr.Dataset   # the few numbers, with a dim seed, that the rest comes from
    def figure(numbers) -> Figure
    def finding(numbers) -> str              # markdown; its first sentence stands in the table of all studies
    LEFT_OUT = "..."                         # what was not done, markdown

``run`` is what ``kpframe.open_run`` returns, ``folder`` the path of the run. Written are ``NAME.json`` (the
numbers), ``NAME.svg``, ``NAME.md``, the table in ``docs/findings.md`` and the claims in ``docs/theory.md``;
without RUN all but the numbers, from those that are kept.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import xarray as xr

import kpframe
from kpframe.study._disk.folder import worked_seconds
from kpframe.study._plot.look import laid_out
from kpframe.study._reading.merge import record_of
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.reading import load_study, parse_study, to_table

HERE = Path(__file__).parent
TABLE = HERE.parent / "findings.md"
ROWS = re.compile(r"(?<=<!-- made by studies/make_page.py -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
THEORY = HERE.parent / "theory.md"
CLAIMS = re.compile(r"(?<=<!-- made by studies/make_page.py -->\n).*?(?=<!-- end of claims -->)", re.DOTALL)
#: Significant digits of numbers that are kept.
DIGITS = 7


def names() -> list[str]:
    """Return the names of all studies."""
    return sorted(path.stem for path in HERE.glob("*.toml"))


def module_of(name: str) -> ModuleType:
    """Return the module that says what a study found."""
    folder = str(HERE / "findings")
    if folder not in sys.path:
        sys.path.insert(0, folder)
    return importlib.import_module(name)


def study_of(name: str, *, quick: bool = False) -> StudySettings:
    """Return a study; names of plugins are not looked up."""
    import tomllib

    return parse_study(tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8")), name, quick=quick)


def digest(study: StudySettings) -> str:
    """Return what tells settings that change figures from others."""
    table = {key: value for key, value in to_table(study).items() if key not in ("title", "about")}
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


def keep(name: str, run: Path) -> dict[str, Any]:
    """Return what is kept of a run: its numbers, what it took and what it was made with."""
    record = record_of(run)
    with kpframe.open_run(run) as tree:
        numbers = module_of(name).numbers(tree, run).load()
        libraries = json.loads(tree.attrs["library_versions"])
        made = {"kpframe": str(tree.attrs["kpframe_version"]), "torch": str(libraries["torch"])}
    numbers = numbers.drop_attrs(deep=True)
    kept = {key: _plain(variable) for key, variable in numbers.variables.items()}
    return {
        "settings": digest(parse_study(record["settings"], str(run))),
        "seconds": round(worked_seconds(run, record)),
        **({} if (spent := record.get("cpu_seconds")) is None else {"cpu_seconds": round(spent)}),
        "made_with": made,
        "coordinates": [str(key) for key in numbers.coords],
        "numbers": kept,
    }


def _plain(variable: xr.Variable) -> dict[str, Any]:
    values = variable.values
    if values.dtype.kind == "f":
        values = np.vectorize(lambda x: float(f"{x:.{DIGITS}g}"), otypes=[float])(values)
    return {"dims": list(map(str, variable.dims)), "values": values.tolist()}


def kept_numbers(kept: Mapping[str, Any]) -> xr.Dataset:
    """Return the numbers that are kept as a dataset again."""
    parts = {key: (tuple(one["dims"]), np.array(one["values"])) for key, one in kept["numbers"].items()}
    return xr.Dataset(
        {key: part for key, part in parts.items() if key not in kept["coordinates"]},
        {key: parts[key] for key in kept["coordinates"]},
    )


def finding(name: str, kept: Mapping[str, Any]) -> str:
    """Return what a study found, markdown."""
    return _finding(name, json.dumps(kept))


@cache
def _finding(name: str, kept: str) -> str:
    text: str = module_of(name).finding(kept_numbers(json.loads(kept)))
    return text.strip()


def page(name: str, kept: Mapping[str, Any]) -> str:
    """Return the page of a study."""
    study, module = study_of(name), module_of(name)
    text = finding(name, kept)
    made = ", ".join(f"{key} {version}" for key, version in kept["made_with"].items())
    return "\n".join(
        [
            f"# {study.title}\n",
            f"{study.question}\n",
            "```sh",
            f"kpframe run docs/studies/{name}.toml          # {took(kept)} on a core that other work shared",
            f"kpframe run docs/studies/{name}.toml --quick  # the same in small, in seconds",
            f"python docs/studies/make_page.py {name} {name}  # this page, from the run",
            "```\n",
            "## What was done\n",
            *(f"- {line}" for line in said_settings(study)),
            f"\nMade with {made}. The file of the study is [{name}.toml]({name}.toml), the numbers below "
            f"are in [{name}.json]({name}.json).\n",
            "## What was found\n",
            f"![{study.title}]({name}.svg)\n",
            f"{text}\n",
            "## What is published\n",
            f"{study.published}\n",
            "## What was left out\n",
            f"{module.LEFT_OUT.strip()}\n",
        ]
    )


def took(kept: Mapping[str, Any]) -> str:
    """Return how long a run took, in words: by the clock, and of a processor where that is known."""
    clock, processor = _time(kept["seconds"]), kept.get("cpu_seconds")
    return clock if processor is None else f"{clock} ({_time(processor)} of a processor)"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 100 else f"{round(seconds / 60)} min"


def said_settings(study: StudySettings) -> list[str]:
    """Return the settings of a study in words, a line for each part."""
    training, measure = study.training, study.measure
    networks = "; ".join(
        f"{one.label}: `{one.name}`{_said(one.settings)}"
        + (f", read out from `{one.reads}`" if one.reads else "")
        for one in study.networks
    )
    lines = [f"Networks: {networks}."]
    if not any(one.path == "task" for one in study.sweep):
        lines.append(f"Task: `{study.task}`{_said(study.task_settings)}.")
    rules = ", ".join(f"`{text}`" for text in study.trained_by)
    how = f"{training.steps} updates, batches of {training.batch_size}, {training.optimizer}"
    how += f", learning rate {training.learning_rate:g}" + (f"; trained by each of {rules}" if rules else "")
    lines.append(f"Training: {how}.")
    if study.rules:
        compared = ", ".join(f"{one.label} (`{one.name}`{_said(one.settings)})" for one in study.rules)
        lines.append(f"Compared with the exact gradient: {compared}.")
    if study.sweep:
        varied = "; ".join(f"`{one.path}`: {', '.join(map(str, one.values))}" for one in study.sweep)
        lines.append(f"Varied: {varied}.")
    steps = ", ".join(map(str, measure.steps))
    lines.append(
        f"Recorded after {steps} updates along {measure.trials} trials ({' and '.join(measure.inputs)}), "
        f"each estimate from {measure.budget} operator products: "
        + ", ".join(f"`{one.name}`{_said(one.settings)}" for one in study.quantities)
        + "."
    )
    seeds = ", ".join(map(str, study.seeds))
    lines.append(
        f"Seeds: {seeds}, each with its own weights and trials; ± is half of a 95% interval by Student's t "
        f"over them. Numbers are {study.dtype}."
    )
    return lines


def _said(settings: Mapping[str, Any]) -> str:
    said = ", ".join(f"`{key}` = {json.dumps(value)}" for key, value in settings.items())
    return f" ({said})" if said else ""


def first_sentence(text: str) -> str:
    """Return the first sentence of a finding."""
    return re.split(r"(?<=[.])\s", text.strip(), maxsplit=1)[0].replace("\n", " ")


def rows() -> str:
    """Return the table of all studies that have been run."""
    lines = ["", "| study | question | finding | time |", "|---|---|---|---|"]
    for name in names():
        if (HERE / f"{name}.json").exists():
            study, kept = study_of(name), read(name)
            sentence = first_sentence(finding(name, kept))
            cells = (f"[{study.title}](studies/{name}.md)", study.question, sentence, took(kept))
            lines.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    return "\n".join([*lines, "", ""])


def claims() -> str:
    """Return what is published of each question, and what was found of it."""
    lines = [""]
    for name in names():
        if (HERE / f"{name}.json").exists():
            study = study_of(name)
            said = (study.title, " ".join(study.published.split()), first_sentence(finding(name, read(name))))
            title, published, found = map(_stars_kept, said)
            lines += [f"[{title}](studies/{name}.md). *Published:* {published} *Found:* {found}", ""]
    return "\n".join([*lines, ""])


def _stars_kept(text: str) -> str:
    """Return Markdown in which the stars of adjoints are no emphasis; those in code are none anyway."""
    return "`".join(part if at % 2 else part.replace("*", r"\*") for at, part in enumerate(text.split("`")))


def read(name: str) -> dict[str, Any]:
    """Return what is kept of the run of a study."""
    kept: dict[str, Any] = json.loads((HERE / f"{name}.json").read_text(encoding="utf-8"))
    return kept


def draw(name: str, numbers: xr.Dataset, path: Path) -> None:
    """Draw the figure of a study, the same bytes for the same numbers."""
    import matplotlib as mpl

    with mpl.rc_context({"svg.hashsalt": name, "figure.dpi": 100}):
        figure = module_of(name).figure(numbers)
        laid_out(figure)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Write the page of a study."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("name", choices=names())
    parser.add_argument("run", nargs="?", type=Path, help="folder of its run")
    parser.add_argument("--output", type=Path, default=HERE, help="folder to write into, for a trial")
    given = parser.parse_args()
    name, output = given.name, given.output
    load_study(HERE / f"{name}.toml")  # with the names of what it takes
    kept = read(name) if given.run is None else keep(name, given.run)
    if output == HERE and kept["settings"] != digest(study_of(name)):
        parser.error(f"{given.run or name + '.json'} is of other settings than {name}.toml has now")
    output.mkdir(parents=True, exist_ok=True)
    if given.run is not None:
        head = {key: value for key, value in kept.items() if key != "numbers"}
        variables = ",\n".join(
            f"  {json.dumps(key)}: {json.dumps(one)}" for key, one in kept["numbers"].items()
        )
        text = json.dumps(head, indent=1)[:-2] + ',\n "numbers": {\n' + variables + "\n }\n}\n"
        (output / f"{name}.json").write_text(text, encoding="utf-8")
    draw(name, kept_numbers(kept), output / f"{name}.svg")
    (output / f"{name}.md").write_text(page(name, kept), encoding="utf-8")
    if output == HERE:
        for path, place, text in ((TABLE, ROWS, rows()), (THEORY, CLAIMS, claims())):
            page_text = path.read_text(encoding="utf-8")
            path.write_text(place.sub(lambda _, text=text: text, page_text), encoding="utf-8")


if __name__ == "__main__":
    main()
