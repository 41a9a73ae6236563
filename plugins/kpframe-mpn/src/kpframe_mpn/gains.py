"""Derivatives of one step along a trajectory, in closed form, of the size of the trajectory at most.

A step is u = W_eff x + b, h' = phi(u), R = lambda M + eta Delta(h', x, M), M' = N(R). Neuron by neuron::

    dh' = D du             du = <g, dM> + <s, dW> + db
    dR  = a o dM + c dh' + e o deta + m o dlambda
    dM' = N' dR

with vectors g, s, a, c, e, m over the inputs of a neuron. Nothing couples two neurons, and what couples the
synapses of one has rank one: so A on M is N' (diag(a) + c D g^T).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from attrs import frozen

from kpframe.flow import Trajectory
from kpframe.operators import Space
from kpframe_mpn.rates import Rate

if TYPE_CHECKING:
    from kpframe_mpn.model import MPN

Step = int | slice

#: phi' as a function of phi.
SLOPES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "tanh": lambda h: 1 - h.square(),
    "sigmoid": lambda h: h * (1 - h),
    "relu": lambda h: (h > 0).to(h.dtype),
    "identity": torch.ones_like,
}


@frozen(eq=False)
class Squash:
    """``N' v = shrink (v - unit <unit, v>)``, which is self-adjoint; no ``unit`` drops the bracket.

    Attributes:
        shrink: ``[T, B, n, k or 1]``.
        unit: ``[T, B, n, k]``, or None.
    """

    shrink: torch.Tensor
    unit: torch.Tensor | None

    def apply_(self, t: Step, v: torch.Tensor) -> torch.Tensor:  # [..., n, k]
        """Multiply ``v`` in place."""
        if self.unit is not None:
            unit = self.unit[t]
            v.addcmul_(unit, (unit * v).sum(dim=-1, keepdim=True), value=-1)
        return v.mul_(self.shrink[t])

    def masked(self, on: torch.Tensor) -> Squash:  # bool, [T, B, 1, 1]
        """Return the same, with the identity where ``on`` is False."""
        unit = None if self.unit is None else self.unit * on
        return Squash(torch.where(on, self.shrink, 1), unit)


@frozen(eq=False)
class RateGain:
    """How a trained rate moves R.

    Attributes:
        name: the parameter's name.
        shape: the rate's shape; see ``Rate``.
        slope: derivative of the rate by its raw parameter, of the parameter's size.
        gain: derivative of R by the rate, ``e`` or ``m``, ``[T, B, n, k]``.
    """

    name: str
    shape: str
    slope: torch.Tensor
    gain: torch.Tensor


@frozen(eq=False)
class Gains:
    """The vectors of the module's description; time is outermost, which makes a step contiguous.

    Attributes:
        space: the state space.
        neurons, inputs: n and k.
        x: what the synapses read ``[T, B, k]``.
        slope: D ``[T, B, n]``.
        synapse: g ``[T, B, 1 or n, k]``.
        response: c ``[T, B, 1 or n, k]``, None where plasticity does not look at h'.
        decay: a ``[T, B, 1 or n, 1 or k]``.
        squash: N', None for the identity.
        sources: s ``[T B, k]``, or neuron by neuron ``[n, T B, k]``.
        rates: the trained rates.
        held: ``[T, B, 1]``, 1 at steps that hold the state; None where there are none.
        modulating: the weight inside g ``[n, k]``, None for the additive form.
    """

    space: Space
    neurons: int
    inputs: int
    x: torch.Tensor
    slope: torch.Tensor
    synapse: torch.Tensor
    response: torch.Tensor | None
    decay: torch.Tensor
    squash: Squash | None
    sources: torch.Tensor
    rates: tuple[RateGain, ...]
    held: torch.Tensor | None
    modulating: torch.Tensor | None

    def split(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the components ``[..., n]`` and ``[..., n, k]`` of a state vector ``[..., H]``."""
        return v[..., : self.neurons], _matrices(v, self.neurons, self.inputs)

    def push_(self, t: Step, du: torch.Tensor, M: torch.Tensor) -> torch.Tensor:  # [..., n]
        """Return dh' for a change du of u ``[..., n]``; M, the change of R at fixed h', becomes dM'."""
        dh = self.slope[t] * du
        if self.response is not None:
            M.addcmul_(self.response[t], dh.unsqueeze(-1))
        if self.squash is not None:
            self.squash.apply_(t, M)
        return dh

    def pull(
        self, t: Step, h: torch.Tensor, M: torch.Tensor, scratch: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the adjoint of ``push_``: what arrives at u ``[..., n]`` and at R ``[..., n, k]``."""
        R = M if self.squash is None else self.squash.apply_(t, M.clone())
        if self.response is not None:
            h = h + torch.mul(self.response[t], R, out=scratch).sum(dim=-1)
        return self.slope[t] * h, R


def gains_along(model: MPN, trajectory: Trajectory) -> Gains:
    """Return the gains of a model along a trajectory; where it is masked they hold the state."""
    n, k = model.hidden_size, model.input_size
    with torch.no_grad():
        x = trajectory.inputs.transpose(0, 1).contiguous()  # [T, B, k]
        states = trajectory.states.transpose(0, 1)
        old = _matrices(torch.cat([trajectory.initial_state.unsqueeze(0), states[:-1]]), n, k)
        eta, lam = (_placed(rate, x) for rate in (model.eta, model.lam))
        h, reads = states[..., :n], x.unsqueeze(-2)

        slope = SLOPES[model.nonlinearity](h)
        synapse, sources, weight = reads, x.flatten(0, 1), None
        if model.form == "multiplicative":
            weight = model.weight_ih_l0.detach()
            synapse = reads * weight
            # (1 + M) x, written where neurons are outermost
            sources = torch.addcmul(x, x, old.permute(2, 0, 1, 3), out=x.new_empty(n, *x.shape)).flatten(1, 2)
        decay, response, written = _plasticity(model.rule, reads, h.unsqueeze(-1), old, eta, lam)
        squash = None
        if model.normalization == "tanh":
            squash = Squash(1 - _matrices(states, n, k).square(), None)
        elif model.normalization == "row":
            length = (lam * old + eta * written).norm(dim=-1, keepdim=True)
            squash = Squash(torch.where(length == 0, 0, 1 / length), _matrices(states, n, k))
        moves, held = {"eta": written, "lam": old}, None
        if trajectory.mask is not None:
            on = trajectory.mask.transpose(0, 1).unsqueeze(-1)  # [T, B, 1]
            held = (~on).to(x.dtype)
            slope = torch.where(on, slope, 0)
            decay = torch.where(on.unsqueeze(-1), decay, 1)
            squash = None if squash is None else squash.masked(on.unsqueeze(-1))
            moves = {name: torch.where(on.unsqueeze(-1), gain, 0) for name, gain in moves.items()}
        rates = [
            RateGain(f"{name}.raw", rate.shape, rate.range.slope(rate.raw), moves[name])
            for name, rate in (("eta", model.eta), ("lam", model.lam))
            if rate.trained and rate.raw.requires_grad
        ]
    return Gains(
        space=trajectory.space,
        neurons=n,
        inputs=k,
        x=x,
        slope=slope,
        synapse=synapse,
        response=response,
        decay=decay,
        squash=squash,
        sources=sources,
        rates=tuple(rates),
        held=held,
        modulating=weight,
    )


def _plasticity(
    rule: str, x: torch.Tensor, h: torch.Tensor, M: torch.Tensor, eta: torch.Tensor, lam: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Return a, c and e at x ``[T, B, 1, k]``, the new h ``[T, B, n, 1]`` and the old M ``[T, B, n, k]``."""
    decay = lam.expand(*M.shape[:2], *lam.shape)
    if rule == "presynaptic":
        return decay, None, (x / math.sqrt(M.shape[-2])).expand_as(M)
    if rule == "hebbian":
        return decay, eta * x, h * x
    response = eta * x - 2 * eta.abs() * h * M
    return decay - eta.abs() * h.square(), response, h * x - eta.sign() * h.square() * M


def _placed(rate: Rate, like: torch.Tensor) -> torch.Tensor:
    """Return a rate as a tensor ``[1 or n, 1 or k]``."""
    value = torch.as_tensor(rate(), dtype=like.dtype, device=like.device)
    return value.reshape(1, 1) if value.ndim == 0 else value


def _matrices(v: torch.Tensor, n: int, k: int) -> torch.Tensor:  # [..., n + n k] -> [..., n, k]
    """Return the modulations in a state vector, as a view."""
    return v[..., n:].view(*v.shape[:-1], n, k)
