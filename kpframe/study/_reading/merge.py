"""All records of a run as one dataset: of whatever cells and steps there are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from kpframe.errors import ArgumentError, told
from kpframe.study._cells import Cell, expand, record_file, training_file
from kpframe.study._described import LONG_NAMES, described
from kpframe.study._disk.folder import FORMAT, RECORD, format_of, read_record, resume_command
from kpframe.study._networks.analysis import Analysis
from kpframe.study._quantity import Quantity
from kpframe.study._ranks.launcher import PROVENANCE
from kpframe.study._reading.join import Part, join, texts_of
from kpframe.study._reading.records import Record, RecordReader
from kpframe.study._record import SHARED, labelled
from kpframe.study._running.build import quantities_of
from kpframe.study._study_file.quantity_texts import quantities_of_texts
from kpframe.study._study_file.reading import parse_study

#: The quantities of a cell, by the cell's name.
QuantitiesOf = Callable[[str], Mapping[str, Quantity]]
#: What variables of a training's end have as their ``quantity``.
TRAINING = "training"
#: Attributes that a file has for itself.
_OWN = ("cell", "step", "created")


def merged(path: str | Path, quantities: Mapping[str, Quantity] | QuantitiesOf | None = None) -> xr.Dataset:
    """Return all that a run has recorded.

    Its dims are those of the cells' coordinates, ``step``, and those of the quantities; what is missing is
    NaN, and an empty text. A cell that is the same as another has its figures. Whole numbers and truth values
    stay such where nothing is missing. Step 0 of a cell that starts from another's network is that cell's.
    What follows from all steps of a training (``Quantity.across``) is computed from those that there are;
    where that fails, the attribute ``left_out`` says why. The figures are a function of the files alone.

    Args:
        path: folder of a run.
        quantities: those of the run by label, or a function that returns those of a cell; by default they are
            made anew from the settings of the run.

    Raises:
        ArgumentError: for a folder of no run, of an older or newer format, a run that has recorded nothing
            yet, and a file that is damaged.
    """
    path = Path(path)
    record = record_of(path)
    if "cells" not in record:
        raise ArgumentError(
            f"{str(path)!r} holds a run of kpframe {record['command']} ({record['created']}) that recorded "
            "nothing training by training: its figures are in one file, which it has once it is finished"
        )
    reader = RecordReader()
    files = {cell["name"]: _Files(path, cell, record["id"], reader) for cell in record["cells"]}
    of = _quantities_of(record, quantities)
    left_out: list[str] = []
    found: dict[str, xr.Dataset] = {}
    for name, own in files.items():
        if (same := own.cell.get("same_as")) is not None:  # what one network comes to at other values
            if same in found:
                found[name] = found[same]
            continue
        source = files.get(own.cell.get("initial_of") or "")
        if (data := _cell(own, source, of, left_out)) is not None:
            found[name] = data
    if not found:
        raise ArgumentError(
            f"{str(path)!r} holds a run that has recorded nothing yet; {resume_command(path)} goes on with it"
        )
    along, places = _places(path, [files[name].cell for name in found])
    parts = [
        Part.of(data, place, f"cell {name}")
        for (name, data), place in zip(found.items(), places, strict=True)
    ]
    data = join(parts, along)
    data = described(data)
    data.attrs = _provenance([record for own in files.values() for record in own.seen])
    if left_out:
        data.attrs["left_out"] = json.dumps(left_out)
    return data


def record_of(path: Path) -> dict[str, Any]:
    """Return what ``run.json`` says of a run; raises ``ArgumentError``."""
    record = read_record(path)
    if record is None:
        raise ArgumentError(_no_run(path))
    return record


def _no_run(path: Path) -> str:
    """Return what a path is, that is no folder of a run."""
    if not path.exists():
        return f"expected the folder of a run, got {str(path)!r}, which does not exist"
    if not path.is_dir():
        return f"expected the folder of a run, got {str(path)!r}, which is a file"
    if not (path / RECORD).exists():
        return f"expected the folder of a run, got {str(path)!r}, which has no {RECORD}"
    found = format_of(path)
    if found is not None and found > FORMAT:
        return (
            f"{str(path)!r} holds a run in format {found}, of a newer kpframe than this one, which reads "
            f"up to {FORMAT}; pip install --upgrade kpframe"
        )
    return f"{str(path / RECORD)!r} is damaged: it does not say what a record of a run says"


class _Files:
    """The files of a cell.

    Attributes:
        seen: what was read, without its figures.
    """

    def __init__(self, path: Path, cell: Mapping[str, Any], run: str, reader: RecordReader) -> None:
        self.path, self.cell, self.run, self._reader = path, cell, run, reader
        self.seen: list[Record] = []

    def record(self, step: int) -> Record | None:
        """Return the record of a step, None where there is none yet."""
        return self._read(self.path / record_file(self.cell["name"], step))

    def training(self) -> Record | None:
        """Return what came of the training, None before its end."""
        return self._read(self.path / training_file(self.cell["name"]))

    def _read(self, path: Path) -> Record | None:
        if not path.exists():
            return None
        remedy = f"delete it, and {resume_command(self.path)} makes it anew"
        record = self._reader.read(path, remedy)
        if record.attributes.get("run_id", self.run) != self.run:
            raise ArgumentError(f"{str(path)!r} belongs to another run than {RECORD} names; {remedy}")
        self.seen.append(record)
        return record


def _cell(files: _Files, source: _Files | None, of: QuantitiesOf, left_out: list[str]) -> xr.Dataset | None:
    """Return what a cell has recorded, with a dim ``step``; None for nothing."""
    rows: list[tuple[int, Record]] = []
    if source is not None and (record := source.record(0)) is not None:
        rows.append((0, record))
    for step in sorted(set(files.cell["steps"])):
        if not (rows and rows[0][0] == step) and (record := files.record(step)) is not None:
            rows.append((step, record))
    training = files.training()
    if not rows and training is None:
        return None
    data = xr.Dataset()
    if rows:
        steps = xr.Variable("step", np.array([step for step, _ in rows], dtype=np.int64))
        data = join([_part(record, (place,)) for place, (_, record) in enumerate(rows)], {"step": steps})
        data = _across(data, files.cell["name"], of, left_out)
    if training is not None:
        ended = join([_part(training, ())], {})
        if twice := sorted(set(map(str, data.data_vars)) & set(map(str, ended.data_vars))):
            raise ArgumentError(f"{str(training.path)!r} has {', '.join(twice)}, as records of steps")
        for variable in ended.data_vars.values():
            variable.attrs["quantity"] = TRAINING
        data = data.merge(ended)
    return data


def _part(record: Record, place: tuple[int, ...]) -> Part:
    """Return a file as a part; what it says of its own step and cell is known better."""
    own = {name for name in ("step",) if name in record.coordinates and not record.variables[name][0]}
    variables = {name: value for name, value in record.variables.items() if name not in own}
    return Part(str(record.path), place, variables, record.coordinates - own, record.about)


def _across(data: xr.Dataset, name: str, of: QuantitiesOf, left_out: list[str]) -> xr.Dataset:
    """Return a cell's records with what follows from all of them together."""
    try:
        quantities = of(name)
    except Exception as error:  # of a plugin, too: nothing but these figures is lost
        left_out.append(f"{name}: what follows from all steps together ({told(error)})")
        return data
    for label, quantity in quantities.items():
        if type(quantity).across is Quantity.across:
            continue
        try:
            own = _recorded(data, label)
            if own is not None and (found := _of_all_steps(quantity, own)) is not None:
                data = data.merge(labelled(label, _fitting(found, data)), join="left")
        except Exception as error:
            left_out.append(f"{name}: {label}, of all steps together ({told(error)})")
    return data


