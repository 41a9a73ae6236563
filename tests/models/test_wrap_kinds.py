"""Kinds of modules and parameters that ``wrap`` takes, and those that it refuses with what to do."""

from __future__ import annotations

import math
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

from kpframe import Model, linearize, trace, wrap
from kpframe.errors import ArgumentError, DtypeError, UnsupportedError

F64 = torch.float64


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64)


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> None:
    assert float(expected.norm()) > 0
    assert float((actual - expected).norm()) <= rtol * float(expected.norm())


def check_against_backward(model, x) -> None:
    """Compare the gradient with ``loss.backward()``, and ``Phi`` with ``G G*`` from plain reverse passes."""
    err = drawn(*x.shape[:2], model.width, seed=5)
    theta = list(model.trainable().values())
    states = model.rollout(x).states
    every = torch.autograd.grad(states, theta, err, allow_unused=True, materialize_grads=True)
    gradient = torch.cat([g.reshape(-1) for g in every])
    rows = torch.autograd.grad(
        model.rollout(x).states,
        theta,
        torch.eye(err.numel(), dtype=F64).reshape(-1, *err.shape),
        is_grads_batched=True,
        allow_unused=True,
    )
    unused = [torch.zeros(err.numel(), *p.shape, dtype=F64) for p in theta]
    filled = [zero if row is None else row for row, zero in zip(rows, unused, strict=True)]
    G = torch.cat([row.reshape(err.numel(), -1) for row in filled], 1)
    for method in ("auto", "graph", "autograd"):
        flow = linearize(model, x, method=method)
        close(flow.J.T(flow.P.T(err)), gradient)
        close(flow.Phi.to_dense(), G @ G.T, 1e-11)


class Leaky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.W, self.U = nn.Linear(4, 4), nn.Linear(3, 4)

    def forward(self, x, h):
        return torch.tanh(self.W(h) + self.U(x))


class Energy(nn.Module):
    """Gradient flow of a learned energy."""

    input_size, hidden_size = 3, 4

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 1))

    def forward(self, x, h):
        with torch.enable_grad():
            z = h if h.requires_grad else h.detach().requires_grad_()
            energy = self.net(torch.cat([z, x], -1)).sum()
            return h - 0.3 * torch.autograd.grad(energy, z, create_graph=True)[0]


