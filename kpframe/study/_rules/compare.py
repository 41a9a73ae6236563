"""Compare learning rules on a trained network: updates, flows and spectra, as a dataset with named dims."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.operators._base import Operator
from kpframe.operators._scale import cosine
from kpframe.rules._comparison import FACINGS, UpdateComparison, compare_update
from kpframe.rules._rule import LearningRule
from kpframe.rules._update import Update
from kpframe.spectra import alignment, effective_rank, eigsh, svd
from kpframe.study._scores import SCORES
from kpframe.tasks._error import output_error
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Loss, Trials

_LONG_NAMES = {
    "update_cosine": "cosine of the rule's update with the exact gradient",
    "rule_cosine": "cosine between the updates of two rules",
    "norm_ratio": "norm of the rule's update over that of the exact gradient",
    "loss_rate": "change of the loss per unit learning rate",
    "descent": "rate of descent of the loss, relative to the exact gradient's",
    "metric_condition": "least condition number of a metric that makes the rule a gradient",
    "loss_rate_by_parameter": "change of the loss per unit learning rate, by parameter",
    "loss_rate_by_pair": "change of the loss per unit learning rate, by step of the error and of its use",
    "loss_rate_by_lag": "change of the loss per unit learning rate, by steps the error travels back",
    "cosine_by_time": "cosine of updates step by step",
    "flow_alignment": "alignment of the rule's flow with Phi",
    "flow_alignment_stderr": "standard error of the alignment",
    "effective_rank": "effective rank tr(G)^2 / tr(G^2) with G = F F* for the rule's flow F",
    "effective_rank_stderr": "standard error of the effective rank",
    "singular_value": "leading singular values of the rule's flow; lower bounds where not converged",
    "singular_value_residual": "residual norm of each singular triplet",
    "singular_value_converged": "whether a singular value is within 1% and none is missing before it",
    "symmetric_largest": "largest eigenvalue of the flow's symmetric part; a lower bound where not converged",
    "symmetric_largest_residual": "residual norm of the largest eigenpair",
    "symmetric_largest_converged": "whether the largest eigenvalue is within 1%",
    "symmetric_smallest": "smallest eigenvalue of the flow's symmetric part; an upper bound where not "
    "converged",
    "symmetric_smallest_residual": "residual norm of the smallest eigenpair; 0 where the value is known",
    "symmetric_smallest_converged": "whether the smallest eigenvalue is within 1%",
    "propagator_error": "norm of P - P_rule, relative to that of P",
    "propagator_error_converged": "whether both norms are within 1%",
}
#: What the coordinates of a comparison are; its checkpoints and where they come from among them.
COORDINATES = {
    "rule": "learning rule",
    "rule_other": "learning rule whose update is the other one of a pair",
    "parameter": "parameter of the model",
    "time": "step of the error, from 0",
    "time_used": "step at which the parameters act, from 0",
    "lag": "steps that the error travels back",
    "facing": "whether contributions are those of an error (past) or of a use of the parameters (future)",
    "k": "place of a singular value, from 1",
    "formula": "flow of the rule as a composition of operators",
    "flow_alignment_method": "how the alignment was found",
    "effective_rank_method": "how the effective rank was found",
    "singular_value_method": "how the singular values were found",
    "symmetric_method": "how the largest and the smallest eigenvalue were found",
    "checkpoint": "network",
    "step": "updates made",
    "model": "registered model of the network",
    "source": "checkpoint, or folder of a run, that the network was read from",
}
#: What is estimated of a rule's flow, and what stands there for a rule without one.
_FLOW_FIGURES: dict[str, float | bool] = {
    "flow_alignment": np.nan,
    "flow_alignment_stderr": np.nan,
    "effective_rank": np.nan,
    "effective_rank_stderr": np.nan,
    "symmetric_largest": np.nan,
    "symmetric_largest_residual": np.nan,
    "symmetric_largest_converged": False,
    "symmetric_smallest": np.nan,
    "symmetric_smallest_residual": np.nan,
    "symmetric_smallest_converged": False,
}
#: How each was found, a coordinate along the rules.
_METHODS = ("flow_alignment_method", "effective_rank_method", "singular_value_method", "symmetric_method")
#: Largest residual of an eigenvalue or singular value that counts as converged, relative to itself.
TOLERANCE = 1e-2


def compare_rules(
    model: Model,
    readout: Readout,
    trials: Trials,
    loss: Loss,
    rules: Mapping[str, LearningRule],
    *,
    budget: int = 60,
    values: int = 8,
    seed: int = 0,
    failures: dict[str, Exception] | None = None,
    report: Callable[[str, int], None] | None = None,
) -> xr.Dataset:
    """Return what each rule does beside backpropagation through time.

    Args:
        model: the network.
        readout: its readout.
        trials: the trials along which the rules are compared.
        loss: the task's loss.
        rules: label -> rule, linear in the error.
        budget: operator products spent on each estimate.
        values: leading singular values kept.
        seed: of the random probes.
        failures: filled with the errors that rules raised, label -> error; the figures of such a rule are
            NaN. Where it is left out the first error is raised.
        report: called before each rule with its label and the number of those before it.

    Returns:
        A dataset with dims ``rule, rule_other, parameter, time, time_used, lag, facing, k``. Updates are made
        of the output error. Where a rule feeds back what a hidden error does not determine (more outputs than
        units), it has no flow on the state space, whose figures are NaN.

    Raises:
        ArgumentError: for no rules at all, and as ``compare_update``.
        KpframeError: that of the first rule, where all of them raised one.
    """
    if not rules:
        raise ArgumentError(mismatch("rules", "at least one learning rule", "none"))
    flow = linearize(model, trials.inputs, mask=trials.mask)
    with torch.no_grad():
        output_err = output_error(readout(flow.trajectory.states), trials, loss)
    found, made, updates, flows = {}, {}, [], []
    for place, (label, rule) in enumerate(rules.items()):
        if report is not None:
            report(label, place)
        try:
            one = compare_update(flow, None, rule, readout, output_err=output_err)
            update = rule.update(flow, readout)
            gradient = update.output_operator(output_err)
            own = _flow_figures(flow, flow_of(update), update.P, budget, values, 1000 * seed + place)
        except Exception as error:
            if failures is None:
                raise
            failures[label] = error
            continue
        found[label], made[label] = one, update
        updates.append(gradient)
        flows.append(own)
    if failures and not found:
        raise next(iter(failures.values()))
    data = xr.Dataset(_update_figures(found), coords=_coordinates(found, flow))
    cosines = [[cosine(one, other) for other in updates] for one in updates]
    data["rule_cosine"] = (("rule", "rule_other"), np.array(cosines))
    data = data.assign_coords(
        rule_other=list(found), formula=("rule", [formula_of(update) for update in made.values()])
    )
    data = data.merge(xr.concat(flows, dim=xr.Variable("rule", list(found)))).set_coords(_METHODS)
    if len(found) < len(rules):
        empty = {"f": np.nan, "b": False}
        fill = {name: empty.get(array.dtype.kind, "") for name, array in data.variables.items()}
        data = data.reindex(rule=list(rules), rule_other=list(rules), fill_value=fill)
    for name, text in _LONG_NAMES.items():
        unit = SCORES[loss].loss_unit if name.startswith("loss_rate") else "1"
        data[name].attrs = {"long_name": text, "units": unit}
    for name in map(str, data.coords):
        data[name].attrs = {"long_name": COORDINATES[name], "units": "1"}
    return data


def _coordinates(found: Mapping[str, UpdateComparison], flow: Flow) -> dict[str, object]:
    steps = np.arange(flow.P.domain.shape[1])
    parameters = list(next(iter(found.values())).by_parameter)
    return {
        "rule": list(found),
        "parameter": parameters,
        "time": steps,
        "time_used": steps,
        "lag": steps,
        "facing": list(FACINGS),
    }


def _update_figures(found: Mapping[str, UpdateComparison]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    """Return what ``compare_update`` gives, rule by rule."""
    all_found = list(found.values())

    def stacked(parts: list[torch.Tensor]) -> np.ndarray:
        return np.stack([part.double().cpu().numpy() for part in parts])

    data: dict[str, tuple[tuple[str, ...], np.ndarray]] = {
        "loss_rate_by_pair": (("rule", "time", "time_used"), stacked([one.by_pair for one in all_found])),
        "loss_rate_by_lag": (("rule", "lag"), stacked([one.by_lag for one in all_found])),
        "cosine_by_time": (
            ("rule", "facing", "time"),
            stacked([torch.stack([one.by_time[name] for name in FACINGS]) for one in all_found]),
        ),
        "loss_rate_by_parameter": (
            ("rule", "parameter"),
            np.array([list(one.by_parameter.values()) for one in all_found]),
        ),
    }
    for name in ("norm_ratio", "loss_rate", "descent", "metric_condition"):
        data[name] = (("rule",), np.array([getattr(one, name) for one in all_found]))
    data["update_cosine"] = (("rule",), np.array([one.cosine for one in all_found]))
    return data


def flow_of(update: Update) -> Operator | None:
    """Return a rule's flow on the state space; None where it is no function of the hidden error."""
    return update.flow_operator if update.takes_hidden_errors else None


