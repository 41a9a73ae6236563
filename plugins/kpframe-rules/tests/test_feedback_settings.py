"""The registered names of the feedback, metric and nonlinear rules, and their settings."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from kpframe_rules.specs_feedback import SPECS

from kpframe import create_rule
from kpframe.errors import SettingsError

BUILT = {
    "feedback_alignment": ({"seed": 2, "std": 0.5}, "FeedbackAlignment(seed=2, std=0.5)"),
    "dfa": (
        {"through": "broadcast"},
        "DirectFeedbackAlignment(through='broadcast', seed=0, std=None)",
    ),
    "feedback_through_time": (
        {"weights": ["weight_hh*"], "seed": 1},
        "FeedbackThroughTime(weights=['weight_hh*'], seed=1, std=None)",
    ),
    "learning_rates": ({"rates": {"w*": 0.1}}, "LearningRates(rates={'w*': 0.1}, other=1.0)"),
    "frozen_adam": (
        {"second_moments": {"w": torch.ones(2)}},
        "FrozenAdam(second_moments=['w'], eps=1e-08)",
    ),
    "natural_gradient": (
        {"curvature": "mse", "damping": 0.1},
        "NaturalGradient(curvature='mse', damping=0.1)",
    ),
    "low_rank_projection": (
        {"rank": 2, "side": "tangent", "basis": "weight"},
        "LowRankProjection(rank=2, side='tangent', basis='weight')",
    ),
    "three_factor": (
        {"post": "state", "trace": 0.9, "modulator": "global"},
        "ThreeFactor(post='state', trace=0.9, modulator='global', seed=0)",
    ),
    "recurrent_backpropagation": (
        {"solver": "neumann"},
        "RecurrentBackpropagation(settled=1e-06, solver='neumann')",
    ),
    "clipped": ({"max_norm": 1.5}, "Clipped(max_norm=1.5, rule=BPTT())"),
    "adam_from_scratch": ({}, "AdamFromScratch(eps=1e-08, rule=BPTT())"),
}
REFUSED = {
    "feedback_alignment": {"std": 0.0},
    "dfa": {"through": "leak"},
    "feedback_through_time": {"weights": "weight_hh"},
    "learning_rates": {"other": -1.0},
    "frozen_adam": {},
    "natural_gradient": {"damping": 0.0},
    "low_rank_projection": {"rank": 0},
    "three_factor": {"trace": 1.5},
    "recurrent_backpropagation": {"solver": "lu"},
    "clipped": {"max_norm": 0.0},
    "adam_from_scratch": {"eps": 0.0},
}


@pytest.mark.parametrize("name", [spec.name for spec in SPECS])
def test_by_name(name) -> None:
    settings, printed = BUILT[name]
    assert repr(create_rule(name, **settings)) == printed
    with pytest.raises(SettingsError, match=rf"rule '{name}': \w+: expected"):
        create_rule(name, **REFUSED[name])


def test_rules_in_rules() -> None:
    rule = create_rule("clipped", max_norm=1.0, rule=create_rule("truncated_bptt", window=3))
    assert rule.rule.window == 3
    assert create_rule("natural_gradient", curvature="mse").needs_readout
    assert not create_rule("natural_gradient").needs_readout


def test_names_need_no_torch() -> None:
    code = "import sys, kpframe_rules.specs_feedback; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