def _recorded(data: xr.Dataset, label: str) -> xr.Dataset | None:
    """Return what a quantity's ``measure`` returned, under its own names; None for nothing."""
    names = [name for name, variable in data.data_vars.items() if variable.attrs.get("quantity") == label]
    if not names:
        return None
    own = data[names]
    prefix, colon, _ = label.partition(":")
    if colon:
        mine = {
            name: str(name).removeprefix(f"{prefix}_")
            for name in (*own.variables, *own.dims)
            if str(name).startswith(f"{prefix}_") and name not in SHARED
        }
        own = own.rename(mine)
    return own


def _fitting(found: xr.Dataset, data: xr.Dataset) -> xr.Dataset:
    """Return what follows from all steps, at none that was not recorded, operators of no other name ..."""
    for dim in set(found.indexes) & set(data.indexes):
        if beyond := found.indexes[dim].difference(data.indexes[dim]).tolist():
            raise ArgumentError(f"{dim!r} has {beyond[0]!r}, which was not recorded")
    return found


def _of_all_steps(quantity: Quantity, recorded: xr.Dataset) -> xr.Dataset | None:
    """Return what follows, along each set of inputs where there are several."""
    if quantity.of_network or "inputs" not in recorded.dims:
        return quantity.across(recorded)
    names = recorded.inputs.values
    every = [quantity.across(recorded.sel(inputs=name, drop=True)) for name in names]
    kept = [one for one in every if one is not None]
    if len(kept) < len(every):
        return None
    return xr.concat(kept, dim=xr.Variable("inputs", names), join="outer", coords="all", compat="equals")


