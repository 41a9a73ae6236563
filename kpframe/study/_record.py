"""Record a moment: all quantities of a study as one dataset, each failure at its own cost."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from kpframe.errors import told
from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity

#: Dims that all quantities share; the other dims of one with a label of its own get the label, too.
SHARED = (
    *("step", "operator", "rule", "inputs", "parameter", "trial", "trial_other", "time", "time_other"),
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
        dimension ``inputs``.
    """
    parts, failures = [], []
    for label, quantity in quantities.items():
        try:
            parts.append(labelled(label, _measured(moment, quantity)))
            failures.append("")
        except Exception as error:  # it costs the quantity's own figures
            failures.append(told(error))
    data = xr.merge(parts, join="outer", compat="no_conflicts", combine_attrs="drop_conflicts")
    data = data.assign_coords(quantity=("quantity", list(quantities)))
    data["quantity_failure"] = (
        "quantity",
        np.array(failures, dtype=object),
        {"long_name": "why a quantity could not be measured", "units": "1"},
    )
    return data


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


def _measured(moment: Moment, quantity: Quantity) -> xr.Dataset:
    names = list(moment.around.probes)
    if quantity.of_network or len(names) == 1:
        return quantity.measure(moment)
    every = [quantity.measure(moment.along(name)) for name in names]
    return xr.concat(
        every, dim=xr.Variable("inputs", names), join="outer", coords="minimal", compat="override"
    )
