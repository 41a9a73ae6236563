"""Recurrent backpropagation at a fixed point."""

from __future__ import annotations

import torch

from kpframe import LearningRule, Operator, StepJacobian, Trajectory, Update
from kpframe.errors import ArgumentError, UnsupportedError, mismatch
from kpframe.plugin import takes_settings
from kpframe_rules.gmres import gmres, neumann
from kpframe_rules.specs_feedback import RecurrentBackpropagationSettings
from kpframe_rules.units import row_units

SOLVERS = {"gmres": gmres, "neumann": neumann}


class RecurrentBackpropagation(LearningRule):
    """The gradient of a loss of the equilibrium (Almeida 1987, ICNN 2:609; Pineda 1987, PRL 59:2229)::

        h* = f(h*, x, theta)          g = J_T* (I - A_T*)^{-1} Err_T

    with A and J of each trial's last step, in the place of a way back through all steps. It is the implicit
    derivative of the fixed point, and the limit of backpropagation through time when the input stays the
    same, the state has settled at a stable fixed point, and the loss looks at the last step. **Errors at
    earlier steps are not looked at**, and a trainable initial state does not learn, as the fixed point does
    not depend on it. Whatever another rule has put in the place of A is used. Nothing but
    the last step is kept in memory, and the time it took to settle does not matter.

    ``solver="neumann"`` sums ``(A*)^j Err``, the relaxation of the papers; it needs a stable fixed point.
    ``"gmres"`` needs none, and no more products with ``A*`` than the state is wide (in exact arithmetic).

    The update is off by about the change that ``settled`` lets pass, and more near an instability. Where
    rounding does not let a residual get to ``tolerance`` (float32), what rounding leaves counts.

    Raises:
        SettingsError: for unusable settings.
        ArgumentError: when the operator is applied, for a solution that did not converge.
        UnsupportedError: when it is applied to a trajectory that has not settled, with its change in the last
            step; ``bptt`` works on any.
    """

    @takes_settings(RecurrentBackpropagationSettings)
    def __init__(self, settings: RecurrentBackpropagationSettings) -> None:
        self.settled, self.solver = settings.settled, settings.solver
        self.tolerance, self.max_iterations = settings.tolerance, settings.max_iterations

    def change(self, update: Update) -> Update:
        """Return the update with the equilibrium's response in the place of P."""
        last = update.P.domain.together(lambda: self._settled(update.flow.trajectory))
        P = EquilibriumPropagator(update.A, last, self.solver, self.tolerance, self.max_iterations)
        return update.starting(0 * update.A).replace(P=P)

    def _settled(self, trajectory: Trajectory) -> torch.Tensor:  # [B], int64
        """Return each trial's last step, refused unless it has settled."""
        last = last_steps(trajectory)
        change = relative_change(trajectory, last)
        worst = int(change.argmax())
        if not float(change[worst]) <= self.settled:
            raise UnsupportedError(
                "flow: expected a trajectory that has settled at a fixed point, got one whose state changes "
                f"by {float(change[worst]):.3g} of its norm in the last step of trial {worst} (at most "
                f"settled={self.settled:g}); run the model longer on a constant "
                "input, or use bptt"
            )
        return last

    def __repr__(self) -> str:
        return f"RecurrentBackpropagation(settled={self.settled:g}, solver={self.solver!r})"


class EquilibriumPropagator(Operator):
    """``(I - A_T)^{-1}`` at each trial's last step T, zero elsewhere."""

    name = "(I - A_T)^-1"

    def __init__(
        self, A: StepJacobian, last: torch.Tensor, solver: str, tolerance: float, max_iterations: int
    ) -> None:
        super().__init__(A.domain, A.domain, dtype=A.dtype, device=A.device)
        self.A, self.last = A, last
        self._solver, self._tolerance, self._iterations = SOLVERS[solver], tolerance, max_iterations
        self._steps: list[int] = sorted(set(last.tolist()))

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._solve(q, adjoint=False)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._solve(r, adjoint=True)

    def _solve(self, q: torch.Tensor, *, adjoint: bool) -> torch.Tensor:
        def product(v: torch.Tensor) -> torch.Tensor:  # [..., B, H]
            out = torch.zeros_like(v)
            for t in self._steps:
                new = self.A.step_adjoint(t, v) if adjoint else self.A.step(t, v)
                out = torch.where((self.last == t).unsqueeze(-1), new, out)
            return out

        trials = torch.arange(len(self.last), device=self.device)
        b = q[..., trials, self.last, :]
        out = torch.zeros_like(q)
        out[..., trials, self.last, :] = self.domain.together(
            lambda: self._solver(
                product,
                b,
                tolerance=self._tolerance,
                iterations=self._iterations,
                who="recurrent_backpropagation",
            )
        )
        return out


def last_steps(trajectory: Trajectory) -> torch.Tensor:  # [B], int64
    """Return the last step of each trial that is not padded.

    Raises:
        ArgumentError: for a trial without any.
    """
    batch, time, _ = trajectory.states.shape
    if trajectory.mask is None:
        return torch.full((batch,), time - 1, device=trajectory.states.device)
    steps = torch.arange(1, time + 1, device=trajectory.states.device) * trajectory.mask
    last: torch.Tensor = steps.amax(dim=1) - 1
    if bool((last < 0).any()):
        raise ArgumentError(mismatch("mask", "a step in every trial", f"none in trial {int(last.argmin())}"))
    return last


def relative_change(trajectory: Trajectory, last: torch.Tensor) -> torch.Tensor:  # [B]
    """Return how much of its norm each state changes by in the last step."""
    trials = torch.arange(len(last), device=last.device)
    new, old = trajectory.states[trials, last], trajectory.previous[trials, last]
    units = row_units(torch.cat([new, old], dim=-1))
    new, old = new / units, old / units
    scale = torch.maximum(new.norm(dim=-1), old.norm(dim=-1))
    change: torch.Tensor = (new - old).norm(dim=-1) / scale.clamp(min=torch.finfo(new.dtype).tiny)
    return change
