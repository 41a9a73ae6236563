"""Every rule on padded trials, one trial, one step, frozen parameters, in float32, and in training.

The references take trials one by one, cut to their length, and gradients by autograd.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kpframe_rules import kpframe_rules

from kpframe import (
    Flow,
    LearningRule,
    Model,
    Readout,
    StochasticRule,
    Task,
    Trials,
    create_model,
    create_rule,
    linearize,
)
from kpframe.errors import UnsupportedError
from kpframe.training import operator_gradient

F64 = torch.float64
ALPHA, INPUTS, UNITS, OUTPUTS, STEPS = 0.4, 2, 3, 2, 4
LENGTHS = (4, 3, 2)

SETTINGS = {
    "bptt": {},
    "rtrl": {},
    "frozen": {"parameters": ["weight_ih*"]},
    "truncated_bptt": {"window": 2},
    "duhamel": {"order": 2},
    "snap1": {},
    "snap_n": {"n": 1},
    "rflo": {"feedback": "random"},
    "eprop": {"feedback": "random"},
    "kernl": {"kernel": "random", "decay": 0.5},
    "gate_stop": {"paths": ["u"]},
    "h_detach": {"probability": 1.0},
    "feedback_alignment": {},
    "dfa": {"through": "broadcast"},
    "feedback_through_time": {},
    "learning_rates": {"rates": {"weight_hh*": 0.3}},
    "frozen_adam": {"second_moments": None},
    "natural_gradient": {"damping": 0.1},
    "low_rank_projection": {"rank": 1},
    "three_factor": {"modulator": "neuron"},
    "recurrent_backpropagation": {"settled": 1e9},
    "clipped": {"max_norm": 1e9},
    "adam_from_scratch": {"eps": 0.1},
    "artbp": {"length": 3.0},
    "uoro": {},
    "node_perturbation": {},
    "weight_perturbation": {},
    "kf_rtrl": {},
}
RULES = pytest.mark.parametrize("name", SETTINGS)

#: The update of a batch is no sum over its trials: each trial has a draw of its own, or the metric is of all.
NOT_A_SUM = {"artbp", "uoro", "node_perturbation", "kf_rtrl", "natural_gradient", "adam_from_scratch"}
#: With one step they give what backpropagation does.
EXACT_AT_ONE_STEP = {
    *("bptt", "rtrl", "truncated_bptt", "duhamel", "snap1", "snap_n", "gate_stop", "h_detach"),
    *("feedback_through_time", "clipped", "artbp", "kf_rtrl"),
}
#: With one step they give what backpropagation does of ``B^T e``.
FEEDBACK = {"rflo", "eprop", "feedback_alignment", "dfa"}


def normal(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def network(**more) -> tuple[Model, Readout]:
    pytest.importorskip("kpframe_rnn")
    sizes = {"input_size": INPUTS, "hidden_size": UNITS, "seed": 2}
    model = create_model("rnn", **sizes, form="rate", alpha=ALPHA, gain=1.2, **more).double()
    return model, Readout(UNITS, OUTPUTS, generator=3, dtype=F64)


def made(name: str, model: Model) -> LearningRule:
    settings = dict(SETTINGS[name])
    if name == "frozen_adam":
        settings["second_moments"] = {key: 0.5 + p.detach().square() for key, p in model.trainable().items()}
    return create_rule(name, **settings)


def flat(gradient: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.reshape(-1) for g in gradient.values()])


def of(rule: LearningRule, flow: Flow, readout: Readout, e: torch.Tensor) -> torch.Tensor:
    return flat(rule.gradient(flow, readout=readout, output_err=e))


def batch() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return inputs, a mask with trials of several lengths, and output errors on the steps there are."""
    mask = torch.arange(STEPS) < torch.tensor(LENGTHS)[:, None]
    return normal(4, 3, STEPS, INPUTS), mask, normal(5, 3, STEPS, OUTPUTS) * mask[..., None]


def backward(model: Model, x: torch.Tensor, err: torch.Tensor) -> torch.Tensor:
    """Return the gradient of ``<err, h>``."""
    total = (model.rollout(x).states * err).sum()
    found = torch.autograd.grad(total, tuple(model.trainable().values()))
    return torch.cat([g.reshape(-1) for g in found])


def test_no_rule_is_left_out() -> None:
    assert {spec.name for spec in kpframe_rules()} == set(SETTINGS)
    assert len(SETTINGS) == 28