def _quantities_of(
    record: Mapping[str, Any], quantities: Mapping[str, Quantity] | QuantitiesOf | None
) -> QuantitiesOf:
    if callable(quantities):
        return quantities
    if quantities is not None:
        given = quantities
        return lambda name: given
    made: dict[str, Cell] = {}

    def of(name: str) -> Mapping[str, Quantity]:
        if record["command"] == "analyze":  # which is no study: it says itself what it records
            return Analysis.from_settings(record["settings"]).made_quantities()
        if record["command"] == "track":  # nor is a training of somebody's own
            return quantities_of_texts(record["settings"]["quantities"])
        if not made:
            study = parse_study(record["settings"], record["command"])
            made.update({cell.name: cell for cell in expand(study)})
        return quantities_of(made[name])

    return of


def _places(
    path: Path, cells: Sequence[Mapping[str, Any]]
) -> tuple[dict[str, xr.Variable], list[tuple[int, ...]]]:
    """Return the coordinates of the cells, values in order of appearance, and each cell's place."""
    names = list(cells[0]["coordinates"])
    if any(list(cell["coordinates"]) != names for cell in cells):
        raise ArgumentError(f"{str(path / RECORD)!r} is damaged: its cells have different coordinates")
    along: dict[str, xr.Variable] = {}
    columns: list[list[int]] = []
    for name in names:
        values = [cell["coordinates"][name] for cell in cells]
        every = {_key(value): value for value in values}
        order = {key: place for place, key in enumerate(every)}
        along[name] = _coordinate(name, list(every.values()))
        columns.append([order[_key(value)] for value in values])
    places = [tuple(column[at] for column in columns) for at in range(len(cells))]
    if len(set(places)) < len(places):
        raise ArgumentError(f"{str(path / RECORD)!r} is damaged: two of its cells have the same coordinates")
    return along, places


def _coordinate(name: str, values: Sequence[Any]) -> xr.Variable:
    about = {"long_name": LONG_NAMES.get(name, name.replace("_", " ")), "units": "1"}
    if {type(value) for value in values} <= {int, float}:
        return xr.Variable(name, np.array(values), about)
    return xr.Variable(name, texts_of([_text(value) for value in values]), about)


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _key(value: Any) -> Any:
    """Return what tells values of a coordinate apart: numbers by what they are, the rest by its text."""
    return value if type(value) in (int, float) else _text(value)


def _provenance(records: Sequence[Record]) -> dict[str, Any]:
    """Return where the files come from; where they do not agree, ``also_made_with`` has the others."""
    first = {name: value for name, value in records[0].attributes.items() if name not in ("cell", "step")}
    others: list[dict[str, Any]] = []
    for record in records:
        names = dict.fromkeys((*record.attributes, *PROVENANCE))  # one process says nothing of ranks
        own = {name: record.attributes.get(name) for name in names if name not in _OWN}
        other = {name: value for name, value in own.items() if first.get(name) != value}
        if other and other not in others:
            others.append(other)
    return first | ({"also_made_with": json.dumps(others)} if others else {})
