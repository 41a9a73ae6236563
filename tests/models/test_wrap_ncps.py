"""Cells of another package as they are: liquid networks of ncps against its own sequence classes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kpframe import Model, linearize, wrap
from kpframe.errors import ArgumentError
from kpframe.testing import check_model, parametrize_with_checks

pytest.importorskip("ncps", reason="needs ncps: pip install 'kpframe[interop]'")

from ncps.torch import LTC, CfC, CfCCell
from ncps.wirings import AutoNCP, FullyConnected


def mixed_step(layer: nn.Module, x: Tensor, state: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """One step of a CfC with a memory cell: an LSTM, then the CfC from its h."""
    h, c = layer.lstm(x, state)
    return layer.rnn_cell(x, h, 1.0)[1], c


@dataclass
class Case:
    """A sequence class of ncps, what of it is wrapped and how, and the time between its samples."""

    layer: Callable[[], nn.Module]
    arguments: dict[str, Any] = field(default_factory=dict)
    part: str = "rnn_cell"
    span: float = 1.0

    def wrap(self, layer: nn.Module, **changes: Any) -> Model:
        arguments = {"returns": "output,state", **self.arguments, **changes}
        return wrap(getattr(layer, self.part) if self.part else layer, **arguments)

    def states(self, layer: nn.Module, x: Tensor, width: int) -> Tensor:
        """Return the final states of all prefixes of a sequence."""
        spans = torch.full(x.shape[:2], self.span, dtype=x.dtype) if self.span != 1 else None
        start: Any = x.new_zeros(len(x), width)
        start = start if self.part else start.chunk(2, dim=1)
        states = []
        for t in range(1, x.shape[1] + 1):
            final = layer(x[:, :t], start, None if spans is None else spans[:, :t])[1]
            states.append(final if self.part else torch.cat(final, dim=1))
        return torch.stack(states, dim=1)


CASES = {
    "CfC": Case(lambda: CfC(2, 4, backbone_units=6), {"constants": {"ts": 1.0}}),
    "CfC, pure": Case(lambda: CfC(2, 4, mode="pure", backbone_units=6), {"constants": {"ts": 1.0}}),
    "CfC, no gate": Case(
        lambda: CfC(2, 4, mode="no_gate", backbone_units=5, backbone_layers=2), {"constants": {"ts": 1.0}}
    ),
    "CfC, other times": Case(lambda: CfC(2, 4, backbone_units=6), {"constants": {"ts": 0.3}}, span=0.3),
    "CfC, wired": Case(
        lambda: CfC(2, AutoNCP(8, 2, seed=1)), {"input_size": 2, "constants": {"timespans": 1.0}}
    ),
    "CfC, memory cell": Case(
        lambda: CfC(2, 4, mixed_memory=True, backbone_units=6),
        {"call": mixed_step, "state": {"h": 4, "c": 4}, "returns": "state"},
        part="",
    ),
    "LTC": Case(lambda: LTC(2, FullyConnected(4), ode_unfolds=3), {"input_size": 2}),
    "LTC, wired": Case(lambda: LTC(2, AutoNCP(6, 2, seed=1), ode_unfolds=2), {"input_size": 2}),
}


@pytest.fixture(params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def layer(case: Case) -> nn.Module:
    torch.manual_seed(0)
    return case.layer().double()


def inputs(case: Case, lab: Any) -> Tensor:
    # ncps reads the times of several trials as times of units
    return lab.randn(1, 1 if case.span != 1 else 3, 5, 2)


def test_states_are_those_of_the_sequence_class(case, layer, lab) -> None:
    model, x = case.wrap(layer), inputs(case, lab)
    states = model.rollout(x).states.detach()
    lab.close(states, case.states(layer, x, model.width).detach())
    lab.differ(states, case.states(layer, x.flip(1), model.width).detach())


@pytest.mark.rows(3)
def test_gradients_are_those_of_the_sequence_class(case, layer, lab) -> None:
    model, x = case.wrap(layer), inputs(case, lab)
    flow = linearize(model, x)
    err = lab.randn(2, *flow.P.domain.shape)
    (case.states(layer, x, model.width) * err).sum().backward()
    own = getattr(layer, case.part) if case.part else layer
    parts = {part.name: part for part in flow.J.domain["parameter"].parts}
    assert set(parts) == {name for name, p in own.named_parameters() if p.requires_grad}
    found, early = flow.J.T(flow.P.T(err)), flow.J.T(err)
    reference = torch.zeros_like(found)
    for name, p in own.named_parameters():
        if p.grad is not None:
            reference[parts[name].slice] = p.grad.reshape(-1)
    lab.close(found, reference)
    lab.differ(early, reference)


def test_outputs_are_those_of_the_sequence_class(lab) -> None:
    torch.manual_seed(0)
    layer, x = CfC(2, 4).double(), lab.randn(1, 3, 5, 2)
    out = layer(x, torch.zeros(3, 4, dtype=x.dtype))[0].detach()
    states = CASES["CfC"].wrap(layer).rollout(x).states.detach()
    lab.close(states, out)
    other = CASES["CfC"].wrap(layer, constants={"ts": 0.5})
    lab.differ(other.rollout(x).states.detach(), out)


def test_masks_of_wirings_do_not_learn(lab) -> None:
    model = CASES["CfC, wired"].wrap(CASES["CfC, wired"].layer())
    masks = [name for name, _ in model.cell.named_parameters() if name.endswith("sparsity_mask")]
    assert len(masks) == 3
    assert not set(masks) & set(model.trainable())
    assert model.components == {"h": 8}


def cfc(input_size: int, hidden_size: int) -> Model:
    cell = CfCCell(input_size, hidden_size, backbone_units=5)
    return wrap(cell, constants={"ts": 1.0}, returns="output,state")


@parametrize_with_checks([cfc])
@pytest.mark.rows(20)
def test_the_kit(check) -> None:
    check()


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["CfC, memory cell", "CfC, pure", "CfC, no gate", "CfC, wired", "LTC", "LTC, wired"]
)
def test_the_kit_passes(name) -> None:
    torch.manual_seed(0)
    report = check_model(CASES[name].wrap(CASES[name].layer()), examples=2)
    assert report.passed, str(report)


def test_what_is_missing_is_said() -> None:
    cell = CfCCell(2, 4)
    with pytest.raises(
        ArgumentError, match=r"got TypeError: .* missing 1 required positional argument: 'ts' \(con"
    ):
        wrap(cell, returns="output,state")
    with pytest.raises(
        ArgumentError, match=r"expected 'h' a tensor \[3, 4\], got tuple \(tensor .*, tensor .*\)$"
    ):
        wrap(cell, constants={"ts": 1.0})
    with pytest.raises(
        ArgumentError, match=r"^call='x,h', input_size=2, state=4: expected what CfC takes, with x"
    ):
        wrap(CfC(2, 4), state=4)
    dropping = CfCCell(2, 4, backbone_layers=2, backbone_dropout=0.5)
    with pytest.raises(
        ArgumentError, match=r"got Dropout 'backbone.4', which draws .*; call .eval\(\) first$"
    ):
        wrap(dropping, constants={"ts": 1.0}, returns="output,state")
    wrap(dropping.eval(), constants={"ts": 1.0}, returns="output,state")
