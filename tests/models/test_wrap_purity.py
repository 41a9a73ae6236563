"""What cannot be a step is refused when it is wrapped: chance, batch statistics, memory."""

from __future__ import annotations

import copy
import random
import re
import threading

import pytest
import torch
from torch import nn

from kpframe import linearize, wrap
from kpframe.errors import ArgumentError
from kpframe.models._wrap.purity import check_modes, modal_parts

PURE = (
    "^module: expected a step that depends on its arguments, parameters and buffers alone, row by row, got "
)
X = torch.zeros(2, 4, 2)


class Between(nn.Module):
    """A recurrent cell with a part between its input and its core."""

    input_size, hidden_size = 2, 3

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.core, self.part = nn.RNNCell(2, 3), part

    def forward(self, x, h):
        return self.core(self.part(x), h)


class Uses(nn.Module):
    """A recurrent cell that does one more thing, ``use(self, x, h)``, to its next state."""

    input_size, hidden_size = 2, 3

    def __init__(self, use) -> None:
        super().__init__()
        self.core, self.use = nn.RNNCell(2, 3), use
        self.register_buffer("seen", torch.zeros(()))
        self.calls = 0

    def forward(self, x, h):
        self.calls += 1
        return self.use(self, x, self.core(x, h))


@pytest.mark.parametrize(
    ("part", "got"),
    [
        (nn.Dropout(0.1), "Dropout 'part', which draws at random in training mode; call .eval() first"),
        (nn.AlphaDropout(0.1), "AlphaDropout 'part', which draws"),
        (nn.RReLU(), "RReLU 'part', which draws"),
        (nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)), "Dropout 'part.1', which draws"),
        (nn.BatchNorm1d(2), "BatchNorm1d 'part', which updates its averages in training mode; call .eval()"),
        (
            nn.utils.parametrizations.spectral_norm(nn.Linear(2, 2)),
            "Between, which writes to 'part.parametrizations.weight.0._u', "
            "'part.parametrizations.weight.0._v' (in training mode; call .eval() first)",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_training_mode_is_refused_and_evaluation_mode_is_not(part, got) -> None:
    cell = Between(part)
    with pytest.raises(ArgumentError, match=PURE + re.escape(got)):
        wrap(cell)
    model = wrap(cell.eval())
    assert not model.training
    linearize(model, X)
    if not isinstance(part, nn.Linear):  # spectral_norm is seen by trial calls alone
        model.train()
        with pytest.raises(ArgumentError, match=PURE + re.escape(got)):
            linearize(model, X)


def test_dropout_that_never_drops_is_fine() -> None:
    linearize(wrap(Between(nn.Dropout(0.0))), X)
    linearize(wrap(Between(nn.LayerNorm(2))), X)


def test_batch_statistics_without_averages_are_refused_in_any_mode() -> None:
    cell = Between(nn.BatchNorm1d(2, track_running_stats=False)).eval()
    with pytest.raises(ArgumentError, match=PURE + "BatchNorm1d 'part', which averages over the rows in any"):
        wrap(cell)


def test_dropout_inside_of_fused_modules_is_found() -> None:
    for part in (nn.LSTM(2, 2, num_layers=2, dropout=0.1), nn.MultiheadAttention(2, 1, dropout=0.1)):
        with pytest.raises(ArgumentError, match=f"got {type(part).__name__}, which draws at random"):
            check_modes(modal_parts(part))
        check_modes(modal_parts(part.eval()))
    check_modes(modal_parts(nn.MultiheadAttention(2, 1)))
    check_modes(modal_parts(nn.InstanceNorm1d(2)))
    with pytest.raises(ArgumentError, match="got InstanceNorm1d, which updates its averages"):
        check_modes(modal_parts(nn.InstanceNorm1d(2, track_running_stats=True)))


def noise(cell, x, h):
    return h + torch.randn_like(h)


def dropout(cell, x, h):
    return nn.functional.dropout(h, 0.01, training=cell.training)


def own_noise(cell, x, h):
    return h + random.random()


def count(cell, x, h):
    cell.seen.add_(1)
    return h


def rebind(cell, x, h):
    cell.seen = cell.seen + 1
    return h


def write_input(cell, x, h):
    x.mul_(2)
    return h


def drift(cell, x, h):
    return h + cell.calls


def centre(cell, x, h):
    return h - h.mean(0)


@pytest.mark.parametrize(
    ("use", "got"),
    [
        (noise, "draws random numbers"),
        (dropout, "draws random numbers"),
        (own_noise, "gave another state when it was called again"),
        (count, "writes to 'seen'"),
        (rebind, "writes to 'seen'"),
        (write_input, "writes to its input"),
        (drift, "gave another state when it was called again"),
        (centre, "gave a row another state when it was called without the other rows"),
    ],
)
def test_trial_calls_show(use, got) -> None:
    if use is dropout:  # the only one that evaluation mode helps
        with pytest.raises(ArgumentError, match=PURE + f"Uses, which {got} \\(in training mode; call .eval"):
            wrap(Uses(use))
        wrap(Uses(use).eval())
        return
    for cell in (Uses(use), Uses(use).eval()):
        with pytest.raises(ArgumentError, match=PURE + f"Uses, which {got}$"):
            wrap(cell)
    assert wrap(cell, check=False).cell is cell


def test_a_trial_leaves_everything_as_it_was() -> None:
    cell = Uses(count)
    kept, state = copy.deepcopy(cell.state_dict()), torch.get_rng_state()
    for use in (count, noise):
        cell.use = use
        with pytest.raises(ArgumentError):
            wrap(cell)
    assert cell.calls == 0
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, kept[name]) for name, value in cell.state_dict().items())
    assert all(p.grad is None for p in cell.parameters())


