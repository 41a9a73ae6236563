"""``linearize(model, x)``: the operators that say how learning moves a trajectory."""

from __future__ import annotations

import copy
from functools import cached_property

import torch
from attrs import evolve

from kpframe.errors import ArgumentError, mismatch
from kpframe.model import AutogradParameterJacobian, AutogradStepJacobian, Model
from kpframe.operators.base import Operator
from kpframe.parameter import ParameterJacobian, ParameterOperator
from kpframe.propagator import Propagator
from kpframe.step_jacobian import StepJacobian
from kpframe.trajectory import Trajectory, check_finite


class Flow:
    """The operators of a model along one trajectory.

    A flow is a value: it holds its own copy of the parameters, so training the model further does not
    change it, and flows from different steps of a training can be compared.

    Attributes:
        model: the model as it was when linearized (a copy).
        trajectory: the roll-out, detached.
        P: the propagator ``(I - A Z)^{-1}``.
        K: the parameter operator ``J M J*``.
    """

    def __init__(self, model: Model, trajectory: Trajectory, P: Propagator, K: ParameterOperator) -> None:
        self.model = model
        self.trajectory = trajectory
        self.P = P
        self.K = K

    @property
    def A(self) -> StepJacobian:
        """The step Jacobian ``A_t = df/dh_{t-1}``."""
        return self.P.A

    @property
    def J(self) -> ParameterJacobian:
        """The parameter Jacobian ``df/dtheta`` at fixed ``h_{t-1}``."""
        return self.K.jacobian

    @cached_property
    def Phi(self) -> Operator:
        """The neural tangent operator ``P K P*``; equals ``G G*`` with ``G = dh/dtheta = P J``."""
        return self.P @ self.K @ self.P.T

    def __repr__(self) -> str:
        return (
            f"Flow({type(self.model).__name__}, {self.trajectory.space}, "
            f"parameters={self.J.domain.size}, P: {self.P.method}, K: {self.K.method})"
        )


def linearize(
    model: Model,
    x: torch.Tensor,
    h0: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    method: str = "auto",
) -> Flow:
    """Roll a model out and return the operators along the trajectory.

    Args:
        model: a ``Model``; ``wrap`` makes one of any cell.
        x: ``[B, T, I]`` inputs, of the model's dtype, on its device.
        h0: ``[B, H]`` initial states, taken as constants; the model's own (zero, or trainable) when left out.
        mask: bool ``[B, T]``; False marks padded steps, which hold the state: A = I and J = 0 there.
        method: ``"auto"`` uses the structure the model brings; ``"autograd"`` derives everything by
            automatic differentiation, the independent twin that structured forms are tested against.

    Raises:
        ShapeError, DtypeError, DeviceError: for inputs that do not fit the model.
        NonFiniteError: for NaN or infinity in inputs, parameters or the roll-out; names the first step,
            trial and component.
    """
    if not isinstance(model, Model):
        raise ArgumentError(
            mismatch("model", "a kpframe.Model (kpframe.wrap makes one of a cell)", type(model).__name__)
        )
    if method not in ("auto", "autograd"):
        raise ArgumentError(mismatch("method", "'auto' or 'autograd'", repr(method)))
    model = copy.deepcopy(model)
    for name, parameter in model.named_parameters():
        check_finite(parameter.detach(), f"parameter {name}")
    with torch.no_grad():
        run = model.rollout(x, h0, mask)
    trajectory = evolve(  # what the caller may still write to is copied
        run,
        states=run.states.detach(),
        inputs=run.inputs.detach().clone(),
        initial_state=run.initial_state.detach().clone(),
        mask=None if run.mask is None else run.mask.clone(),
    )
    check_finite(trajectory.states, "roll-out", trajectory.space)
    if method == "autograd":
        P = Propagator(AutogradStepJacobian(model, trajectory))
        return Flow(model, trajectory, P, ParameterOperator(AutogradParameterJacobian(model, trajectory)))
    return Flow(model, trajectory, *model.operators(trajectory))
