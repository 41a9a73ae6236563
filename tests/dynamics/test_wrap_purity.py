"""What cannot be a step is refused when it is wrapped: chance, batch statistics, memory."""

from __future__ import annotations

import copy
import random
import re

import pytest
import torch
from torch import nn

from kpframe import linearize, wrap
from kpframe.errors import ArgumentError
from kpframe.wrapped.purity import check_modes, modal_parts

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
            "'part.parametrizations.weight.0._v' (in training mode; try .eval() first)",
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
    with pytest.raises(ArgumentError, match=PURE + f"Uses, which {got} \\(in training mode"):
        wrap(Uses(use))
    cell = Uses(use).eval()
    if use is dropout:
        wrap(cell)
        return
    with pytest.raises(ArgumentError, match=f"Uses, which {got}$"):
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
        r"^module: expected a copy that learns its own parameters .*, got one of GRUCell that learns others"
    )
    with pytest.raises(ArgumentError, match=message):
        wrap(cell, lambda module, x, h: cell(x, h))
    free = Uses(lambda self, x, h: h * self.scale)
    free.scale = torch.ones(3, requires_grad=True)  # no parameter: theta would lack it
    with pytest.raises(ArgumentError, match="got one of Uses that learns others"):
        wrap(free)
    wrap(cell, lambda module, x, h: module(x, h))


def test_a_module_that_cannot_be_copied_is_refused() -> None:
    cell = Uses(lambda self, x, h: h * self.scale)
    cell.scale = nn.Parameter(torch.ones(3)) * 2  # a cached tensor with a graph
    message = (
        r"^module: expected one that copy.deepcopy copies, since linearize works on a copy, got RuntimeError"
    )
    with pytest.raises(ArgumentError, match=message):
        wrap(cell)


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
