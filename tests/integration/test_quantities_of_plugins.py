"""Quantities of learning on bundled models and padded trials: structured operators beside autograd's."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from kpframe import Readout, create_model, create_task, linearize
from kpframe.plugin._core_learning import learning_quantities
from kpframe.study._moment import Moment, Probe, Surroundings
from kpframe.study._quantity import create_quantity
from kpframe.study._record import record

F64 = torch.float64
NAMES = [spec.name for spec in learning_quantities()]
MODELS = [("gru", None), ("lstm", "h"), ("lru", None)]


def moments(name: str, reads: str | None, method: str) -> Moment:
    """Return the second of two moments, operators made by ``method``."""
    task = create_task("contextual_integration", jitter=3, fixation=1, stimulus=2, delay=1, response=1)
    trials = task.sample(4, generator=0, dtype=F64)
    assert len(set(trials.lengths.tolist())) > 1
    test = task.sample(12, generator=3, split="test", dtype=F64)
    around = Surroundings({"test": Probe.of(trials)}, task.loss, test=test, budget=16)
    torch.manual_seed(1)
    model = create_model(name, input_size=task.input_size, hidden_size=5).double()
    hidden = None if reads is None else model.component_slice(reads)
    readout = Readout(model.width, task.output_size, hidden=hidden, generator=2, dtype=F64)
    made: list[Moment] = []
    for step in (0, 4):
        own = copy.deepcopy(model)
        source = torch.Generator().manual_seed(step)
        with torch.no_grad():
            for parameter in own.parameters():
                parameter += 1e-3 * step * torch.randn(parameter.shape, generator=source, dtype=F64)
        one = Moment(
            own, readout, around, step=step, first=lambda: made[0], previous=lambda: made[0],
            learning_rate=0.01,
        )  # fmt: skip
        one.__dict__["flow"] = linearize(own, trials.inputs, mask=trials.mask, method=method)
        made.append(one)
    return made[1]


@pytest.mark.rows(6)
@pytest.mark.parametrize(("name", "reads"), MODELS)
def test_figures_do_not_depend_on_how_operators_are_made(name: str, reads: str | None) -> None:
    quantities = {label: create_quantity(label) for label in NAMES}
    one, other = (record(moments(name, reads, method), quantities) for method in ("auto", "autograd"))
    for data in (one, other):
        assert data.quantity_failure.values.tolist() == [""] * len(NAMES)
    for variable in one.data_vars:
        if one[variable].dtype.kind == "f":
            right = other[variable].values
            finite = np.abs(right[np.isfinite(right)])
            scale = float(finite.max()) if finite.size else 0.0
            # an error of 0 (random signs are exact for a diagonal A) is 0 but for rounding
            least = 1e-9 * scale + 1e-12
            np.testing.assert_allclose(one[variable], right, rtol=1e-6, atol=least, err_msg=str(variable))
    assert float(one.change_norm.min()) > 0
    assert bool(one.ftle.isnull().any())  # padded steps
