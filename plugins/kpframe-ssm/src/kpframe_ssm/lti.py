"""General linear time-invariant systems, ``h' = A h + B x``, ``y = C h + D x``, with dense matrices."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from kpframe import Site, SiteModel, Trajectory
from kpframe.errors import ShapeError, mismatch
from kpframe.plugin import takes_settings
from kpframe_ssm import discretise
from kpframe_ssm.construct import parameters, seeded, warn_unless_stable
from kpframe_ssm.settings import LTISettings


class LTI(SiteModel):
    """A dense linear system; ``scipy.signal.dlsim`` in discrete time.

    ``h_t = A h_{t-1} + B x_t`` and ``y_t = C h_t + D x_t``. SciPy's ``dlsim`` counts otherwise: its state
    ``x[k]`` is that before the input ``u[k]``, so ours at step t is its ``x[t + 1]``.

    Parameters: ``A [H, H]``, ``B [H, I]``, ``C [O, H]``, ``D [O, I]``. C and D are read by ``output``
    alone: their columns of J are zero. A is dense, so each step of P is one product with it.

    The entries of A are normal at the start, scaled to the spectral radius asked for.

    Raises:
        SettingsError: for settings that are out of bounds or do not go together.

    Source: textbook linear systems (Kailath 1980, Linear Systems).
    """

    A: torch.Tensor
    B: torch.Tensor
    C: torch.Tensor
    D: torch.Tensor
    unread_parameters = ("C", "D")

    @takes_settings(LTISettings)
    def __init__(self, settings: LTISettings) -> None:
        c, states, inputs = settings, settings.hidden_size, settings.input_size
        super().__init__(
            inputs,
            states,
            components=("h",),
            sites=(Site("B", "input", ("u",)), Site("A", "h", ("u",))),
            trainable_initial_state=c.trainable_initial_state,
        )
        self.hidden_size = states
        self.output_size = inputs if c.output_size is None else c.output_size
        with seeded(c.seed):
            shapes = {"B": (states, inputs), "C": (self.output_size, states), "D": (self.output_size, inputs)}
            A = torch.randn(states, states, dtype=torch.float64)
            values = {"A": A * (c.spectral_radius / radius(A))}
            for name, shape in shapes.items():
                values[name] = torch.randn(shape, dtype=torch.float64) / math.sqrt(shape[1])
        parameters(self, values)

    @classmethod
    def from_matrices(cls, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor) -> LTI:
        """Return the discrete system of given matrices ``[H, H]``, ``[H, I]``, ``[O, H]``, ``[O, I]``.

        Raises:
            ShapeError: for matrices that do not fit each other.

        Warns:
            StabilityWarning: where the spectral radius of A is 1 or more.
        """
        return cls._of(A, B, C, D)

    @classmethod
    def from_continuous(
        cls,
        A: torch.Tensor,
        B: torch.Tensor,
        C: torch.Tensor,
        D: torch.Tensor,
        dt: float,
        discretisation: str = "zoh",
    ) -> LTI:
        """Return ``dh/dt = A h + B x`` sampled every ``dt``, by ``"zoh"`` or ``"bilinear"``; C and D stay.

        Raises, warns: as ``from_matrices``; ArgumentError for ``dt`` or an unknown method.
        """
        return cls._of(*discretise.dense(A, B, dt, discretisation), C, D)

    @classmethod
    def _of(cls, A: torch.Tensor, B: torch.Tensor, C: torch.Tensor, D: torch.Tensor) -> LTI:
        for name, value in (("A", A), ("B", B), ("C", C), ("D", D)):
            if value.ndim != 2:
                raise ShapeError(mismatch(name, "a matrix", f"shape {list(value.shape)}"))
        size, inputs, outputs = len(A), B.shape[1], len(C)
        expected = {"A": (size, size), "B": (size, inputs), "C": (outputs, size), "D": (outputs, inputs)}
        given = {"A": A, "B": B, "C": C, "D": D}
        for name, shape in expected.items():
            if given[name].shape != shape:
                raise ShapeError(mismatch(name, f"shape {list(shape)}", list(given[name].shape)))
        model = cls(inputs, size, outputs, seed=0).to(A.dtype)
        with torch.no_grad():
            for name, value in given.items():
                getattr(model, name).copy_(value)
        found = radius(A)
        warn_unless_stable(found < 1, "spectral radius of A", "a number below 1", f"{found:.6g}")
        return model

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the next state, which is the sum of what the two sites say."""
        return {"h": u["u"]}

    def output(self, trajectory: Trajectory) -> torch.Tensor:  # [B, T, O]
        """Return ``y = C h + D x`` along a trajectory, differentiable; zero where the mask is False."""
        linear = torch.nn.functional.linear
        y = linear(trajectory.states, self.C) + linear(trajectory.inputs, self.D)
        return y if trajectory.mask is None else y * trajectory.mask.unsqueeze(-1)

    def input_weight(self) -> torch.Tensor:  # [H, I]
        """Return B."""
        return self.B

    def output_weight(self) -> torch.Tensor:  # [O, H]
        """Return C."""
        return self.C


def radius(A: torch.Tensor) -> float:
    """Return the spectral radius of a matrix."""
    return float(torch.linalg.eigvals(A.detach()).abs().max())
