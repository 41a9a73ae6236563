"""Record a moment: all quantities of a study as one dataset and file, each failure at its own cost."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import xarray as xr

from kpframe.errors import ArgumentError, told
from kpframe.operators._isolation import isolated
from kpframe.study._cells import checkpoint_file, record_file
from kpframe.study._described import described
from kpframe.study._disk.files import make_folder
from kpframe.study._disk.folder import RunWriter
from kpframe.study._disk.results import read_dataset
from kpframe.study._moment import Moment
from kpframe.study._networks.checkpoint import save_checkpoint
from kpframe.study._operator_quantity import OperatorQuantity, found_of
from kpframe.study._quantity import Quantity
from kpframe.study._ranks.measure import is_shared, measure_together

#: Dims that all quantities share; the other dims of one with a label of its own get the label, too.
SHARED = (
    *(
        "step",
        "step_other",
        "operator",
        "operator_other",
        "rule",
        "inputs",
        "parameter",
        "trial",
        "trial_other",
        "time",
        "time_other",
    ),
    *("hidden", "output", "epoch"),
)


def record(moment: Moment, quantities: Mapping[str, Quantity]) -> xr.Dataset:
    """Return what the quantities say of a moment.

    Args:
        moment: the network and what it is measured along.
        quantities: label -> quantity; where a label is not the quantity's registered name, see ``labelled``.

    Returns:
        The variables of all quantities, and ``quantity_failure`` along ``quantity``: why one could not be
        measured, empty where it could. With several sets of inputs figures along them have the
        dimension ``inputs``. The attribute ``probe_trials`` says what the trials hold that kpframe has
        chosen.
    """
    data, failures = xr.Dataset(), []
    device = moment.probe.inputs.device
    with isolated(device, "record"):
        measures = _measures(moment, quantities)
    for label, (quantity, measure) in zip(quantities, measures, strict=True):
        try:
            with isolated(device, "record"):
                part = labelled(label, _measured(moment, quantity, measure))
            data = xr.merge([data, part], join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
            failures.append("")
        except Exception as error:  # it costs the quantity's own figures
            failures.append(told(error))
    data = data.assign_coords(quantity=("quantity", list(quantities)))
    data["quantity_failure"] = (
        "quantity",
        np.array(failures, dtype=object),
        {"long_name": "why a quantity could not be measured", "units": "1"},
    )
    if said := "; ".join(probe.text for probe in moment.around.probes.values() if probe.text):
        data.attrs["probe_trials"] = said
    return described(data)


def write_step(
    folder: RunWriter, name: str, moment: Moment, quantities: Mapping[str, Quantity], /, **checkpoint: Any
) -> xr.Dataset:
    """Write the network of a moment and what the quantities say of it; return the latter.

    Where there is a record there is a checkpoint: it is written first.

    Args:
        folder: of the run.
        name: of the cell.
        moment: the network and what it is measured along.
        quantities: label -> quantity.
        checkpoint: as ``save_checkpoint`` takes them: ``name``, ``settings``, and ``extra``, to which run and
            cell are added.

    Raises:
        OutputError: for a file that cannot be written.
        CheckpointError: for settings or extras that JSON cannot hold.
    """
    path = folder.path / checkpoint_file(name, moment.step)
    make_folder(path.parent)
    own = {"run": folder.id, "cell": name}
    options = checkpoint | {"step": moment.step, "extra": {**checkpoint.get("extra", {}), **own}}
    save_checkpoint(path, moment.model, moment.readout, **options)
    moment.record_before = cache(partial(_before, folder, name, moment.step))
    data = record(moment, quantities)
    folder.write_dataset(record_file(name, moment.step), data, cell=name, step=moment.step)
    return data


def _before(folder: RunWriter, name: str, step: int) -> xr.Dataset | None:
    """Return the record of the step of a cell that was recorded before; None where there is none to read.

    From the file, so that a run that goes on has what one without an interruption has, to the last bit.
    """
    names = [path.stem.removeprefix(f"{name}-") for path in (folder.path / "steps").glob("*.nc")]
    steps = [int(other) for other in names if other.isdecimal() and int(other) < step]
    if not steps:
        return None
    try:
        found = read_dataset(folder.path / record_file(name, max(steps)))
    except ArgumentError:  # it is damaged: there is nothing to go on from
        return None
    return found if found.attrs.get("run_id", folder.id) == folder.id else None


def labelled(label: str, data: xr.Dataset) -> xr.Dataset:
    """Return a quantity's data under a label, ``"late:singular_value"``, where it has one with a colon.

    Each variable says in its attribute ``quantity`` whose it is.
    """
    data = data.copy()
    for variable in data.data_vars.values():
        variable.attrs["quantity"] = label
    prefix, colon, _ = label.partition(":")
    if not colon:
        return data
    names = [name for name in (*data.data_vars, *data.dims) if name not in SHARED]
    return data.rename({name: f"{prefix}_{name}" for name in names})


def _along(moment: Moment, quantity: Quantity) -> list[Moment]:
    """Return the moment along each set of inputs that the quantity is measured along."""
    if quantity.of_network:
        return [moment]
    return [moment.along(name) for name in moment.around.probes]


def _measures(
    moment: Moment, quantities: Mapping[str, Quantity]
) -> list[tuple[Quantity, list[Callable[[], xr.Dataset]]]]:
    """Return the quantities and what gives their data along each set of inputs.

    What is found of each operator by itself is found here, of all quantities at once.
    """
    on_ranks = {label for label, quantity in quantities.items() if is_shared(moment, quantity, label)}
    here = [quantity for label, quantity in quantities.items() if label not in on_ranks]
    along = [(quantity, one) for quantity in here for one in _along(moment, quantity)]
    found = iter(found_of([(q, one) for q, one in along if isinstance(q, OperatorQuantity)]))

    def measure_of(label: str, quantity: Quantity, one: Moment) -> Callable[[], xr.Dataset]:
        if label in on_ranks:
            return partial(measure_together, one, quantity, label)
        return next(found) if isinstance(quantity, OperatorQuantity) else partial(quantity.measure, one)

    return [
        (quantity, [measure_of(label, quantity, one) for one in _along(moment, quantity)])
        for label, quantity in quantities.items()
    ]


def _measured(moment: Moment, quantity: Quantity, measures: Sequence[Callable[[], xr.Dataset]]) -> xr.Dataset:
    every = [measure() for measure in measures]
    names = list(moment.around.probes)
    if quantity.of_network or len(names) == 1:
        return every[0]
    # coordinates, too: trials have other labels, estimates may have been made in another way
    return xr.concat(every, dim=xr.Variable("inputs", names), join="outer", coords="all", compat="equals")
