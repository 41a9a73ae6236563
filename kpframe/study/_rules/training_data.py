"""What came of training one network by several rules, as a dataset with named dims."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal, Self

import numpy as np
import torch
import xarray as xr
from attrs import evolve, field, frozen

from kpframe.errors import ArgumentError, NonFiniteError, NonFiniteProductError, mismatch, told
from kpframe.models._model import Model
from kpframe.operators._scale import cosine, norm
from kpframe.spectra import Estimate
from kpframe.study._described import described
from kpframe.study._scores import Score

Outcome = Literal["trained", "diverged", "failed", "under way"]

_LONG_NAMES = {
    "training_loss": "training loss, before each update",
    "outcome": "trained, diverged, failed, or under way when the file was written",
    "diverged_at": "update at which loss or states were no longer finite, one more than there are where that "
    "was after the last; NaN where they stayed finite",
    "failed_at": "update at which the rule raised an error, one more than there are where that was after the "
    "last; NaN where it raised none",
    "reason": "why a rule diverged or failed",
    "test_loss_before": "test loss before training",
    "test_loss": "test loss after training",
    "effective_rank_before": "effective rank tr(G)^2 / tr(G^2) before training",
    "effective_rank_before_stderr": "standard error of the effective rank before training",
    "effective_rank": "effective rank tr(G)^2 / tr(G^2) after training",
    "effective_rank_stderr": "standard error of the effective rank",
    "effective_rank_method": "how the effective rank was found, and of which operator it is",
    "alignment_with_first_method": "how the alignment with the first rule was found",
    "alignment_with_initial_method": "how the alignment with the initial network was found",
    "alignment_with_first": "alignment of Phi after training with that of the first rule",
    "alignment_with_first_stderr": "standard error of the alignment with the first rule",
    "alignment_with_initial": "alignment of Phi after training with that before",
    "alignment_with_initial_stderr": "standard error of the alignment with the initial network",
    "parameter_norm_before": "norm of a parameter before training",
    "parameter_norm": "norm of a parameter after training",
    "parameter_change": "norm of the change of a parameter",
    "change_cosine": "cosine between the changes of all the model's parameters under two rules",
}
_NONE = (np.nan, np.nan)
_MEASURED = {
    "value": "effective ranks of operators, and alignments of Phi with that of other networks",
    "value_stderr": "standard error of an estimate",
    "method": "how an estimate was made",
    "score": "loss and score on test trials, in the units of the task",
    "problem": "what could not be estimated, and why",
    "error": "what became of a network that could not be measured, and why",
    "figure": "operator, or other network",
    "kind": "rank or alignment",
    "what": "loss or score",
}


@frozen(eq=False)
class Measured:
    """What is known of a network at one moment of its training; estimates are (value, standard error)."""

    scores: tuple[float, float]
    parameters: dict[str, torch.Tensor] = field(factory=dict)
    ranks: dict[str, tuple[float, float]] = field(factory=dict)
    alignments: dict[str, tuple[float, float]] = field(factory=dict)
    methods: dict[str, str] = field(factory=dict)
    problems: list[str] = field(factory=list)
    error: tuple[Outcome, str] | None = None

    @classmethod
    def failed(cls, error: Exception) -> Self:
        """Return what is known of a network that an error kept from being measured."""
        stopped = TrainingResult.stopped(np.empty(0), 1, error)
        return cls(_NONE, error=(stopped.outcome, stopped.reason))

    def of(self, model: Model) -> Self:
        """Return the same with the parameters of the network."""
        return evolve(
            self, parameters={name: value.detach().clone() for name, value in model.trainable().items()}
        )

    def to_dataset(self) -> xr.Dataset:
        """Return all but the parameters as a dataset, from which ``from_dataset`` has it again."""
        estimates = {("rank", name): value for name, value in self.ranks.items()}
        estimates |= {("alignment", name): value for name, value in self.alignments.items()}
        values = np.array(list(estimates.values())).reshape(-1, 2)
        data = xr.Dataset(
            {
                "value": ("figure", values[:, 0]),
                "value_stderr": ("figure", values[:, 1]),
                "method": ("figure", _texts(self.methods.get(name, "") for _, name in estimates)),
                "score": ("what", np.array(self.scores)),
                "problem": ("place", _texts(self.problems)),
                "error": ("part", _texts(self.error or ())),
            },
            coords={
                "figure": ("figure", _texts(name for _, name in estimates)),
                "kind": ("figure", _texts(kind for kind, _ in estimates)),
                "what": ("what", _texts(("loss", "accuracy or R^2"))),
            },
        )
        for name, text in _MEASURED.items():
            data[name].attrs = {"long_name": text, "units": "1"}
        return data

    @classmethod
    def from_dataset(cls, data: xr.Dataset) -> Self:
        """Return what ``to_dataset`` wrote; raises ``ArgumentError`` for another dataset."""
        try:
            error = tuple(map(str, data.error.values))
            found = cls(tuple(data.score.values.tolist()), error=error or None)  # type: ignore[arg-type]
            found.problems.extend(map(str, data.problem.values))
            rows = (
                data[name].values.tolist() for name in ("kind", "figure", "value", "value_stderr", "method")
            )
            for kind, name, value, stderr, method in zip(*rows, strict=True):
                (found.ranks if kind == "rank" else found.alignments)[name] = value, stderr
                if method:
                    found.methods[name] = method
        except (AttributeError, KeyError, TypeError, ValueError) as other:
            got = f"another ({told(other)})"
            raise ArgumentError(mismatch("data", "the figures of a network", got)) from other
        return found

    def estimate(
        self,
        into: dict[str, tuple[float, float]],
        name: str,
        what: str,
        make: Callable[[], Estimate],
    ) -> None:
        """Make an estimate; where that raises an error it is NaN, and the error among the problems."""
        into[name] = _NONE
        try:
            found = make()
        except Exception as error:
            self.problems.append(f"{what}: {told(error)}")
        else:
            into[name] = float(found.value), float(found.stderr)
            self.methods[name] = found.method


@frozen(eq=False)
class TrainingResult:
    """What came of a rule: losses, NaN from ``stopped_at`` on, and the network, None where it has none."""

    losses: np.ndarray
    outcome: Outcome
    stopped_at: float = np.nan
    reason: str = ""
    network: Measured | None = None

    @classmethod
    def stopped(cls, losses: np.ndarray, update: int, error: Exception) -> Self:
        """Return the result of a rule that an error stopped at an update."""
        cause = error.__cause__ if isinstance(error.__cause__, NonFiniteError) else error
        # a product may be too large for numbers where loss and states are not
        gone = isinstance(cause, NonFiniteError) and not isinstance(cause, NonFiniteProductError)
        return cls(losses, "diverged" if gone else "failed", float(update), told(cause))


def training_dataset(
    results: Mapping[str, TrainingResult],
    initial: Measured,
    files: Mapping[str, str],
    steps: int,
    score: Score,
) -> xr.Dataset:
    """Return the dataset of a training, of the rules that have come to an end or are under way.

    Args:
        results: label -> what came of a rule.
        initial: the network before training.
        files: label -> stem of the name of the rule's checkpoint.
        steps: updates in all.
        score: that of the task.
    """
    labels, parameters = list(results), list(initial.parameters)
    networks = [result.network for result in results.values()]
    ranks = np.array([[_NONE if n is None else n.ranks[name] for name in initial.ranks] for n in networks])
    scores = np.array([_NONE if n is None else n.scores for n in networks])
    norms = np.array([[_norm(n, name) for name in parameters] for n in networks])
    moved = [None if n is None else _change(n, initial) for n in networks]
    before = np.array(list(initial.ranks.values()))
    rule = ("rule",)
    stops = {
        f"{outcome}_at": (
            rule,
            np.array(
                [result.stopped_at if result.outcome == outcome else np.nan for result in results.values()]
            ),
        )
        for outcome in ("diverged", "failed")
    }
    data = xr.Dataset(
        {
            "training_loss": (("rule", "update"), np.stack([result.losses for result in results.values()])),
            "outcome": (rule, np.array([result.outcome for result in results.values()], dtype=object)),
            **stops,
            "reason": (rule, np.array([result.reason for result in results.values()], dtype=object)),
            "test_loss_before": ((), initial.scores[0]),
            f"{score.variable}_before": ((), initial.scores[1]),
            "test_loss": (rule, scores[:, 0]),
            score.variable: (rule, scores[:, 1]),
            "effective_rank_before": (("operator",), before[:, 0]),
            "effective_rank_before_stderr": (("operator",), before[:, 1]),
            "effective_rank": (("rule", "operator"), ranks[..., 0]),
            "effective_rank_stderr": (("rule", "operator"), ranks[..., 1]),
            "effective_rank_method": (("rule", "operator"), _methods(networks, list(initial.ranks))),
            "parameter_norm_before": (
                ("parameter",),
                np.array([_norm(initial, name) for name in parameters]),
            ),
            "parameter_norm": (("rule", "parameter"), norms),
            "parameter_change": (
                ("rule", "parameter"),
                np.array([[_size(change, name) for name in parameters] for change in moved]),
            ),
            "change_cosine": (("rule", "rule_other"), _cosines(moved)),
            **_alignments(networks),
        },
        coords={
            "rule": labels,
            "rule_other": labels,
            "operator": list(initial.ranks),
            "parameter": parameters,
            "update": np.arange(1, steps + 1),
            "checkpoint": (
                "rule",
                ["" if result.network is None else files[label] for label, result in results.items()],
            ),
        },
    )
    names = _LONG_NAMES | {
        f"{score.variable}_before": f"{score.text}, before training",
        score.variable: f"{score.text}, after training",
    }
    for name, text in names.items():
        data[name].attrs = {"long_name": text, "units": score.loss_unit if "loss" in name else "1"}
    data["checkpoint"].attrs = {"long_name": "name of the rule's checkpoint after training", "units": "1"}
    data["rule"].attrs = {"long_name": "learning rule that the network is trained by", "units": "1"}
    return described(data)


def _alignments(networks: list[Measured | None]) -> dict[str, tuple[tuple[str, ...], np.ndarray]]:
    found: dict[str, tuple[tuple[str, ...], np.ndarray]] = {}
    for name in ("first", "initial"):
        values = np.array([_NONE if n is None else n.alignments.get(name, _NONE) for n in networks])
        found[f"alignment_with_{name}"] = (("rule",), values[:, 0])
        found[f"alignment_with_{name}_stderr"] = (("rule",), values[:, 1])
        found[f"alignment_with_{name}_method"] = (("rule",), _methods(networks, [name])[:, 0])
    return found


def _texts(values: Iterable[str]) -> np.ndarray:
    found = list(values)
    return np.array(found, dtype=object) if found else np.empty(0, dtype=object)


def _methods(networks: list[Measured | None], names: list[str]) -> np.ndarray:  # [rule, name]
    """Return how estimates were made, nothing where there is none."""
    rows = [["" if n is None else n.methods.get(name, "") for name in names] for n in networks]
    return np.array(rows, dtype=object)


def _norm(network: Measured | None, name: str) -> float:
    return np.nan if network is None else norm(network.parameters[name])


def _change(network: Measured, initial: Measured) -> dict[str, torch.Tensor]:
    return {name: value - initial.parameters[name] for name, value in network.parameters.items()}


def _size(change: dict[str, torch.Tensor] | None, name: str) -> float:
    return np.nan if change is None else norm(change[name])


def _cosines(changes: list[dict[str, torch.Tensor] | None]) -> np.ndarray:  # [rule, rule]
    """Return the cosines between whole changes; NaN where one diverged or nothing changed."""
    found = np.full((len(changes), len(changes)), np.nan)
    flat = [None if c is None else torch.cat([v.reshape(-1) for v in c.values()]) for c in changes]
    for row, one in enumerate(flat):
        for column, other in enumerate(flat):
            if one is not None and other is not None:
                found[row, column] = cosine(one, other)
    return found
