"""The page of several runs side by side: settings that differ, figures on common axes, what each found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.study._disk.results import versions
from kpframe.study._plot.beside import beside
from kpframe.study._plot.grouped import Grouped, grouped, variables_of
from kpframe.study._plot.look import unit_of
from kpframe.study._reading.merge import record_of
from kpframe.study._reading.tree import RESULTS, figures_of
from kpframe.study._report import captions_of_runs as captions
from kpframe.study._report.captions import Caption
from kpframe.study._report.grouped import covered
from kpframe.study._report.page import Page, Section, Table, settings_of, write_page
from kpframe.study._report.settings_in_words import flat
from kpframe.study._report.words import counted, few, joined, named

#: Most runs and figures of a page.
RUNS, FIGURES = 9, 24


@frozen(eq=False)
class _Run:
    """A run of a page."""

    path: Path
    data: xr.Dataset
    groups: Grouped
    settings: dict[str, str]


def write_runs(paths: Sequence[Path], output: Path) -> Path:
    """Write the page that compares runs; return its path. Nothing of the runs is changed.

    Raises:
        ArgumentError: for fewer than two runs or too many, the same one twice, a folder of no run, and the
            training or comparison of learning rules, whose figures have no steps.
        OutputError: for a file that cannot be written.
    """
    if not 2 <= len(paths) <= RUNS:
        raise ArgumentError(mismatch("RUN", f"2 to {RUNS} runs to compare", str(len(paths))))
    places = [path.resolve() for path in paths]
    if len(set(places)) < len(places):
        twice = next(path for path in places if places.count(path) > 1)
        raise ArgumentError(f"RUN: {str(twice)!r} is given twice; give different runs")
    runs = {name: _read(path) for name, path in zip(_names(places), paths, strict=True)}
    return write_page(output, _page(runs, output))


def _read(path: Path) -> _Run:
    record = record_of(path)
    if record["command"] in RESULTS:
        raise ArgumentError(
            f"{str(path)!r} was made by kpframe {record['command']}, whose figures have no steps to stand "
            "beside those of other runs; give runs of kpframe run, demo, analyze or of a Tracker"
        )
    with figures_of(path) as opened:
        data = opened.load()
    cells = record.get("cells")
    coordinates = list(cells[0]["coordinates"]) if cells else ["network"]
    return _Run(path, data, grouped(data, coordinates), dict(flat(settings_of(data.attrs))))


def _names(places: Sequence[Path]) -> list[str]:
    """Return the folder of each run, with as many folders above it as tell them apart."""
    depth = 1
    most = max(len(place.parts) for place in places)
    while depth < most and len({place.parts[-depth:] for place in places}) < len(places):
        depth += 1
    return ["/".join(place.parts[-depth:]) for place in places]


def _page(runs: Mapping[str, _Run], output: Path) -> Page:
    sections, left = _sections({name: run.groups for name, run in runs.items()})
    differ, same = _settings(runs)
    notes = [f"{counted(same, 'setting')} {'is' if same == 1 else 'are'} the same in all runs."]
    if left:
        notes.append(f"Not drawn: {few(left, 20)}.")
    made = versions()
    return Page(
        title=f"{counted(len(runs), 'run')} side by side: {few(list(runs))}",
        done=[
            f"{named(name)} ({run.data.attrs.get('title', 'without a title')}): "
            f"{captions.trainings(run.groups)}{_state(run.data)}"
            for name, run in runs.items()
        ],
        sections=sections,
        tables=[Table("Settings that differ", ("setting", *runs), differ, wrap=True)],
        notes=notes,
        settings=[
            ("runs", joined([f"{named(name)} in {run.path}" for name, run in runs.items()])),
            ("made", f"{made['created']}, kpframe {made['kpframe_version']}"),
            *[(row[0], " | ".join(row[1:])) for row in differ[:12]],
        ],
        all_settings=Table("All settings", ("setting", *runs), _all(runs), wrap=True),
        provenance=Table("Where the figures come from", ("what", *runs), _provenance(runs), wrap=True),
        covers=_covers(runs),
    )


def _state(data: xr.Dataset) -> str:
    state = data.attrs.get("state", "finished")
    return "" if state == "finished" else f" The run is {state}."


def _covers(runs: Mapping[str, _Run]) -> str:
    """Return what intervals are in each run: those over seeds and those of estimates are not mixed."""
    return " ".join(f"In {named(name)}: {covered(run.groups)}" for name, run in runs.items())


def _settings(runs: Mapping[str, _Run]) -> tuple[list[list[str]], int]:
    """Return a row for each setting that differs, and how many are the same."""
    rows = _all(runs)
    differ = [row for row in rows if len(set(row[1:])) > 1]
    return differ, len(rows) - len(differ)


def _all(runs: Mapping[str, _Run]) -> list[list[str]]:
    keys = dict.fromkeys(key for run in runs.values() for key in run.settings)
    return [[key, *(run.settings.get(key, "-") for run in runs.values())] for key in keys]


def _provenance(runs: Mapping[str, _Run]) -> list[list[str]]:
    names = dict.fromkeys(name for run in runs.values() for name in run.data.attrs if name != "settings")
    return [
        [str(name).replace("_", " "), *(str(run.data.attrs.get(name, "-")) for run in runs.values())]
        for name in names
    ]


def _sections(runs: Mapping[str, Grouped]) -> tuple[list[Section], list[str]]:
    """Return a section for each figure over steps, those of most runs first, and what is left out."""
    rows: dict[tuple[str, str], tuple[dict[str, Any], str, int]] = {}
    for run in runs.values():
        for variable in variables_of(run):
            if variable.axes or "step" not in variable.values.dims or not _moves(variable.values):
                continue
            for label, part in variable.parts():
                _, title, count = rows.get((variable.name, label), ({}, "", 0))
                title = variable.name.replace("_", " ") + unit_of(variable.values)
                rows[variable.name, label] = (part, title, count + 1)
    order = sorted(rows, key=lambda key: -rows[key][2])
    sections = []
    for name, label in order[:FIGURES]:
        part, title, _ = rows[name, label]
        heading = f"{name.replace('_', ' ')}{f', {label}' if label else ''}"
        sections.append(Section(heading, beside(runs, name, part, title), _caption(runs, name, part)))
    return sections, [f"{name}{f', {label}' if label else ''}" for name, label in order[FIGURES:]]


def _moves(values: xr.DataArray) -> bool:
    known = values.values[np.isfinite(values.values)]
    return bool(known.size) and float(known.min()) < float(known.max())


def _caption(runs: Mapping[str, Grouped], name: str, part: Mapping[str, Any]) -> Caption:
    """Return what each run says of a figure."""
    said, missing = [], []
    for run, groups in runs.items():
        own = [variable for variable in variables_of(groups) if variable.name == name]
        text = captions.told(groups, own[0], part) if own else ""
        if text:
            said.append(f"in {named(run)}, it {text}")
        else:
            missing.append(named(run))
    found = f"{name.replace('_', ' ')}{''.join(f' ({place})' for place in part.values())}: {'; '.join(said)}."
    lost = f" Not recorded in {joined(missing)}." if missing else ""
    return Caption(
        f"{found[0].upper()}{found[1:]}{lost}" if said else lost.strip(), "All panels have the same axes."
    )
