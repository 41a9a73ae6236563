"""``linearize(model, x)``: the operators that say how learning moves a trajectory."""

from __future__ import annotations

import copy
from functools import cached_property
from typing import TypeVar

import torch
from attrs import evolve

from kpframe.errors import ArgumentError, mismatch, shown
from kpframe.finite import check_finite
from kpframe.held import held_tensors
from kpframe.isolation import constant, isolated
from kpframe.memory import check_memory
from kpframe.model import AutogradParameterJacobian, AutogradStepJacobian, Model, graph_bytes, step_blocks
from kpframe.operators.base import Operator
from kpframe.parameter import ParameterJacobian, ParameterOperator
from kpframe.plugin.loading import say
from kpframe.propagator import Propagator
from kpframe.rollout_graph import GraphPropagator, RolloutGraph
from kpframe.step_check import (
    check_hooks,
    check_kept,
    check_parameters,
    check_start,
    check_step,
    few_rows,
    unread_parameters,
)
from kpframe.step_jacobian import DenseStepJacobian, StepJacobian
from kpframe.trajectory import Trajectory

T = TypeVar("T")


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
        P.A.keeping(trajectory.mask)

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
        return self.P.around(self.K)

    @cached_property
    def unread(self) -> frozenset[str]:
        """Names of parameters that nothing along the trajectory reads: a readout inside the module.

        Their columns of J are zero. It does not teach them, so that their ``.grad`` is not a rule's to fill.
        """
        return unread_parameters(self.model, self.trajectory)

    def __repr__(self) -> str:
        return (
            f"Flow({type(self.model).__name__}, {self.trajectory.space}, "
            f"parameters={self.J.domain.size}, P: {self.P.method}, K: {self.K.method})"
        )


def check_flow(flow: object, argument: str = "flow") -> None:
    """Raise ``ArgumentError`` unless ``flow`` is one, with a remedy."""
    if not isinstance(flow, Flow):
        raise ArgumentError(mismatch(argument, "a Flow", shown(flow)) + "; linearize(model, x) returns one")


#: How the operators of a flow can be computed.
METHODS = ("auto", "autograd", "graph", "dense")


def linearize(
    model: Model,
    x: torch.Tensor,
    h0: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    method: str = "auto",
    max_bytes: int | None = None,
) -> Flow:
    """Roll a model out and return the operators along the trajectory.

    Args:
        model: a ``Model``; ``wrap`` makes one of any cell.
        x: ``[B, T, I]`` inputs, of the model's dtype, on its device.
        h0: ``[B, H]`` initial states, taken as constants; the model's own (zero, or trainable) when left out.
        mask: bool ``[B, T]``; False marks padded steps, which hold the state: A = I and J = 0 there.
        method: ``"auto"`` uses the structure the model brings and else chooses by the width of the state
            (``flow.P.method`` and ``flow.P.why`` say what and why). The others know no structure: ``"graph"``
            keeps the graph of the whole roll-out, ``"dense"`` writes the step Jacobians ``[B, T, H, H]`` out,
            ``"autograd"`` keeps a graph for each step and is the independent twin that the others are tested
            against.
        max_bytes: largest memory that recording may take, about; most of what is free when left out.

    Raises:
        ShapeError, DtypeError, DeviceError: for inputs that do not fit the model.
        UnsupportedError: for derivatives that are not linear or that autograd cannot take twice, and for
            hooks on parameters; says what to do.
        NonFiniteError: for NaN or infinity in inputs, parameters or the roll-out; names the first step,
            trial and component.
        MemoryBudgetError: before anything is recorded, when the need is over ``max_bytes``.
        UnsupportedError: inside a transform of ``torch.func``.
    """
    if not isinstance(model, Model):
        raise ArgumentError(
            mismatch("model", "a kpframe.Model (kpframe.wrap makes one of a cell)", type(model).__name__)
        )
    if method not in METHODS:
        raise ArgumentError(mismatch("method", f"one of {', '.join(map(repr, METHODS))}", repr(method)))
    with isolated(getattr(x, "device", None), "linearize"):
        return _linearize(model, x, h0, mask, method, max_bytes)


def _linearize(
    model: Model,
    x: torch.Tensor,
    h0: torch.Tensor | None,
    mask: torch.Tensor | None,
    method: str,
    max_bytes: int | None,
) -> Flow:
    if isinstance(x, torch.Tensor) and x.ndim == 3:  # the roll-out says what is wrong with another x
        _check_memory(
            model, x, 4 * model.width * x.itemsize, max_bytes
        )  # states, twice while they are stacked
    check_parameters(model)
    check_hooks(model)
    original, model = model, _copy(model)
    held = _held(model)
    for name, parameter in model.named_parameters():
        check_finite(parameter.detach(), f"parameter {name}")
    x, h0, mask = _constant(x), _constant(h0), _constant(mask)
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
    if _held(model) != held:
        check_kept(_copy(original), trajectory)
    if not trajectory.given and type(model).initial_state is not Model.initial_state:
        check_start(model, trajectory)
    with few_rows(model, trajectory) as rows:
        each = (
            model.recorded_bytes(trajectory) if method == "auto" else graph_bytes(model, trajectory, method)
        )
    _check_memory(model, x, each, max_bytes)
    P, K = model.operators(trajectory) if method == "auto" else _derived(model, trajectory, method)
    derived = isinstance(P.A, AutogradStepJacobian) or isinstance(K.jacobian, AutogradParameterJacobian)
    check_step(model, rows, twice=derived)
    return Flow(model, trajectory, P, K)


def _derived(model: Model, trajectory: Trajectory, method: str) -> tuple[Propagator, ParameterOperator]:
    return _FORMS[method](model, trajectory), ParameterOperator(AutogradParameterJacobian(model, trajectory))


def _copy(model: Model) -> Model:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        expected = "one that copy.deepcopy copies, since linearize works on a copy"
        raise ArgumentError(mismatch("model", expected, say(error))) from error


def _held(model: Model) -> dict[str, tuple[int, int]]:
    """Return which tensors a model holds besides its parameters, and how often they were written to."""
    return {name: (id(tensor), tensor._version) for name, tensor in held_tensors(model)}


def _constant(value: T) -> T:
    """Return a tensor that a graph can hold; the roll-out says what is wrong with anything else."""
    return constant(value, "linearize") if isinstance(value, torch.Tensor) else value  # type: ignore[return-value]


def _autograd(model: Model, trajectory: Trajectory) -> Propagator:
    return Propagator(AutogradStepJacobian(model, trajectory), why="method='autograd'")


def _graph(model: Model, trajectory: Trajectory) -> Propagator:
    A = AutogradStepJacobian(model, trajectory)
    return GraphPropagator(A, RolloutGraph(model, trajectory), why="method='graph'")


def _dense(model: Model, trajectory: Trajectory) -> Propagator:
    blocks = step_blocks(model, trajectory)
    return Propagator(DenseStepJacobian(blocks, trajectory.space), why="method='dense'")


_FORMS = {"autograd": _autograd, "graph": _graph, "dense": _dense}


def _check_memory(model: Model, x: torch.Tensor, each: int, max_bytes: int | None) -> None:
    """Refuse what would not fit; ``each`` is what a step of a trial needs [bytes]."""
    needed = each * len(x) * x.shape[1]
    what = f"linearize of {type(model).__name__} on [batch={len(x)}, time={x.shape[1]}, hidden={model.width}]"
    remedy = (
        "take fewer trials or steps at a time, float32 instead of float64, or set max_bytes to go ahead with "
        "an estimate above what is free"
    )
    check_memory(what, needed, x.device, remedy, max_bytes)
