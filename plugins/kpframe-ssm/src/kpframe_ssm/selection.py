"""The selection of the Mamba block: what a step's inputs make of its coefficients, and the derivative."""

from __future__ import annotations

import torch
from attrs import evolve, frozen


@frozen(eq=False)
class Selection:
    """The intermediate values of a step; leading dimensions are trials, steps or both.

    Attributes:
        window: what the convolution sees ``[..., E, K]``.
        c: its result ``[..., E]``.
        a: ``silu(c)``.
        delta, B, C: the parts of ``x_proj a``, ``[..., R]``, ``[..., N]``, ``[..., N]``.
        v: ``dt_proj delta`` ``[..., E]``.
        Delta: ``softplus(v)``.
    """

    window: torch.Tensor
    c: torch.Tensor
    a: torch.Tensor
    delta: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    v: torch.Tensor
    Delta: torch.Tensor

    def decay(self, A: torch.Tensor) -> torch.Tensor:  # [..., E, N]
        """Return ``exp(Delta A)``."""
        return torch.exp(self.Delta.unsqueeze(-1) * A)

    @property
    def source(self) -> torch.Tensor:  # [..., E, N]
        """``Delta a B^T``."""
        return (self.Delta * self.a).unsqueeze(-1) * self.B.unsqueeze(-2)


@frozen(eq=False)
class SelectionGains:
    """The derivative of ``h' = exp(Delta A) o h + Delta a B^T`` along a trajectory, by the chain of the step.

    All tensors but the weights are time outermost with a dimension for probes, ``[T, 1, B, ...]``.

    Attributes:
        conv, x_proj, dt_proj: weights ``[E, K]``, ``[R + N, E]`` (the rows that the state depends on),
            ``[E, R]``.
        a, delta, B, window: what sites read, see ``Selection``.
        slope: ``da/dc``.
        gate: ``dDelta/dv``.
        Delta: the time steps.
        by_Delta: ``dh'/dDelta`` ``[T, 1, B, E, N]``.
        by_A_log: ``dh'/dA_log`` ``[T, 1, B, E, N]``.
    """

    conv: torch.Tensor
    x_proj: torch.Tensor
    dt_proj: torch.Tensor
    a: torch.Tensor
    delta: torch.Tensor
    B: torch.Tensor
    window: torch.Tensor
    slope: torch.Tensor
    gate: torch.Tensor
    Delta: torch.Tensor
    by_Delta: torch.Tensor
    by_A_log: torch.Tensor

    @classmethod
    def of(
        cls,
        now: Selection,
        h: torch.Tensor,
        A: torch.Tensor,
        conv: torch.Tensor,
        x_proj: torch.Tensor,
        dt_proj: torch.Tensor,
    ) -> SelectionGains:
        """Return the gains at a selection and the states ``h`` ``[T, B, E, N]`` before each step."""
        sigmoid = torch.sigmoid(now.c)
        carried = A * now.decay(A) * h
        by_Delta = carried + now.a.unsqueeze(-1) * now.B.unsqueeze(-2)
        placed = {
            "a": now.a,
            "delta": now.delta,
            "B": now.B,
            "window": now.window,
            "slope": sigmoid * (1 + now.c * (1 - sigmoid)),
            # torch's softplus is the identity above 20
            "gate": torch.where(now.v > 20, torch.ones_like(now.v), torch.sigmoid(now.v)),
            "Delta": now.Delta,
            "by_Delta": by_Delta,
            "by_A_log": now.Delta.unsqueeze(-1) * carried,
        }
        return cls(conv, x_proj, dt_proj, **{name: value.unsqueeze(1) for name, value in placed.items()})

    def at(self, t: slice) -> SelectionGains:
        """Return the gains of some steps."""
        names = ("a", "delta", "B", "window", "slope", "gate", "Delta", "by_Delta", "by_A_log")
        return evolve(self, **{name: getattr(self, name)[t] for name in names})

    def push(
        self, dc: torch.Tensor, dp: torch.Tensor | None = None, dv: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Return how ``h'`` moves ``[T, K, B, E, N]`` when the convolution's result moves by ``dc``.

        Args:
            dc: ``[T, K, B, E]``.
            dp: what is added to the change of ``x_proj a`` (its first R + N rows).
            dv: what is added to the change of ``dt_proj delta``.
        """
        da = self.slope * dc
        p = da @ self.x_proj.mT
        p = p if dp is None else p + dp
        rank = self.dt_proj.shape[1]
        v = p[..., :rank] @ self.dt_proj.mT
        v = v if dv is None else v + dv
        out = self.by_Delta * (self.gate * v).unsqueeze(-1)
        out = torch.addcmul(out, (self.Delta * da).unsqueeze(-1), self.B.unsqueeze(-2))
        return torch.addcmul(out, (self.Delta * self.a).unsqueeze(-1), p[..., rank:].unsqueeze(-2))

    def pull(self, g: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the adjoint of ``push`` by ``dc``, ``dp`` and ``dv``, for ``g`` ``[T, K, B, E, N]``."""
        dv = self.gate * (self.by_Delta * g).sum(-1)
        dB = ((self.Delta * self.a).unsqueeze(-2) @ g).squeeze(-2)
        dp = torch.cat([dv @ self.dt_proj, dB], dim=-1)
        da = self.Delta * (g @ self.B.unsqueeze(-1)).squeeze(-1) + dp @ self.x_proj
        return self.slope * da, dp, dv