@RULES
@pytest.mark.rows(4)
def test_padded_trials_are_trials_cut_to_their_length(close, differ, name) -> None:
    model, readout = network()
    rule = made(name, model)
    x, mask, e = batch()
    found = of(rule, linearize(model, x, mask=mask), readout, e)
    with_nan = x.masked_fill(~mask[..., None], torch.nan)
    close(of(rule, linearize(model, with_nan, mask=mask), readout, e), found, 1e-12)
    differ(of(rule, linearize(model, x, mask=mask), readout, e.flip(-1)), found, 1e-3)
    if name in NOT_A_SUM:
        return
    alone = [
        of(rule, linearize(model, x[b : b + 1, :length]), readout, e[b : b + 1, :length])
        for b, length in enumerate(LENGTHS)
    ]
    close(found, sum(alone), 1e-10)
    differ(found, sum(alone[:-1]), 1e-3)


@RULES
@pytest.mark.rows(6)
def test_one_step(close, differ, name) -> None:
    model, readout = network()
    rule, x, e = made(name, model), normal(6, 3, 1, INPUTS), normal(7, 3, 1, OUTPUTS)
    flow, W = linearize(model, x), readout.weight.detach()
    found, exact = of(rule, flow, readout, e), backward(model, x, e @ W)
    J = flow.J.to_dense()
    parts = {part.name: part.slice for part in flow.J.domain.axes[0].parts}
    if name in EXACT_AT_ONE_STEP:
        close(found, exact, 1e-12)
    elif name in FEEDBACK:
        close(found, backward(model, x, e @ rule.update(flow, readout).feedback), 1e-12)
        differ(found, exact, 1e-2)
    elif name in ("frozen", "learning_rates"):
        changed, factor = ("weight_ih_l0", 0.0) if name == "frozen" else ("weight_hh_l0", 0.3)
        exact[parts[changed]] *= factor
        close(found, exact, 1e-12)
    elif name == "frozen_adam":
        scale = torch.cat([(0.5 + p.detach().square()).reshape(-1) for p in model.parameters()])
        close(found, exact / (scale.sqrt() + 1e-8), 1e-12)
    elif name == "adam_from_scratch":
        close(found, exact / (exact.abs() + 0.1), 1e-12)
    elif name == "natural_gradient":
        close(found, torch.linalg.solve(J.mT @ J + 0.1 * torch.eye(len(exact), dtype=F64), exact), 1e-9)
    elif name == "recurrent_backpropagation":
        at_rest = torch.linalg.solve(torch.eye(UNITS, dtype=F64) - flow.A.blocks()[:, 0].mT, (e @ W)[:, 0])
        close(found, backward(model, x, at_rest[:, None]), 1e-9)
    elif name == "kernl":
        kernel = rule.propagator(flow).to_dense()[:UNITS, :UNITS]
        close(found, backward(model, x, e @ W @ kernel), 1e-12)
    elif name == "three_factor":
        signal = (e @ rule.update(flow, readout).feedback)[:, 0]
        close(found[parts["weight_ih_l0"]], (signal.mT @ x[:, 0]).reshape(-1), 1e-12)
        close(found[parts["bias_hh_l0"]], signal.sum(dim=0), 1e-12)
        assert not found[parts["weight_hh_l0"]].any()  # the state is still zero
    elif name == "low_rank_projection":
        g = found[parts["weight_ih_l0"]].reshape(UNITS, INPUTS)
        assert int(torch.linalg.matrix_rank(g, rtol=1e-9)) == 1
        rest = exact[parts["weight_ih_l0"]] - found[parts["weight_ih_l0"]]
        assert abs(float(rest @ found[parts["weight_ih_l0"]])) <= 1e-12 * float(exact.norm()) ** 2
        close(found[parts["bias_ih_l0"]], exact[parts["bias_ih_l0"]], 1e-12)
    elif name == "weight_perturbation":
        descent = float(found @ exact)
        assert descent >= 0
        assert descent == pytest.approx((found.abs().max() ** 2).item(), rel=1e-9)  # xi <xi, g>
    else:
        assert name in ("uoro", "node_perturbation")
        mean = rule.expectation(flow, readout)(e @ W)
        close(mean, exact, 1e-10)
        differ(found, exact, 1e-3)


@RULES
@pytest.mark.rows(6)
def test_float32(differ, name) -> None:
    model, readout = network()
    rule = made(name, model)
    x, mask, e = batch()
    double = of(rule, linearize(model, x, mask=mask), readout, e)
    model, readout = model.float(), readout.float()
    single = of(made(name, model), linearize(model, x.float(), mask=mask), readout, e.float())
    assert single.dtype == torch.float32
    assert float((single.double() - double).norm()) <= 1e-4 * float(double.norm())
    differ(single.double(), 1.01 * double, 1e-3)