def formula_of(update: Update) -> str:
    """Return how a rule's flow prints, on the output space where there is none on the state space."""
    return repr(flow_of(update) or update.output_flow_operator)


def _flow_figures(
    flow: Flow, operator: Operator | None, P_rule: Operator, budget: int, values: int, seed: int
) -> xr.Dataset:
    """Return spectra and likeness of a rule's flow, NaN where it has none."""

    def generator(place: int) -> torch.Generator:
        return torch.Generator(flow.P.device).manual_seed(100 * seed + place)

    count = min(values, flow.P.domain.size)
    figures, methods = dict(_FLOW_FIGURES), dict.fromkeys(_METHODS, "none")
    singular, residuals, converged = np.full(count, np.nan), np.full(count, np.nan), np.zeros(count, bool)
    if operator is not None:
        likeness = alignment(operator, flow.Phi, budget=budget, generator=generator(0))
        # some flows are positive and some are not: one definition for all of them
        rank = effective_rank(operator, budget=budget, generator=generator(1), of="op op*")
        spent = max(2 * budget, 4 * count)
        leading = svd(operator, k=count, budget=spent, tol=TOLERANCE, generator=generator(2))
        singular, residuals = _numbers(leading.S), _numbers(leading.residual_norms)
        converged = leading.converged.cpu().numpy()
        largest = _extreme_eigenvalue(flow, operator, "largest", budget, generator(3))
        smallest = _extreme_eigenvalue(flow, operator, "smallest", budget, generator(3))
        estimates = (likeness.value, likeness.stderr, rank.value, rank.stderr)
        figures = dict(zip(_FLOW_FIGURES, (*estimates, *largest[:3], *smallest[:3]), strict=True))
        how = (likeness.method, rank.method, leading.method, f"{largest[3]}; {smallest[3]}")
        methods = dict(zip(_METHODS, how, strict=True))
    apart, known = _propagator_error(flow, P_rule, budget, generator(4))
    return xr.Dataset(
        {name: ((), value) for name, value in figures.items()}
        | {name: ((), method) for name, method in methods.items()}
        | {
            "singular_value": (("k",), singular),
            "singular_value_residual": (("k",), residuals),
            "singular_value_converged": (("k",), converged),
            "propagator_error": ((), apart),
            "propagator_error_converged": ((), known),
        },
        coords={"k": np.arange(1, count + 1)},
    )


