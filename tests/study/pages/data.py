"""Datasets as ``kpframe demo``, ``compare`` and ``train`` write them, by hand; no two figures are equal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import xarray as xr

from kpframe.study._rules.seeds import over_seeds

Drawn = Callable[..., np.ndarray]


def drawing(seed: int) -> Drawn:
    """Return a function that draws figures of a shape, all different, evenly in the logarithm."""
    generator = np.random.default_rng(seed)

    def draw(*shape: int, low: float, high: float) -> np.ndarray:
        return np.exp(generator.uniform(np.log(low), np.log(high), shape))

    return draw


def variables(table: dict[str, tuple[Any, Any, str]]) -> dict[str, tuple[Any, Any, dict[str, str]]]:
    return {
        name: (dims, values, {"long_name": f"the {name}", "units": unit})
        for name, (dims, values, unit) in table.items()
    }


def words(name: str, *shape: int) -> np.ndarray:
    """Return texts that all differ, the last of them empty."""
    found = np.array([f"{name}, {place}" for place in range(int(np.prod(shape)))], dtype=object)
    found[-1] = ""
    return found.reshape(shape)


ATTRIBUTES = {
    "title": "A & B <learn>",
    "created": "2026-01-02T03:04:05+00:00",
    "kpframe_version": "0.1.7",
    "seed": "41",
    "settings": json.dumps({"seed": 41, "dtype": "float64"}),
}


def study(score: str = "test_accuracy", labelled: bool = True, failing: bool = False) -> xr.Dataset:
    """A study of two networks and two operators at three moments of 240 updates."""
    draw, sign = drawing(1), np.random.default_rng(2)
    N, S, O, R, K, T, B, U = 2, 3, 2, 2, 4, 5, 4, 240  # noqa: E741
    moment, figure = ("network", "step"), ("network", "step", "operator")
    half = draw(N, S, O, B, 6, low=0.3, high=3.0) * sign.choice([-1, 1], (N, S, O, B, 6))
    kernels = np.einsum("...ik,...jk->...ij", half, half)
    functions = np.linalg.qr(sign.normal(size=(N, S, O, T, T)))[0]
    shares = -np.sort(-draw(N, S, O, T, low=0.02, high=1.0))
    unit = {"test_accuracy": "nat", "test_r2": "1"}[score]
    scores = draw(N, S, low=0.1, high=0.9) if score == "test_accuracy" else -draw(N, S, low=0.05, high=5.0)
    data = xr.Dataset(
        variables(
            {
                "training_loss": (("network", "update"), draw(N, U, low=0.03, high=2.5), unit),
                "test_loss": (moment, draw(N, S, low=0.03, high=2.5), unit),
                score: (moment, scores, "1"),
                "effective_rank": (figure, draw(N, S, O, low=2.0, high=900.0), "1"),
                "effective_rank_stderr": (figure, draw(N, S, O, low=0.02, high=1.5), "1"),
                "trace": (figure, draw(N, S, O, low=2e3, high=9e4), "1"),
                "trace_stderr": (figure, draw(N, S, O, low=15.0, high=80.0), "1"),
                "singular_value": ((*figure, "k"), -np.sort(-draw(N, S, O, K, low=30, high=4e3)), "1"),
                "singular_value_residual": ((*figure, "k"), draw(N, S, O, K, low=1e-4, high=2.0), "1"),
                "singular_value_converged": ((*figure, "k"), sign.random((N, S, O, K)) < 0.7, "1"),
                "trial_kernel": ((*figure, "trial", "trial_other"), kernels, "1"),
                "time_eigenfunction": ((*figure, "mode", "time"), functions.swapaxes(-1, -2), "1"),
                "time_explained": ((*figure, "mode"), shares / shares.sum(-1, keepdims=True), "1"),
                "state_dimension": (moment, np.full((N, S), 4 * T * 37), "1"),
                "gradient_cosine": ((*moment, "rule"), draw(N, S, R, low=0.2, high=0.95), "1"),
                "loss_rate_ratio": ((*moment, "rule"), draw(N, S, R, low=0.1, high=1.9), "1"),
                "flow_alignment": ((*moment, "rule"), draw(N, S, R, low=0.3, high=0.99), "1"),
                "flow_alignment_stderr": ((*moment, "rule"), draw(N, S, R, low=1e-3, high=3e-2), "1"),
                "failure": ((*moment, "rule"), np.full((N, S, R), "", dtype=object), "1"),
            }
        ),
        coords={
            "network": ["GRU", "RNN"],
            "step": [0, 30, U],
            "operator": ["P P*", "Phi"],
            "k": np.arange(1, K + 1),
            "time": np.arange(T),
            "update": np.arange(1, U + 1),
            "rule": ["truncated, 2 terms", "input weights frozen"],
            "formula": ("rule", ["P K P_2*", "P K[W] P*"]),
            "effective_rank_method": ("operator", ["of op, nystrom", "of op op*, exact"]),
            "trace_method": ("operator", ["xtrace", "hutchpp"]),
        },
        attrs=ATTRIBUTES,
    )
    data.effective_rank[0, -1, 1], data.effective_rank_stderr[0, -1, 1] = 17.0, 0.0  # an exact one
    if failing:
        data.failure[1, -1, 1] = "LinAlgError: no <limit>"
        for name in ("gradient_cosine", "loss_rate_ratio", "flow_alignment", "flow_alignment_stderr"):
            data[name][1, -1, 1] = np.nan
    return data.assign_coords(trial_label=("trial", [3, 3, 5, 8])) if labelled else data


def comparison(checkpoints: int = 2, failing: bool = False) -> xr.Dataset:
    """A comparison of four rules on networks; the last rule has no flow on the state space."""
    draw, sign = drawing(3), np.random.default_rng(4)
    C, R, T, K = checkpoints, 4, 4, 3
    rule, rules = ("checkpoint", "rule"), ["bptt", "truncated_bptt(window=2)", "rflo", "no flow"]

    def signed(*shape: int, low: float, high: float) -> np.ndarray:
        return draw(*shape, low=low, high=high) * sign.choice([-1, 1], shape)

    cosines = signed(C, R, R, low=0.05, high=0.97)
    cosines = np.tril(cosines, -1) + np.swapaxes(np.tril(cosines, -1), 1, 2) + np.eye(R)
    flags = sign.random((4, C, R)) < 0.5
    data = xr.Dataset(
        variables(
            {
                "rule_cosine": ((*rule, "rule_other"), cosines, "1"),
                "loss_rate_by_lag": ((*rule, "lag"), signed(C, R, T, low=1e-3, high=0.2), "nat"),
                "loss_rate_by_pair": (
                    (*rule, "time", "time_used"),
                    np.tril(signed(C, R, T, T, low=1e-3, high=0.2)),
                    "nat",
                ),
                "cosine_by_time": ((*rule, "facing", "time"), signed(C, R, 4, T, low=0.05, high=0.99), "1"),
                "update_cosine": (rule, signed(C, R, low=0.05, high=0.99), "1"),
                "descent": (rule, signed(C, R, low=0.05, high=3.0), "1"),
                "norm_ratio": (rule, draw(C, R, low=0.1, high=12.0), "1"),
                "metric_condition": (rule, draw(C, R, low=1.0, high=90.0), "1"),
                "flow_alignment": (rule, signed(C, R, low=0.1, high=0.99), "1"),
                "flow_alignment_stderr": (rule, draw(C, R, low=1e-3, high=3e-2), "1"),
                "effective_rank": (rule, draw(C, R, low=2.0, high=90.0), "1"),
                "effective_rank_stderr": (rule, draw(C, R, low=1e-2, high=1.0), "1"),
                "singular_value": ((*rule, "k"), -np.sort(-draw(C, R, K, low=10, high=4e3)), "1"),
                "singular_value_converged": ((*rule, "k"), sign.random((C, R, K)) < 0.6, "1"),
                "symmetric_smallest": (rule, -draw(C, R, low=1.0, high=500.0), "1"),
                "symmetric_largest": (rule, draw(C, R, low=1.0, high=5e3), "1"),
                "symmetric_smallest_converged": (rule, flags[0], "1"),
                "symmetric_largest_converged": (rule, flags[1], "1"),
                "propagator_error": (rule, draw(C, R, low=0.1, high=1.0), "1"),
                "propagator_error_converged": (rule, flags[2], "1"),
                "failure": (rule, np.full((C, R), "", dtype=object), "1"),
            }
        ),
        coords={
            "checkpoint": [f"RNN-{300 * place:06d}" for place in range(C)],
            "model": ("checkpoint", ["rnn"] * C),
            "rule": rules,
            "rule_other": rules,
            "formula": (rule, np.array([["P K P*", "P K P_2*", "P K P[leak]*", "P K P* B*"]] * C)),
            "facing": [
                "past",
                "future",
                "past of the rule, future of bptt",
                "future of the rule, past of bptt",
            ],
            "time": np.arange(T),
            "time_used": np.arange(T),
            "lag": np.arange(T),
            "k": np.arange(1, K + 1),
        },
        attrs={**ATTRIBUTES, "source": "runs/a"},
    )
    for name in ("flow_alignment", "effective_rank", "singular_value", "symmetric"):
        texts = [[f"{name} {row}{column}" for column in range(R)] for row in range(C)]
        data = data.assign_coords({f"{name}_method": (rule, np.array(texts))})
    exact = {"checkpoint": 0, "rule": 0}
    data.flow_alignment[exact], data.flow_alignment_stderr[exact] = 1.0, 0.0
    for name in (
        "flow_alignment",
        "effective_rank",
        "singular_value",
        "symmetric_smallest",
        "symmetric_largest",
    ):
        data[name][{"rule": R - 1}] = np.nan
    if failing:
        data.failure[-1, 2] = "LinAlgError: no <limit>"
    return data


def training(score: str = "test_r2", updates: int = 150, seed: int = 5) -> xr.Dataset:
    """A training by four rules, of which the second diverged at update 93 and the last failed before."""
    draw, sign = drawing(seed), np.random.default_rng(100 + seed)
    R, P, O, gone = 4, 2, 2, 93 * updates // 150  # noqa: E741
    rules = ["bptt", "truncated_bptt(window=5)", "rflo", "snap1"]
    unit = {"test_accuracy": "nat", "test_r2": "1"}[score]
    scores = draw(R, low=0.2, high=0.9) if score == "test_accuracy" else -draw(R, low=0.05, high=0.9)
    cosines = np.tril(draw(R, R, low=0.1, high=0.9) * sign.choice([-1, 1], (R, R)), -1)
    data = xr.Dataset(
        variables(
            {
                "training_loss": (("rule", "update"), draw(R, updates, low=0.02, high=3.0), unit),
                "diverged_at": ("rule", np.array([np.nan, gone, np.nan, np.nan]), "1"),
                "failed_at": ("rule", np.array([np.nan, np.nan, np.nan, gone - 9]), "1"),
                "outcome": ("rule", np.array(["trained", "diverged", "trained", "failed"], object), "1"),
                "reason": ("rule", np.array(["", "NonFiniteError: x", "", "LinAlgError: <y>"], object), "1"),
                "test_loss_before": ((), 0.60331 * 1.1**seed, unit),
                f"{score}_before": ((), (-4.9 if score == "test_r2" else 0.082) * 1.01**seed, "1"),
                "test_loss": ("rule", draw(R, low=0.02, high=0.4), unit),
                score: ("rule", scores, "1"),
                "effective_rank_before": ("operator", draw(O, low=5.0, high=50.0), "1"),
                "effective_rank_before_stderr": ("operator", draw(O, low=0.01, high=0.1), "1"),
                "effective_rank": (("rule", "operator"), draw(R, O, low=2.0, high=700.0), "1"),
                "effective_rank_stderr": (("rule", "operator"), draw(R, O, low=0.02, high=9.0), "1"),
                "alignment_with_first": ("rule", draw(R, low=0.2, high=0.9), "1"),
                "alignment_with_first_stderr": ("rule", draw(R, low=1e-3, high=2e-2), "1"),
                "alignment_with_initial": ("rule", draw(R, low=0.2, high=0.9), "1"),
                "alignment_with_initial_stderr": ("rule", draw(R, low=1e-3, high=2e-2), "1"),
                "effective_rank_method": (("rule", "operator"), words("of op op*", R, O), "1"),
                "alignment_with_first_method": ("rule", words("first", R), "1"),
                "alignment_with_initial_method": ("rule", words("initial", R), "1"),
                "parameter_norm_before": ("parameter", draw(P, low=0.5, high=5.0), "1"),
                "parameter_norm": (("rule", "parameter"), draw(R, P, low=0.5, high=5.0), "1"),
                "parameter_change": (("rule", "parameter"), draw(R, P, low=0.5, high=5.0), "1"),
                "change_cosine": (("rule", "rule_other"), cosines + cosines.T + np.eye(R), "1"),
            }
        ),
        coords={
            "rule": rules,
            "rule_other": rules,
            "operator": ["Phi", "P P*"],
            "parameter": ["weight_hh_l0", "bias_hh_l0"],
            "update": np.arange(1, updates + 1),
            "checkpoint": ("rule", np.array(["bptt", "", "rflo", ""], object)),
        },
        attrs=ATTRIBUTES,
    )
    data.training_loss[1, gone - 1 :] = np.nan
    data.training_loss[3, gone - 10 :] = np.nan
    names = (
        "test_loss",
        score,
        "effective_rank",
        "effective_rank_stderr",
        "parameter_norm",
        "parameter_change",
    )
    for name in (*names, *(f"alignment_with_{w}{s}" for w in ("first", "initial") for s in ("", "_stderr"))):
        data[name][{"rule": [1, 3]}] = np.nan
    data.change_cosine[[1, 3], :], data.change_cosine[:, [1, 3]] = np.nan, np.nan
    data.alignment_with_first[0], data.alignment_with_first_stderr[0] = 1.0, 0.0
    return data


def seeds(count: int = 3) -> xr.Dataset:
    """Trainings from several seeds; in the last of them the third rule failed, too."""
    parts = [training(seed=seed) for seed in range(5, 5 + count)]
    last = parts[-1]
    last.failed_at[2], last.outcome[2], last.reason[2], last.checkpoint[2] = 99, "failed", "KeyError: x", ""
    last.training_loss[2, 98:] = np.nan
    for name in ("test_loss", "test_r2", "effective_rank", "effective_rank_stderr", "parameter_change"):
        last[name][{"rule": 2}] = np.nan
    return over_seeds(parts, list(range(5, 5 + count))).assign_attrs(ATTRIBUTES)


def converged(data: xr.Dataset) -> xr.Dataset:
    """Return a dataset in which all singular values converged."""
    return data.assign(singular_value_converged=xr.ones_like(data.singular_value_converged))