@RULES
@pytest.mark.rows(6)
def test_frozen_parameters_are_left_out(close, differ, name) -> None:
    model, readout = network()
    rule = made(name, model)
    x, mask, e = batch()
    whole = rule.gradient(linearize(model, x, mask=mask), readout=readout, output_err=e)
    kept = ("weight_ih_l0", "bias_hh_l0")
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key in kept)
    flow = linearize(model, x, mask=mask)
    assert tuple(part.name for part in flow.J.domain.axes[0].parts) == kept
    if name == "learning_rates":  # its pattern names a parameter that does not learn
        rule = create_rule(name, rates={"weight_ih*": 0.3})
        assert rule.gradient(flow, readout=readout, output_err=e).keys() == set(kept)
        return
    found = rule.gradient(flow, readout=readout, output_err=e)
    assert tuple(found) == kept
    if name == "natural_gradient":  # the metric of what learns
        free = network()[0]
        other = linearize(free, x, mask=mask)
        frozen = create_rule("frozen", parameters=["weight_hh*", "bias_ih*"])
        expected = (rule @ frozen).gradient(other, readout=readout, output_err=e)
        differ(whole[kept[0]], found[kept[0]], 1e-3)
    elif isinstance(rule, StochasticRule) and name not in ("h_detach", "artbp", "node_perturbation"):
        # the draw is another one, its mean is the gradient
        for key, parameter in model.named_parameters():
            parameter.requires_grad_(key == kept[1])
        short = linearize(model, x[:, :2])
        mean = rule.expectation(short, readout)
        close(mean(normal(8, 3, 2, UNITS)), short.J.T(short.P.T(normal(8, 3, 2, UNITS))), 1e-9)
        return
    else:
        expected = {key: whole[key] for key in kept}
    for key in kept:
        if name == "frozen" and key == kept[0]:
            assert not found[key].any()
        else:
            close(found[key], expected[key], 1e-9)


@pytest.mark.parametrize("name", [name for name in SETTINGS if name != "kf_rtrl"])
@pytest.mark.rows(6)
def test_nothing_but_the_initial_state_learns(close, name) -> None:
    model, readout = network(trainable_initial_state=True)
    for key, parameter in model.named_parameters():
        parameter.requires_grad_(key == "h0")
    if name in ("frozen", "learning_rates", "low_rank_projection"):
        pytest.skip("names weights")
    flow = linearize(model, normal(9, 2, 3, INPUTS))
    found = made(name, model).gradient(flow, readout=readout, output_err=normal(10, 2, 3, OUTPUTS))
    assert list(found) == ["h0"]
    assert found["h0"].shape == (UNITS,)
    assert bool(found["h0"].any()) == (name != "recurrent_backpropagation")
    with pytest.raises(UnsupportedError, match="a trainable initial state"):
        create_rule("kf_rtrl").update(flow)


class Padded(Task):
    """Targets for all steps in trials of several lengths, other inputs in the padding."""

    def __init__(self) -> None:
        super().__init__(input_size=INPUTS, output_size=OUTPUTS, loss="mse", seed=0)

    def draw(self, batch_size: int, generator: torch.Generator, split: str) -> Trials:
        x, mask, _ = batch()
        return Trials(x, normal(11, 3, STEPS, OUTPUTS), mask, mask.clone(), np.full((3, STEPS), "all"))


@RULES
@pytest.mark.rows(6)
def test_training_holds_the_state_in_the_padding(close, differ, name) -> None:
    """Errors lie on steps that there are, so that few rules show whether a padded step is taken for one."""
    model, readout = network()
    rule, task = made(name, model), Padded()
    trials = task.sample(3, dtype=F64)
    e = 2 * (readout(model.rollout(trials.inputs, mask=trials.mask).states) - trials.targets).detach()
    e = e * trials.scored[..., None] / (trials.scored.sum() * OUTPUTS)
    expected = of(rule, linearize(model, trials.inputs, mask=trials.mask), readout, e)
    operator_gradient(model, readout, trials, task, rule)
    found = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    close(found, expected, 1e-12)
    if name in ("recurrent_backpropagation", "natural_gradient", "node_perturbation"):
        differ(of(rule, linearize(model, trials.inputs), readout, e), expected, 1e-3)
