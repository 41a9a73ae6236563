"""Rules that feed output errors back through a matrix of their own, with more outputs than units and fewer.

The references are loops by autograd: backpropagation of ``B^T e`` through the model, its state detached where
a rule cuts it.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from kpframe_rules.feedback_alignment import FeedbackAlignment

from kpframe import LearningRule, Readout, Task, Trials, create_model, create_rule, linearize
from kpframe.comparison import compare_update
from kpframe.errors import ArgumentError, NonFiniteError, ShapeError, UnsupportedError
from kpframe.gradient_flow import contributions, loss_rate
from kpframe.readout import output_error, task_loss
from kpframe.study import compare_rules
from kpframe.training import Trainer, TrainingSettings, operator_gradient

F64 = torch.float64
ALPHA, UNITS, MANY, FEW = 0.3, 8, 10, 3

#: Rule -> how the state is read in the reference: whole, detached between steps, or in recurrent products.
RULES = {
    "feedback_alignment": ({}, "whole"),
    "dfa": ({"through": "none"}, "between"),
    "dfa direct": ({"through": "direct"}, "recurrent"),
    "rflo": ({"feedback": "random"}, "recurrent"),
    "eprop": ({"feedback": "random"}, "recurrent"),
    "three_factor": ({"modulator": "neuron"}, "gains"),
    "three_factor global": ({"modulator": "global"}, "gains"),
}


class Classes(Task):
    """Digits-like: random inputs, a class at each step, or a regression target; one trial is shorter."""

    def __init__(self, outputs: int, loss: str = "cross_entropy") -> None:
        super().__init__(input_size=4, output_size=outputs, loss=loss, seed=0)

    def draw(self, batch_size: int, generator: torch.Generator, split: str) -> Trials:
        inputs = torch.randn(batch_size, 6, 4, generator=generator, dtype=F64)
        mask = torch.arange(6) < torch.tensor([6] * (batch_size - 1) + [4])[:, None]
        if self.loss == "cross_entropy":
            targets = torch.randint(self.output_size, (batch_size, 6), generator=generator)
        else:
            targets = torch.randn(batch_size, 6, self.output_size, generator=generator, dtype=F64)
        return Trials(inputs, targets, mask, mask.clone(), np.full((batch_size, 6), "digit"))


def made(rule: str) -> LearningRule:
    return create_rule(rule.split()[0], **RULES[rule][0])


def network(outputs: int):
    pytest.importorskip("kpframe_rnn")
    settings = {"form": "rate", "alpha": ALPHA, "seed": 1}
    model = create_model("rnn", input_size=4, hidden_size=UNITS, **settings).double()
    return model, Readout(UNITS, outputs, generator=2, dtype=F64)


def trials_of(outputs: int, loss: str = "cross_entropy") -> Trials:
    return Classes(outputs, loss).sample(3, generator=5, dtype=F64)


def slopes(model, readout, trials, loss: str = "cross_entropy") -> torch.Tensor:
    """Return the loss's derivative by the outputs, by autograd."""
    outputs = readout(model.rollout(trials.inputs, mask=trials.mask).states).detach().requires_grad_()
    return torch.autograd.grad(task_loss(outputs, trials, loss), outputs)[0]


def loop(model, trials: Trials, err: torch.Tensor, read: str) -> torch.Tensor:
    """Return the gradient of ``<err, h>`` with the state read as a rule reads it."""
    p = dict(model.named_parameters())
    h, total = torch.zeros(len(err), UNITS, dtype=F64), torch.zeros((), dtype=F64)
    for t in range(err.shape[1]):
        before = h.detach() if read == "between" else h
        z = before if read == "whole" else before.detach()
        u = (
            trials.inputs[:, t] @ p["weight_ih_l0"].T
            + p["bias_ih_l0"]
            + z @ p["weight_hh_l0"].T
            + p["bias_hh_l0"]
        )
        if read == "gains":  # the same value, its slope by u replaced by one
            new = (1 - ALPHA) * before + (ALPHA * torch.tanh(u) - u).detach() + u
        else:
            new = (1 - ALPHA) * before + ALPHA * torch.tanh(u)
        h = torch.where(trials.mask[:, t, None], new, before)
        total = total + (err[:, t] * h).sum()
    found = torch.autograd.grad(total, tuple(p.values()))
    return torch.cat([g.reshape(-1) for g in found])