def test_scripted_cells() -> None:
    torch.manual_seed(0)
    cell, x = Leaky().double(), drawn(2, 4, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(cell)
    model = wrap(scripted, input_size=3, state=4)
    flow, twin = linearize(model, x), linearize(wrap(cell, input_size=3, state=4), x)
    close(flow.Phi.to_dense(), twin.Phi.to_dense())
    with torch.no_grad():
        scripted.W.weight.mul_(2)
    close(flow.Phi.to_dense(), twin.Phi.to_dense())  # a flow keeps its own copy
    assert float((linearize(model, x).Phi.to_dense() - twin.Phi.to_dense()).norm()) > 0.01
    assert all(parameter.is_leaf for parameter in flow.model.parameters())


def test_cells_that_take_gradients_inside() -> None:
    torch.manual_seed(0)
    check_against_backward(wrap(Energy().double()), drawn(2, 3, 3))


def test_layers_of_torch_with_a_function_that_makes_a_step() -> None:
    torch.manual_seed(0)

    def step(module, x, h):
        return module(x[:, None], h.transpose(0, 1).contiguous())[1].transpose(0, 1)

    layers = nn.GRU(3, 4, 2, batch_first=True).double()
    model, x = wrap(layers, step, state={"h": (2, 4)}), drawn(2, 3, 3)
    check_against_backward(model, x)
    close(model.rollout(x).states[..., 4:].detach(), layers(x)[0].detach())
    with pytest.raises(
        ArgumentError, match=r"state: expected none beside a torch.nn.GRU, which says it itself, got"
    ):
        wrap(layers, state={"h": (2, 4)})


@pytest.mark.parametrize(
    ("hold", "name"),
    [
        (lambda cell: [cell], r"cells\[0\].weight_ih"),
        (lambda cell: ((cell,),), r"cells\[0\]\[0\].weight_ih"),
        (lambda cell: {"a": cell}, r"cells\['a'\].weight_ih"),
    ],
)
def test_cells_that_are_not_registered(hold, name) -> None:
    class Holder(nn.Module):
        input_size, hidden_size = 3, 4

        def __init__(self) -> None:
            super().__init__()
            self.core = nn.RNNCell(3, 4)
            self.cells = hold(self.core)
            del self.core

        def forward(self, x, h):
            cells = self.cells
            while not isinstance(cells, nn.Module):
                cells = cells["a"] if isinstance(cells, dict) else cells[0]
            return cells(x, h)

    message = (
        f"one that learns '?\"?{name}'?\"?, of a part that is not registered; hold parts in torch.nn.Modul"
    )
    with pytest.raises(ArgumentError, match=f"^module: expected a step that learns its own.*{message}"):
        wrap(Holder())
    with pytest.raises(ArgumentError, match=f"^model: .*{message.replace('cells', 'cell.cells', 1)}"):
        linearize(wrap(Holder(), check=False), torch.randn(2, 3, 3))


# -- hooks on parameters ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["register_hook", "register_post_accumulate_grad_hook"])
def test_hooks_on_parameters_are_refused(kind) -> None:
    torch.manual_seed(0)
    cell = nn.RNNCell(3, 4).double()
    model, x = wrap(cell), drawn(2, 5, 3)
    off = 1 - torch.eye(4, dtype=F64)
    handle = getattr(cell.weight_hh, kind)(lambda g: g * off if kind == "register_hook" else None)
    expected = (
        "parameter 'weight_hh': expected one without hooks, which operators do not see; say what they do"
    )
    with pytest.raises(UnsupportedError, match=f"^{expected} in the model"):
        linearize(model, x)
    handle.remove()
    assert float(gradient(model, x)["weight_hh"].diagonal().norm()) > 1


def test_the_remedy_for_a_hook_has_the_right_gradient() -> None:
    class NoSelf(nn.Module):
        def forward(self, weight):
            return weight * (1 - torch.eye(len(weight), dtype=weight.dtype))

    torch.manual_seed(0)
    cell = nn.RNNCell(3, 4).double()
    parametrize.register_parametrization(cell, "weight_hh", NoSelf())
    found = gradient(wrap(cell), drawn(2, 5, 3))["parametrizations.weight_hh.original"]
    assert float(found.diagonal().norm()) == 0
    assert float(found.norm()) > 1


def gradient(model: Model, x: torch.Tensor) -> dict[str, torch.Tensor]:
    flow = linearize(model, x)
    flat = flow.J.T(flow.P.T(torch.ones(flow.P.domain.shape, dtype=x.dtype)))
    return {p.name: flat[p.slice].reshape(p.shape) for p in flow.J.domain.axes[0].parts}


def test_a_hook_on_a_frozen_parameter_does_nothing() -> None:
    cell = nn.RNNCell(3, 4)
    cell.weight_hh.register_hook(torch.zeros_like)
    cell.weight_hh.requires_grad_(False)
    linearize(wrap(cell), torch.randn(2, 5, 3))


# -- complex parameters -------------------------------------------------------------------------------------


class Rotates(nn.Module):
    """A linear recurrent unit of one complex mode, ``b`` complex or a pair of real numbers."""

    input_size, hidden_size = 1, 2

    def __init__(self, pairs: bool) -> None:
        super().__init__()
        self.nu = nn.Parameter(torch.tensor([0.5], dtype=F64))
        if pairs:
            self.re, self.im = (nn.Parameter(torch.tensor([v], dtype=F64)) for v in (1.0, 2.0))
        else:
            self.b = nn.Parameter(torch.tensor([1 + 2j], dtype=torch.complex128))

    def forward(self, x, h):
        b = torch.complex(self.re, self.im) if "re" in self._parameters else self.b
        mode = torch.view_as_complex(h.contiguous()) * torch.exp(-self.nu)
        return torch.view_as_real(mode + x[:, 0] * b)


def test_complex_parameters_are_refused_and_pairs_are_right() -> None:
    message = (
        "^parameter 'b': expected real numbers; hold its real and imaginary parts as parameters, "
        "torch.complex joins them, got dtype torch.complex128$"
    )
    for check in (True, False):
        with pytest.raises(ArgumentError, match=message):
            wrap(Rotates(False), check=check)
    model, x = wrap(Rotates(True)), torch.ones(1, 2, 1, dtype=F64)
    assert model.parameter_space.size == 3
    assert trace(linearize(model, x).Phi).value == pytest.approx(9.001278727, rel=1e-9)
    by_hand = 4 + 2 * (1 + math.exp(-0.5)) ** 2 - 2 + 5 * math.exp(-1)
    assert trace(linearize(model, x).Phi).value == pytest.approx(by_hand, rel=1e-12)


def test_complex_parameters_of_a_model_are_refused_unless_they_are_fixed() -> None:
    class Direct(Model):
        def __init__(self) -> None:
            super().__init__(1, {"h": 2})
            self.cell = Rotates(False)

        def step(self, x, h, t=None):
            return self.cell(x, h)

    model, x = Direct(), torch.ones(1, 2, 1, dtype=F64)
    with pytest.raises(ArgumentError, match=r"^parameter 'cell.b': expected real numbers"):
        linearize(model, x)
    model.cell.b.requires_grad_(False)
    alone = trace(linearize(model, x).Phi).value
    pairs = wrap(Rotates(True))
    for parameter in (pairs.cell.re, pairs.cell.im):
        parameter.requires_grad_(False)
    assert alone == pytest.approx(trace(linearize(pairs, x).Phi).value, rel=1e-12)
    assert alone == pytest.approx(5 * math.exp(-1), rel=1e-12)


# -- parameters in different precisions ---------------------------------------------------------------------


def test_one_parameter_in_another_precision_is_named() -> None:
    class Scaled(nn.RNNCell):
        def __init__(self, dtype: torch.dtype) -> None:
            super().__init__(3, 4)
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=dtype))
            self._parameters.move_to_end("scale", last=False) if hasattr(
                self._parameters, "move_to_end"
            ) else None

        def forward(self, x, h):
            return super().forward(x, h) * self.scale

    message = (
        "^parameter 'scale': expected dtype torch.float32, as most parameters; model.to.torch.float32. casts"
    )
    with pytest.raises(DtypeError, match=message):
        wrap(Scaled(F64))
    with pytest.raises(DtypeError, match=message):
        wrap(Scaled(F64), check=False)
    linearize(wrap(Scaled(torch.float32)), torch.randn(2, 3, 3))
    model = wrap(Scaled(torch.float32))
    model.cell.scale.data = model.cell.scale.data.double()
    with pytest.raises(DtypeError, match=message):
        linearize(model, torch.randn(2, 3, 3))
