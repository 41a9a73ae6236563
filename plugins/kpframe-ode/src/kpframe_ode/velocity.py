"""``ODEModel``: any velocity field with a chosen integrator, its operators by automatic differentiation."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping

import torch

from kpframe import Model
from kpframe.errors import ArgumentError, ShapeError, mismatch
from kpframe_ode.exponential import matrix_phi1, phi1
from kpframe_ode.integrators import Scheme


class Integrated(torch.nn.Module):
    """A module with a scheme, which it names in its ``repr``.

    Attributes:
        scheme: how a step is made; ``integrator``, ``dt`` and ``substeps`` are parts of it.
    """

    scheme: Scheme

    @property
    def integrator(self) -> str:
        """Name of the integration method."""
        return self.scheme.tableau.name

    @property
    def dt(self) -> float:
        """Time from one state to the next, over which the input is constant."""
        return self.scheme.dt

    @property
    def substeps(self) -> int:
        """Number of steps of the method in ``dt``."""
        return self.scheme.substeps

    def extra_repr(self) -> str:
        """Return the scheme for ``repr``."""
        return f"integrator={self.integrator!r}, dt={self.dt}, substeps={self.substeps}"


class ODEModel(Integrated, Model):
    """``dh/dt = f(h, x, theta)``, integrated over ``dt`` for each step; the author writes ``velocity``.

    The input x_n of step n = 0, 1, ... is held constant from time ``n dt`` to ``(n + 1) dt`` (zero-order
    hold), and the state after it is that at ``(n + 1) dt``. The integrator defines the map, hence A and J:
    with ``"euler"`` A = I + dt df/dh and J = dt df/dtheta, and so on. With Psi(t, s) the state-transition
    matrix of the variational equation ``dv/dt = (df/dh) v`` along the exact solution, and as the method's
    step goes to zero (at fixed ``dt`` by ``substeps``, or with ``dt``), at the integrator's order::

        A_n -> Psi((n+1) dt, n dt)        J_n -> integral over the step of Psi((n+1) dt, s) df/dtheta(s) ds

    Everything is derived by automatic differentiation. Velocities that are linear weight sites with
    something pointwise are faster as ``SiteODEModel``.

    Args:
        input_size: width of the input.
        state: the state's named components and their widths, in order.
        dt: time step, in the unit of time of the velocity.
        integrator: ``"euler"``, ``"midpoint"``, ``"heun"``, ``"rk4"`` (the classical method), ``"rk4_38"``
            (the 3/8 rule, which torchdiffeq calls rk4), or ``"exponential_euler"``, which needs
            ``linear_part``.
        substeps: steps of the method in each ``dt``.
        trainable_initial_state: makes ``h_0`` a parameter.

    Raises:
        ArgumentError: naming the argument.
    """

    def __init__(
        self,
        input_size: int,
        state: Mapping[str, int],
        dt: float,
        integrator: str = "rk4",
        substeps: int = 1,
        *,
        trainable_initial_state: bool = False,
    ) -> None:
        super().__init__(input_size, state, trainable_initial_state=trainable_initial_state)
        self.scheme = Scheme.of(integrator, dt, substeps)
        require_linear_part(self, type(self).linear_part is ODEModel.linear_part)

    @abstractmethod
    def velocity(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``dh/dt``. Pure, as ``kpframe.Model.step`` has to be.

        Args:
            x: ``[N, I]``, the inputs of N independent rows.
            h: ``[N, H]``, their states.
            t: ``[N]``, their times, in the unit of ``dt``, from 0 on; given to models with
                ``time_varying = True``.

        Returns:
            ``[N, H]``.
        """

    def linear_part(self) -> torch.Tensor:
        """Return the linear part L of the velocity for ``"exponential_euler"``.

        ``[H]``, the diagonal of L, or ``[H, H]``; it may depend on parameters. The velocity is the whole of
        f, this part included. Rates of decay are negative.
        """
        raise NotImplementedError(f"{type(self).__name__} has no linear_part")

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the state ``[N, H]`` after ``dt``."""
        scheme, tableau, start = self.scheme, self.scheme.tableau, h
        update = self._exponential_update() if tableau.exponential else None
        slopes: list[torch.Tensor] = []
        for evaluation in range(scheme.evaluations):
            stage = evaluation % tableau.stages
            if stage == 0:
                start, slopes = h, []
            slope = self._velocity(x, h, None if t is None else scheme.time(t.to(h.dtype), evaluation))
            slopes.append(slope if update is None else update(slope))
            h = start + scheme.step * weighted_sum(zip(tableau.weights(stage), slopes, strict=True))
        return h

    def _velocity(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None) -> torch.Tensor:
        out = self.velocity(x, h) if t is None else self.velocity(x, h, t)
        if not isinstance(out, torch.Tensor) or out.shape != h.shape:
            got = f"shape {list(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
            raise ShapeError(
                mismatch(f"{type(self).__name__}.velocity", f"dh/dt of shape {list(h.shape)}", got)
            )
        return out

    def _exponential_update(self) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return the product with ``phi_1(step * L)``."""
        linear = self.linear_part() * self.scheme.step
        if tuple(linear.shape) == (self.width,):
            factor = phi1(linear)
            return lambda slope: slope * factor
        if tuple(linear.shape) == (self.width, self.width):
            matrix = matrix_phi1(linear)
            return lambda slope: slope @ matrix.mT
        expected = f"shape [{self.width}] or [{self.width}, {self.width}]"
        raise ShapeError(mismatch(f"{type(self).__name__}.linear_part", expected, list(linear.shape)))


def require_linear_part(model: Integrated, missing: bool) -> None:
    """Raise ``ArgumentError`` where an exponential method is asked for and the linear part is not known."""
    if model.scheme.tableau.exponential and missing:
        got = f"{model.integrator!r}, which needs {type(model).__name__}.linear_part"
        raise ArgumentError(mismatch("integrator", "one that takes no linear part", got))


def weighted_sum(terms: Iterable[tuple[float, torch.Tensor]]) -> torch.Tensor:
    """Return ``Sum_j w_j k_j``; what weighs nothing is left out, whatever it holds."""
    used = [slope if weight == 1 else weight * slope for weight, slope in terms if weight]
    total = used[0]
    for term in used[1:]:
        total = total + term
    return total
