"""One-step integrators by their tableaus, and what they are called.

With s stages and a step dt, an explicit Runge-Kutta method makes of ``dy/dt = f(t, y)``::

    k_i = f(t + c_i dt, y + dt Sum_{j<i} a_ij k_j)        y' = y + dt Sum_i b_i k_i

(Hairer, Norsett & Wanner, Solving Ordinary Differential Equations I, section II.1). The exponential
Euler method (Hochbruck & Ostermann 2010, Acta Numerica 19:209) knows a linear part L of f::

    y' = y + dt phi_1(dt L) f(t, y)        phi_1(z) = (exp(z) - 1) / z

and is exact where f is L y plus a constant. No torch here: settings list the names.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypeVar

from attrs import frozen

from kpframe.errors import ArgumentError, closest, mismatch, whole

if TYPE_CHECKING:
    import torch

Time = TypeVar("Time", float, "torch.Tensor")


@frozen
class Tableau:
    """The coefficients of a one-step method.

    Attributes:
        name: what it is called.
        order: of its global error, where f is smooth.
        a: below the diagonal, row i has i entries.
        b: weights of the stages.
        exponential: whether it takes a linear part; it then has one stage.
    """

    name: str
    order: int
    a: tuple[tuple[float, ...], ...]
    b: tuple[float, ...]
    exponential: bool = False

    @property
    def stages(self) -> int:
        """Number of evaluations of the velocity in a step."""
        return len(self.b)

    @property
    def c(self) -> tuple[float, ...]:
        """Times of the stages, in steps."""
        return tuple(sum(row) for row in self.a)

    def weights(self, stage: int) -> tuple[float, ...]:
        """Return what the velocities so far weigh in the point that follows a stage."""
        return self.b if stage + 1 == self.stages else self.a[stage + 1]


_ALL = (
    Tableau("euler", 1, ((),), (1.0,)),
    Tableau("midpoint", 2, ((), (1 / 2,)), (0.0, 1.0)),
    Tableau("heun", 2, ((), (1.0,)), (1 / 2, 1 / 2)),
    Tableau("rk4", 4, ((), (1 / 2,), (0.0, 1 / 2), (0.0, 0.0, 1.0)), (1 / 6, 1 / 3, 1 / 3, 1 / 6)),
    Tableau("rk4_38", 4, ((), (1 / 3,), (-1 / 3, 1.0), (1.0, -1.0, 1.0)), (1 / 8, 3 / 8, 3 / 8, 1 / 8)),
    Tableau("exponential_euler", 1, ((),), (1.0,), exponential=True),
)

#: Name -> tableau. ``rk4`` is the classical method, ``rk4_38`` the 3/8 rule, both of Kutta (1901).
TABLEAUS = {tableau.name: tableau for tableau in _ALL}
INTEGRATORS = tuple(TABLEAUS)


@frozen
class Scheme:
    """How a model's step is made of evaluations of its velocity.

    Attributes:
        tableau: the method.
        dt: the model's time step, over which its input is constant.
        substeps: number of steps of the method, each of length ``dt / substeps``.
    """

    tableau: Tableau
    dt: float
    substeps: int = 1

    @classmethod
    def of(cls, integrator: str, dt: float, substeps: int = 1) -> Scheme:
        """Return the scheme of a method by its name.

        Raises:
            ArgumentError: for an unknown name, or a ``dt`` or ``substeps`` that is not above zero.
        """
        if integrator not in TABLEAUS:
            got = f"{integrator!r}{closest(str(integrator), INTEGRATORS)}"
            raise ArgumentError(mismatch("integrator", f"one of {', '.join(INTEGRATORS)}", got))
        if isinstance(dt, bool) or not isinstance(dt, int | float) or not 0 < dt < math.inf:
            raise ArgumentError(mismatch("dt", "a finite number > 0", repr(dt)))
        return cls(TABLEAUS[integrator], float(dt), whole(substeps, "substeps"))

    @property
    def step(self) -> float:
        """Length of a step of the method, in the units of ``dt``."""
        return self.dt / self.substeps

    @property
    def evaluations(self) -> int:
        """Number of evaluations of the velocity in a step of the model."""
        return self.substeps * self.tableau.stages

    def time(self, n: Time, evaluation: int) -> Time:
        """Return the time at which an evaluation takes place in step n (a number, or a tensor of them)."""
        substep, stage = divmod(evaluation, self.tableau.stages)
        return (n + (substep + self.tableau.c[stage]) / self.substeps) * self.dt

    def recalls(self, evaluation: int) -> bool:
        """Whether an evaluation's velocity is used again after the point that follows it."""
        stage, tableau = evaluation % self.tableau.stages, self.tableau
        return any(tableau.weights(later)[stage] for later in range(stage + 1, tableau.stages))

    def amplification(self, rate: float, linear: float = 0.0) -> float:
        """Return what one step of the method multiplies y by, for ``dy/dt = rate y``.

        Above 1 in size with a negative rate, the method is unstable where the equation is stable.

        Args:
            rate: the rate, per unit of ``dt``.
            linear: the part of it that an exponential method treats exactly.
        """
        if self.tableau.exponential:
            return 1 + phi1(self.step * linear) * self.step * rate
        slopes: list[float] = []
        y = 1.0
        for stage in range(self.tableau.stages):
            slopes.append(self.step * rate * y)
            y = 1.0 + _dot(self.tableau.weights(stage), slopes)
        return y


def phi1(z: float) -> float:
    """Return ``(exp(z) - 1) / z``, 1 at zero."""
    return math.expm1(z) / z if z else 1.0


def _dot(weights: Sequence[float], values: Sequence[float]) -> float:
    return sum(w * value for w, value in zip(weights, values, strict=True))
