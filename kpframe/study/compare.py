"""Compare learning rules on a trained network: updates, flows and spectra, as a dataset with named dims."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
import xarray as xr

from kpframe.checkpoint import Checkpoint, load_checkpoint
from kpframe.comparison import FACINGS, UpdateComparison, compare_update
from kpframe.errors import ArgumentError, CheckpointError, mismatch
from kpframe.flow import Flow, linearize
from kpframe.model import Model
from kpframe.operators.base import Operator
from kpframe.readout import Readout, output_error
from kpframe.registry import create_task
from kpframe.rules import LearningRule
from kpframe.scale import cosine
from kpframe.spectra import alignment, effective_rank, eigsh, svd
from kpframe.tasks import Loss, Task, Trials
from kpframe.update import Update

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
) -> xr.Dataset:
    """Return what each rule does beside backpropagation through time.

    Args:
        model, readout: the network.
        trials: the trials along which the rules are compared.
        loss: the task's loss.
        rules: label -> rule, linear in the error.
        budget: operator products spent on each estimate.
        values: leading singular values kept.
        seed: of the random probes.

    Returns:
        A dataset with dims ``rule, rule_other, parameter, time, time_used, lag, facing, k``. Updates are made
        of the output error. Where a rule feeds back what a hidden error does not determine (more outputs than
        units), it has no flow on the state space, whose figures are NaN.

    Raises:
        ArgumentError: for no rules at all, and as ``compare_update``.
    """
    if not rules:
        raise ArgumentError(mismatch("rules", "at least one learning rule", "none"))
    flow = linearize(model, trials.inputs, mask=trials.mask)
    with torch.no_grad():
        output_err = output_error(readout(flow.trajectory.states), trials, loss)
    found = {
        label: compare_update(flow, None, rule, readout, output_err=output_err)
        for label, rule in rules.items()
    }
    made = {label: rule.update(flow, readout) for label, rule in rules.items()}
    updates = [update.output_operator(output_err) for update in made.values()]
    operators = {label: flow_of(update) for label, update in made.items()}
    data = xr.Dataset(_of_updates(found), coords=_coordinates(found, flow))
    cosines = [[cosine(one, other) for other in updates] for one in updates]
    data["rule_cosine"] = (("rule", "rule_other"), np.array(cosines))
    data = data.assign_coords(
        rule_other=list(rules), formula=("rule", [formula_of(update) for update in made.values()])
    )
    rows = []
    for place, (label, operator) in enumerate(operators.items()):
        rows.append(_of_flow(flow, operator, made[label].P, budget, values, 1000 * seed + place))
    flows = xr.concat(rows, dim=xr.Variable("rule", list(operators)))
    data = data.merge(flows).set_coords(_METHODS)
    for name, text in _LONG_NAMES.items():
        data[name].attrs = {"long_name": text, "units": "1"}
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


def _of_updates(found: Mapping[str, UpdateComparison]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
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


def _of_flow(
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
        largest = _end(flow, operator, "largest", budget, generator(3))
        smallest = _end(flow, operator, "smallest", budget, generator(3))
        estimates = (likeness.value, likeness.stderr, rank.value, rank.stderr)
        figures = dict(zip(_FLOW_FIGURES, (*estimates, *largest[:3], *smallest[:3]), strict=True))
        how = (likeness.method, rank.method, leading.method, f"{largest[3]}; {smallest[3]}")
        methods = dict(zip(_METHODS, how, strict=True))
    apart, known = _apart(flow, P_rule, budget, generator(4))
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


def _end(
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
        value, converged = 0.0, converged and found.method == "dense"
    return value, residual, converged, found.method


def _numbers(values: torch.Tensor) -> np.ndarray:
    return values.double().cpu().numpy()


def _apart(flow: Flow, P_rule: Operator, budget: int, generator: torch.Generator) -> tuple[float, bool]:
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


def load_network(path: Path) -> tuple[Model, Readout, Checkpoint]:
    """Return the model and the readout of a checkpoint.

    Raises:
        CheckpointError: for a file that is missing, corrupt, or without a readout.
    """
    checkpoint = load_checkpoint(path)
    model = checkpoint.build_model()
    weight = checkpoint.tensors.get("readout.weight")
    if weight is None:
        raise CheckpointError(f"{str(path)!r} holds no readout, through which the error comes")
    hidden = slice(*checkpoint.extra.get("reads", (0, model.width)))
    readout = Readout(model.width, weight.shape[0], hidden=hidden, dtype=weight.dtype)
    checkpoint.load_into(readout, "readout")
    return model, readout, checkpoint


def compare_source(
    source: Path,
    rules: Mapping[str, LearningRule],
    *,
    task: Task | None = None,
    trials: int = 24,
    budget: int = 60,
    seed: int = 0,
    report: Callable[[str], None] | None = None,
) -> xr.Dataset:
    """Return the comparison on a checkpoint, or on every checkpoint of a run's folder.

    Args:
        source: a ``*.safetensors`` file, or a folder with ``checkpoints/``.
        rules: label -> rule.
        task: the source of trials; that of the checkpoint when left out.
        trials, budget, seed: size of the probe batch, products for each estimate, seed of both.
        report: called with the name of each checkpoint before it is compared.

    Returns:
        As ``compare_rules``, with a dimension ``checkpoint`` and its coordinates ``model`` and ``step``.

    Raises:
        ArgumentError: when no task is known.
        CheckpointError: when there is no checkpoint; as ``load_network``.
    """
    paths = [source] if source.is_file() else sorted((source / "checkpoints").glob("*.safetensors"))
    if not paths:
        expected = "a checkpoint (*.safetensors), or the folder of a run with checkpoints/"
        got = f"{str(source)!r}, which {'holds none' if source.exists() else 'does not exist'}"
        raise CheckpointError(mismatch("source", expected, got))
    found, steps, models = [], [], []
    for path in paths:
        if report is not None:
            report(path.stem)
        model, readout, checkpoint = load_network(path)
        own = task if task is not None else _task_of(checkpoint, path)
        probe = own.sample(trials, generator=seed, split="test", dtype=readout.weight.dtype)
        found.append(compare_rules(model, readout, probe, own.loss, rules, budget=budget, seed=seed))
        steps.append(checkpoint.step)
        models.append(str(checkpoint.model))
    names = xr.Variable("checkpoint", [path.stem for path in paths])
    data = xr.concat(found, dim=names, join="outer", coords="all")
    return data.assign_coords(step=("checkpoint", steps), model=("checkpoint", models))


def _task_of(checkpoint: Checkpoint, path: Path) -> Task:
    task = checkpoint.extra.get("task")
    if task is None:
        raise ArgumentError(mismatch("task", f"a task, as {str(path)!r} names none", "none"))
    return create_task(task["name"], **task["settings"])
