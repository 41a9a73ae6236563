"""What the tests of the feedforward models share: seeded networks and references."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise

import pytest
import torch

from kpframe import Model, create_model

INPUTS, UNITS, TRIALS = 3, 4, 3
TOKENS, WIDTH = 3, 4

#: Forms of the perceptron that differ in their mathematics.
FORMS = {
    "plain": {"depth": 4},
    "one layer": {"depth": 1},
    "relu": {"depth": 3, "activation": "relu"},
    "no bias": {"depth": 3, "bias": False, "activation": "gelu"},
    "residual": {"depth": 4, "form": "residual", "scale": 0.7},
    "ntk": {"depth": 3, "parametrisation": "ntk", "sigma_w": 1.3, "sigma_b": 0.4},
    "ntk relu": {"depth": 3, "parametrisation": "ntk", "activation": "relu", "bias": False},
    "ntk residual": {"depth": 4, "form": "residual", "scale": 0.5, "parametrisation": "ntk", "sigma_b": 0.3},
}

#: Settings of the attention blocks that change their mathematics.
BLOCKS = {
    "one block": {},
    "two blocks, two heads": {"blocks": 2, "heads": 2, "mlp_size": 5},
    "relu, all to all": {"activation": "relu", "causal": False, "heads": 4},
}


@pytest.fixture(params=FORMS)
def form(request: pytest.FixtureRequest) -> dict[str, object]:
    return FORMS[request.param]


@pytest.fixture(params=BLOCKS)
def block(request: pytest.FixtureRequest) -> dict[str, object]:
    return BLOCKS[request.param]


@pytest.fixture
def make() -> Callable[..., Model]:
    """Return a maker of float64 perceptrons."""

    def build(seed: int = 5, **settings: object) -> Model:
        settings = {"input_size": INPUTS, "hidden_size": UNITS, "sigma_b": 0.5, "seed": seed} | settings
        return create_model("mlp", **settings).double()

    return build


@pytest.fixture
def make_attention(draw) -> Callable[..., Model]:
    """Return a maker of float64 attention blocks, everything that starts at zero or one moved away."""

    def build(seed: int = 5, **settings: object) -> Model:
        sizes = {"input_size": TOKENS * 2, "hidden_size": WIDTH, "tokens": TOKENS, "seed": seed}
        model = create_model("attention", **sizes | settings).double()
        with torch.no_grad():
            for i, parameter in enumerate(model.parameters()):
                parameter.add_(0.3 * draw(*parameter.shape, seed=seed + i))
        return model

    return build


@pytest.fixture
def samples(draw) -> torch.Tensor:
    return draw(TRIALS, INPUTS, seed=11)


PHI = {
    "tanh": torch.nn.Tanh,
    "relu": torch.nn.ReLU,
    "gelu": torch.nn.GELU,
    "silu": torch.nn.SiLU,
    "sigmoid": torch.nn.Sigmoid,
    "identity": torch.nn.Identity,
}


class Perceptron(torch.nn.Module):
    """The reference: torch.nn.Linear layers, and the factors of the NTK parametrisation outside of them."""

    def __init__(self, model: Model, settings: Mapping[str, object], seed: int = 0) -> None:
        super().__init__()
        self.residual = settings.get("form") == "residual"
        self.scale = settings.get("scale", 1.0)
        self.phi = PHI[settings.get("activation", "tanh")]()
        depth, bias = settings["depth"], settings.get("bias", True)
        sizes = [INPUTS] + [UNITS] * depth
        self.layers = torch.nn.ModuleList(
            [torch.nn.Linear(a, b, bias=bias, dtype=torch.float64) for a, b in pairwise(sizes)]
        )
        matrices = [model.weight_in, *(model.weight if depth > 1 else ())]
        with torch.no_grad():
            for i, layer in enumerate(self.layers):
                layer.weight.copy_(matrices[i])
                if bias:
                    layer.bias.copy_(model.bias[i])
        self.factors = [(1.0, 1.0)] * depth
        if settings.get("parametrisation") == "ntk":
            default = math.sqrt(2) if settings.get("activation") == "relu" else 1.0
            sigma_w, sigma_b = settings.get("sigma_w", default), settings.get("sigma_b", 0.5)
            self.factors = [(sigma_w / math.sqrt(n), sigma_b) for n in sizes[:-1]]

    def forward(self, samples: torch.Tensor) -> torch.Tensor:  # [B, I] -> [B, depth, H]
        h, states = samples, []
        for i, (layer, (c_w, c_b)) in enumerate(zip(self.layers, self.factors, strict=True)):
            u = c_w * (h @ layer.weight.T)
            u = u if layer.bias is None else u + c_b * layer.bias
            if self.residual and i == 0:
                h = u
            elif self.residual:
                h = h + self.scale * self.phi(u)
            else:
                h = self.phi(u)
            states.append(h)
        return torch.stack(states, dim=1)


@pytest.fixture
def perceptron() -> Callable[..., torch.nn.Module]:
    """Return the reference network of a model and the settings it was made with."""
    return Perceptron


@pytest.fixture
def encoder() -> Callable[[Model], torch.nn.TransformerEncoder]:
    """Return torch's encoder that took the parameters of attention blocks, name by name."""

    def build(model: Model, activation: str = "gelu") -> torch.nn.TransformerEncoder:
        first = model.layers[0]
        layer = torch.nn.TransformerEncoderLayer(
            model.hidden_size,
            first.self_attn.heads,
            first.linear1.out_features,
            dropout=0.0,
            activation=activation,
            batch_first=True,
            norm_first=True,
            dtype=torch.float64,
        )
        twin = torch.nn.TransformerEncoder(layer, len(model.layers), enable_nested_tensor=False)
        own = {name: value for name, value in model.state_dict().items() if name.startswith("layers.")}
        twin.load_state_dict(own)
        return twin

    return build


@pytest.fixture
def total_jacobian() -> Callable[..., torch.Tensor]:
    """Return the dense ``dh/dtheta`` ``[B T H, M]`` of a whole roll-out, by automatic differentiation."""

    def jacobian(model: Model, x: torch.Tensor) -> torch.Tensor:
        states = model.rollout(x).states
        basis = torch.eye(states.numel(), dtype=states.dtype).reshape(-1, *states.shape)
        theta = tuple(model.trainable().values())
        rows = torch.autograd.grad(states, theta, basis, is_grads_batched=True)
        return torch.cat([g.reshape(len(basis), -1) for g in rows], dim=1)

    return jacobian


@pytest.fixture
def jacobians() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Return A ``[B, T, H, H]`` and J ``[B T H, M]`` by ``torch.func.jacrev`` of one step at a time."""

    def dense(model: Model, trajectory) -> tuple[torch.Tensor, torch.Tensor]:
        theta = {name: p.detach() for name, p in model.named_parameters()}
        batch, time, width = trajectory.space.shape
        A, J = [], []
        for b in range(batch):
            for t in range(time):
                row, h = trajectory.inputs[b, t], trajectory.previous[b, t]

                def step(theta, h, row=row, t=t):
                    return torch.func.functional_call(model, theta, (row[None], h[None], torch.tensor([t])))[
                        0
                    ]

                by_parameter, by_state = torch.func.jacrev(step, argnums=(0, 1))(theta, h)
                A.append(by_state)
                J.append(torch.cat([by_parameter[name].reshape(width, -1) for name in theta], dim=1))
        return torch.stack(A).reshape(batch, time, width, width), torch.cat(J)

    return dense
