"""Products of J and K taken in several slices of steps and probes, short last ones included."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
import torch

from kpframe import Model, Site, SiteModel, Stage, linearize
from kpframe.testing._toys import Elman, Gated

STEPS = 7
Tensors = Mapping[str, torch.Tensor]


class ByStep(SiteModel):
    """Weights and biases of each step."""

    time_varying = True
    steps = STEPS

    def __init__(self) -> None:
        sites = (
            Site("U", "input", ("u",), bias="b", per_step=True),
            Site("W", "h", ("u",), per_step=True),
        )
        super().__init__(3, 4, components=("h",), sites=sites)
        self.U = torch.nn.Parameter(0.5 * torch.randn(STEPS, 4, 3))
        self.W = torch.nn.Parameter(0.5 * torch.randn(STEPS, 4, 4))
        self.b = torch.nn.Parameter(torch.randn(STEPS, 4))

    def combine(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> dict[str, torch.Tensor]:
        return {"h": torch.tanh(u["u"])}


class Layers(SiteModel):
    """Two stages, the second of which reads the first within the step."""

    def __init__(self) -> None:
        stages = (
            Stage("a", 4, (Site("U", "input", ("u",)), Site("W", "a", ("u",), bias="b")), combine="below"),
            Stage("h", 4, (Site("V", "a'", ("v",)), Site("R", "h", ("v",))), combine="above"),
        )
        super().__init__(3, components=("a", "h"), stages=stages)
        self.U = torch.nn.Parameter(torch.randn(4, 3))
        self.W, self.V, self.R = (torch.nn.Parameter(0.5 * torch.randn(4, 4)) for _ in range(3))
        self.b = torch.nn.Parameter(torch.randn(4))

    def below(self, u: Tensors, h: Tensors) -> dict[str, torch.Tensor]:
        return {"a": torch.tanh(u["u"])}

    def above(self, u: Tensors, h: Tensors) -> dict[str, torch.Tensor]:
        return {"h": torch.tanh(u["v"])}


class Tied(Elman):
    """Input and recurrent matrix are one, so that K goes through J* and J."""

    def __init__(self) -> None:
        super().__init__(4, 4)
        self.weight_hh_l0, self.bias_hh_l0 = self.weight_ih_l0, self.bias_ih_l0


MODELS = {
    "one site": lambda: Elman(3, 4),
    "a trained start": lambda: Elman(3, 4, trainable_initial_state=True),
    "gates": lambda: Gated(3, 4),
    "weights of each step": ByStep,
    "stages": Layers,
    "one matrix twice": Tied,
}


#: Steps and probes in a slice, the probes that there are, and how many of them go together.
SLICES = [
    (1, 1, (), [1]),
    (3, 1, (2,), [1, 1]),
    (6, 1, (2,), [1, 1]),
    (STEPS, 1, (), [1]),
    (STEPS, 2, (3,), [2, 1]),
    (STEPS, 9, (2, 2), [4]),
]


@pytest.mark.parametrize(("steps", "together", "probes", "expected_together"), SLICES)
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.rows(6)
def test_slices_make_no_difference(
    name: str, steps: int, together: int, probes: tuple[int, ...], expected_together: list[int]
) -> None:
    torch.manual_seed(0)
    model: Model = MODELS[name]().double()
    x = torch.randn(2, STEPS, model.input_size, dtype=torch.float64)
    mask = torch.arange(STEPS) < torch.tensor([[STEPS], [STEPS - 1]])
    flow, twin = linearize(model, x, mask=mask), linearize(model, x, mask=mask, method="autograd")
    J = flow.J
    targets = sum(stage.units * len(stage.targets) for stage in model.stages)
    J.slice_bytes = together * steps * 2 * (model.width + targets) * 8
    sizes = [(part.stop - part.start, some.stop - some.start) for part, some in J._pieces(math.prod(probes))]
    starts = range(0, STEPS, steps)
    assert sizes == [(min(steps, STEPS - start), number) for start in starts for number in expected_together]
    r, d = torch.randn(*probes, 2, STEPS, model.width).double(), torch.randn(*probes, J.domain.size).double()
    for found, expected in (
        (J(d), twin.J(d)),
        (J.T(r), twin.J.T(r)),
        (flow.K(r), twin.K(r)),
        (flow.K.restrict(["*"])(r), twin.K(r)),
        (flow.Phi(r), twin.Phi(r)),
    ):
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-12)
    last = torch.zeros_like(r)
    last[..., -1, :] = r[..., -1, :]  # what a slice that is left out would lose
    assert float(J.T(last).norm()) > 1e-3
    assert float(flow.K(r)[..., 0, -1, :].norm()) > 1e-3


@pytest.mark.parametrize("names", [("*",), ("bias*",), ("weight_hh*", "bias_ih*")])
def test_gates_that_input_and_state_reach_have_one_gram_matrix(names: tuple[str, ...]) -> None:
    torch.manual_seed(0)
    x = torch.randn(2, STEPS, 3, dtype=torch.float64)
    model = Gated(3, 4).double()
    flow, twin = linearize(model, x), linearize(model, x, method="autograd")
    K = flow.K.restrict(names)
    apart, once = (find(K.parameters) for find in (flow.J.groups, flow.J.gram_groups))
    targets = [target for group in apart for target in group.targets]
    assert len(set(targets)) < len(targets)  # gates are reached twice
    assert sorted(target for group in once for target in group.targets) == sorted(set(targets))
    r = torch.randn(3, *K.domain.shape, dtype=torch.float64)
    torch.testing.assert_close(K(r), twin.K.restrict(names)(r), rtol=1e-11, atol=1e-12)
