"""The page of any run: what its command has a page of its own for, and a section for all else recorded."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from kpframe.errors import ArgumentError
from kpframe.study._disk.folder import resume_command
from kpframe.study._disk.results import read_dataset
from kpframe.study._helper import Helpers
from kpframe.study._plot import recorded
from kpframe.study._plot.grouped import Grouped, Variable, grouped, variables_of
from kpframe.study._plot.look import after, drawable, unit_of
from kpframe.study._reading.merge import record_of
from kpframe.study._reading.tree import figures_of, results_of
from kpframe.study._report import captions_of_runs as captions
from kpframe.study._report import html
from kpframe.study._report.captions import Caption
from kpframe.study._report.comparison import write_comparison
from kpframe.study._report.grouped import covered, errors_are, stderr
from kpframe.study._report.page import Section, Table, page_about, settings_of, write_page
from kpframe.study._report.training import write_training
from kpframe.study._report.words import counted, headed, in_words, plus_minus

#: Most rows of a table, figures on a page, and failures that are told.
ROWS, FIGURES, FAILURES = 120, 40, 20
#: Figures that differ by less, relative to the largest, are the same but for rounding: no figure shows it.
SAME = 1e-5
#: Names of operators in texts of what was recorded.
SYMBOLS = re.compile(r"(?<![A-Za-z])(P|K|Phi)(?![A-Za-z])")
#: How texts of what other figures are made of begin.
SKETCH = "sketch for "
_MADE = {
    "run": "Trained",
    "demo": "Trained",
    "analyze": "Read from checkpoints, not trained here",
    "track": "Recorded in a training loop of its own",
}
_OWN_PAGES: dict[str, Callable[..., Path]] = {
    "train": write_training,
    "compare": write_comparison,
}


def write_run_report(path: str | Path, *, files: bool = False) -> Path:
    """Write the page of a run anew from its figures; return its path.

    A comparison and a training by rules have pages of their own, of any other run it is ``report.html``. Of a
    run that is under way it shows what there is.

    Args:
        path: folder of the run.
        files: whether its figures are written as files, too, into ``figures/`` beside it.

    Raises:
        ArgumentError: for a folder of no run, or one that has recorded nothing yet; a file that is damaged.
        OutputError: for a folder that cannot be written.
    """
    path = Path(path)
    record = record_of(path)
    if (own := _OWN_PAGES.get(record["command"])) is not None:
        file = results_of(path, record)
        if not file.exists():
            raise ArgumentError(
                f"{str(path)!r} has no {file.name} yet, which its page is made from; "
                f"{resume_command(path)} goes on with it"
            )
        return own(read_dataset(file), file.with_suffix(".html"), files=files)
    with figures_of(path) as data:
        return page_of_run(data.load(), record["command"], record.get("cells"), path, files=files)


def page_of_run(
    data: xr.Dataset,
    command: str,
    cells: Sequence[Mapping[str, Any]] | None,
    path: Path,
    *,
    files: bool = False,
    helpers: Helpers | None = None,
) -> Path:
    """Write the page of a run from its figures, ``report.html``; return its path.

    Args:
        data: all that it recorded; a ``state`` among the attributes but "finished" is told.
        command: that made it.
        cells: its trainings as ``run.json`` has them; None for those of a run that has no such list.
        path: folder of the run.
        files: whether its figures are written as files, too.
        helpers: processes that draw some of the figures of a demo.
    """
    finished = data.attrs.get("state", "finished") == "finished"
    data = data.copy()
    if finished:
        data.attrs.pop("state", None)
    if cells is None or (command == "demo" and finished):
        return html.write_report(data, path / "report.html", files=files, helpers=helpers)
    return _write(data, list(cells[0]["coordinates"]), path, finished=finished, files=files)


def _write(data: xr.Dataset, cells: Sequence[str], path: Path, *, finished: bool, files: bool) -> Path:
    run = grouped(data, cells)
    variables = variables_of(run)
    known, names = _known_sections(run) if finished else ([], set())
    rest = [variable for variable in variables if variable.name not in names]
    other, undrawn = _other_sections(run, rest)
    return write_page(
        path / "report.html",
        page_about(
            data,
            title=str(data.attrs.get("title", path.resolve().name)),
            done=[_lead(data, run)],
            sections=[*_losses(run, names), *known, *_sweeps(data, run, cells, variables), *other],
            tables=[
                Table(f"Figures at the last step recorded{_last(data)}", *_figures(run, variables)),
                Table("How each training ended", *_trainings(run)),
            ],
            notes=[*undrawn, *failures_of(data)],
            covers=errors_are(run),
            file="results.nc" if (path / "results.nc").exists() else "",
        ),
        files=files,
    )


def _lead(data: xr.Dataset, run: Grouped) -> str:
    steps = [int(step) for step in data.step.values] if "step" in data.dims else []
    text = captions.trainings(run)
    how = _MADE.get(str(data.attrs.get("command")), "")
    if how and "update" in data.sizes:
        text += f" {how} for {counted(data.sizes['update'], 'update')}."
    elif how and data.attrs.get("command") == "analyze":
        text += f" {how}."
    if len(steps) == 1:
        text += f" Recorded once, after {counted(steps[0], 'update')}."
    elif steps:
        text += f" Recorded at {len(steps)} steps, from {steps[0]} to {steps[-1]} updates."
    said = [str(values.attrs.get("long_name", "")) for values in data.data_vars.values()]
    about = settings_of(data.attrs).get("about")
    if isinstance(about, Mapping):
        said.append(str(about.get("question", "")))
    if "operator" in data.dims or any(SYMBOLS.search(one) for one in said):
        text += f" {html.OPERATORS}"
    if "state" in data.attrs:
        text += f" The run is {data.attrs['state']}: this page shows what it has recorded so far."
    return text


def _last(data: xr.Dataset) -> str:
    return f", {after(int(data.step[-1]))}" if "step" in data.dims else ""


def _known_sections(run: Grouped) -> tuple[list[Section], set[str]]:
    """Return the sections that a study of few networks has, and the variables that stand in them.

    They tell what training changed, from the first step to the last.
    """
    if run.several or len(run.labels) > recorded.GROUPS or run.data.sizes.get("step", 0) < 2:
        return [], set()
    seen = drawable(run.data, width=40)
    sections, names = [], set()
    for known in html.known_sections():
        if not known.fits(run.data):
            continue
        sections.append(html.section(known, run.data, seen))
        names |= {*known.needs, *known.shows}
    return sections, names


def _losses(run: Grouped, names: set[str]) -> list[Section]:
    if "training_loss" not in run.data or "training_loss" in names:
        return []
    if not run.data.training_loss.notnull().any():
        return []
    return [_section("Learning", recorded.losses(run), captions.losses(run))]


def _section(title: str, drawn: recorded.Drawn, caption: Caption, name: str = "") -> Section:
    return Section(title, drawn.figure, caption.and_about(drawn.left_out), name)


def _sweeps(
    data: xr.Dataset, run: Grouped, cells: Sequence[str], variables: Sequence[Variable]
) -> list[Section]:
    figures = [variable for variable in variables if not variable.axes and _differs(variable)]
    axes = [dim for dim in cells if dim not in ("network", "trained_by", "seed") and data.sizes[dim] > 1]
    if not figures:
        return []
    last = f" At the last step recorded, {int(data.step[-1])} updates." if "step" in data.dims else ""
    return [
        _section(
            f"Figures at the last step, over {axis.replace('_', ' ')}",
            recorded.sweep(data, run, axis, cells, figures),
            captions.sweep(data, run, axis, cells, figures, covered(run) + last),
        )
        for axis in axes
    ]


def _other_sections(run: Grouped, variables: Sequence[Variable]) -> tuple[list[Section], list[str]]:
    """Return a section for each other quantity, and notes on what is not drawn."""
    sections: list[Section] = []
    undrawn, constant = [], []
    for quantity in dict.fromkeys(variable.quantity for variable in variables):
        own = [variable for variable in variables if variable.quantity == quantity]
        own = [
            variable for variable in own if not variable.text.startswith(SKETCH)
        ]  # what others are made of
        lines = [variable for variable in own if not variable.axes and "step" in variable.values.dims]
        constant += [variable for variable in lines if not _moves(variable)]
        lines = [variable for variable in lines if _moves(variable)]
        if lines:
            said = captions.series(run, lines, covered(run))
            title = headed([in_words(variable.values) + unit_of(variable.values) for variable in lines])
            sections.append(_section(title, recorded.series(run, lines), said, quantity))
        for variable in own:
            if not variable.axes:
                continue
            residual = variable.name.endswith("_residual")  # of what has a figure
            draw = None if residual else {1: recorded.curves, 2: recorded.maps}.get(len(variable.axes))
            if variable.axes == ("step_other",):
                draw = recorded.maps
            if draw is not None and not _differs(variable):
                constant.append(variable)
                continue
            if draw is None or len(sections) >= FIGURES:
                undrawn.append(f"{variable.name} ({', '.join(map(str, variable.values.dims))})")
                continue
            if draw is recorded.curves:
                said = captions.curves(run, variable, _bands(run))
            else:
                said = captions.maps(run, variable)
            heading = headed([in_words(variable.values) + unit_of(variable.values)])
            sections.append(_section(heading, draw(run, variable), said, variable.name))
    notes = [
        f"{v.name} is the same at all steps, to 5 digits; the table has it."
        if _differs(v)
        else f"{v.name} is {float(v.values.max()):.5g}{unit_of(v.values)} everywhere."
        for v in constant
    ]
    if undrawn:
        notes.append(f"Recorded and not drawn: {', '.join(undrawn)}; kpframe.open_run has them.")
    return sections, notes


def _moves(variable: Variable) -> bool:
    """Return whether a figure is not the same at all steps; at one step, whether it differs at all."""
    if variable.values.sizes["step"] == 1:
        return _differs(variable)
    high, low = variable.values.max("step"), variable.values.min("step")
    return bool((high - low > SAME * np.maximum(abs(high), abs(low))).any())


def _differs(variable: Variable) -> bool:
    known = variable.values.values[np.isfinite(variable.values.values)]
    return bool(known.size) and float(np.ptp(known)) > SAME * float(abs(known).max())


def _bands(run: Grouped) -> str:
    if not run.several:
        return "Bars or bands, where there are some, are 95% intervals of the estimates of one seed."
    seeds = ", ".join(map(str, run.seeds))
    return f"Means over the seeds {seeds}; bars or bands are 95% intervals by Student's t."


def _figures(run: Grouped, variables: Sequence[Variable]) -> tuple[list[str], list[list[str]]]:
    head = ["figure", "name", "network", "of", "value", "unit"]
    head += ["seeds counted"] if run.several else []
    rows: list[list[str]] = []
    for variable in variables:
        if variable.axes:
            continue
        values, errors = variable.values, variable.errors
        if "step" in values.dims:
            values = values.isel(step=-1)
            errors = None if errors is None else errors.isel(step=-1)
        known = values.notnull().sum("seed") if "seed" in values.dims else None
        around = stderr(values, errors)
        middle = values.astype(float).mean("seed") if "seed" in values.dims else values
        for at, network in enumerate(run.labels):
            for name, part in variable.parts():
                one = middle.isel(network=at) if "network" in middle.dims else middle
                error = None if around is None else around.isel(network=at).sel(part)
                row = [
                    in_words(variable.values),
                    variable.name,
                    network,
                    name,
                    _value(one.sel(part), error),
                    unit_of(values).strip(" []") or "none",
                ]
                if run.several:
                    count = "" if known is None else int(known.isel(network=at).sel(part))
                    row.append(f"{count} of {len(run.seeds)}")
                rows.append(row)
    return head, _cut(rows)


def _value(value: xr.DataArray, error: xr.DataArray | None) -> str:
    if bool(value.isnull()):
        return "none"
    if error is None or bool(error.isnull()):
        return f"{float(value):.6g}"
    return plus_minus(value, error)


def _trainings(run: Grouped) -> tuple[list[str], list[list[str]]]:
    data = run.data
    head = ["network", *(["seed"] if run.several else []), "training", "stopped at", "why", "last loss"]
    rows = []
    for at, network in enumerate(run.labels):
        for place in range(len(run.seeds) if run.several else 1):
            one = data.isel(network=at, seed=place) if run.several else data.isel(network=at)
            outcome = str(one.outcome.item()) if "outcome" in one else ""
            stopped = float(one.stopped_at) if "stopped_at" in one else np.nan
            loss = one.training_loss.dropna("update").values if "training_loss" in one else np.array([])
            rows.append(
                [
                    network,
                    *([str(run.seeds[place])] if run.several else []),
                    outcome or "no end recorded",
                    "-" if np.isnan(stopped) else f"update {int(stopped)}",
                    (str(one.reason.item()) if "reason" in one else "") or "-",
                    f"{float(loss[-1]):.4g}" if len(loss) else "-",
                ]
            )
    return head, _cut(rows)


def _cut(rows: list[list[str]]) -> list[list[str]]:
    if len(rows) <= ROWS:
        return rows
    more = f"{len(rows) - ROWS} more rows are left out: kpframe export has them"
    return [*rows[:ROWS], [more, *[""] * (len(rows[0]) - 1)]]


def failures_of(data: xr.Dataset) -> list[str]:
    """Return what could not be recorded, where and why, each reason once."""
    found: dict[tuple[str, str], list[str]] = {}
    for name in ("quantity_failure", "failure"):
        if name not in data:
            continue
        texts = data[name]
        dims = [str(dim) for dim in texts.dims]
        for place in zip(*np.nonzero(texts.values != ""), strict=True):
            at = {dim: data[dim].values[i] for dim, i in zip(dims, place, strict=True) if dim in data.coords}
            what = str(at.pop("quantity", at.pop("rule", "")))
            where = ", ".join(v if isinstance(v, str) else f"{dim} {v}" for dim, v in at.items())
            found.setdefault((what, str(texts.values[place])), []).append(where)
    said = [
        f"Failed: {what}, at {places[0]}{f' and {len(places) - 1} more' if len(places) > 1 else ''} ({text})."
        for (what, text), places in found.items()
    ]
    said += [f"Left out: {text}." for text in json.loads(data.attrs.get("left_out", "[]"))]
    if len(said) > FAILURES:
        said = [*said[:FAILURES], f"{len(said) - FAILURES} more kinds of failures are not listed."]
    return said
