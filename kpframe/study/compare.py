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
    "effective_rank": "effective rank of the rule's flow",
    "effective_rank_stderr": "standard error of the effective rank",
    "singular_value": "leading singular values of the rule's flow",
    "symmetric_largest": "largest eigenvalue of the flow's symmetric part",
    "symmetric_smallest": "smallest eigenvalue of the flow's symmetric part",
    "propagator_error": "norm of P - P_rule, relative to that of P",
}
#: What is estimated of a rule's flow.
_FLOW_FIGURES = (
    "flow_alignment",
    "flow_alignment_stderr",
    "effective_rank",
    "effective_rank_stderr",
    "symmetric_largest",
    "symmetric_smallest",
)


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
    data = data.merge(flows)
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
    figures, singular = dict.fromkeys(_FLOW_FIGURES, np.nan), np.full(count, np.nan)
    if operator is not None:
        likeness = alignment(operator, flow.Phi, budget=budget, generator=generator(0))
        rank = effective_rank(operator, budget=budget, generator=generator(1))
        leading = svd(operator, k=count, budget=max(2 * budget, 4 * count), tol=1e-2, generator=generator(2))
        singular = leading.S.double().cpu().numpy()
        ends = [
            eigsh(operator.symmetric_part, k=1, budget=budget, tol=1e-2, which=which, generator=generator(3))
            for which in ("largest", "smallest")
        ]
        estimates = (likeness.value, likeness.stderr, rank.value, rank.stderr)
        found = (*map(float, estimates), *(float(end.eigenvalues[0]) for end in ends))
        figures = dict(zip(_FLOW_FIGURES, found, strict=True))
    return xr.Dataset(
        {name: ((), value) for name, value in figures.items()}
        | {
            "singular_value": (("k",), singular),
            "propagator_error": ((), _apart(flow, P_rule, budget, generator(4))),
        },
        coords={"k": np.arange(1, count + 1)},
    )


def _apart(flow: Flow, P_rule: Operator, budget: int, generator: torch.Generator) -> float:
    """Return ``|P - P_rule| / |P|`` in the operator norm, by the largest singular values."""
    if P_rule is flow.P:
        return 0.0
    sizes = [
        float(svd(op, k=1, budget=2 * budget, tol=1e-2, generator=generator).S[0])
        for op in (flow.P - P_rule, flow.P)
    ]
    return sizes[0] / sizes[1]


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
    data = xr.concat(found, dim=xr.Variable("checkpoint", [path.stem for path in paths]), join="outer")
    return data.assign_coords(step=("checkpoint", steps), model=("checkpoint", models))


def _task_of(checkpoint: Checkpoint, path: Path) -> Task:
    task = checkpoint.extra.get("task")
    if task is None:
        raise ArgumentError(mismatch("task", f"a task, as {str(path)!r} names none", "none"))
    return create_task(task["name"], **task["settings"])