def _extreme_eigenvalue(
    flow: Flow, operator: Operator, which: str, budget: int, generator: torch.Generator
) -> tuple[float, float, bool, str]:
    """Return an end of the spectrum of a flow's symmetric part, its residual, whether it converged, and how.

    A flow goes through the parameters. With fewer of them than the states have dimensions a positive one is
    singular, which no product needs to show; and no other's symmetric part has a least eigenvalue above 0
    where they are fewer than half as many.
    """
    dimension, parameters = flow.P.domain.size, flow.J.domain.size
    if which == "smallest" and operator.positive and parameters < dimension:
        return 0.0, 0.0, True, f"exact: positive, of rank <= {parameters} < {dimension}"
    found = eigsh(
        operator.symmetric_part, k=1, budget=2 * budget, tol=TOLERANCE, which=which, generator=generator
    )
    value, residual = float(found.eigenvalues[0]), float(found.residual_norms[0])
    converged = bool(found.converged[0])
    if which == "smallest" and value > 0 and 2 * parameters < dimension:
        value, converged = 0.0, converged and found.method.startswith("dense")
    return value, residual, converged, found.method


def _numbers(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _propagator_error(
    flow: Flow, P_rule: Operator, budget: int, generator: torch.Generator
) -> tuple[float, bool]:
    """Return ``|P - P_rule| / |P|`` in the operator norm, and whether both norms converged."""
    if P_rule is flow.P:
        return 0.0, True
    difference, whole = (
        svd(op, k=1, budget=2 * budget, tol=TOLERANCE, generator=generator)
        for op in (flow.P - P_rule, flow.P)
    )
    return (
        float(difference.S[0]) / float(whole.S[0]),
        bool(difference.converged[0]) and bool(whole.converged[0]),
    )
