"""What a caller has switched on in torch changes no estimate, no rule, no training and no task."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import kpframe
from kpframe import Flow, Readout, create_model, create_rule, create_task, linearize, wrap
from kpframe.rules._comparison import compare_update
from kpframe.rules._gradient_flow import contributions, loss_rate, taylor_test
from kpframe.study._running.training import Trainer, TrainingSettings
from kpframe.tasks._error import accuracy, error, output_error

from .bundled import RULE_SETTINGS, RULES, everything


@pytest.fixture(scope="module")
def flow() -> Flow:
    torch.manual_seed(0)
    model = create_model("rnn", input_size=3, hidden_size=6, bias=True)
    return linearize(model, torch.randn(2, 5, 3))


@pytest.fixture(scope="module")
def err() -> torch.Tensor:
    return torch.randn(2, 5, 6, generator=torch.Generator().manual_seed(1))


VERBS: dict[str, Callable[[Flow, torch.Tensor], object]] = {
    "trace": lambda flow, err: kpframe.trace(flow.Phi, budget=20).value,
    "trace of a part": lambda flow, err: kpframe.trace(flow.P, budget=20).stderr,
    "frobenius_norm": lambda flow, err: kpframe.frobenius_norm(flow.P, budget=20).value,
    "effective_rank": lambda flow, err: kpframe.effective_rank(flow.Phi, budget=20).value,
    "entropy rank": lambda flow, err: kpframe.effective_rank(flow.Phi, budget=20, kind="entropy").value,
    "alignment": lambda flow, err: kpframe.alignment(flow.Phi, flow.K, budget=20).value,
    "eigsh": lambda flow, err: kpframe.eigsh(flow.Phi, k=3).eigenvalues,
    "svd": lambda flow, err: kpframe.svd(flow.P, k=3).S,
    "density": lambda flow, err: kpframe.spectral_density(flow.Phi, budget=20).nodes,
    "lyapunov": lambda flow, err: kpframe.lyapunov_exponents(flow.A, k=2).exponents,
    "loss_rate": lambda flow, err: loss_rate(flow, err),
    "contributions": lambda flow, err: contributions(flow, err).time,
    "taylor": lambda flow, err: taylor_test(flow, flow.J.T(flow.P.T(err))).errors,
    "compare": lambda flow, err: compare_update(flow, err, create_rule("eprop")).by_pair,
    "inverse": lambda flow, err: flow.P.inverse(err),
    "cached": lambda flow, err: flow.K.select(time=1).cached().to_dense(),
    "unit_blocks": lambda flow, err: flow.A.unit_blocks()(err),
    "diagonal": lambda flow, err: flow.A.diagonal()(err),
    "reduced": lambda flow, err: flow.Phi.bin(time=2).mean("batch").to_dense(),
    "partial_trace": lambda flow, err: flow.Phi.partial_trace("hidden").to_dense(),
    "scipy": lambda flow, err: (flow.P.to_scipy() @ err.flatten().numpy()).tolist(),
}


def same(found: object, expected: object) -> bool:
    if isinstance(expected, torch.Tensor):
        assert isinstance(found, torch.Tensor)
        assert (found.dtype, found.device) == (expected.dtype, expected.device)
        assert not found.is_inference()
        return torch.allclose(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))
    return found == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.rows(4)
def test_estimates_and_verbs(verb: str, flow: Flow, err: torch.Tensor) -> None:
    expected = VERBS[verb](flow, err)
    assert not same(torch.zeros_like(expected) if isinstance(expected, torch.Tensor) else 0, expected)
    with everything():
        found = VERBS[verb](flow, err)
    assert same(found, expected)
    assert same(VERBS[verb](flow, err), expected)


@pytest.mark.parametrize("name", [name for name in RULES if name != "frozen_adam"])
@pytest.mark.rows(4)
def test_rules(name: str, flow: Flow, err: torch.Tensor) -> None:
    rule = create_rule(name, **RULE_SETTINGS.get(name, {}))
    readout = Readout(6, 2, generator=0)
    hidden = err @ readout.full_weight().detach().T @ readout.full_weight().detach()  # from output errors
    expected = rule.gradient(flow, hidden, readout)
    assert any(bool(value.any()) for value in expected.values())
    with everything():
        found = rule.gradient(flow, hidden, readout)
        made = create_rule(name, **RULE_SETTINGS.get(name, {})).gradient(flow, hidden, readout)
    for key, value in expected.items():
        assert same(found[key], value), key
        assert same(made[key], value), key


@pytest.mark.parametrize("gradient", ["autograd", "operators"])
def test_training(gradient: str) -> None:
    torch.manual_seed(0)
    model, task = create_model("gru", input_size=2, hidden_size=4), create_task("flip_flop", bits=2, steps=6)
    settings = TrainingSettings(steps=3, batch_size=4, gradient=gradient)
    rule = create_rule("bptt") if gradient == "operators" else None

    def losses(inside: bool) -> list[float]:
        own, readout = copy.deepcopy(model), Readout(4, 2, generator=0)
        trainer = Trainer(own, readout, task, settings, rule=rule, seed=0)
        if not inside:
            return [progress.loss for progress in trainer.run()]
        with everything():
            return [progress.loss for progress in trainer.run()]

    expected = losses(inside=False)
    assert len(set(expected)) == 3
    assert losses(inside=True) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    "name",
    [
        "digits",
        "memory_pro",
        "flip_flop",
        "adding",
        "delayed_addition",
        "contextual_integration",
        "low_rank_forecast",
        "polynomial_map",
    ],
)
def test_tasks_and_errors(name: str) -> None:
    task = create_task(name)
    expected = task.sample(4, generator=3, dtype=torch.float32)
    with everything():
        found = task.sample(4, generator=3, dtype=torch.float32)
        other = create_task(name).sample(4, generator=3, dtype=torch.float32)
    for trials in (found, other):
        assert same(trials.inputs, expected.inputs)
        assert torch.equal(trials.targets, expected.targets)
    if task.num_trials() is not None:
        whole = task.dataset()
        with everything():
            assert same(task.dataset().inputs, whole.inputs)
    readout = Readout(5, task.output_size, generator=0)
    states = torch.randn(*expected.mask.shape, 5, generator=torch.Generator().manual_seed(2))
    outputs = readout(states).detach()
    figures = (
        lambda: error(readout, states, expected, task.loss),
        lambda: output_error(outputs, expected, task.loss),
        lambda: accuracy(outputs, expected),
    )
    for figure in figures:
        right = figure()
        with everything():
            assert same(figure(), right)


def test_wrap_inside() -> None:
    torch.manual_seed(0)
    cell, x, q = torch.nn.GRUCell(3, 4), torch.randn(2, 5, 3), torch.randn(2, 5, 4)
    expected = linearize(wrap(cell), x).Phi(q)
    with everything():
        found = linearize(wrap(cell), x).Phi(q)
    assert same(found, expected)
    assert expected.abs().max() > 0


@pytest.mark.parametrize("name", ["lru", "gru", "wide_cell"])
def test_threads_share_a_flow(name: str) -> None:
    torch.manual_seed(0)
    wide = name == "wide_cell"
    model = wrap(torch.nn.GRUCell(3, 20)) if wide else create_model(name, input_size=3, hidden_size=8)
    x = torch.randn(2, 5, 3)
    expected = linearize(model, x)
    q = torch.randn(8, *expected.P.domain.shape)
    shared = copy.deepcopy(linearize(model, x))  # a copy records its graphs with the first product
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda vector: shared.Phi(vector), q))
    for vector, value in zip(q, found, strict=True):
        assert same(value, expected.Phi(vector))
    assert not same(found[0], found[1])
