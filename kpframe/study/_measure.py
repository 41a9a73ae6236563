"""What a study measures of a network at one step of its training, as a dataset with named dims.

Three operators are measured: the propagator P (its figures are those of ``P P*``, how far a change of
the state spreads), the parameter operator K and the neural tangent operator Phi. Two reduced views of
each are computed exactly: over time (mean over trials, trace over units) and over trials (mean over
time, trace over units).
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr

from kpframe.errors import told
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.operators._base import Operator
from kpframe.operators._scale import cosine, norm
from kpframe.rules._rule import LearningRule
from kpframe.rules._update import Update
from kpframe.spectra import alignment, effective_rank, eigsh, trace
from kpframe.study._compare import flow_of, formula_of
from kpframe.study._config import MeasureSettings
from kpframe.study._scores import SCORES, scores_of
from kpframe.tasks._error import output_error
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials


def measured_operators(flow: Flow) -> dict[str, Operator]:
    """Return the measured operators by name; all are positive, so spectra are eigenvalues."""
    return {"P P*": flow.P @ flow.P.T, "K": flow.K, "Phi": flow.Phi}


def measure(
    model: Model,
    readout: Readout,
    probe: Trials,
    test: Trials,
    loss: Loss,
    rules: Mapping[str, LearningRule],
    settings: MeasureSettings,
    seed: int,
) -> xr.Dataset:
    """Measure a network.

    Args:
        model, readout: the network; left as it is.
        probe: the fixed trials on which the operators are built.
        test: the trials on which loss and accuracy (or R^2) are given.
        loss: the task's loss.
        rules: label -> rule to compare with the exact gradient.
        settings: what to spend.
        seed: seed of the random probes.

    Returns:
        A dataset with dims ``operator``, ``rule``, ``k``, ``time`` and ``trial`` (see the attributes
        ``long_name`` and ``units`` of its variables).
    """
    test_loss, value = scores_of(model, readout, test, loss)
    flow = linearize(model, probe.inputs, mask=probe.mask)
    data = _operators(flow, settings, seed)
    if rules:
        with torch.no_grad():
            output_err = output_error(readout(flow.trajectory.states), probe, loss)
        data = data.merge(_rules(flow, output_err, readout, rules, settings, seed))
    score = SCORES[loss]
    data["test_loss"] = ((), test_loss, {"long_name": "test loss", "units": score.loss_unit})
    data[score.variable] = ((), value, {"long_name": score.text, "units": "1"})
    for name, values in probe.trial.items():
        data = data.assign_coords({f"trial_{name}": ("trial", np.asarray(values))})
    return data


def _operators(flow: Flow, settings: MeasureSettings, seed: int) -> xr.Dataset:
    operators = measured_operators(flow)
    figures: dict[str, list[float]] = {}
    spectra, residuals, flags, time_view, trial_view, methods = [], [], [], [], [], []
    count = min(settings.values, flow.P.domain.size)
    for place, operator in enumerate(operators.values()):
        estimates = {
            name: estimate(operator, budget=settings.budget, generator=_generator(seed, place))
            for name, estimate in (("effective_rank", effective_rank), ("trace", trace))
        }
        for name, estimate in estimates.items():
            figures.setdefault(name, []).append(estimate.value)
            figures.setdefault(f"{name}_stderr", []).append(estimate.stderr)
        methods.append(f"{estimates['effective_rank'].method}; {estimates['trace'].method}")
        leading = eigsh(  # of a positive operator: also its singular values
            operator,
            k=count,
            tol=settings.tolerance,
            budget=24 * count,
            generator=_generator(seed, place),
        )
        spectra.append(leading.eigenvalues.double().cpu().numpy())
        residuals.append(leading.residual_norms.double().cpu().numpy())
        flags.append(leading.converged.cpu().numpy())
        time_view.append(operator.mean("batch").partial_trace("hidden").to_dense().double().cpu().numpy())
        trial_view.append(operator.mean("time").partial_trace("hidden").to_dense().double().cpu().numpy())
    explained, functions = zip(*(_eigenfunctions(kernel) for kernel in time_view), strict=True)
    names = list(operators)
    data = xr.Dataset(
        {name: ("operator", np.array(values)) for name, values in figures.items()}
        | {
            "singular_value": (("operator", "k"), np.stack(spectra)),
            "singular_value_residual": (("operator", "k"), np.stack(residuals)),
            "singular_value_converged": (("operator", "k"), np.stack(flags)),
            "time_kernel": (("operator", "time", "time_other"), np.stack(time_view)),
            "trial_kernel": (("operator", "trial", "trial_other"), np.stack(trial_view)),
            "time_eigenfunction": (("operator", "mode", "time"), np.stack(functions)),
            "time_explained": (("operator", "mode"), np.stack(explained)),
            "state_dimension": ((), flow.P.domain.size),
        },
        coords={
            "operator": names,
            "method": ("operator", methods),
            "k": np.arange(1, count + 1),
            "time": np.arange(flow.P.domain.shape[1]),  # from 0, as in select(time=...)
        },
    )
    for name, text in _LONG_NAMES.items():
        data[name].attrs = {"long_name": text, "units": "1"}
    return data


def _rules(
    flow: Flow,
    output_err: torch.Tensor,
    readout: Readout,
    rules: Mapping[str, LearningRule],
    settings: MeasureSettings,
    seed: int,
) -> xr.Dataset:
    exact = Update.exact(flow, readout).output_operator(output_err)
    rows: list[tuple[float, ...]] = []
    formulas: list[str] = []
    failures: list[str] = []
    for place, rule in enumerate(rules.values()):
        try:
            made = rule.update(flow, readout)
            row = _rule(flow, exact, made, output_err, settings.budget, _generator(seed, 100 + place))
            formula, failure = formula_of(made), ""
        except Exception as error:  # it costs the rule's own figures
            row, formula, failure = (math.nan,) * len(_RULE_NAMES), "", told(error)
        rows.append(row)
        formulas.append(formula)
        failures.append(failure)
    names = ("gradient_cosine", "loss_rate_ratio", "flow_alignment", "flow_alignment_stderr")
    data = xr.Dataset(
        {name: ("rule", column) for name, column in zip(names, np.array(rows).T, strict=True)},
        coords={
            "rule": list(rules),
            "formula": ("rule", formulas),
        },
    )
    for name in names:
        data[name].attrs = {"long_name": _RULE_NAMES[name], "units": "1"}
    data["failure"] = ("rule", failures, {"long_name": "why a rule has no figures"})
    return data


def _rule(
    flow: Flow,
    exact: torch.Tensor,
    made: Update,
    output_err: torch.Tensor,
    budget: int,
    generator: torch.Generator,
) -> tuple[float, ...]:
    """Return a rule's figures beside the exact update, in the order of ``_RULE_NAMES``."""
    update, own_flow = made.output_operator(output_err), flow_of(made)
    likeness = (math.nan, math.nan)
    if own_flow is not None:
        found = alignment(own_flow, flow.Phi, budget=budget, generator=generator)
        likeness = (float(found.value), float(found.stderr))
    angle, size = cosine(update, exact), norm(exact)
    # descent of the loss per unit step, as a share of what the exact gradient reaches
    rate = angle * norm(update) / size if size else math.nan
    return angle, rate, *likeness


