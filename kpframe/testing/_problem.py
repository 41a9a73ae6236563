"""A model on a trajectory, with references that share no code with the operators they test."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property

import torch

from kpframe.errors import NonFiniteError, mismatch
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.operators._spaces import Space
from kpframe.testing._values import values

#: Largest entry of a state on which the checks compare products of derivatives.
LARGEST_STATE = 1e30


class Problem:
    """What a ``FlowCase`` builds.

    Attributes:
        model, x, h0, mask: the arguments of ``linearize``.
        seed: of the vectors that checks draw.
    """

    def __init__(
        self, model: Model, x: torch.Tensor, h0: torch.Tensor | None, mask: torch.Tensor | None, seed: int
    ) -> None:
        self.model, self.x, self.h0, self.mask, self.seed = model, x, h0, mask, seed

    @cached_property
    def flow(self) -> Flow:
        """The flow, with the structure that the model brings."""
        flow = linearize(self.model, self.x, self.h0, self.mask)
        largest = float(flow.trajectory.states.abs().max())
        if largest > LARGEST_STATE:  # still finite, but products of derivatives need not be: drawn again
            raise NonFiniteError(mismatch("states", f"at most {LARGEST_STATE:g} in size", largest))
        return flow

    @cached_property
    def twin(self) -> Flow:
        """The flow, everything derived by automatic differentiation."""
        return linearize(self.model, self.x, self.h0, self.mask, method="autograd")

    @property
    def space(self) -> Space:
        """The state space."""
        return self.flow.P.domain

    @property
    def theta(self) -> list[torch.nn.Parameter]:
        """The parameters that require a gradient."""
        return list(self.model.trainable().values())

    def vector(self, space: Space, salt: int = 0, probes: Sequence[int] = ()) -> torch.Tensor:
        """Return a normal vector ``[*probes, *space]``."""
        return values((*probes, *space.shape), self.seed + 1000 + salt, "normal", self.x.dtype)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: int | torch.Tensor) -> torch.Tensor:
        """Return ``step`` of N rows, the index given to models that take one."""
        if not self.model.time_varying:
            return self.model.step(x, h)
        return self.model.step(x, h, torch.full((len(h),), t) if isinstance(t, int) else t)

    def start(self) -> torch.Tensor:
        """Return ``h_0``, with its graph where it is a parameter."""
        return self.model.initial_state(len(self.x)).to(self.x) if self.h0 is None else self.h0

    def loop(self, perturbations: torch.Tensor | None = None) -> torch.Tensor:  # [B, T, H]
        """Return the states by a loop of ``step``; ``perturbations`` ``[B, T, H]`` are added step by step."""
        h, states = self.start(), []
        for t in range(self.x.shape[1]):
            x = self.x[:, t]
            if self.mask is None:
                h = self.step(x, h, t)
            else:
                on = self.mask[:, t, None]
                h = torch.where(on, self.step(x.masked_fill(~on, 0), h, t), h)
            h = h if perturbations is None else h + perturbations[:, t]
            states.append(h)
        return torch.stack(states, dim=1)

    @cached_property
    def states(self) -> torch.Tensor:
        """The states by a loop of ``step``."""
        with torch.no_grad():
            return self.loop()

    @cached_property
    def G(self) -> torch.Tensor:  # [B T H, M]
        """``dh/dtheta`` of the whole roll-out, by reverse passes through the loop."""
        return jacobian(self.loop(), self.theta)

    @cached_property
    def transitions(self) -> torch.Tensor:  # [B T H, B T H]
        """``dh_t / dh_s``: how the states answer to a perturbation after step s."""
        perturbations = torch.zeros_like(self.states, requires_grad=True)
        return jacobian(self.loop(perturbations), [perturbations])

    def _one_step(self, previous: torch.Tensor) -> torch.Tensor:  # [B, T, H]
        """Return each step from its own ``h_{t-1}``, all at once."""
        batch, time, hidden = previous.shape
        t = torch.arange(time).repeat(batch)
        x = self.x if self.mask is None else self.x.masked_fill(~self.mask.unsqueeze(-1), 0)
        new = self.step(x.reshape(batch * time, -1), previous.reshape(batch * time, hidden), t)
        new = new.reshape(previous.shape)
        return new if self.mask is None else torch.where(self.mask.unsqueeze(-1), new, previous)

    @property
    def _previous(self) -> torch.Tensor:
        start = self.start().detach().unsqueeze(1)
        return torch.cat([start, self.states[:, :-1]], dim=1)

    @cached_property
    def A(self) -> torch.Tensor:  # [B T H, B T H]
        """``df/dh_{t-1}`` at every step, as the dense matrix of the block-diagonal operator."""
        previous = self._previous.requires_grad_()
        return jacobian(self._one_step(previous), [previous])

    @cached_property
    def J(self) -> torch.Tensor:  # [B T H, M]
        """``df/dtheta`` at fixed ``h_{t-1}``; a trainable ``h_0`` enters the first step."""
        previous = torch.cat([self.start().unsqueeze(1), self._previous[:, 1:]], dim=1)
        return jacobian(self._one_step(previous), self.theta)


def jacobian(out: torch.Tensor, inputs: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the Jacobian ``[out, inputs]`` of flattened tensors, by one reverse pass a row."""
    columns = sum(i.numel() for i in inputs)
    flat = out.reshape(-1)
    if not flat.requires_grad or not inputs:
        return flat.detach().new_zeros(flat.numel(), columns)
    unit = torch.eye(flat.numel(), dtype=flat.dtype)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns where it loops itself
            rows = torch.autograd.grad(flat, inputs, unit, True, is_grads_batched=True, allow_unused=True)
        parts = [
            flat.new_zeros(flat.numel(), i.numel()) if g is None else g.reshape(flat.numel(), -1)
            for g, i in zip(rows, inputs, strict=True)
        ]
        return torch.cat(parts, dim=1).detach()
    except RuntimeError:  # an operation without a batching rule
        singles = [
            torch.autograd.grad(flat, inputs, row, True, allow_unused=True, materialize_grads=True)
            for row in unit
        ]
        return torch.stack([torch.cat([g.reshape(-1) for g in row]) for row in singles]).detach()
