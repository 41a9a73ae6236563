"""What the operators are measured against: a training step, ``torch.func`` by hand, another package."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from importlib import import_module
from typing import Any

import torch

from kpframe.errors import MissingDependencyError, UnsupportedError
from kpframe.models._model import Model
from kpframe.study._bench.timing import Call

#: The fused layers of torch that compute what a registered model computes, and their cells.
LAYERS: dict[str, Callable[..., torch.nn.Module]] = {
    "rnn": torch.nn.RNN,
    "gru": torch.nn.GRU,
    "lstm": torch.nn.LSTM,
}
CELLS: dict[str, Callable[..., torch.nn.Module]] = {"rnn": torch.nn.RNNCell, "gru": torch.nn.GRUCell}


def training_step(name: str, model: Model, x: torch.Tensor) -> tuple[str, Call]:
    """Return a forward and backward pass over ``x``, by the layer of torch or the model's own roll-out."""
    if name in LAYERS:
        layer = LAYERS[name](x.shape[2], next(iter(model.components.values())), batch_first=True).to(x)

        def fused() -> None:
            layer(x)[0].sum().backward()

        return f"torch.nn.{type(layer).__name__}", fused

    def own() -> None:
        model.rollout(x).states.sum().backward()  # type: ignore[no-untyped-call]

    return "its own roll-out", own


class _Rollout(torch.nn.Module):
    def __init__(self, model: Model, by_step: bool) -> None:
        super().__init__()
        self.model, self.by_step = model, by_step

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        run = Model.rollout(self.model, x) if self.by_step else self.model.rollout(x)
        return run.states


def by_hand(model: Model, x: torch.Tensor, q: torch.Tensor) -> Call:
    """Return ``Phi q`` as one writes it by hand: a jvp of a vjp of the whole roll-out by ``torch.func``.

    A roll-out of its own that has no forward mode is written as a loop over ``step``.
    """
    with warnings.catch_warnings():  # the first use of forward mode loads parts of torch that warn
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.func.jvp(torch.sin, (q,), (q,))
    product = _jvp_of_vjp(_Rollout(model, by_step=False), x, q)
    try:
        product()
    except NotImplementedError:
        return _jvp_of_vjp(_Rollout(model, by_step=True), x, q)
    return product


def _jvp_of_vjp(rollout: _Rollout, x: torch.Tensor, q: torch.Tensor) -> Callable[[], torch.Tensor]:
    theta = {name: p.detach() for name, p in rollout.named_parameters()}

    def states(theta: dict[str, torch.Tensor]) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(rollout, theta, (x,))
        return out

    def product() -> torch.Tensor:
        gradient = torch.func.vjp(states, theta)[1](q)[0]
        out: torch.Tensor = torch.func.jvp(states, (theta,), (gradient,))[1]
        return out

    return product


def import_peer(package: str, name: str) -> tuple[Any, Any]:
    """Return the modules of a reference package with its propagation and its parameter operator.

    Raises:
        MissingDependencyError: when it cannot be imported.
        UnsupportedError: for a model that has no cell of torch.
    """
    if name not in CELLS:
        raise UnsupportedError(f"--peer {package}: it takes the cells of torch, of {', '.join(CELLS)}")
    try:
        return import_module(f"{package}.propagation_op"), import_module(f"{package}.parameter_op")
    except ImportError as error:
        raise MissingDependencyError(f"--peer {package}: it cannot be imported ({error})") from error


def reference_package(
    package: str, name: str, model: Model, x: torch.Tensor, q: torch.Tensor
) -> tuple[Call, Call]:
    """Return set-up and ``P K P* q`` of the reference package ``kpflow``, on the same weights.

    Raises:
        MissingDependencyError, UnsupportedError: as ``import_peer``.
    """
    propagation, parameter = import_peer(package, name)
    cell = CELLS[name](x.shape[2], model.width).to(x)
    weights = {key.removesuffix("_l0"): value for key, value in model.state_dict().items()}
    cell.load_state_dict(weights)
    with torch.no_grad():
        states = model.rollout(x).states

    def build() -> tuple[Callable[..., torch.Tensor], ...]:
        P = propagation.PropagationOperator_LinearForm(cell, x, states, dev=str(x.device))
        K = parameter.ParameterOperator(cell, x, states, dev=str(x.device))
        return P, K, P.adjoint_call

    P, K, back = build()
    return build, lambda: P(K(back(q)))
