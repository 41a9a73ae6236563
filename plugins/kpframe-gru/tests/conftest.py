"""What the tests of the model ``gru`` share: seeded problems, a loop of both forms."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe import Model, create_model

INPUTS, UNITS, TRIALS, STEPS = 3, 4, 2, 5

#: Every form of the model, by a name that reads well in a test's id.
FORMS = {
    "after": {},
    "after, no bias": {"bias": False},
    "after, two layers": {"num_layers": 2},
    "before": {"reset": "before"},
    "before, no bias": {"reset": "before", "bias": False},
    "before, two layers": {"reset": "before", "num_layers": 2},
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, object]:
    return FORMS[request.param]


@pytest.fixture
def make() -> Callable[..., Model]:
    """Return a maker of float64 networks; the trainable initial state, if any, is not left at zero."""

    def build(seed: int = 0, **settings: object) -> Model:
        settings = {"input_size": INPUTS, "hidden_size": UNITS, "seed": seed} | settings
        model = create_model("gru", **settings).double()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(3)  # gates that open and close, far from their linear range
            if model.trainable_initial_state:
                model.h0.copy_(torch.linspace(-1, 1, model.width, dtype=torch.float64))
        return model

    return build


@pytest.fixture
def loop() -> Callable[..., torch.Tensor]:
    """Return a roll-out written out from the definition, a layer, a trial and a step at a time."""

    def states(
        model: Model, x: torch.Tensor, h0: torch.Tensor | None = None, reset: str | None = None
    ) -> torch.Tensor:  # [B, T, L H]
        n, theta = model.hidden_size, dict(model.named_parameters())
        starts = x.new_zeros(len(x), model.width) if h0 is None else h0
        below, layers = x, []
        for layer, start in enumerate(starts.split(n, dim=1)):
            W_ir, W_iz, W_in = theta[f"weight_ih_l{layer}"].split(n)
            W_hr, W_hz, W_hn = theta[f"weight_hh_l{layer}"].split(n)
            b_ir, b_iz, b_in = theta.get(f"bias_ih_l{layer}", x.new_zeros(3 * n)).split(n)
            b_hr, b_hz, b_hn = theta.get(f"bias_hh_l{layer}", x.new_zeros(3 * n)).split(n)
            trials = []
            for inputs, h in zip(below, start, strict=True):
                steps = []
                for row in inputs:
                    r = torch.sigmoid(W_ir @ row + b_ir + W_hr @ h + b_hr)
                    z = torch.sigmoid(W_iz @ row + b_iz + W_hz @ h + b_hz)
                    if (reset or model.reset) == "after":
                        n_ = torch.tanh(W_in @ row + b_in + r * (W_hn @ h + b_hn))
                    else:
                        n_ = torch.tanh(W_in @ row + b_in + W_hn @ (r * h) + b_hn)
                    h = (1 - z) * n_ + z * h
                    steps.append(h)
                trials.append(torch.stack(steps))
            below = torch.stack(trials)
            layers.append(below)
        return torch.cat(layers, dim=-1)

    return states


@pytest.fixture
def reference() -> Callable[..., torch.nn.GRU]:
    """Return a maker of the ``torch.nn.GRU`` that has a model's parameters, taken over by name."""

    def build(model: Model, batch_first: bool = True) -> torch.nn.GRU:
        twin = torch.nn.GRU(
            model.input_size,
            model.hidden_size,
            model.num_layers,
            bias="bias_ih_l0" in model.state_dict(),
            batch_first=batch_first,
            dtype=torch.float64,
        )
        twin.load_state_dict({name: p for name, p in model.state_dict().items() if name != "h0"})
        return twin

    return build


@pytest.fixture
def x(draw) -> torch.Tensor:
    return draw(TRIALS, STEPS, INPUTS, seed=11)


@pytest.fixture
def mask() -> torch.Tensor:
    """The second trial ends after three of the five steps."""
    return torch.arange(STEPS) < torch.tensor([[STEPS], [3]])
