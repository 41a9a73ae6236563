"""Rules that need the paths of a step say how a wrapped cell gets them, and following that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

from kpframe import Model, create_model, create_rule, linearize, wrap
from kpframe.errors import UnsupportedError

pytest.importorskip("kpframe_rules")
pytest.importorskip("kpframe_rnn")

INPUTS, UNITS, LEAK = 3, 4, 0.4
RULES = {
    "rflo": {"feedback": "readout"},
    "eprop": {"feedback": "readout"},
    "three_factor": {},
    "gate_stop": {"paths": ["U"]},
    "feedback_through_time": {},
}


class Cell(torch.nn.Module):
    """A leaky network as a plain module."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        for name, shape in {"W": (UNITS, INPUTS), "U": (UNITS, UNITS), "b": (UNITS,)}.items():
            values = torch.randn(shape, generator=generator, dtype=torch.float64)
            self.register_parameter(name, torch.nn.Parameter(values))

    def forward(self, x, h):
        return (1 - LEAK) * h + LEAK * torch.tanh(x @ self.W.T + self.b + h @ self.U.T)


def page_class() -> type[Model]:
    """Return the class that the page on rules declares."""
    page = (Path(__file__).parents[2] / "docs" / "rules.md").read_text(encoding="utf-8")
    code = re.search(r"## A leaky network of your own\n.*?```python\n(.*?)```", page, flags=re.DOTALL)[1]
    names: dict[str, type[Model]] = {}
    exec(compile(code, "rules.md", "exec"), names)
    return names["Leaky"]


def draw(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


X, ERR = draw(2, 6, INPUTS, seed=0), draw(2, 6, UNITS, seed=1)


@pytest.mark.parametrize(
    ("rule", "settings"), {**RULES, "h_detach": {"probability": 0.5}, "kf_rtrl": {}}.items()
)
def test_the_refusal_says_how_to_declare_them(rule, settings) -> None:
    made = create_rule(rule, **settings)
    flow = linearize(wrap(Cell(), input_size=INPUTS, state=UNITS), X)
    told = (
        r"; got .* A cell knows them once its weights are declared: a class of kpframe.SiteModel with "
        r"sites=.* and so is create_model\('rnn', form='rate', alpha=a\)\. .*any model$"
    )
    with pytest.raises(UnsupportedError, match=f"^{rule} needs .*{told}"):
        made.update_operator(flow)(ERR) if made.linear else made.gradient(flow, ERR)


@pytest.mark.parametrize("rule", RULES)
def test_what_it_says_works(rule) -> None:
    cell = Cell()
    model = page_class()(cell, LEAK)
    flow = linearize(model, X)
    expected = linearize(wrap(cell, input_size=INPUTS, state=UNITS), X)
    torch.testing.assert_close(flow.trajectory.states, expected.trajectory.states, rtol=1e-13, atol=0)
    assert all(getattr(model, name) is getattr(cell, name) for name in "WUb")
    found = create_rule(rule, **RULES[rule]).update_operator(flow)(ERR)
    exact = flow.J.T(flow.P.T(ERR))
    assert float((found - exact).norm()) > 1e-2 * float(exact.norm())
    if rule in ("rflo", "eprop", "three_factor"):
        made = create_model("rnn", input_size=INPUTS, hidden_size=UNITS, form="rate", alpha=LEAK).double()
        with torch.no_grad():
            for name, value in {"weight_ih_l0": cell.W, "weight_hh_l0": cell.U, "bias_ih_l0": cell.b}.items():
                getattr(made, name).copy_(value)
            made.bias_hh_l0.zero_()
        other = create_rule(rule, **RULES[rule]).update_operator(linearize(made, X))(ERR)
        theirs = dict(zip(made.trainable(), other.split([p.numel() for p in made.parameters()]), strict=True))
        ours = dict(zip(model.trainable(), found.split([p.numel() for p in model.parameters()]), strict=True))
        for name, twin in {"W": "weight_ih_l0", "U": "weight_hh_l0", "b": "bias_ih_l0"}.items():
            torch.testing.assert_close(ours[name], theirs[twin], rtol=1e-11, atol=1e-13)
