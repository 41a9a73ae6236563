"""What the state-space models share: fast roll-outs and complex modes."""

from __future__ import annotations

from abc import abstractmethod

import torch

from kpframe import Model, ParameterOperator, Trajectory
from kpframe.flow import ProductParameterOperator
from kpframe_ssm.modes import to_complex, to_real
from kpframe_ssm.parameters import Coefficients, ModeParameterJacobian
from kpframe_ssm.scan import linear_scan
from kpframe_ssm.step import ModePropagator, ModeStepJacobian, check_scan, in_form


class ScanModel(Model):
    """A model whose whole roll-out is computed at once, ``run``, not step by step."""

    @abstractmethod
    def run(self, x: torch.Tensor, h0: torch.Tensor) -> torch.Tensor:
        """Return the states ``[B, T, H]`` for inputs ``[B, T, I]`` and initial states ``[B, H]``."""

    def rollout(
        self, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Trajectory:
        """Run the model over ``x`` by a scan; see ``Model.rollout`` for arguments and errors."""
        trajectory = self.begin(x, h0, mask)
        start = trajectory.initial_state
        if mask is None:
            return self.finish(trajectory, self.run(trajectory.inputs, start))
        # steps that count are moved to the front; each step then looks up how many there were so far
        order = torch.argsort(~mask, dim=1, stable=True).unsqueeze(-1)
        packed = self.run(trajectory.inputs.take_along_dim(order, dim=1), start)
        states = torch.cat([start.unsqueeze(1), packed], dim=1)
        return self.finish(trajectory, states.take_along_dim(mask.cumsum(1).unsqueeze(-1), dim=1))


class DiagonalModel(ScanModel):
    """Linear modes that do not mix: ``z' = lambda o z + drive(x)``, the state ``(re, im)``.

    A subclass says what lambda and the drive are (``coefficients``); everything else follows.

    Args:
        input_size: inputs per step.
        modes: number n of complex modes; the state has width 2 n.
        scan: form of the scan in P, a key of ``kpframe_ssm.step.FORMS``.
        trainable_initial_state: makes ``h_0`` a parameter.
    """

    def __init__(
        self, input_size: int, modes: int, *, scan: str = "auto", trainable_initial_state: bool = False
    ) -> None:
        state = {"re": modes, "im": modes}
        super().__init__(input_size, state, trainable_initial_state=trainable_initial_state)
        self.scan = check_scan(scan)

    @abstractmethod
    def coefficients(self) -> Coefficients:
        """Return lambda and the drive, as functions of the parameters."""

    @abstractmethod
    def output_weight(self) -> torch.Tensor:  # [O, 2 n]
        """Return the real matrix W of ``y = W h + D x``: ``[Re C, -Im C]``, so that ``W h = Re(C z)``."""

    @abstractmethod
    def _output(self, states: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        """Return ``Re(C z) + D x``."""

    def input_weight(self) -> torch.Tensor:  # [2 n, I]
        """Return the real matrix of ``h' = A h + B x``: ``[Re Bbar; Im Bbar]``."""
        return self.coefficients().drive.matrix()

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state ``[N, 2 n]``."""
        now = self.coefficients()
        return to_real(now.decay * to_complex(h)) + now.drive.forward(x)

    def run(self, x: torch.Tensor, h0: torch.Tensor) -> torch.Tensor:
        """Return the states ``[B, T, 2 n]``, by one scan."""
        now = self.coefficients()
        source = to_complex(now.drive.forward(x.transpose(0, 1)))  # [T, B, n]
        first = source[:1] + now.decay * to_complex(h0)
        source = torch.cat([first, source[1:]]).unsqueeze(1)
        z = linear_scan(now.decay[None, None, None], source, self.scan)
        return to_real(z[:, 0]).transpose(0, 1)

    def output(self, trajectory: Trajectory) -> torch.Tensor:  # [B, T, O]
        """Return ``y = Re(C z) + D x`` along a trajectory, differentiable; zero where the mask is False."""
        y = self._output(trajectory.states, trajectory.inputs)
        return y if trajectory.mask is None else y * trajectory.mask.unsqueeze(-1)

    def propagator(self, trajectory: Trajectory) -> ModePropagator:
        """Return ``P``, a scan over modes."""
        return in_form(self.scan, self._step_jacobian(trajectory, self.coefficients()))

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return ``K`` of the dynamics' parameters; C and D move no state and have zero columns in ``J``."""
        if "h0" in self.shared_names().values():
            return super().parameter_operator(trajectory)
        start = "h0" in self.trainable() and not trajectory.given
        A = self._step_jacobian(trajectory, self.coefficients())
        return ProductParameterOperator(
            ModeParameterJacobian(self, self.parameter_space, trajectory, A, start)
        )

    def _step_jacobian(self, trajectory: Trajectory, now: Coefficients) -> ModeStepJacobian:
        decay = now.decay.detach()[None, None, None]
        if trajectory.mask is not None:
            decay = torch.where(trajectory.mask.T[:, None, :, None], decay, torch.ones_like(decay))
        return ModeStepJacobian(decay, trajectory.space)


class MatrixModes(DiagonalModel):
    """Modes that all inputs drive and all outputs read: ``Bbar [n, I]``, ``C [O, n]``, ``D [O, I]``."""

    D: torch.Tensor

    @abstractmethod
    def _C(self) -> torch.Tensor:  # [O, n]
        """Return the complex C."""

    def output_weight(self) -> torch.Tensor:
        """Return W ``[O, 2 n]`` of ``y = W h + D x``: ``[Re C, -Im C]``."""
        C = self._C()
        return torch.cat([C.real, -C.imag], dim=1)

    def _output(self, states: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
        linear = torch.nn.functional.linear
        return linear(states, self.output_weight()) + linear(inputs, self.D)