def flat(gradient: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.cat([g.reshape(-1) for g in gradient.values()])


@pytest.mark.parametrize("outputs", [MANY, FEW])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.rows(4)
def test_update_is_that_of_the_loop_with_B(close, differ, rule, outputs) -> None:
    model, readout = network(outputs)
    trials = trials_of(outputs)
    flow, e = linearize(model, trials.inputs, mask=trials.mask), slopes(model, readout, trials)
    update = made(rule).update(flow, readout)
    assert update.feedback.shape == (outputs, UNITS)
    expected = loop(model, trials, e @ update.feedback, RULES[rule][1])
    found = flat(made(rule).gradient(flow, readout=readout, output_err=e))
    close(found, expected, 1e-12)
    close(made(rule).output_operator(flow, readout)(e), expected, 1e-12)
    err = e @ readout.weight.detach()
    differ(found, loop(model, trials, err, RULES[rule][1]), 1e-2)
    if outputs == FEW:  # a hidden error says all, and gives the same numbers
        assert update.takes_hidden_errors
        close(flat(made(rule).gradient(flow, err, readout)), expected, 1e-12)
        close(made(rule).update_operator(flow, readout)(err), expected, 1e-12)
        moved = flow.P(flow.J(expected))
        close(made(rule).flow_operator(flow, readout)(err), moved, 1e-12)
        close(update.output_flow_operator(e), moved, 1e-12)
        return
    assert not update.takes_hidden_errors
    remedy = r"readout: expected independent rows, .*got 10 outputs of 8 units, of rank 8; .*output_err="
    for refused in (
        lambda: made(rule).gradient(flow, err, readout),
        lambda: made(rule).apply_gradient(model, flow, err, readout),
        lambda: made(rule).update_operator(flow, readout),
        lambda: made(rule).flow_operator(flow, readout),
        lambda: compare_update(flow, err, made(rule), readout),
        lambda: loss_rate(flow, err, made(rule), readout),
        lambda: contributions(flow, err, made(rule), readout),
    ):
        with pytest.raises(UnsupportedError, match=remedy):
            refused()


@pytest.mark.parametrize("loss", ["cross_entropy", "mse"])
@pytest.mark.parametrize("outputs", [MANY, FEW])
@pytest.mark.parametrize("rule", ["bptt", *RULES])
@pytest.mark.rows(4)
def test_training_uses_the_output_error(close, differ, rule, outputs, loss) -> None:
    model, readout = network(outputs)
    task, trials = Classes(outputs, loss), trials_of(outputs, loss)
    e = slopes(model, readout, trials, loss)
    own = create_rule("bptt") if rule == "bptt" else made(rule)
    flow = linearize(model, trials.inputs, mask=trials.mask)
    B = readout.weight.detach() if rule == "bptt" else own.update(flow, readout).feedback
    expected = loop(model, trials, e @ B, "whole" if rule == "bptt" else RULES[rule][1])
    operator_gradient(model, readout, trials, task, own)
    found = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    close(found, expected, 1e-12)
    differ(found, loop(model, trials, e @ B.flip(0), "whole" if rule == "bptt" else RULES[rule][1]), 1e-2)
    settings = TrainingSettings(
        steps=1, batch_size=3, optimizer="sgd", learning_rate=0.1, gradient="operators"
    )
    trainer = Trainer(
        model, readout, task, settings, rule=create_rule("clipped", max_norm=1e9, rule=own), seed=1
    )
    before = torch.cat([p.detach().reshape(-1).clone() for p in model.parameters()])
    drawn = task.sample(3, generator=torch.Generator().manual_seed(1), dtype=F64)
    step = 0.1 * loop(
        model, drawn, slopes(model, readout, drawn, loss) @ B, "whole" if rule == "bptt" else RULES[rule][1]
    )
    list(trainer.run())
    after = torch.cat([p.detach().reshape(-1) for p in model.parameters()])
    close(before - after, step, 1e-10)


@pytest.mark.parametrize("outputs", [MANY, FEW])
@pytest.mark.parametrize("rule", ["bptt", "feedback_alignment", "eprop"])
@pytest.mark.rows(3)
def test_loss_rates_of_output_errors(close, differ, rule, outputs) -> None:
    model, readout = network(outputs)
    trials = trials_of(outputs)
    flow, e = linearize(model, trials.inputs, mask=trials.mask), slopes(model, readout, trials)
    own = create_rule("bptt") if rule == "bptt" else made(rule)
    err = e @ readout.weight.detach()
    B = readout.weight.detach() if rule == "bptt" else own.update(flow, readout).feedback
    read = "whole" if rule == "bptt" else RULES[rule][1]
    g, exact = loop(model, trials, e @ B, read), loop(model, trials, err, "whole")
    rate = -float(g @ exact)
    assert loss_rate(flow, None, own, readout, output_err=e) == pytest.approx(rate, rel=1e-12)
    parts = contributions(flow, rule=own, readout=readout, output_err=e)
    assert parts.total == pytest.approx(rate, rel=1e-12)
    # by trial whose error is reduced, and by trial whose error made the update
    for b in range(3):
        alone, own_error = torch.zeros_like(err), torch.zeros_like(e)
        alone[b], own_error[b] = err[b], e[b]
        gained = -float(g @ loop(model, trials, alone, "whole"))
        learned = -float(loop(model, trials, own_error @ B, read) @ exact)
        assert float(parts.batch[b]) == pytest.approx(gained, rel=1e-10)
        assert float(parts.batch_of_update[b]) == pytest.approx(learned, rel=1e-10)
    for t in range(6):
        alone, own_error = torch.zeros_like(err), torch.zeros_like(e)
        alone[:, t], own_error[:, t] = err[:, t], e[:, t]
        assert float(parts.time[t]) == pytest.approx(
            -float(g @ loop(model, trials, alone, "whole")), rel=1e-10
        )
        learned = -float(loop(model, trials, own_error @ B, read) @ exact)
        assert float(parts.time_of_update[t]) == pytest.approx(learned, rel=1e-10)
    assert sum(parts.parameter.values()) == pytest.approx(rate, rel=1e-12)
    if rule == "bptt":
        close(parts.batch, parts.batch_of_update, 1e-12)  # Phi is symmetric
    else:
        differ(parts.batch, parts.batch_of_update, 1e-3)
    compared = compare_update(flow, None, own, readout, output_err=e)
    assert compared.loss_rate == pytest.approx(rate, rel=1e-12)
    assert compared.cosine == pytest.approx(float(g @ exact / g.norm() / exact.norm()), rel=1e-12)
    close(compared.by_pair.sum(), torch.tensor(rate, dtype=F64), 1e-10)
    if rule == "bptt" or outputs == FEW:
        assert loss_rate(flow, err, own, readout) == pytest.approx(rate, rel=1e-12)
        other = contributions(flow, err, own, readout)
        close(other.batch_of_update, parts.batch_of_update, 1e-10)
    if rule == "bptt":
        assert loss_rate(flow, err) == pytest.approx(rate, rel=1e-12)
        assert loss_rate(flow, readout=readout, output_err=e) == pytest.approx(rate, rel=1e-12)


def test_comparison_with_more_outputs_than_units() -> None:
    """Updates are exact; a flow on the state space is there for the rules that have one."""
    model, readout = network(MANY)
    trials = trials_of(MANY)
    rules = {"bptt": create_rule("bptt"), "fa": made("feedback_alignment"), "eprop": create_rule("eprop")}
    data = compare_rules(model, readout, trials, "cross_entropy", rules, budget=20, values=3)
    flow, e = linearize(model, trials.inputs, mask=trials.mask), slopes(model, readout, trials)
    B = made("feedback_alignment").update(flow, readout).feedback
    g, exact = (loop(model, trials, error, "whole") for error in (e @ B, e @ readout.weight.detach()))
    cosine = float(g @ exact / g.norm() / exact.norm())
    assert float(data.update_cosine.sel(rule="fa")) == pytest.approx(cosine, rel=1e-10)
    assert float(data.rule_cosine.sel(rule="fa", rule_other="bptt")) == pytest.approx(cosine, rel=1e-10)
    assert str(data.formula.sel(rule="fa").item()) == "P K P* B*"
    for name in ("flow_alignment", "effective_rank", "symmetric_smallest"):
        assert np.isnan(float(data[name].sel(rule="fa")))
        assert np.isfinite(float(data[name].sel(rule="eprop")))
    assert np.isnan(data.singular_value.sel(rule="fa")).all()
    assert data.loss_rate.units == data.loss_rate_by_lag.units == "nat"
    alone = {"fa": rules["fa"]}
    fewer = compare_rules(*network(FEW), trials_of(FEW), "cross_entropy", alone, budget=20, values=3)
    assert np.isfinite(float(fewer.flow_alignment.sel(rule="fa")))


class Unwitting(LearningRule):
    """A rule with a gradient of its own that knows no output errors."""

    linear = False
    needs_readout = True

    def change(self, update):
        return update

    def gradient(self, flow, err, readout=None):
        return {name: g.sign() for name, g in create_rule("bptt").gradient(flow, err).items()}


class Applied(Unwitting):
    """A rule that also fills gradients by itself."""

    def apply_gradient(self, model, flow, err, readout=None):
        super().apply_gradient(model, flow, 2 * err, readout)


def test_a_rules_own_gradient_gets_the_hidden_error(close) -> None:
    model, readout = network(MANY)
    trials = trials_of(MANY)
    flow, e = linearize(model, trials.inputs, mask=trials.mask), slopes(model, readout, trials)
    Unwitting().apply_gradient(model, flow, readout=readout, output_err=e)
    found = torch.cat([p.grad.reshape(-1) for p in model.parameters()])
    expected = loop(model, trials, e @ readout.weight.detach(), "whole").sign()
    close(found, expected, 1e-12)
    for rule in (Unwitting(), Applied()):
        model.zero_grad()
        operator_gradient(model, readout, trials, Classes(MANY), rule)
        close(torch.cat([p.grad.reshape(-1) for p in model.parameters()]), expected, 1e-12)


def test_refusals() -> None:
    model, readout = network(FEW)
    trials = trials_of(FEW)
    flow, e = linearize(model, trials.inputs, mask=trials.mask), slopes(model, readout, trials)
    err, rule = e @ readout.weight.detach(), made("feedback_alignment")
    for given in ({}, {"err": err, "output_err": e}):
        for own in (rule, create_rule("bptt"), create_rule("rtrl")):
            with pytest.raises(
                ArgumentError, match=r"err, output_err: expected one of the two, got (neither|both)"
            ):
                own.gradient(flow, readout=readout, **given)
    outside = torch.randn(err.shape, generator=torch.Generator().manual_seed(0), dtype=F64)
    with pytest.raises(
        ArgumentError, match=r"err: expected an error that comes through the readout.*0\.\d+ of"
    ):
        rule.gradient(flow, outside, readout)
    assert create_rule("bptt").gradient(flow, outside, readout)
    single = linearize(model.float(), trials.inputs.float(), mask=trials.mask)
    rule.gradient(single, err.float(), readout.float())  # rounding is no such part
    model.double()
    readout.double()
    with pytest.raises(ShapeError, match=r"output_err: expected shape \[\.\.\., batch=3, time=6, output=3\]"):
        rule.gradient(flow, readout=readout, output_err=e[..., :2])
    for error, name in ((err, "err"), (e, "output_err")):
        broken = error.clone()
        broken[1, 2, 0] = torch.nan
        for own in (rule, create_rule("bptt"), create_rule("rtrl"), create_rule("clipped", max_norm=1.0)):
            with pytest.raises(NonFiniteError, match=rf"{name}: expected finite numbers, got nan"):
                own.gradient(flow, readout=readout, **{name: broken})
    with pytest.raises(
        ArgumentError, match=r"model: expected parameters like .* torch.float64 on cpu, got torch\.f"
    ):
        rule.apply_gradient(model.float(), flow, readout=readout, output_err=e)
    model.double()
    with pytest.raises(UnsupportedError, match="readout: expected the readout through which"):
        create_rule("bptt").gradient(flow, output_err=e)
    with torch.no_grad():  # dependent rows need not be more than units
        readout.weight[2] = readout.weight[0] + readout.weight[1]
    with pytest.raises(UnsupportedError, match="got 3 outputs of 8 units, of rank 2"):
        rule.update_operator(flow, readout)
    own = FeedbackAlignment.of_matrix(readout.weight)  # its own weights need no outputs told apart
    assert own.update(flow, readout).takes_hidden_errors
    with torch.no_grad():
        readout.weight[2, 0] += 1e-13
    with pytest.raises(UnsupportedError, match="readout: expected independent rows"):
        rule.update_operator(flow, readout)


def test_slopes_are_those_of_the_readout(close) -> None:
    for loss in ("cross_entropy", "mse"):
        model, readout = network(MANY)
        trials = trials_of(MANY, loss)
        outputs = readout(model.rollout(trials.inputs, mask=trials.mask).states)
        close(output_error(outputs, trials, loss), slopes(model, readout, trials, loss), 1e-12)