def test_a_step_must_learn_the_parameters_of_the_module_it_is_given() -> None:
    cell = nn.GRUCell(2, 3)
    message = (
        r"^module: expected a step that learns its own parameters, got one that learns a tensor \[9, 2\] of "
        "another module or of none; a function must use the module that it is given"
    )
    with pytest.raises(ArgumentError, match=message):
        wrap(cell, lambda module, x, h: cell(x, h))
    free = Uses(lambda self, x, h: h * self.scale)
    free.scale = torch.ones(3, requires_grad=True)  # no parameter: theta would lack it
    with pytest.raises(ArgumentError, match="learns 'scale', which is no parameter; make it a"):
        wrap(free)
    wrap(cell, lambda module, x, h: module(x, h))


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    cell = Uses(lambda self, x, h: h)
    cell.lock = threading.Lock()
    expected = "one that copy.deepcopy copies, since linearize works on a copy, got TypeError: cannot pickle"
    with pytest.raises(ArgumentError, match=f"^module: expected {expected} '_thread.lock' object"):
        wrap(cell)
    with pytest.raises(ArgumentError, match=f"^model: expected {expected} '_thread.lock' object"):
        linearize(wrap(cell, check=False), X)


@pytest.mark.parametrize("size", [1e-2, 1e-4, 1e-6])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_that_mix_a_little_are_refused_in_any_precision(size, dtype) -> None:
    def mix(self, x, h):
        return h - size * h.mean(0)

    message = PURE + "Uses, which gave a row (another state when|a state that moves with)"
    with pytest.raises(ArgumentError, match=message):
        wrap(Uses(mix).to(dtype))
    model = wrap(Uses(mix).to(dtype), check=False)
    if size > 1e-5 or dtype == torch.float64:  # else it is within what float32 can tell
        with pytest.raises(ArgumentError, match=r"^model: expected a step that depends .* WrappedCell, "):
            linearize(model, torch.randn(2, 4, 2, dtype=dtype))
    wrap(Uses(lambda self, x, h: h - size * h.mean(1, keepdim=True)).to(dtype))  # within a row


@pytest.mark.parametrize("size", [1e-2, 1e-5])
def test_rows_that_mix_beside_the_graph_are_refused(size) -> None:
    def mix(self, x, h):
        return h - size * h.mean(0).detach()

    for dtype in (torch.float32, torch.float64):
        with pytest.raises(ArgumentError, match=PURE + "Uses, which gave a row another state when it was"):
            wrap(Uses(mix).to(dtype))


class Clock(nn.Module):
    """A cell of its own for each step, found by ``index``."""

    def __init__(self, index, steps: int = 5) -> None:
        super().__init__()
        self.cells, self.index = nn.ModuleList(nn.RNNCell(3, 4) for _ in range(steps)), index

    def forward(self, x, h, t):
        return self.index(self, x, h, t)


def by_first_row(self, x, h, t):
    return self.cells[int(t[0])](x, h)


def by_latest_row(self, x, h, t):
    return self.cells[int(t.max())](x, h)


def by_row(self, x, h, t):
    out = torch.stack([cell(x, h) for cell in self.cells])
    return out[t, torch.arange(len(t))]