def _eigenfunctions(kernel: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return explained fractions ``[mode]`` and eigenfunctions ``[mode, time]`` of a positive kernel."""
    values, vectors = np.linalg.eigh((kernel + kernel.T) / 2)
    order = np.argsort(values)[::-1]
    values, functions = np.clip(values[order], 0, None), vectors[:, order].T
    largest = np.take_along_axis(functions, np.abs(functions).argmax(axis=1)[:, None], axis=1)
    total = values.sum()
    return values / total if total > 0 else values, functions * np.sign(largest)


def _generator(seed: int, place: int) -> torch.Generator:
    return torch.Generator().manual_seed(1000 * seed + place)


_LONG_NAMES = {
    "effective_rank": "effective rank tr(G)^2 / tr(G^2)",
    "effective_rank_stderr": "standard error of the effective rank",
    "state_dimension": "dimension of the state space: trials x steps x width",
    "trace": "trace",
    "trace_stderr": "standard error of the trace",
    "singular_value": "leading singular values; lower bounds where not converged",
    "singular_value_residual": "residual norm of each singular triplet",
    "singular_value_converged": "whether a singular value is within the tolerance and none is missing before",
    "time_kernel": "mean over trials, trace over units",
    "trial_kernel": "mean over time, trace over units",
    "time_eigenfunction": "eigenfunctions of the time kernel",
    "time_explained": "share of the time kernel's trace that an eigenfunction explains",
}
_RULE_NAMES = {
    "gradient_cosine": "cosine of the rule's update with the exact gradient",
    "loss_rate_ratio": "rate of descent of the loss, relative to the exact gradient's",
    "flow_alignment": "alignment of the rule's flow with Phi",
    "flow_alignment_stderr": "standard error of the alignment",
}
