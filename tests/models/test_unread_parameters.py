"""Parameters that no step reads, as a readout inside the module: their gradients are untouched."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe import Model, Task, linearize, wrap
from kpframe.errors import ArgumentError
from kpframe.study._running.training import Trainer, TrainingSettings
from kpframe.tasks._readout import Readout
from kpframe.tasks._task import Trials

from ..toy_rules import Exact, Window  # noqa: TID252

F64 = torch.float64
B, T, H = 3, 5, 4


class Cell(torch.nn.Module):
    """A cell that carries its readout, which the step does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = torch.nn.GRUCell(2, H)
        self.head = torch.nn.Linear(H, 1)

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.cell(x, h)


class Layers(Model):
    """Step t uses the t-th of its matrices alone; the last is for a step that is never made."""

    time_varying = True

    def __init__(self) -> None:
        super().__init__(2, {"h": H})
        self.W = torch.nn.ParameterList([0.5 * torch.randn(H, H) for _ in range(T + 1)])
        self.start = torch.nn.Parameter(torch.randn(H))
        self.spare = torch.nn.Parameter(torch.randn(3))

    def initial_state(self, batch: int) -> torch.Tensor:
        return self.start.tanh().expand(batch, -1)

    def step(self, x, h, t=None):
        own = [torch.tanh(h @ W.T + x.sum(1, keepdim=True)) for W in self._used(t)]
        return torch.stack([own[list(t.unique()).index(k)][row] for row, k in enumerate(t)])

    def _used(self, t: torch.Tensor) -> list[torch.Tensor]:
        return [self.W[int(k)] for k in t.unique()]


class Sum(Task):
    def __init__(self) -> None:
        super().__init__(input_size=2, output_size=1, loss="mse", seed=0)

    def draw(self, batch_size: int, generator: torch.Generator, split: str) -> Trials:
        inputs = torch.randn(batch_size, T, 2, generator=generator, dtype=F64)
        everywhere = torch.ones(batch_size, T, dtype=torch.bool)
        total = inputs.sum(2, keepdim=True).cumsum(1)
        return Trials(inputs, total, everywhere, everywhere, np.full((batch_size, T), "sum"))


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


@pytest.fixture
def model() -> Model:
    torch.manual_seed(3)
    return wrap(Cell(), input_size=2, state=H).double()


@pytest.mark.parametrize("rule", [Exact(), Window()])
def test_a_readout_inside_the_module_keeps_its_gradient(model, rule) -> None:
    """The loss fills the gradient of the head; the rule fills those of the cell, and of nothing else."""
    x, head = draw(B, T, 2), model.get_submodule("cell").head
    flow = linearize(model, x)
    loss = head(flow.trajectory.states).square().mean()
    loss.backward()
    before = [p.grad.clone() for p in head.parameters()]
    assert all(float(gradient.norm()) > 1e-3 for gradient in before)
    rule.apply_gradient(model, flow, draw(B, T, H, seed=1))
    assert all(torch.equal(p.grad, gradient) for p, gradient in zip(head.parameters(), before, strict=True))
    head.zero_grad()
    rule.apply_gradient(model, flow, draw(B, T, H, seed=1))
    assert [p.grad for p in head.parameters()] == [None, None]
    assert all(p.grad is not None for name, p in model.trainable().items() if "head" not in name)


def test_the_gradient_is_that_of_backward_none_included(model) -> None:
    x, err = draw(B, T, 2), draw(B, T, H, seed=1)
    Exact().apply_gradient(model, linearize(model, x), err)
    found = {name: p.grad for name, p in model.trainable().items()}
    model.zero_grad()
    (model.rollout(x).states * err).sum().backward()
    for name, parameter in model.trainable().items():
        assert (found[name] is None) == (parameter.grad is None) == name.startswith("head."), name
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, rtol=1e-10, atol=1e-14), name


def test_they_are_known_and_change_no_operator(model) -> None:
    flow, plain = linearize(model, draw(B, T, 2)), wrap(model.get_submodule("cell").cell)
    assert flow.unread == {"head.weight", "head.bias"}
    J = flow.J.to_dense()
    for part in flow.J.domain.axes[0].parts:
        assert bool(J[:, part.slice].any()) == (part.name not in flow.unread), part.name
    other = linearize(plain, draw(B, T, 2))
    assert other.unread == frozenset()
    assert torch.allclose(flow.Phi.to_dense(), other.Phi.to_dense(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("given", [False, True])
def test_an_initial_state_of_the_model_is_read_unless_another_is_given(given) -> None:
    torch.manual_seed(3)
    model = wrap(torch.nn.GRUCell(2, H), trainable_initial_state=True).double()
    x, h0, err = draw(B, T, 2), draw(B, H, seed=4) if given else None, draw(B, T, H, seed=1)
    flow = linearize(model, x, h0)
    assert flow.unread == ({"h0"} if given else frozenset())
    model.h0.grad = torch.ones(H, dtype=F64)
    Exact().apply_gradient(model, flow, err)
    assert bool((model.h0.grad == 1).all()) == given


def test_a_gradient_that_is_zero_is_filled_where_the_parameter_is_read(model) -> None:
    """An error of zero, or one that a rule cuts off, is no reason to keep an old gradient."""
    flow = linearize(model, draw(B, T, 2))
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    Exact().apply_gradient(model, flow, torch.zeros(B, T, H, dtype=F64))
    for name, parameter in model.trainable().items():
        assert bool((parameter.grad == ("head" in name)).all()), name


def test_what_only_some_steps_read_is_theta() -> None:
    """A matrix for each step, of which three rows show three at most; the start is read before any step."""
    torch.manual_seed(1)
    model, x = Layers().double(), draw(B, T, 2)
    flow = linearize(model, x)
    assert flow.unread == {f"W.{T}", "spare"}
    err = draw(B, T, H, seed=2)
    Exact().apply_gradient(model, flow, err)
    found = {name: p.grad for name, p in model.trainable().items()}
    model.zero_grad()
    (model.rollout(x).states * err).sum().backward()
    for name, parameter in model.trainable().items():
        assert (found[name] is None) == (parameter.grad is None), name
        if parameter.grad is not None:
            assert torch.allclose(found[name], parameter.grad, rtol=1e-10, atol=1e-14), name


def test_a_flow_of_another_model_is_refused(model) -> None:
    flow, other = linearize(model, draw(B, T, 2)), wrap(model.get_submodule("cell").cell)
    with pytest.raises(ArgumentError, match=r"model: expected the parameters of the flow, .*got"):
        Exact().apply_gradient(other, flow, draw(B, T, H))
    with pytest.raises(ArgumentError, match=r"model: expected the parameters of the flow, .*got"):
        Exact().apply_gradient(model, linearize(other, draw(B, T, 2)), draw(B, T, H))


@pytest.mark.parametrize("rule", [None, Exact()], ids=["autograd", "operators"])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_training_leaves_them_alone(model, rule, optimizer) -> None:
    """Neither the values nor the gradients of a head of the model's own, which something else has filled."""
    head, readout = model.get_submodule("cell").head, Readout(H, 1, generator=0, dtype=F64)
    settings = TrainingSettings(
        steps=3, batch_size=4, optimizer=optimizer, gradient="operators" if rule else "autograd"
    )
    made = Trainer(model, readout, Sum(), settings, rule=rule, seed=0)
    for parameter in head.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    list(made.run())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter.detach(), before[name]) == ("head" in name), name
    assert all(bool((p.grad == 1).all()) for p in head.parameters())