@pytest.mark.parametrize("index", [by_first_row, by_latest_row])
def test_steps_that_look_at_one_rows_index_are_refused(index) -> None:
    sizes = {"input_size": 3, "state": 4}
    message = (
        r"Clock, which gave a row another state when it was called without the other rows, at other steps "
        r"\(t holds a step for each row: self.weights\[t\]\)$"
    )
    with pytest.raises(ArgumentError, match=PURE + message):
        wrap(Clock(index), "x,h,t", **sizes)
    with pytest.raises(ArgumentError, match=r"^model: expected a step that depends on its arg"):
        linearize(wrap(Clock(index), "x,h,t", **sizes, check=False), torch.randn(2, 5, 3))
    with pytest.raises(ArgumentError, match=PURE + "Clock"):
        wrap(Clock(index, 2), "x,h,t", **sizes)
    wrap(Clock(by_row, 2), "x,h,t", **sizes)


def by_last_row(self, x, h, t):
    return self.cells[int(t[-1])](x, h)


class Scaled(nn.Module):
    """A row of one parameter for each step, all of which start equal."""

    def __init__(self, index) -> None:
        super().__init__()
        self.w, self.scales, self.index = nn.Parameter(torch.eye(4)), nn.Parameter(torch.ones(5, 4)), index

    def forward(self, x, h, t):
        return torch.tanh(h @ self.w + x.sum(1, keepdim=True)) * self.scales[self.index(t)]


@pytest.mark.parametrize("index", [by_first_row, by_latest_row, by_last_row])
def test_steps_are_told_apart_by_what_they_learn_where_their_states_are_equal(index) -> None:
    def alike(cell: Clock) -> Clock:
        for other in cell.cells[1:]:
            other.load_state_dict(cell.cells[0].state_dict())
        return cell

    sizes = {"input_size": 3, "state": 4}
    with pytest.raises(ArgumentError, match=r"Clock, which learned otherwise from a row when it was called"):
        wrap(alike(Clock(index)), "x,h,t", **sizes)
    with pytest.raises(ArgumentError, match=r"whose parameters learn otherwise from a row that comes alone$"):
        linearize(wrap(alike(Clock(index)), "x,h,t", **sizes, check=False), torch.randn(2, 5, 3))
    linearize(wrap(alike(Clock(by_row)), "x,h,t", **sizes), torch.randn(2, 5, 3))


@pytest.mark.parametrize("place", [0, -1])
def test_rows_of_a_parameter_are_told_apart_where_they_are_equal(place) -> None:
    sizes = {"input_size": 3, "state": 4}
    with pytest.raises(ArgumentError, match=r"Scaled, which learned otherwise from a row when it was called"):
        wrap(Scaled(lambda t: int(t[place])), "x,h,t", **sizes)
    unchecked = wrap(Scaled(lambda t: int(t[place])), "x,h,t", **sizes, check=False)
    with pytest.raises(ArgumentError, match=r"whose parameters learn otherwise from a row that comes alone$"):
        linearize(unchecked, torch.randn(2, 5, 3))
    linearize(wrap(Scaled(lambda t: t), "x,h,t", **sizes), torch.randn(2, 5, 3))


def test_a_cell_for_each_step_has_the_gradient_of_backpropagation() -> None:
    torch.manual_seed(0)
    cell = Clock(by_row).double()
    model, x = wrap(cell, "x,h,t", input_size=3, state=4), torch.randn(2, 5, 3, dtype=torch.float64)
    states = model.rollout(x).states
    states.sum().backward()
    flow = linearize(model, x)
    gradient = flow.J.T(flow.P.T(torch.ones_like(states)))
    expected = torch.cat([p.grad.reshape(-1) for p in model.trainable().values()])
    assert float(cell.cells[1].bias_hh.grad.norm()) > 0.1
    assert float((gradient - expected).norm()) <= 1e-12 * float(expected.norm())


def test_cells_on_the_meta_device_and_under_inference_mode_are_wrapped() -> None:
    with torch.device("meta"):
        assert wrap(nn.GRUCell(2, 3)).width == 3
    with torch.inference_mode():
        assert wrap(nn.GRUCell(2, 3)).width == 3
    with torch.no_grad():
        assert wrap(nn.GRUCell(2, 3)).width == 3


def test_numbers_that_are_not_finite_in_a_trial_are_no_error() -> None:
    model = wrap(Uses(lambda self, x, h: torch.log(h - h.detach() + x[:, :1])))
    assert model.rollout(torch.ones(2, 1, 2)).states.abs().max() == 0
