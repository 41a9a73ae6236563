"""What a tracker is given, checked before the training: inputs, losses, rules and quantities."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Any, TypeAlias, get_args

import torch

from kpframe.errors import ArgumentError, KpframeError, closest, mismatch, shown
from kpframe.rules._parse import parse_rule
from kpframe.rules._rule import LearningRule
from kpframe.study._moment import Moment, Probe, Surroundings
from kpframe.study._quantity import Quantity
from kpframe.study._study_file.quantity_texts import Asked, Quantities, labelled, parse_quantities
from kpframe.study._study_file.tables import DEFAULTS
from kpframe.tasks._task import Loss, Trials

#: The names of sets of inputs along the dimension ``inputs``.
PROBE, UNSEEN = "probe", "unseen"

Inputs: TypeAlias = "torch.Tensor | Trials"
Rules: TypeAlias = "Iterable[str] | Mapping[str, str | LearningRule]"


def surroundings_of(
    inputs: Inputs,
    *,
    targets: torch.Tensor | None,
    loss: str | None,
    test: Trials | None,
    unseen: Inputs | None,
    rules: Rules | None,
    operators: Iterable[str],
    budget: int,
    seed: int,
) -> Surroundings:
    """Return what a tracker measures along; raises ``ArgumentError`` naming the argument."""
    if targets is not None:
        if isinstance(inputs, Trials):
            raise ArgumentError(mismatch("targets", "none beside trials, which have their own", "some"))
        inputs = Trials.from_tensors(inputs, targets)
    probes = {PROBE: _probe(inputs, "inputs")}
    if unseen is not None:
        probes[UNSEEN] = _probe(unseen, "unseen")
    if test is not None and not isinstance(test, Trials):
        raise ArgumentError(mismatch("test", "kpframe.Trials", type(test).__name__))
    return Surroundings(
        probes,
        loss=_loss(loss, test, *(probe.trials for probe in probes.values())),
        test=test,
        rules=_rules(rules or {}),
        operators=_operators(operators),
        budget=budget,
        seed=seed,
    )


def check_rate(value: float) -> float:
    """Return a learning rate; raises ``ArgumentError``."""
    expected = "a finite number > 0"
    try:
        rate = float(value)
    except (TypeError, ValueError) as error:
        raise ArgumentError(mismatch("learning_rate", expected, shown(value))) from error
    if not 0 < rate < math.inf:
        raise ArgumentError(mismatch("learning_rate", expected, rate))
    return rate


def _operators(operators: Iterable[str]) -> tuple[str, ...]:
    if isinstance(operators, str):
        raise ArgumentError(mismatch("operators", "a list of names", repr(operators)))
    names = tuple(operators)
    if not names or len(set(names)) < len(names) or not all(isinstance(name, str) for name in names):
        raise ArgumentError(mismatch("operators", "names, at least one and each once", shown(names)))
    return names


def _probe(inputs: object, argument: str) -> Probe:
    if isinstance(inputs, Trials):
        return Probe.of(inputs)
    if isinstance(inputs, torch.Tensor):
        return Probe(inputs.detach().clone())  # the caller may go on writing to it
    raise ArgumentError(mismatch(argument, "a tensor [B, T, I] or kpframe.Trials", type(inputs).__name__))


def _loss(given: str | None, *trials: Trials | None) -> Loss | None:
    """Return the loss that is named, or that goes with the kind of the targets."""
    known = [one for one in trials if one is not None]
    if not known:
        if given is not None:
            raise ArgumentError(mismatch("loss", "targets beside it (targets=, or kpframe.Trials)", "none"))
        return None
    losses: dict[bool, Loss] = {True: "mse", False: "cross_entropy"}
    found = {losses[one.targets.is_floating_point()] for one in known}
    if len(found) > 1:
        got = "numbers in some trials and classes in others"
        raise ArgumentError(mismatch("targets", "one kind of targets", got))
    inferred = found.pop()
    if given is not None and given != inferred:
        near = closest(given, get_args(Loss)) if isinstance(given, str) else ""
        expected = f"{inferred!r}, or none, by the targets"
        raise ArgumentError(mismatch("loss", expected, f"{given!r}{near}"))
    return inferred


def _rules(rules: Rules) -> dict[str, LearningRule]:
    made: dict[str, LearningRule] = {}
    for label, rule in labelled(rules, "rules").items():
        made[label] = parse_rule(rule) if isinstance(rule, str) else rule
        if not isinstance(made[label], LearningRule):
            expected = "a kpframe.LearningRule or its text"
            raise ArgumentError(mismatch(f"rules[{label!r}]", expected, shown(rule)))
    return made


def measurable(moment: Moment, given: Quantities | None) -> tuple[dict[str, Asked], dict[str, str]]:
    """Return the quantities that a moment before training can be measured by, and why others cannot.

    Args:
        moment: the network and what it is measured along.
        given: those asked for, none of which may be left out; None for those of a study that fit.

    Raises:
        ArgumentError: for one asked for that can never be measured; says what it needs.
    """
    if given is None:
        asked = parse_quantities([*DEFAULTS, *(["rules"] if moment.around.rules else [])])
    else:
        asked = parse_quantities(given)
    kept: dict[str, Asked] = {}
    left: dict[str, str] = {}
    for label, one in asked.items():
        why = _lacking(moment, one.quantity)
        if not why:
            kept[label] = one
        elif given is None:
            left[label] = why
        else:
            raise ArgumentError(f"quantities: {label} {why}")
    return kept, left


def _lacking(moment: Moment, quantity: Quantity) -> str:
    around = moment.around
    has_targets = all(probe.trials is not None for probe in around.probes.values())
    there = {
        "readout": moment.readout is not None,
        "targets": around.loss is not None and has_targets,
        "test": around.loss is not None and around.test is not None,
        "rules": bool(around.rules),
    }
    how = {
        "readout": "a readout (readout=)",
        "targets": "targets (inputs as kpframe.Trials, or targets=)",
        "test": "test trials (test=)",
        "rules": "learning rules (rules=)",
    }
    if lacking := [how.get(name, name) for name in quantity.needs if not there.get(name, False)]:
        return f"needs {' and '.join(lacking)}"
    try:
        quantity.check(moment)
    except KpframeError as error:
        return f"cannot be measured: {error}"
    return ""


def described(moment: Moment, quantities: Mapping[str, Asked]) -> dict[str, Any]:
    """Return, as JSON holds it, all that the figures follow from beside the training itself."""
    around, model, readout = moment.around, moment.model, moment.readout
    return {
        "model": {
            "class": f"{type(model).__module__}.{type(model).__qualname__}",
            "parameters": {name: list(p.shape) for name, p in model.named_parameters()},
        },
        "readout": None if readout is None else repr(readout),
        "inputs": {name: _digest(probe) for name, probe in around.probes.items()},
        "test": None if around.test is None else _digest(Probe.of(around.test)),
        "loss": around.loss,
        "rules": {label: repr(rule) for label, rule in around.rules.items()},
        "operators": list(around.operators),
        "quantities": {label: one.text for label, one in quantities.items()},
        "budget": around.budget,
        "seed": around.seed,
        "learning_rate": moment.learning_rate,
    }


def _digest(probe: Probe) -> str:
    """Return a mark of inputs, and of what goes with them, by their values."""
    trials = probe.trials
    tensors = (
        [probe.inputs] if trials is None else [trials.inputs, trials.targets, trials.mask, trials.scored]
    )
    digest = sha256()
    for tensor in tensors:
        digest.update(f"{tensor.dtype} {list(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
