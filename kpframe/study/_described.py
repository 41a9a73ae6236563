"""What coordinates are, where whoever made them does not say it: each has ``long_name`` and ``units``."""

from __future__ import annotations

import xarray as xr

LONG_NAMES = {
    "network": "network",
    "trained_by": "learning rule that the network is trained by",
    "seed": "seed of weights, trials, probes and random rules",
    "step": "updates made",
    "update": "update, counted from 1",
    "checkpoint": "checkpoint",
    "operator": "operator",
    "rule": "learning rule that is compared with the exact gradient",
    "rule_other": "learning rule that is the other one of a pair",
    "parameter": "parameter of the model",
    "inputs": "set of inputs that it is measured along",
    "quantity": "what is recorded",
}


def described(data: xr.Dataset) -> xr.Dataset:
    """Return data whose coordinates all say what they are; numbers without a unit have the unit 1."""
    data = data.copy()
    for name, coordinate in data.coords.items():
        text = LONG_NAMES.get(str(name), str(name).replace("_", " "))
        coordinate.attrs = {"long_name": text, "units": "1"} | coordinate.attrs
    return data
